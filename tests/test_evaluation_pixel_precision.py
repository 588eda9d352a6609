"""Tests of keras_embcam.evaluation.pixel_precision."""

import doctest
import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from keras_embcam.evaluation import pixel_precision as module
from keras_embcam.evaluation.pixel_precision import PixelAveragePrecision

NAN = float("nan")


def test_the_examples_run() -> None:
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


def measure(heatmaps, masks, num_thresholds: int = 1000, **values) -> float:
    metric = PixelAveragePrecision(num_thresholds)
    metric.update(np.asarray(heatmaps, "float32"), np.asarray(masks), **values)
    return metric.result()


def test_pxap_worked_by_hand() -> None:
    # From the top: 1 is right, 0.8 wrong, 0.6 right, 0.5 right, 0 wrong.
    heat, mask = [[[1, 0.8, 0.6, 0.5, 0]]], [[[True, False, True, True, False]]]
    expected = (1 + 2 / 3 + 3 / 4) / 3
    assert measure(heat, mask) == pytest.approx(expected, rel=1e-12)
    # With L = 2 the bins are [0, 1/2), [1/2, 1) and 1: then 3 of 4 at once.
    assert measure(heat, mask, 2) == pytest.approx(1 / 3 + 2 / 3 * 3 / 4, rel=1e-12)


def test_pxap_pools_the_pixels_of_all_images() -> None:
    heat = np.float32([[[1, 0.2]], [[0.9, 0.4]]])
    mask = np.array([[[False, True]], [[True, False]]])
    metric = PixelAveragePrecision()
    for i in range(2):
        metric.update(heat[i : i + 1], mask[i : i + 1])
    # 1 wrong, 0.9 right, 0.4 wrong, 0.2 right; the mean over images would be 0.75.
    assert metric.result() == pytest.approx((1 / 2 + 2 / 4) / 2, rel=1e-12)


def test_pxap_is_average_precision_where_no_bin_is_shared() -> None:
    random = np.random.default_rng(0)
    heat = random.integers(0, 101, size=(5, 9, 9)) / 100
    mask = random.random(heat.shape) < heat
    expected = average_precision_score(mask.ravel(), heat.ravel())
    for num_thresholds in (100, 1000):
        ours = measure(heat, mask, num_thresholds)
        assert ours == pytest.approx(expected, rel=1e-12)
    # Other heat is first brought down to the thresholds.
    heat = random.random(heat.shape, dtype="float32")
    expected = average_precision_score(mask.ravel(), np.floor(heat.ravel() * 8))
    assert measure(heat, mask, 8) == pytest.approx(expected, rel=1e-12)


def test_pxap_leaves_out_ignored_pixels_and_images_without_an_object() -> None:
    trimaps = np.uint8([[[1, 2, 3, 1]], [[2, 2, 2, 3]]])
    heat = [[[0.9, 0.5, 1, 0.1]], [[1, 1, 1, 1]]]
    expected = 1 / 2 + 1 / 2 * 2 / 3
    found = measure(heat, trimaps, foreground=1, ignored=3)
    assert found == pytest.approx(expected, rel=1e-12)


def test_pxap_of_the_uniform_and_of_broken_maps_is_the_share_of_the_object() -> None:
    mask = np.zeros((1, 4, 5), bool)
    mask[0, :2, :3] = True
    broken = np.zeros((1, 4, 5))
    broken[0, 0, 0] = NAN
    for heat in (np.ones((1, 4, 5)), np.zeros((1, 4, 5)), broken):
        assert measure(heat, mask) == pytest.approx(6 / 20, rel=1e-12)


def test_pxap_of_nothing_is_nan() -> None:
    assert math.isnan(PixelAveragePrecision().result())
    assert math.isnan(measure(np.ones((1, 2, 2)), np.zeros((1, 2, 2), bool)))
    assert math.isnan(measure(np.ones((0, 2, 2)), np.zeros((0, 2, 2), bool)))


def test_bad_input_to_pxap_is_refused() -> None:
    with pytest.raises(ValueError, match="`num_thresholds` must be at least 1.*0"):
        PixelAveragePrecision(0)
    for heat in (np.full((1, 2, 2), 1.5), np.full((1, 2, 2), -0.5)):
        with pytest.raises(
            ValueError, match=r"`heatmaps` must lie in \[0, 1\].*Received"
        ):
            measure(heat, np.ones((1, 2, 2), bool))
    with pytest.raises(ValueError, match="`masks` must have the shape of the heatmaps"):
        measure(np.ones((1, 2, 2)), np.ones((1, 3, 3), bool))
