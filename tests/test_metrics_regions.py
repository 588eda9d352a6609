"""Tests of keras_embcam.metrics.regions: which pixels count as the object."""

import doctest

import numpy as np
import pytest
import tensorflow as tf

from keras_embcam.metrics import regions as module
from keras_embcam.metrics.regions import (
    check_heatmaps,
    cover_boxes,
    place_boxes,
    split_masks,
)

HEATMAPS = np.zeros((1, 8, 10), "float32")
# One box of an image 8 high and 10 wide, in every format that Keras has.
FORMATS = {
    "xyxy": [2, 1, 7, 5],
    "yxyx": [1, 2, 5, 7],
    "xywh": [2, 1, 5, 4],
    "center_xywh": [4.5, 3, 5, 4],
    "center_yxhw": [3, 4.5, 4, 5],
    "rel_xyxy": [0.2, 0.125, 0.7, 0.625],
    "rel_yxyx": [0.125, 0.2, 0.625, 0.7],
    "rel_xywh": [0.2, 0.125, 0.5, 0.5],
    "rel_center_xywh": [0.45, 0.375, 0.5, 0.5],
}
NO_BOX = [0, 0, 0, 0]


def place(boxes, bounding_box_format: str = "xyxy") -> np.ndarray:
    return np.asarray(place_boxes(boxes, bounding_box_format, HEATMAPS))


def test_a_format_of_another_name() -> None:
    with pytest.raises(ValueError, match="Received: 'coco'. COCO .* as \"xywh\""):
        place([NO_BOX], "coco")


def test_the_examples_run() -> None:
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


def test_heatmaps_become_float32() -> None:
    checked = check_heatmaps(np.ones((1, 2, 3), "float16"))
    assert checked.dtype == "float32" and checked.shape == (1, 2, 3)


def test_heatmaps_of_another_rank_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(n, H, W\).*shape=\(1, 2, 3, 4\)"):
        check_heatmaps(np.ones((1, 2, 3, 4)))


@pytest.mark.parametrize("bounding_box_format", FORMATS)
def test_every_format_of_keras_is_understood(bounding_box_format: str) -> None:
    box = [FORMATS[bounding_box_format]]
    placed = place(box, bounding_box_format)
    np.testing.assert_allclose(placed, [[[2, 1, 7, 5]]], rtol=1e-6)
    assert place(box, bounding_box_format.upper()).tolist() == placed.tolist()


@pytest.mark.parametrize("bounding_box_format", FORMATS)
@pytest.mark.parametrize("padding", [0, -1, np.nan])
def test_padding_is_no_box(bounding_box_format: str, padding: float) -> None:
    box = FORMATS[bounding_box_format]
    placed = place([[[padding] * 4, box]], bounding_box_format)
    assert placed[0, 0].tolist() == NO_BOX
    np.testing.assert_allclose(placed[0, 1], [2, 1, 7, 5], rtol=1e-6)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([-3, -2, 4, 3], [0, 0, 4, 3]),
        ([6, 5, 99, 99], [6, 5, 10, 8]),
        ([-9, -9, 99, 99], [0, 0, 10, 8]),
        ([10, 0, 12, 4], NO_BOX),  # begins where the image ends
        ([-5, 0, 0, 4], NO_BOX),
        ([3, 3, 3, 6], NO_BOX),  # no width
        ([7, 5, 2, 1], NO_BOX),  # corners exchanged
        ([2, 5, 7, 1], NO_BOX),
    ],
)
def test_boxes_are_clipped_to_the_image(box: list, expected: list) -> None:
    assert place([box]).tolist() == [[expected]]


def test_boxes_of_another_shape_are_refused() -> None:
    for shape in [(4,), (1, 5), (1, 1, 1, 4)]:
        with pytest.raises(ValueError, match=r"\(n, 4\).*\(n, m, 4\).*Received"):
            place(np.zeros(shape, "float32"))


def test_boxes_for_another_number_of_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one row for each heatmap.*\(3, 4\) for 1"):
        place(np.zeros((3, 4), "float32"))


def test_an_unknown_format_is_refused_by_keras() -> None:
    with pytest.raises(ValueError, match="xyxy.*center_xywh"):
        place([[0, 0, 1, 1]], "corners")


def cover_slowly(boxes: np.ndarray, height: int, width: int, parts: int) -> np.ndarray:
    """Cut each pixel into parts x parts squares and ask for the centre of each."""
    covered = np.zeros((height, width))
    for y, x, row, column in np.ndindex(height, width, parts, parts):
        px, py = x + (column + 0.5) / parts, y + (row + 0.5) / parts
        inside = any(
            left <= px < right and top <= py < bottom
            for left, top, right, bottom in boxes
        )
        covered[y, x] += inside / parts**2
    return covered


@pytest.mark.parametrize("num_boxes", [1, 2, 4])
def test_the_union_agrees_with_a_slow_loop(num_boxes: int) -> None:
    random = np.random.default_rng(num_boxes)
    heatmaps = np.zeros((3, 4, 5), "float32")
    # Borders on quarters of a pixel, some outside the image, some boxes inverted.
    boxes = random.integers(-4, 28, size=(3, num_boxes, 4)) / 4
    boxes[0, 0] = [1.25, 0.5, 3.75, 3.25]
    covered = np.asarray(cover_boxes(place_boxes(boxes, "xyxy", heatmaps), heatmaps))
    expected = [cover_slowly(image, 4, 5, parts=4) for image in boxes]
    np.testing.assert_array_equal(covered, expected)


def test_boxes_that_share_a_pixel_add_up_to_it() -> None:
    boxes = np.float32([[[0, 0, 1.25, 1], [1.25, 0, 3, 1], [0.5, 0, 1.5, 0.5]]])
    assert np.asarray(cover_boxes(boxes, np.zeros((1, 1, 3)))).tolist() == [[[1, 1, 1]]]


def test_no_boxes_cover_nothing() -> None:
    boxes = np.zeros((2, 0, 4), "float32")
    covered = np.asarray(cover_boxes(boxes, np.zeros((2, 3, 4))))
    assert covered.shape == (2, 3, 4) and not covered.any()


def test_a_size_known_only_at_run_time_is_enough() -> None:
    @tf.function(
        input_signature=[tf.TensorSpec((None, None, None)), tf.TensorSpec(None)]
    )
    def cover(heatmaps, boxes):
        boxes = tf.ensure_shape(boxes, (None, 4))
        return cover_boxes(place_boxes(boxes, "rel_yxyx", heatmaps), heatmaps)

    covered = cover(tf.zeros((1, 2, 4)), tf.constant([[0, 0.25, 0.75, 1]]))
    assert covered.numpy().tolist() == [[[0, 1, 1, 1], [0, 0.5, 0.5, 0.5]]]


# split_masks

TRIMAP = np.uint8([[[1, 2, 3], [3, 1, 2]]])


def split(masks, foreground=None, ignored=None) -> list:
    pair = split_masks(masks, foreground, ignored, np.zeros((1, 2, 3)))
    return [np.asarray(part).astype(int).tolist() for part in pair]


def test_bool_masks_count_everywhere() -> None:
    inside, counted = split(TRIMAP == 1)
    assert inside == [[[1, 0, 0], [0, 1, 0]]]
    assert counted == [[[1, 1, 1], [1, 1, 1]]]


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_trimaps_leave_the_ignored_value_out(dtype: str) -> None:
    inside, counted = split(TRIMAP.astype(dtype), foreground=1, ignored=3)
    assert inside == [[[1, 0, 0], [0, 1, 0]]]
    assert counted == [[[1, 1, 0], [0, 1, 1]]]
    assert split(TRIMAP.astype(dtype), foreground=1)[1] == [[[1, 1, 1], [1, 1, 1]]]


def test_a_last_axis_of_one_is_dropped() -> None:
    assert split(TRIMAP[..., None], 1, 3) == split(TRIMAP, 1, 3)


@pytest.mark.parametrize("shape", [(1, 2, 4), (2, 2, 3), (2, 3), (1, 2, 3, 3)])
def test_masks_of_another_size_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape of the heatmaps.*resize_heatmaps"):
        split(np.zeros(shape, bool))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_integer_masks_need_a_foreground(dtype: str) -> None:
    with pytest.raises(ValueError, match=f"must be bool.*`mask_foreground=`.*{dtype}"):
        split(TRIMAP.astype(dtype))


def test_an_ignored_value_needs_integer_masks() -> None:
    with pytest.raises(ValueError, match="must be bool.*ignored=3"):
        split(TRIMAP == 1, ignored=3)


@pytest.mark.parametrize("dtype", ["bool", "float32"])
def test_a_foreground_needs_integer_masks(dtype: str) -> None:
    with pytest.raises(ValueError, match=f"must be integer.*{dtype}, foreground=1"):
        split(TRIMAP.astype(dtype), foreground=1)


def test_foreground_and_ignored_must_differ() -> None:
    with pytest.raises(ValueError, match="must differ.*foreground=1, ignored=1"):
        split(TRIMAP, foreground=1, ignored=1)
