"""Tests of what the per-image metric classes share."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_embcam.metrics import (
    EmptyMapShare,
    HeatmapRatioInBoxes,
    HeatmapRatioInMasks,
    LocalizationAccuracy,
    PointingGameInBoxes,
    PointingGameInMasks,
    find_empty_maps,
    heatmap_ratio_in_boxes,
    heatmap_ratio_in_masks,
    localization_accuracy,
    pointing_game_in_boxes,
    pointing_game_in_masks,
)
from keras_embcam.metrics.mean_over_images import MeanOverImages

RANDOM = np.random.default_rng(0)
NUM_IMAGES = 11
HEATMAPS = RANDOM.random((NUM_IMAGES, 6, 8)).astype("float32") ** 4
HEATMAPS[3] = 0  # an empty map
BOXES = np.float32(np.tile([[0, 0, 7, 5], [1, 0, 8, 6.5], [0, 0, 2.25, 3]], (4, 1)))[
    :11
]
BOXES[5] = -1  # an image without an object
TRIMAPS = RANDOM.integers(1, 4, size=(NUM_IMAGES, 6, 8)).astype("uint8")
TRIMAPS[:, :, 5:] = 2
TRIMAPS[7] = 2
WEIGHTS = RANDOM.integers(0, 4, size=NUM_IMAGES).astype("float32")
TRIMAP_VALUES = {"foreground": 1, "ignored": 3}

Case = tuple[type[MeanOverImages], dict[str, Any], np.ndarray, np.ndarray]


def make_cases() -> dict[str, Case]:
    """Return class, configuration, y_true and the function's values of each metric."""
    in_boxes = {"bounding_box_format": "xyxy"}
    ones = np.ones_like(HEATMAPS)
    own = heatmap_ratio_in_boxes(HEATMAPS, BOXES, "xyxy")
    uniform = np.asarray(heatmap_ratio_in_boxes(ones, BOXES, "xyxy"))
    cases = {
        "ratio_in_boxes": (HeatmapRatioInBoxes, in_boxes, BOXES, own),
        "uniform_in_boxes": (
            HeatmapRatioInBoxes,
            in_boxes | {"uniform": True},
            BOXES,
            np.where(np.isnan(own), np.nan, uniform),
        ),
        "ratio_in_masks": (
            HeatmapRatioInMasks,
            TRIMAP_VALUES | {"uniform": False},
            TRIMAPS,
            heatmap_ratio_in_masks(HEATMAPS, TRIMAPS, **TRIMAP_VALUES),
        ),
        "empty_maps": (EmptyMapShare, {}, BOXES, find_empty_maps(HEATMAPS)),
        "pointing_in_boxes": (
            PointingGameInBoxes,
            in_boxes | {"tolerance": 0.5},
            BOXES,
            pointing_game_in_boxes(HEATMAPS, BOXES, "xyxy", 0.5),
        ),
        "pointing_in_masks": (
            PointingGameInMasks,
            TRIMAP_VALUES | {"tolerance": 0.5},
            TRIMAPS,
            pointing_game_in_masks(HEATMAPS, TRIMAPS, tolerance=0.5, **TRIMAP_VALUES),
        ),
        "localization": (
            LocalizationAccuracy,
            in_boxes | {"threshold": 0.1, "iou_threshold": 0.4},
            BOXES,
            localization_accuracy(HEATMAPS, BOXES, "xyxy", 0.1, 0.4),
        ),
    }
    return {
        name: (metric, config, y_true, np.asarray(values, dtype="float64"))
        for name, (metric, config, y_true, values) in cases.items()
    }


CASES = make_cases()
each_metric = pytest.mark.parametrize("name", CASES)


def update_in_batches(metric: MeanOverImages, y_true: np.ndarray, weights=None) -> None:
    for start, end in [(0, 4), (4, 5), (5, 11)]:
        batch = slice(start, end)
        weight = None if weights is None else weights[batch]
        metric.update_state(y_true[batch], HEATMAPS[batch], weight)


@each_metric
def test_the_cases_are_not_trivial(name: str) -> None:
    values = CASES[name][3]
    assert len(set(values[~np.isnan(values)])) > 1
    assert np.isnan(values).any() == (name != "empty_maps")


@each_metric
def test_unequal_batches_give_the_mean_over_all_images(name: str) -> None:
    kind, config, y_true, values = CASES[name]
    metric = kind(**config)
    update_in_batches(metric, y_true)
    np.testing.assert_allclose(float(metric.result()), np.nanmean(values), rtol=1e-6)


@each_metric
def test_sample_weights_weigh_the_images(name: str) -> None:
    kind, config, y_true, values = CASES[name]
    metric = kind(**config)
    update_in_batches(metric, y_true, WEIGHTS)
    defined = ~np.isnan(values)
    expected = np.average(values[defined], weights=WEIGHTS[defined])
    np.testing.assert_allclose(float(metric.result()), expected, rtol=1e-6)


@each_metric
def test_nothing_counted_is_nan_and_reset_forgets(name: str) -> None:
    kind, config, y_true, values = CASES[name]
    metric = kind(**config)
    assert np.isnan(float(metric.result()))
    update_in_batches(metric, y_true)
    metric.reset_state()
    assert np.isnan(float(metric.result()))
    metric.update_state(y_true[:2], HEATMAPS[:2])
    np.testing.assert_allclose(float(metric.result()), values[:2].mean(), rtol=1e-6)


@each_metric
def test_the_configuration_survives_saving(name: str) -> None:
    kind, config, y_true, _ = CASES[name]
    metric = kind(**config, name="mine")
    saved = keras.saving.serialize_keras_object(metric)
    assert saved["registered_name"] == f"keras_embcam>{kind.__name__}"
    loaded = keras.saving.deserialize_keras_object(saved)
    assert type(loaded) is kind and loaded.name == "mine"
    assert loaded.get_config().items() >= config.items()
    update_in_batches(metric, y_true)
    update_in_batches(loaded, y_true)
    assert float(loaded.result()) == float(metric.result())


@pytest.mark.parametrize("name", [name for name in CASES if name != "localization"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_metrics_work_inside_a_compiled_function(name: str, jit_compile: bool) -> None:
    kind, config, y_true, _ = CASES[name]
    metric, eager = kind(**config), kind(**config)
    update = tf.function(metric.update_state, jit_compile=jit_compile)
    for batch in (slice(0, 6), slice(5, 11)):
        update(tf.constant(y_true[batch]), tf.constant(HEATMAPS[batch]))
        eager.update_state(y_true[batch], HEATMAPS[batch])
    np.testing.assert_allclose(float(metric.result()), float(eager.result()), rtol=1e-6)


def no_loss(y_true, y_pred):
    return keras.ops.zeros_like(y_pred[:, 0, 0])


def test_metrics_can_be_compiled_into_a_model() -> None:
    model = keras.Sequential([keras.Input((6, 8)), keras.layers.Identity()])
    metrics = [HeatmapRatioInBoxes("xyxy"), EmptyMapShare()]
    model.compile(loss=no_loss, metrics=metrics)
    logs = model.evaluate(HEATMAPS, BOXES, batch_size=4, verbose=0, return_dict=True)
    expected = np.nanmean(CASES["ratio_in_boxes"][3])
    np.testing.assert_allclose(logs["heatmap_ratio_bbox"], expected, rtol=1e-6)
    np.testing.assert_allclose(logs["empty_heatmaps"], 1 / NUM_IMAGES, rtol=1e-6)


def test_a_subclass_must_measure() -> None:
    with pytest.raises(
        NotImplementedError, match="must define `measure.*MeanOverImages"
    ):
        MeanOverImages().update_state(BOXES, HEATMAPS)
