"""The bytes of the tab: what is written comes back, what is damaged is refused."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from keras_embcam import tab_format
from keras_embcam.callbacks import tab_writer


def make_update(num_examples=4, side=3, num_neighbors=2, **changes):
    rng = np.random.default_rng(0)
    values = {
        "maps": rng.random((num_examples, side, side)),
        "ratios": np.linspace(0, 1, num_examples),
        "found_boxes": np.tile([0.1, 0.2, 0.6, 0.9], (num_examples, 1)),
        "empty": np.zeros(num_examples, bool),
        "neighbors": rng.integers(0, num_examples, (num_examples, num_neighbors)),
        "similarities": rng.uniform(-1, 1, (num_examples, num_neighbors)),
        "examples_key": "0",
    }
    return tab_format.Update(**{**values, **changes})


def test_an_update_comes_back_as_precisely_as_it_is_kept():
    update = make_update(ratios=np.array([0, 0.25, np.nan, 1]))
    figures, maps, pairs = map(tab_format.unpack, update.to_blobs())
    assert [x.kind for x in (figures, maps, pairs)] == ["figures", "maps", "pairs"]
    ratios = tab_format.from_shares(figures.arrays["ratios"])
    np.testing.assert_allclose(ratios, update.ratios, atol=1e-5)
    boxes = tab_format.from_shares(figures.arrays["found_boxes"])
    np.testing.assert_allclose(boxes, update.found_boxes, atol=1e-5)
    np.testing.assert_array_equal(figures.arrays["neighbors"], update.neighbors)
    cosines = figures.arrays["similarities"] / 32767
    np.testing.assert_allclose(cosines, update.similarities, atol=2e-5)
    heat = update.maps / update.maps.max((1, 2), keepdims=True)
    np.testing.assert_allclose(maps.arrays["maps"] / 255, heat, atol=0.5 / 255 + 1e-6)
    assert not pairs.arrays


def test_examples_come_back():
    outline = np.array([[0, 0], [1, 0], [0.5, 1]])
    examples = tab_format.Examples(
        ["a", "b\u00e9<"],
        [b"one", b"three"],
        ["x", "y"],
        [np.empty((0, 4)), np.array([[0, 0.5, 1, 1], [0, 0, 0.1, 0.1]])],
        [[outline, outline[:2]], []],
        num_measured=7,
    )
    table, files = map(tab_format.unpack, examples.to_blobs())
    assert table.meta["names"] == ["a", "b\u00e9<"]
    assert table.meta["labels"] == ["x", "y"]
    assert table.meta["num_measured"] == 7
    assert table.arrays["box_counts"].tolist() == [0, 2]
    boxes = tab_format.from_shares(table.arrays["boxes"])
    np.testing.assert_allclose(boxes[0], [0, 0.5, 1, 1], atol=1e-5)
    assert table.arrays["outline_lengths"].tolist() == [3, 2]
    assert files.arrays["bytes"].tobytes() == b"onethree"
    assert files.arrays["ends"].tolist() == [3, 8]


def test_empty_maps_and_missing_values_are_kept_as_such():
    update = make_update(
        maps=np.zeros((4, 3, 3)),
        empty=np.ones(4, bool),
        found_boxes=np.full((4, 4), np.nan),
        neighbors=np.full((4, 1), -1),
        similarities=np.full((4, 1), np.nan),
        values={"mean_ratio": float("nan"), "recall_at_1": 0.5},
    )
    figures, maps, _ = map(tab_format.unpack, update.to_blobs())
    assert not maps.arrays["maps"].any()
    assert figures.arrays["empty"].all()
    assert np.isnan(tab_format.from_shares(figures.arrays["found_boxes"])).all()
    assert (figures.arrays["neighbors"] == 65535).all()
    assert figures.meta["values"] == {"recall_at_1": 0.5}


def test_an_update_costs_less_than_1_kb_an_example_where_all_first_matches_are_wrong():
    num = 1000
    rng = np.random.default_rng(0)
    update = make_update(
        num,
        14,
        5,
        pair_examples=np.arange(num),
        pair_maps=rng.random((2, num, 14, 14)),
    )
    size = sum(map(len, update.to_blobs())) / num
    assert 621 <= size < 622  # as the docstring says, and a header


@pytest.mark.parametrize(
    "damage",
    [
        lambda blob: b"",
        lambda blob: b"PNG" + blob,
        lambda blob: blob[:-1],
        lambda blob: blob[:40],
        lambda blob: blob[:-3] + bytes([blob[-3] ^ 1]) + blob[-2:],
    ],
)
def test_damaged_blobs_are_refused(damage):
    blob = make_update().to_blobs()[1]
    with pytest.raises(tab_format.FormatError):
        tab_format.unpack(damage(blob))


def test_a_newer_version_is_told_from_damage():
    blob = make_update().to_blobs()[0]
    newer = blob[:6] + (2).to_bytes(2, "little") + blob[8:]
    assert tab_format.read_version(newer) == 2
    with pytest.raises(tab_format.FormatError, match="version 2.*up to version 1"):
        tab_format.unpack(newer)


def test_headers_that_lie_are_refused():
    blob = tab_format.pack("maps", {}, {"maps": np.zeros((2, 2), "u1")})
    for wrong in (b"[2, 9]", b"[2,-2]"):
        body = blob[16:].replace(b"[2, 2]", wrong)
        sum_ = tab_format.zlib.crc32(body).to_bytes(4, "little")
        with pytest.raises(tab_format.FormatError, match="Damaged"):
            tab_format.unpack(blob[:12] + sum_ + body)


def test_names_must_be_distinct():
    with pytest.raises(ValueError, match="distinct names.*2 names, 1 of them"):
        tab_format.Examples(["a", "a"], [b"", b""]).to_blobs()
    assert tab_writer.name_examples(3) == ["0", "1", "2"]
    assert tab_writer.name_examples(3, [b"a", "a", 5]) == ["a", "a (2)", "5"]
    given = ["a", "a (2)", "a", "x" * 500]
    assert tab_writer.name_examples(4, given) == ["a", "a (2)", "a (3)", "x" * 100]


def test_what_tensorboard_loads_does_not_import_tensorflow():
    code = (
        "import sys, keras_embcam.tensorboard.plugin, keras_embcam.tab_format\n"
        "found = {'tensorflow', 'keras', 'cv2'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_writer_writes_what_tensorboard_reads(tmp_path):
    update = make_update()
    examples = tab_format.Examples(list("abcd"), [b"1"] * 4)
    writer = tf.summary.create_file_writer(str(tmp_path))
    with writer.as_default():
        tab_writer.write_examples(examples, 0)
        tab_writer.write_update(update, 3)
    writer.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    metadata = events.SummaryMetadata(tab_format.UPDATES_TAG)
    assert metadata.plugin_data.plugin_name == "embcam"
    (event,) = events.Tensors(tab_format.UPDATES_TAG)
    assert event.step == 3
    found = tensor_util.make_ndarray(event.tensor_proto)
    assert [bytes(x) for x in found] == update.to_blobs()


@pytest.mark.parametrize("shape", [(32, 32, 3), (300, 200, 1), (900, 900, 3)])
def test_thumbnails_are_bounded_and_look_like_the_image(shape):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (2, *shape), "uint8")
    for file in tab_writer.encode_thumbnails(noise):
        assert len(file) <= tab_writer.MAX_THUMBNAIL_BYTES
    rows = np.linspace(0, 200, shape[0], dtype="float32")[:, None, None]
    smooth = np.broadcast_to(rows, shape)[None]
    (file,) = tab_writer.encode_thumbnails(smooth)
    picture = cv2.imdecode(np.frombuffer(file, "u1"), cv2.IMREAD_COLOR)
    assert max(picture.shape) == min(160, max(shape))
    again = cv2.resize(smooth[0], picture.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(picture - again.reshape(*picture.shape[:2], -1)).max() <= 4


def test_outlines_run_around_the_objects():
    masks = np.zeros((2, 40, 80), bool)
    masks[0, 10:30, 20:60] = True
    masks[0, 2:5, 2:5] = True
    (large, small), none = tab_writer.trace_outlines(masks)
    assert none == []
    np.testing.assert_allclose(large.min(0), [20.5 / 80, 10.5 / 40])
    np.testing.assert_allclose(large.max(0), [59.5 / 80, 29.5 / 40])
    assert len(small) <= 8


def test_boxes_without_area_are_left_out():
    boxes = [[[0, 0, 1, 1], [0, 0, 0, 0]], [[np.nan] * 4, [0.5, 0.5, 0.4, 0.6]]]
    kept = tab_writer.keep_boxes(boxes)
    assert [x.tolist() for x in kept] == [[[0, 0, 1, 1]], []]


def test_images_of_any_number_of_channels_have_thumbnails():
    images = np.zeros((1, 20, 20, 5))
    images[..., 3] = np.nan
    images[:, 10:] = 1
    (file,) = tab_writer.encode_thumbnails(images)
    picture = cv2.imdecode(np.frombuffer(file, "u1"), cv2.IMREAD_COLOR)
    assert picture[0, 0, 0] == 0 and picture[15, 0, 0] == 255


def test_neighbors_are_the_nearest_others():
    embeddings = np.float32([[1, 0], [5, 0.1], [0, 2], [0, 0]])
    numbers, cosines = tab_writer.find_neighbors(embeddings, 2)
    assert numbers[0].tolist()[0] == 1 and numbers[2].tolist()[0] == 1
    np.testing.assert_allclose(cosines[0, 0], 5 / np.hypot(5, 0.1), rtol=1e-6)
    assert numbers.shape == (4, 2) and not np.isnan(cosines).any()
    assert tab_writer.find_neighbors(embeddings[:1])[0].shape == (1, 0)
