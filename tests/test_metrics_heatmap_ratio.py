"""Tests of keras_embcam.metrics.heatmap_ratio."""

import doctest

import cv2
import numpy as np
import pytest
from builders import DATA

from keras_embcam.metrics import (
    EmptyMapShare,
    HeatmapRatioInBoxes,
    HeatmapRatioInMasks,
    find_empty_maps,
    heatmap_ratio_in_boxes,
    heatmap_ratio_in_masks,
)
from keras_embcam.metrics import heatmap_ratio as module

PETS = DATA / "pets_mini"


def ratio_in_boxes(heatmaps, boxes, bounding_box_format: str = "xyxy") -> list:
    boxes = np.asarray(boxes, "float32")
    return np.asarray(
        heatmap_ratio_in_boxes(np.asarray(heatmaps), boxes, bounding_box_format)
    ).tolist()


def ratio_in_masks(heatmaps, masks, foreground=None, ignored=None) -> list:
    ratio = heatmap_ratio_in_masks(np.asarray(heatmaps), masks, foreground, ignored)
    return np.asarray(ratio).tolist()


def test_the_examples_run() -> None:
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


# Worked by hand: a map of 2 x 4 with a sum of 16.
HEATMAP = np.float32([[[1, 2, 3, 2], [0, 4, 4, 0]]])


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([[0, 0, 4, 2]], 1),
        ([[1, 0, 3, 1]], 5 / 16),
        ([[1, 0, 2, 2]], 6 / 16),
        ([[0.5, 0, 1.25, 1]], (0.5 * 1 + 0.25 * 2) / 16),  # both borders in a pixel
        ([[1, 0.5, 3, 1.5]], (0.5 * 5 + 0.5 * 8) / 16),
        ([[1.25, 1.25, 1.75, 1.75]], 0.25 * 4 / 16),  # smaller than a pixel
        ([[-7, -7, 1, 1]], 1 / 16),  # beyond the image
        ([[3, 1, 4, 2]], 0),
        ([[[0, 0, 1, 1], [3, 0, 4, 1]]], 3 / 16),  # two apart
        ([[[0, 0, 3, 1], [1, 0, 4, 1]]], 8 / 16),  # two that overlap: their union
        ([[[0, 0, 3, 1], [-1, -1, -1, -1]]], 6 / 16),  # padding
    ],
)
def test_ratios_worked_by_hand(boxes: list, expected: float) -> None:
    assert ratio_in_boxes(HEATMAP, boxes) == [expected]


@pytest.mark.parametrize(
    "boxes",
    [
        [[4, 0, 6, 2]],  # outside
        [[3, 0, 1, 2]],  # inverted
        [[1, 1, 1, 2]],  # no width
        [[np.nan] * 4],
        [[[0, 0, 0, 0], [-1, -1, -1, -1]]],
        np.zeros((1, 0, 4)),
    ],
)
def test_without_a_box_the_ratio_is_undefined(boxes: list) -> None:
    assert np.isnan(ratio_in_boxes(HEATMAP, boxes)).tolist() == [True]


def test_ratios_agree_with_a_slow_loop() -> None:
    random = np.random.default_rng(0)
    heatmaps = random.random((4, 6, 7)).astype("float32")
    corner = random.integers(0, 8, size=(4, 2)) / 2
    boxes = np.concatenate([corner, corner + random.integers(1, 5, size=(4, 2)) / 2], 1)
    expected = []
    for heatmap, (left, top, right, bottom) in zip(heatmaps, boxes, strict=True):
        inside = 0.0
        for y, x in np.ndindex(12, 14):  # quarters of a pixel are all in or all out
            if left <= (x + 0.5) / 2 < right and top <= (y + 0.5) / 2 < bottom:
                inside += heatmap[y // 2, x // 2] / 4
        expected.append(inside / heatmap.sum(dtype="float64"))
    np.testing.assert_allclose(ratio_in_boxes(heatmaps, boxes), expected, rtol=1e-6)


def test_relative_boxes_mean_the_same() -> None:
    relative = ratio_in_boxes(HEATMAP, [[0, 0.25, 0.5, 0.75]], "rel_yxyx")
    assert relative == ratio_in_boxes(HEATMAP, [[1, 0, 3, 1]])


def test_the_uniform_map_scores_the_share_of_the_area() -> None:
    boxes = [[0.3, 0.7, 5.9, 3.1], [-3, -3, 3.5, 2.25], [0, 0, 8, 5]]
    areas = [5.6 * 2.4, 3.5 * 2.25, 40]
    ratios = ratio_in_boxes(np.ones((3, 5, 8)), boxes)
    np.testing.assert_allclose(ratios, np.divide(areas, 40), rtol=1e-6)


@pytest.mark.parametrize("height", [1e-35, 1e-3, 3e38])
def test_the_height_of_a_map_plays_no_part(height: float) -> None:
    heatmaps = np.float32(height) * (HEATMAP / 4)
    np.testing.assert_allclose(ratio_in_boxes(heatmaps, [[1, 0, 3, 1]]), [5 / 16])


def test_half_precision_does_not_overflow() -> None:
    heatmaps = np.full((1, 400, 400), 100, "float16")
    assert ratio_in_boxes(heatmaps, [[0, 0, 200, 100]]) == [0.125]


def test_empty_and_broken_maps_are_undefined_and_counted() -> None:
    heatmaps = np.repeat(HEATMAP, 5, axis=0)
    heatmaps[1] = 0
    heatmaps[2, 0, 0] = np.nan
    heatmaps[3, 1, 1] = np.inf
    empty = [False, True, True, True, False]
    ratios = ratio_in_boxes(heatmaps, [[1, 0, 3, 1]] * 5)
    assert np.isnan(ratios).tolist() == empty
    assert (
        np.isnan(ratio_in_masks(heatmaps, np.ones((5, 2, 4), bool))).tolist() == empty
    )
    assert np.asarray(find_empty_maps(heatmaps)).tolist() == empty
    np.testing.assert_allclose(float(EmptyMapShare()(None, heatmaps)), 0.6)


# Masks


def test_mask_ratios_worked_by_hand() -> None:
    mask = np.zeros((1, 2, 4), bool)
    mask[0, 0, 2] = mask[0, 1, 1] = True
    assert ratio_in_masks(HEATMAP, mask) == [7 / 16]
    assert ratio_in_masks(np.ones((1, 2, 4)), mask) == [2 / 8]
    assert ratio_in_masks(HEATMAP, ~np.zeros_like(mask)) == [1]


def test_ignored_pixels_are_left_out_of_both_sums() -> None:
    trimap = np.uint8([[[1, 3, 1, 2], [2, 3, 2, 2]]])
    # Object 1 + 3, background 2 + 0 + 4 + 0; the 2 and the 4 at the 3 are gone.
    assert ratio_in_masks(HEATMAP, trimap, 1, 3) == pytest.approx([4 / 10], rel=1e-6)
    assert ratio_in_masks(HEATMAP, trimap, 1) == [4 / 16]
    assert ratio_in_masks(np.ones((1, 2, 4)), trimap, 1, 3) == pytest.approx(
        [2 / 6], rel=1e-6
    )


def test_empty_masks_are_undefined() -> None:
    assert np.isnan(ratio_in_masks(HEATMAP, np.zeros((1, 2, 4), bool))).all()
    assert np.isnan(ratio_in_masks(HEATMAP, np.full((1, 2, 4), 2, "uint8"), 1)).all()


def test_heat_on_ignored_pixels_alone_is_undefined_but_no_empty_map() -> None:
    trimap = np.uint8([[[1, 3, 1, 1], [1, 2, 2, 2]]])
    heatmap = np.float32([[[0, 7, 0, 0], [0, 0, 0, 0]]])
    assert np.isnan(ratio_in_masks(heatmap, trimap, 1, 3)).all()
    assert not np.asarray(find_empty_maps(heatmap)).any()


def test_a_broken_value_on_an_ignored_pixel_does_no_harm() -> None:
    trimap = np.uint8([[[1, 3, 2, 2], [2, 2, 2, 2]]])
    heatmap = HEATMAP.copy()
    heatmap[0, 0, 1] = np.nan
    assert ratio_in_masks(heatmap, trimap, 1, 3) == pytest.approx([1 / 14], rel=1e-6)


def test_a_box_and_the_mask_of_it_agree() -> None:
    random = np.random.default_rng(4)
    heatmaps = random.random((3, 9, 11)).astype("float32")
    boxes = np.float32([[1, 2, 5, 8], [0, 0, 11, 9], [3, 3, 4, 4]])
    masks = np.zeros((3, 9, 11), bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int), strict=True):
        mask[top:bottom, left:right] = True
    in_boxes = ratio_in_boxes(heatmaps, boxes)
    np.testing.assert_allclose(ratio_in_masks(heatmaps, masks), in_boxes, rtol=1e-6)


def test_uniform_baseline_of_real_trimaps() -> None:
    paths = sorted((PETS / "trimaps").glob("*.png"))[:5]
    if not paths:
        pytest.skip("no pets_mini: set KERAS_EMBCAM_TEST_DATA to the folder of it")
    for path in paths:
        trimap = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        num_object, num_background = (trimap == 1).sum(), (trimap == 2).sum()
        expected = num_object / (num_object + num_background)
        ratio = ratio_in_masks(np.ones((1, *trimap.shape)), trimap[None], 1, 3)
        np.testing.assert_allclose(ratio, [expected], rtol=1e-5)


# The classes; what they share is tested in test_metrics_mean_over_images.py


def test_the_baseline_is_taken_over_the_same_images() -> None:
    heatmaps = np.concatenate([HEATMAP, np.zeros_like(HEATMAP), HEATMAP])
    boxes = np.float32([[0, 0, 1, 2], [0, 0, 3, 2], [9, 9, 12, 12]])  # empty, outside
    ratio, baseline = HeatmapRatioInBoxes("xyxy"), HeatmapRatioInBoxes("xyxy", True)
    assert float(ratio(boxes, heatmaps)) == 1 / 16
    assert float(baseline(boxes, heatmaps)) == 0.25


def test_the_baseline_of_masks_leaves_ignored_pixels_out() -> None:
    trimaps = np.uint8([[[1, 3, 1, 2], [2, 3, 2, 2]]])
    metric = HeatmapRatioInMasks(foreground=1, ignored=3, uniform=True)
    np.testing.assert_allclose(float(metric(trimaps, HEATMAP)), 2 / 6, rtol=1e-6)
