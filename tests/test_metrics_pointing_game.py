"""Tests of keras_embcam.metrics.pointing_game."""

import doctest
import math

import numpy as np
import pytest

from keras_embcam.metrics import pointing_game as module
from keras_embcam.metrics import pointing_game_in_boxes, pointing_game_in_masks


def point_at(x: int, y: int, shape: tuple[int, int] = (10, 12)) -> np.ndarray:
    heatmap = np.full((1, *shape), 0.5, "float32")
    heatmap[0, y, x] = 2
    return heatmap


def in_boxes(heatmaps, boxes, tolerance: float) -> list:
    boxes = np.asarray(boxes, "float32")
    hits = pointing_game_in_boxes(heatmaps, boxes, "xyxy", tolerance)
    return np.asarray(hits).tolist()


def in_masks(heatmaps, masks, tolerance: float, **values) -> list:
    hits = pointing_game_in_masks(heatmaps, masks, tolerance=tolerance, **values)
    return np.asarray(hits).tolist()


def test_the_examples_run() -> None:
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


@pytest.mark.parametrize(
    ("box", "distance"),
    [
        ([3, 2, 6, 5], 0),  # the centre at (4.5, 3.5) is inside
        ([4.5, 2, 6, 5], 0),  # on its border
        ([4.75, 2, 6, 5], 0.25),
        ([0, 0, 2.5, 9], 2),
        ([0, 5, 12, 9], 1.5),
        ([0, 0, 12, 1], 2.5),
        ([7.5, 7.5, 9, 9], 5),  # across the corner: 3 and 4
        ([7.5, 7.5, 99, 99], 5),  # the part outside changes nothing
    ],
)
def test_distances_to_a_box_worked_by_hand(box: list, distance: float) -> None:
    heatmap = point_at(4, 3)
    assert in_boxes(heatmap, [box], distance) == [1]
    if distance:
        assert in_boxes(heatmap, [box], distance - 0.01) == [0]


def test_the_default_tolerance_is_fifteen_pixels() -> None:
    heatmap = point_at(0, 0, (40, 40))  # the centre at (0.5, 0.5)
    near, far = [[15.5, 0, 30, 9]], [[15.6, 0, 30, 9]]
    assert np.asarray(pointing_game_in_boxes(heatmap, near, "xyxy")).tolist() == [1]
    assert np.asarray(pointing_game_in_boxes(heatmap, far, "xyxy")).tolist() == [0]
    mask = np.zeros((1, 40, 40), bool)
    mask[0, 0, 15:] = True
    assert np.asarray(pointing_game_in_masks(heatmap, mask)).tolist() == [1]
    mask[0, 0, 15] = False
    assert np.asarray(pointing_game_in_masks(heatmap, mask)).tolist() == [0]


def test_the_nearest_of_several_boxes_counts() -> None:
    boxes = [[[0, 0, 1, 1], [4, 3, 5, 4], [-1, -1, -1, -1]]]
    assert in_boxes(point_at(4, 3), boxes, 0) == [1]
    assert in_boxes(point_at(9, 9), boxes, 0) == [0]


def test_padding_at_the_corner_is_no_target() -> None:
    # Padding becomes (0, 0, 0, 0): the maximum in the corner must not hit it.
    assert in_boxes(point_at(0, 0), [[[0, 0, 0, 0], [8, 8, 9, 9]]], 3) == [0]


def test_the_first_of_several_maxima_points() -> None:
    heatmap = np.zeros((1, 4, 5), "float32")
    heatmap[0, 1, 3] = heatmap[0, 2, 0] = 1
    assert in_boxes(heatmap, [[3, 1, 4, 2]], 0) == [1]
    assert in_boxes(heatmap, [[0, 2, 1, 3]], 0) == [0]


def test_images_without_an_object_are_undefined_and_empty_maps_are_misses() -> None:
    heatmaps = np.concatenate([point_at(4, 3)] * 4)
    heatmaps[1] = 0
    heatmaps[2, 0, 0] = np.nan
    everywhere, outside = [0, 0, 12, 10], [12, 0, 14, 3]
    hits = in_boxes(heatmaps, [everywhere] * 3 + [outside], 99)
    np.testing.assert_array_equal(hits, [1, 0, 0, np.nan])
    masks = np.ones((4, 10, 12), bool)
    masks[3] = False
    np.testing.assert_array_equal(in_masks(heatmaps, masks, 99), [1, 0, 0, np.nan])
    heatmaps[:] = 0
    np.testing.assert_array_equal(in_masks(heatmaps, masks, 99), [0, 0, 0, np.nan])


@pytest.mark.parametrize("tolerance", [0, 1, 1.5, 3])
def test_masks_agree_with_a_slow_loop(tolerance: float) -> None:
    random = np.random.default_rng(0)
    heatmaps = random.random((100, 6, 9)).astype("float32")
    masks = random.random((100, 6, 9)) < 0.04
    expected = []
    for heatmap, mask in zip(heatmaps, masks, strict=True):
        pixels = list(np.ndindex(6, 9))
        point = max(pixels, key=lambda pixel: heatmap[pixel])
        near = [math.dist(point, pixel) <= tolerance for pixel in pixels if mask[pixel]]
        expected.append(float(any(near)) if near else np.nan)
    assert {0.0, 1.0} <= set(expected)
    np.testing.assert_array_equal(in_masks(heatmaps, masks, tolerance), expected)


def test_heat_on_ignored_pixels_is_not_looked_at() -> None:
    heatmap = np.float32([[[1, 9, 2, 0]]])
    trimap = np.uint8([[[2, 3, 1, 2]]])
    assert in_masks(heatmap, trimap, 0, foreground=1, ignored=3) == [1]
    assert in_masks(heatmap, trimap, 0, foreground=1) == [0]
    only_ignored = np.float32([[[0, 9, 0, 0]]])
    assert in_masks(only_ignored, trimap, 9, foreground=1, ignored=3) == [0]


@pytest.mark.parametrize("tolerance", [-1, float("nan")])
def test_a_negative_tolerance_is_refused(tolerance: float) -> None:
    with pytest.raises(ValueError, match="`tolerance`.*>= 0.*Received"):
        in_boxes(point_at(0, 0), [[0, 0, 1, 1]], tolerance)
    with pytest.raises(ValueError, match="`tolerance`.*>= 0.*Received"):
        in_masks(point_at(0, 0), np.ones((1, 10, 12), bool), tolerance)
