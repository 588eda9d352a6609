"""Tests of keras_embcam.metrics.localization."""

import doctest

import numpy as np
import pytest
import tensorflow as tf
from keras.utils import bounding_boxes

from keras_embcam.heatmaps import find_boxes
from keras_embcam.metrics import (
    LocalizationAccuracy,
    box_overlaps,
    localization_accuracy,
)
from keras_embcam.metrics import localization as module


def heat_in(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    heatmap = np.zeros((1, 10, 12), "float32")
    heatmap[0, top:bottom, left:right] = 3
    return heatmap


HEATMAP = heat_in(2, 3, 8, 7)  # an area of 24


def overlaps(heatmaps, boxes, **options) -> list:
    boxes = np.asarray(boxes, "float32")
    return box_overlaps(heatmaps, boxes, "xyxy", **options).tolist()


def test_the_examples_run() -> None:
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([[2, 3, 8, 7]], 1),
        ([[5, 3, 8, 7]], 12 / 24),
        ([[5, 5, 11, 9]], 6 / 42),  # 3 x 2 shared
        ([[2, 3, 8, 5.5]], 15 / 24),
        ([[8, 3, 10, 7]], 0),  # they touch
        ([[0, 0, 1, 1]], 0),
        ([[[0, 0, 1, 1], [5, 3, 8, 7], [-1, -1, -1, -1]]], 12 / 24),  # the best
    ],
)
def test_overlaps_worked_by_hand(boxes: list, expected: float) -> None:
    assert overlaps(HEATMAP, boxes) == pytest.approx([expected], rel=1e-6)


def test_the_true_box_is_clipped_to_the_image() -> None:
    heatmap = heat_in(8, 0, 12, 4)
    assert overlaps(heatmap, [[8, -30, 40, 4]]) == [1]


def test_relative_boxes_mean_the_same() -> None:
    found = box_overlaps(HEATMAP, np.float32([[0.3, 0.25, 0.7, 0.5]]), "rel_yxyx")
    np.testing.assert_allclose(found, [0.5], rtol=1e-6)  # (3, 3, 6, 7): 12 of 24


def test_overlaps_agree_with_those_of_keras() -> None:
    random = np.random.default_rng(0)
    heatmaps = random.random((30, 10, 12)).astype("float32")
    low = random.integers(0, 5, size=(30, 2, 2))
    high = low + random.integers(1, 6, size=(30, 2, 2))
    boxes = np.concatenate([low, high], axis=-1).astype("float32")
    found = find_boxes(heatmaps, 0.9)[:, None]
    theirs = np.asarray(bounding_boxes.compute_iou(found, boxes, "xyxy"))
    ours = overlaps(heatmaps, boxes, threshold=0.9)
    np.testing.assert_allclose(ours, theirs.max(axis=(1, 2)), rtol=1e-5)


def test_the_threshold_decides_what_is_hot() -> None:
    heatmap = HEATMAP.copy()
    heatmap[0, 3:7, 8:] = 1  # a third of the maximum, a box of 10 x 4
    assert overlaps(heatmap, [[2, 3, 12, 7]], threshold=0.3) == [1]
    assert overlaps(heatmap, [[2, 3, 12, 7]], threshold=0.4) == pytest.approx([0.6])


def test_accuracy_is_one_from_half_upwards() -> None:
    heatmaps = np.concatenate([HEATMAP] * 3)
    boxes = np.float32([[5, 3, 8, 7], [5.01, 3, 8, 7], [2, 3, 8, 7]])
    hits = localization_accuracy(heatmaps, boxes, "xyxy")
    assert hits.tolist() == [1, 0, 1] and hits.dtype == "float32"
    strict = localization_accuracy(heatmaps, boxes, "xyxy", iou_threshold=0.6)
    assert strict.tolist() == [0, 0, 1]


def test_empty_maps_are_misses_and_images_without_a_box_undefined() -> None:
    heatmaps = np.concatenate([HEATMAP] * 4)
    heatmaps[1] = 0
    heatmaps[2, 0, 0] = np.nan
    boxes = np.float32([[2, 3, 8, 7]] * 3 + [[12, 0, 14, 4]])
    np.testing.assert_array_equal(
        localization_accuracy(heatmaps, boxes, "xyxy"), [1, 0, 0, np.nan]
    )
    heatmaps[3] = 0  # neither heat nor box
    np.testing.assert_array_equal(overlaps(heatmaps, boxes), [1, 0, 0, np.nan])
    no_boxes = np.zeros((4, 0, 4))
    assert np.isnan(localization_accuracy(heatmaps, no_boxes, "xyxy")).all()


def test_eager_tensors_and_half_precision_are_welcome() -> None:
    heatmaps = tf.constant(HEATMAP, dtype="float16")
    hits = localization_accuracy(heatmaps, tf.constant([[2, 3, 8, 7]]), "xyxy")
    assert isinstance(hits, np.ndarray) and hits.tolist() == [1]


def test_symbolic_tensors_are_refused() -> None:
    metric = LocalizationAccuracy("xyxy")
    update = tf.function(metric.update_state)
    with pytest.raises(NotImplementedError, match="symbolic"):
        update(tf.constant([[0.0, 0, 1, 1]]), tf.constant(HEATMAP))


@pytest.mark.parametrize("iou_threshold", [0, -0.5, 1.5, float("nan")])
def test_an_iou_threshold_out_of_range_is_refused(iou_threshold: float) -> None:
    with pytest.raises(ValueError, match="`iou_threshold`.*above 0.*Received"):
        localization_accuracy(
            HEATMAP, [[0, 0, 1, 1]], "xyxy", iou_threshold=iou_threshold
        )


def test_a_threshold_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`threshold`.*\[0, 1\).*20"):
        localization_accuracy(HEATMAP, [[0, 0, 1, 1]], "xyxy", threshold=20)


def test_boxes_for_another_number_of_images_are_refused() -> None:
    with pytest.raises(ValueError, match="one row for each heatmap"):
        box_overlaps(HEATMAP, np.zeros((2, 4)), "xyxy")
