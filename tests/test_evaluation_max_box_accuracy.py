"""Tests of keras_embcam.evaluation.max_box_accuracy."""

import doctest

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from keras_embcam.evaluation import max_box_accuracy as module
from keras_embcam.evaluation.max_box_accuracy import (
    box_accuracy_curve,
    choose_threshold,
    max_box_accuracy,
    overlap_curve,
)
from keras_embcam.heatmaps import resize_heatmaps
from keras_embcam.metrics import box_overlaps

NAN = float("nan")
# One strong region of 2 x 2 and a weaker, larger one of 3 x 3.
TWO = np.zeros((1, 8, 8), "float32")
TWO[0, :2, :2] = 10
TWO[0, 4:7, 4:7] = 5


def test_the_examples_run() -> None:
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


def random_case(num_images: int = 12) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    coarse = np.maximum(random.normal(size=(num_images, 4, 4)) - 0.2, 0)
    heatmaps = np.array(resize_heatmaps(coarse.astype("float32"), (18, 21)))
    heatmaps[: num_images // 2] += random.random((18, 21)) * (heatmaps[0] > 0)
    low = random.integers(0, 10, size=(num_images, 2, 2))
    boxes = np.concatenate([low, low + random.integers(2, 9, low.shape)], axis=-1)
    return heatmaps, boxes.astype("float32")


def test_the_curve_is_box_overlaps_at_each_threshold() -> None:
    heatmaps, boxes = random_case()
    heatmaps[1] = 0
    heatmaps[2, 3, 3] = np.nan
    boxes[3] = -1  # no box at all
    boxes[4, 1] = 0  # one box
    heatmaps[5] = np.round(heatmaps[5])  # equally large regions
    thresholds = [0.9, 0.0, 0.2, 0.15, 0.55, 0.2]  # in no order
    curve = overlap_curve(heatmaps, boxes, "xyxy", thresholds)
    expected = [box_overlaps(heatmaps, boxes, "xyxy", t) for t in thresholds]
    np.testing.assert_array_equal(curve, np.transpose(expected))
    assert curve.dtype == "float32" and curve.shape == (12, 6)
    assert np.isnan(curve[3]).all() and not curve[1:3].any()


def slow_best_overlap(
    heatmap: np.ndarray, boxes: np.ndarray, threshold: float
) -> float:
    """Try the box of every region, found by SciPy, pixel by pixel."""
    hot = heatmap > np.float32(threshold) * heatmap.max()
    regions, number = ndimage.label(hot, structure=np.ones((3, 3)))
    best = 0.0
    for region in range(1, number + 1):
        y, x = np.nonzero(regions == region)
        found = np.zeros(heatmap.shape, bool)
        found[y.min() : y.max() + 1, x.min() : x.max() + 1] = True
        for left, top, right, bottom in boxes.astype(int):
            true = np.zeros(heatmap.shape, bool)
            true[top:bottom, left:right] = True
            best = max(best, (found & true).sum() / (found | true).sum())
    return best


def test_the_best_of_all_regions_agrees_with_a_slow_loop() -> None:
    heatmaps, boxes = random_case()
    thresholds = [0, 0.1, 0.3, 0.5, 0.8]
    curve = overlap_curve(heatmaps, boxes, "xyxy", thresholds, largest_only=False)
    expected = [
        [slow_best_overlap(heatmap, both, threshold) for threshold in thresholds]
        for heatmap, both in zip(heatmaps, boxes, strict=True)
    ]
    np.testing.assert_allclose(curve, expected, rtol=1e-5)
    assert (curve > overlap_curve(heatmaps, boxes, "xyxy", thresholds)).any()


def test_regions_worked_by_hand() -> None:
    thresholds = [0.2, 0.5]
    small = [[0, 0, 2, 2]]
    assert overlap_curve(TWO, small, "xyxy", thresholds).tolist() == [[0, 1]]
    every = overlap_curve(TWO, small, "xyxy", thresholds, largest_only=False)
    assert every.tolist() == [[1, 1]]
    # The larger one is gone at half the maximum, which it does not exceed.
    curve = overlap_curve(TWO, [[4, 4, 7, 8]], "xyxy", thresholds)
    assert curve.tolist() == [[0.75, 0]]


def test_tensors_relative_boxes_and_half_precision_are_welcome() -> None:
    heatmaps = tf.constant(TWO, "float16")
    curve = overlap_curve(
        heatmaps, tf.constant([[0, 0, 0.25, 0.25]]), "rel_yxyx", [0.6]
    )
    assert curve.tolist() == [[1]]


def test_no_images_give_no_rows() -> None:
    curve = overlap_curve(TWO[:0], np.zeros((0, 4)), "xyxy", [0.2, 0.4])
    assert curve.shape == (0, 2)


def test_a_map_too_faint_for_fractions_finds_nothing() -> None:
    faintest = np.zeros((1, 2, 2), "float32")
    faintest[0, 0, 0] = 1e-45  # the smallest number there is: half of it is itself or 0
    curve = overlap_curve(faintest, [[0, 0, 1, 1]], "xyxy", [0, 0.9])
    assert curve.tolist() in ([[1, 0]], [[0, 0]])


# Four images, three thresholds and one image without a box.
OVERLAPS = np.float32(
    [
        [0.20, 0.55, 0.10],
        [0.50, 0.30, 0.80],
        [0.35, 0.70, 0.40],
        [0.90, 0.60, 0.00],
        [NAN, NAN, NAN],
    ]
)
THRESHOLDS = [0.1, 0.2, 0.3]


def test_box_accuracy_worked_by_hand() -> None:
    assert box_accuracy_curve(OVERLAPS).tolist() == [0.5, 0.75, 0.25]
    assert box_accuracy_curve(OVERLAPS, 0.3).tolist() == [0.75, 1, 0.5]
    assert box_accuracy_curve(OVERLAPS, 0.7).tolist() == [0.25, 0.25, 0.25]


def test_max_box_accuracy_worked_by_hand() -> None:
    assert max_box_accuracy(OVERLAPS, THRESHOLDS).tolist() == [1, 0.75, 0.25]
    assert max_box_accuracy(OVERLAPS, THRESHOLDS, (0.5,)).tolist() == [0.75]


def test_a_threshold_chosen_on_one_set_is_reported_on_another() -> None:
    at = [choose_threshold(OVERLAPS, THRESHOLDS, iou) for iou in (0.3, 0.5, 0.7)]
    assert at == [0.2, 0.2, 0.1]  # the lowest of three equal ones
    other = np.float32([[0.1, 0.4, 0.9], [0.7, 0.6, 0.2]])
    assert max_box_accuracy(other, THRESHOLDS, at=at).tolist() == [1, 0.5, 0.5]
    assert max_box_accuracy(other, THRESHOLDS).tolist() == [1, 0.5, 0.5]
    assert max_box_accuracy(other, THRESHOLDS, (0.5,), at=[0.1]).tolist() == [0.5]
    assert max_box_accuracy(other, THRESHOLDS, (0.65,), at=[0.2]).tolist() == [0]


def test_max_box_accuracy_of_maps_agrees_with_counting() -> None:
    heatmaps, boxes = random_case()
    thresholds = np.linspace(0, 0.9, 10)
    overlaps = overlap_curve(heatmaps, boxes, "xyxy", thresholds)
    best = 0.0
    for threshold in thresholds:
        ious = box_overlaps(heatmaps, boxes, "xyxy", threshold)
        best = max(best, sum(iou >= 0.3 for iou in ious) / len(ious))
    assert 0 < best < 1
    assert max_box_accuracy(overlaps, thresholds, (0.3,)).tolist() == [best]


def test_no_image_with_a_box_gives_nan() -> None:
    none = np.full((2, 3), np.nan)
    assert np.isnan(box_accuracy_curve(none)).all()
    assert np.isnan(max_box_accuracy(none, THRESHOLDS)).all()
    with pytest.raises(ValueError, match="only be chosen on images with boxes"):
        choose_threshold(none, THRESHOLDS, 0.5)


@pytest.mark.parametrize("thresholds", [[], 0.2, [0.2, 1], [-0.1], [NAN], [1 - 1e-12]])
def test_thresholds_out_of_range_are_refused(thresholds) -> None:
    with pytest.raises(
        ValueError, match=r"`thresholds` are shares.*\[0, 1\). Received"
    ):
        overlap_curve(TWO, [[0, 0, 1, 1]], "xyxy", thresholds)


def test_bad_overlaps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`overlaps` must have the shape \(n, T\)"):
        box_accuracy_curve(np.zeros(3))
    with pytest.raises(ValueError, match="one number for each column.*2 for"):
        max_box_accuracy(OVERLAPS, [0.1, 0.2])
    with pytest.raises(ValueError, match="one number for each column"):
        choose_threshold(OVERLAPS, [0.1, 0.2], 0.5)


@pytest.mark.parametrize("iou", [0, 1.1, NAN])
def test_an_iou_threshold_out_of_range_is_refused(iou: float) -> None:
    with pytest.raises(ValueError, match="IoU threshold must lie above 0.*Received"):
        max_box_accuracy(OVERLAPS, THRESHOLDS, (0.5, iou))


@pytest.mark.parametrize("at", [[0.2], [0.2, 0.2, 0.25], [0.1, 0.2, NAN]])
def test_thresholds_that_were_not_measured_are_refused(at: list) -> None:
    with pytest.raises(ValueError, match="`at` must hold one threshold for each IoU"):
        max_box_accuracy(OVERLAPS, THRESHOLDS, at=at)
