"""Tests of keras_embcam.transfer.storage: files, whole and damaged."""

import dataclasses
import json
import os
import pickle
import warnings

import numpy as np
import pytest

from keras_embcam.transfer import GradWeightDatabase, storage


def make_database(num_entries: int = 5) -> GradWeightDatabase:
    random = np.random.default_rng(0)
    embeddings = random.normal(size=(num_entries, 4))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    channels = np.stack([random.permutation(9)[:3] for _ in range(num_entries)])
    return GradWeightDatabase(
        embeddings=embeddings.astype("float32"),
        channels=channels.astype("int32"),
        values=random.normal(size=(num_entries, 3)).astype("float32"),
        num_channels=9,
        conv_layer="backbone/conv",
        embedding_layer=None,
        weighting="gradcam++",
        num_triplets=50,
        margin=0.2,
        sign=-1,
        left_out=np.array([2, 7]),
    )


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "birds.weights"
    make_database().save(path)
    return path


def read_contents(path) -> dict[str, np.ndarray]:
    with np.load(path) as archive:
        return dict(archive)


def replace(path, **changes) -> None:
    """Write the file again with other arrays, or without those that are None."""
    contents = {**read_contents(path), **changes}
    with path.open("wb") as file:
        np.savez(file, **{k: v for k, v in contents.items() if v is not None})


def test_round_trip(path) -> None:
    loaded, expected = GradWeightDatabase.load(str(path)), make_database()
    for field in dataclasses.fields(GradWeightDatabase):
        value, want = getattr(loaded, field.name), getattr(expected, field.name)
        assert type(value) is type(want)
        np.testing.assert_array_equal(value, want)
        assert getattr(value, "dtype", None) == getattr(want, "dtype", None)
    assert repr(loaded) == repr(expected)
    queries = np.random.default_rng(1).normal(size=(3, 4))
    np.testing.assert_array_equal(loaded.query(queries), expected.query(queries))


def test_another_loss_and_an_embedding_layer_are_kept(tmp_path) -> None:
    database = dataclasses.replace(
        make_database(), margin=None, embedding_layer="dense"
    )
    database.save(tmp_path / "file")
    loaded = GradWeightDatabase.load(tmp_path / "file")
    assert loaded.margin is None and loaded.embedding_layer == "dense"


def test_the_file_is_as_large_as_the_arrays(tmp_path) -> None:
    """N (4 D + 8 M) bytes, and a header that does not grow."""
    sizes = []
    for num_entries in (100, 1100):
        make_database(num_entries).save(tmp_path / "file")
        sizes.append((tmp_path / "file").stat().st_size)
    assert abs(sizes[1] - sizes[0] - 1000 * (4 * 4 + 8 * 3)) < 20  # more digits


def test_the_name_is_used_as_it_is_and_nothing_stays_beside_it(path) -> None:
    make_database().save(path)  # over the first one
    assert os.listdir(path.parent) == ["birds.weights"]


def test_a_file_that_cannot_be_written_leaves_the_old_one(path, monkeypatch) -> None:
    before = path.read_bytes()

    def break_off(file, **contents):
        file.write(b"half of it")
        raise OSError("the disk is full")

    monkeypatch.setattr(np, "savez", break_off)
    with pytest.raises(OSError, match="the disk is full"):
        make_database().save(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["birds.weights"]


# What is refused


def refuse(path, reason) -> None:
    message = rf"Cannot read the grad-weight database '.*birds.weights': .*{reason}"
    with pytest.raises(ValueError, match=message):
        GradWeightDatabase.load(path)


def test_a_missing_file(path) -> None:
    path.unlink()
    refuse(path, "there is no such file")
    path.mkdir()
    refuse(path, "there is no such file")


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"text, of some length" * 9])
def test_a_file_of_another_kind(path, content) -> None:
    path.write_bytes(content)
    refuse(path, "no npz archive, or it is truncated")


def test_a_single_array_and_a_pickle(path) -> None:
    with path.open("wb") as file:
        np.save(file, np.ones(3))
    refuse(path, "no npz archive")
    path.write_bytes(pickle.dumps({"embeddings": np.ones(3)}))
    refuse(path, "no npz archive")


def test_truncation_anywhere(path) -> None:
    content = path.read_bytes()
    for size in range(0, len(content), 37):
        path.write_bytes(content[:size])
        refuse(path, "")


def test_a_changed_byte_anywhere(path) -> None:
    """It is refused, or was of no importance (a time stamp, say)."""
    content, expected = path.read_bytes(), make_database()
    num_refused = 0
    positions = range(0, len(content), 17)
    for position in positions:
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                loaded = GradWeightDatabase.load(path)
        except ValueError as error:
            assert "Cannot read the grad-weight database" in str(error)
            num_refused += 1
            continue
        np.testing.assert_array_equal(loaded.embeddings, expected.embeddings)
        np.testing.assert_array_equal(loaded.channels, expected.channels)
        np.testing.assert_array_equal(loaded.values, expected.values)
    assert num_refused > len(positions) / 2


def test_an_archive_of_something_else(path) -> None:
    replace(path, header=None)
    refuse(path, r"archive of something else.*holds: \['embeddings', 'channels'")
    for header in ("[1]", '{"magic": "another"}', "no json", 3.5):
        with path.open("wb") as file:
            np.savez(file, header=np.array(header))
        refuse(path, "Expecting value" if header == "no json" else "something else")


def test_another_version(path) -> None:
    text = json.dumps({"magic": storage.MAGIC, "version": 2, "settings": {}})
    replace(path, header=np.array(text))
    refuse(path, "has the version 2, and this is written to read version 1")


def test_arrays_or_settings_that_are_missing(path) -> None:
    header = json.loads(read_contents(path)["header"].item())
    replace(path, values=None)
    refuse(path, r"it lacks \['values'\]")
    make_database().save(path)
    del header["settings"]["conv_layer"]
    replace(path, header=np.array(json.dumps(header)))
    refuse(path, "missing 1 required .* 'conv_layer'")


def test_a_file_of_a_version_that_did_not_know_its_model(path) -> None:
    replace(path, weight_hashes=None)
    assert not len(GradWeightDatabase.load(path).weight_hashes)


class Payload:
    """Runs code where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("this_must_not_be_made",)


def test_a_pickled_payload_is_not_run(path, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("header", "values"):
        make_database().save(path)
        replace(path, **{name: np.array([Payload()], dtype=object)})
        refuse(path, "Object arrays cannot be loaded when allow_pickle=False")
    assert not (tmp_path / "this_must_not_be_made").exists()


def with_value(array, value) -> np.ndarray:
    array = array.copy()
    array[1, 1] = value
    return array


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("embeddings", lambda x: with_value(x, np.nan), "must be finite. It holds NaN"),
        ("values", lambda x: with_value(x, np.inf), "must be finite. It holds NaN"),
        ("embeddings", lambda x: 2 * x, "must have the length 1"),
        ("channels", lambda x: with_value(x, 9), "different numbers of 0 to 8"),
        ("channels", lambda x: with_value(x, -1), "different numbers of 0 to 8"),
        ("channels", lambda x: with_value(x, x[1, 0]), "different numbers of 0 to 8"),
        (
            "channels",
            lambda x: x.astype(float),
            r"channels \(N, M\).* \(5, 3\) float64",
        ),
        ("channels", lambda x: x[:, :2], r"channels \(N, M\).* \(5, 2\) int32"),
        ("values", lambda x: x[:4], r"values \(N, M\).* \(4, 3\) float32"),
        ("embeddings", lambda x: x[:4], r"embeddings \(N, D\).* \(4, 4\) float32"),
        ("embeddings", lambda x: x[0], r"embeddings \(N, D\).* \(4,\) float32"),
        ("embeddings", lambda x: x.astype("c8"), r"embeddings \(N, D\).* complex64"),
    ],
)
def test_arrays_that_do_not_fit(path, name, change, reason) -> None:
    replace(path, **{name: change(read_contents(path)[name])})
    refuse(path, reason)


def test_an_empty_database_and_too_few_channels(path) -> None:
    contents = read_contents(path)
    names = ("embeddings", "channels", "values")
    replace(path, **{name: contents[name][:0] for name in names})
    refuse(path, "N >= 1 and M <= 9")
    header = json.loads(contents["header"].item())
    for num_channels, reason in ((2, "M <= 2"), ("9", "`num_channels` must be an int")):
        header["settings"]["num_channels"] = num_channels
        replace(path, **contents | {"header": np.array(json.dumps(header))})
        refuse(path, reason)
