"""Tests of keras_embcam.metrics.heatmap_figures: one name for one figure."""

import doctest

import numpy as np
import pytest
import tensorflow as tf

from keras_embcam.evaluation.max_box_accuracy import overlap_curve
from keras_embcam.metrics import (
    ObjectFormat,
    box_overlaps,
    heatmap_figures,
    heatmap_ratio_in_boxes,
    heatmap_ratio_in_masks,
    measure_heatmaps,
    measure_uniform_heatmaps,
    pointing_game_in_boxes,
    pointing_game_in_masks,
    statistics,
)

RANDOM = np.random.default_rng(0)
HEATMAPS = RANDOM.random((3, 6, 8)).astype("float32")
HEATMAPS[2] = 0
BOXES = np.float32([[0, 0, 7, 5], [1, 0, 8, 6], [0, 0, 2, 3]])
MASKS = RANDOM.integers(1, 4, size=(3, 6, 8)).astype("uint8")
EXAMPLES = {"bbox": BOXES, "segmentation_mask": MASKS, "image": None}
OBJECTS = ObjectFormat("xyxy", mask_foreground=1, mask_ignored=3)


@pytest.mark.parametrize("module", [heatmap_figures, statistics])
def test_the_examples_run(module) -> None:
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


def test_figures_are_those_of_their_functions() -> None:
    found = measure_heatmaps(HEATMAPS, EXAMPLES, OBJECTS)
    assert found.keys() == set(heatmap_figures.FIGURES)
    assert np.asarray(found["empty_heatmaps"]).tolist() == [False, False, True]
    for name, expected in (
        ("heatmap_ratio_bbox", heatmap_ratio_in_boxes(HEATMAPS, BOXES, "xyxy")),
        ("heatmap_ratio_mask", heatmap_ratio_in_masks(HEATMAPS, MASKS, 1, 3)),
        ("pointing_game", pointing_game_in_boxes(HEATMAPS, BOXES, "xyxy", 0)),
    ):
        np.testing.assert_array_equal(found[name], expected)


def test_masks_are_pointed_at_where_there_are_no_boxes() -> None:
    masks = {"segmentation_mask": MASKS}
    found = measure_heatmaps(HEATMAPS, masks, OBJECTS)
    assert "heatmap_ratio_bbox" not in found
    expected = pointing_game_in_masks(HEATMAPS, MASKS, 1, 3, tolerance=0)
    np.testing.assert_array_equal(found["pointing_game"], expected)


def test_uniform_maps_have_the_areas_of_the_objects() -> None:
    found = measure_uniform_heatmaps(HEATMAPS, EXAMPLES, OBJECTS)
    areas = np.array([35, 42, 6]) / 48
    np.testing.assert_allclose(found["heatmap_ratio_bbox"], areas, rtol=1e-6)
    counted = (MASKS != 3).sum(axis=(1, 2))
    share = (MASKS == 1).sum(axis=(1, 2)) / counted
    np.testing.assert_allclose(found["heatmap_ratio_mask"], share, rtol=1e-6)


def test_they_can_be_compiled() -> None:
    compiled = tf.function(lambda x: measure_heatmaps(x, {"bbox": BOXES}, OBJECTS))
    found = compiled(HEATMAPS)
    expected = measure_heatmaps(HEATMAPS, {"bbox": BOXES}, OBJECTS)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6)


@pytest.mark.parametrize("padding", [np.nan, 0, -1])
def test_padded_boxes_count_as_absent_in_every_figure(padding) -> None:
    """Images with one, two and no boxes, as one array."""
    padded = np.full((3, 2, 4), padding, "float32")
    padded[0, 0], padded[1] = BOXES[0], BOXES[1:]

    def measure(rows, boxes) -> list[np.ndarray]:
        heatmaps = HEATMAPS[rows] + np.float32(0.1)
        figures = measure_heatmaps(heatmaps, {"bbox": boxes}, OBJECTS)
        curve = overlap_curve(heatmaps, boxes, "xyxy", [0.2, 0.5])
        overlaps = box_overlaps(heatmaps, boxes, "xyxy")
        return [np.asarray(x) for x in (*figures.values(), overlaps, curve)]

    found = measure(slice(None), padded)
    alone = [measure([0], BOXES[None, :1]), measure([1], BOXES[None, 1:])]
    for together, *expected in zip(found, *alone, strict=True):
        np.testing.assert_array_equal(together[:2], np.concatenate(expected))
    assert all(np.isnan(x[2]).all() for x in found[1:])  # the first are empty maps


def test_an_unknown_figure_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`figures` must be among.*\['ratio'\]"):
        measure_heatmaps(HEATMAPS, EXAMPLES, OBJECTS, ["ratio"])
