"""The command embcam neighbors, run as a person does."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_embcam.cli import main, neighbors


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("neighbors")
    keras.utils.set_random_seed(0)
    keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(8, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4),
        ]
    ).save(folder / "model.keras")
    rng = np.random.default_rng(0)
    for label in ("finch", "owl"):
        for number in range(4):
            image = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
            path = folder / "gallery" / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            tf.io.write_file(str(path), tf.io.encode_png(image))
    (folder / "loose").mkdir()
    tf.io.write_file(str(folder / "loose" / "q.png"), tf.io.encode_png(image))
    return folder


def run(folder, *arguments):
    gallery = str(folder / "gallery")
    return main(
        ["neighbors", str(folder / "model.keras"), gallery, *map(str, arguments)]
    )


def test_pictures_and_what_is_right(folder, tmp_path, capsys):
    query = folder / "gallery" / "owl" / "1.png"
    assert run(folder, "--query", query, "--k", 3, "--out", tmp_path / "out") == 0
    (written,) = (tmp_path / "out").iterdir()
    assert written.name == "0000_1_neighbors.png"
    picture = tf.io.decode_png(written.read_bytes())
    assert picture.shape[1] > 4 * 200
    lines = capsys.readouterr().out.splitlines()
    line = next(x for x in lines if x.startswith(str(written)))
    assert line.count("right") + line.count("wrong") == 3
    right = "1" if " right" in line.split(",")[0] else "0"
    assert lines[-1] == (
        f"1 queries, the first match right for {right} of the 1 whose class has "
        f"another image (copies of a query do not count): see {written.parent}"
    )


def test_all_images_of_the_gallery(folder, tmp_path, capsys):
    assert run(folder, "--k", 1, "--out", tmp_path) == 0
    assert len(list(tmp_path.iterdir())) == 8
    num_right = int(capsys.readouterr().out.splitlines()[-1].split()[7])
    assert run(folder, "--k", 1, "--only-errors", "--out", tmp_path / "wrong") == 0
    assert len(list((tmp_path / "wrong").iterdir())) == 8 - num_right
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"{8 - num_right} queries with a wrong first match: see {tmp_path / 'wrong'}"
    )


def test_without_classes_nothing_is_right(folder, tmp_path, capsys):
    query = folder / "loose" / "q.png"
    assert run(folder, "--query", query, "--k", 2, "--out", tmp_path) == 0
    printed = capsys.readouterr().out
    assert "right" not in printed and "wrong" not in printed
    assert "Without classes: queries must lie" in printed
    assert run(folder, "--query", query, "--only-errors", "--out", tmp_path) == 2
    assert "--only-errors needs classes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--k", 8], "`--k` must not be larger than the gallery"),
        (["--query", "nowhere.png"], "`images` must exist"),
        (["--conv-layer", "nowhere"], "nowhere"),
    ],
)
def test_errors_are_one_line_and_status_2(folder, tmp_path, capsys, arguments, message):
    assert run(folder, *arguments, "--out", tmp_path) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("embcam: error: ") and message in error


def test_a_broken_file_is_left_out_and_named(folder, tmp_path, capsys):
    gallery = tmp_path / "gallery"
    shutil.copytree(folder / "gallery", gallery)
    (gallery / "finch" / "00_broken.jpg").write_bytes(b"no picture")
    command = ["neighbors", str(folder / "model.keras"), str(gallery), "--k", "1"]
    assert main([*command, "--strict", "--out", str(tmp_path / "strict")]) == 2
    assert "00_broken.jpg" in capsys.readouterr().err
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert "00_broken.jpg" in printed.err and "8 queries, " in printed.out
    # The numbers of the others still fit their files.
    assert (tmp_path / "out" / "0002_1_neighbors.png").exists()


def test_token_options_reach_the_search(folder, tmp_path, monkeypatch):
    seen = {}

    def search(*arguments, **options):
        seen.update(options)
        raise ValueError("seen")

    monkeypatch.setattr("keras_embcam.retrieval.explain_neighbors", search)
    run(folder, "--token-grid", "2,8", "--num-prefix-tokens", 1, "--out", tmp_path)
    assert (seen["token_grid"], seen["num_prefix_tokens"]) == ((2, 8), 1)


def test_a_model_with_code_of_ones_own_belongs_into_python(folder, tmp_path, capsys):
    doubled = layers.Lambda(lambda x: x * 2)
    path = tmp_path / "lambda.keras"
    keras.Sequential([keras.Input((32, 32, 3)), doubled, layers.Flatten()]).save(path)
    assert main(["neighbors", str(path), str(folder / "gallery")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "lambda.keras' by itself" in error and "explain(model, files)" in error

    class Doubled(layers.Layer):
        pass

    keras.Sequential([keras.Input((32, 32, 3)), Doubled(), layers.Flatten()]).save(path)
    assert main(["neighbors", str(path), str(folder / "gallery")]) == 2
    says = capsys.readouterr().err.splitlines()[-1].partition("Keras says: ")[2]
    assert says.startswith("Could not locate class 'Doubled'")
    path.write_bytes(b"no model")  # another reason: Keras's own words
    assert main(["neighbors", str(path), str(folder / "gallery")]) == 2
    assert "by itself" not in capsys.readouterr().err


def test_the_share_of_right_matches_is_recall_at_1():
    class_of_one = SimpleNamespace(
        queries=np.arange(3),
        is_right=np.array([[True], [False], [False]]),
        best_right=np.array([1, 0, -1]),
    )
    options = SimpleNamespace(only_errors=False, out="out")
    assert "right for 1 of the 2 whose" in neighbors._summarize(class_of_one, options)


@pytest.mark.parametrize(
    ("gallery", "query", "reason"),
    [
        (["a/1.png", "b/1.png", "1.png"], "a/1.png", "1 of 3 lie beside .*1.png"),
        (["a/img/1.png", "b/img/1.png"], "a/img/1.png", "folders of the name 'img'"),
        (["a/1.png", "b/1.png"], "c/1.png", "'c' is none of them"),
        (["1.png", "2.png"], "1.png", "^$"),
    ],
)
def test_why_there_are_no_labels(gallery, query, reason):
    root = Path("gallery")
    paths = [root / name for name in gallery]
    *labels, text = neighbors._read_labels(root, [root / query], paths)
    assert labels == [None, None] and re.search(reason, text)
