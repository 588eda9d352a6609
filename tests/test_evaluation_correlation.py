"""Tests of keras_embcam.evaluation.correlation."""

import doctest
import sys

import numpy as np
import pytest
from scipy.stats import rankdata

from keras_embcam.evaluation import correlation as module
from keras_embcam.evaluation.correlation import rank_correlation

RANDOM = np.random.default_rng(0)
HEATMAPS = np.round(RANDOM.random((3, 4, 6)), 1).astype("float32")  # many are equal


def test_the_examples_run() -> None:
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


def test_rank_correlation_is_pearson_of_the_ranks() -> None:
    other = np.round(RANDOM.random(HEATMAPS.shape), 1)
    found = rank_correlation(HEATMAPS, other)
    for one, two, value in zip(HEATMAPS, other, found, strict=True):
        ranks = rankdata(one), rankdata(two)  # ties get their mean rank
        assert value == pytest.approx(np.corrcoef(*ranks)[0, 1], rel=1e-9)
    np.testing.assert_allclose(rank_correlation(HEATMAPS, -(HEATMAPS**3)), -1)


def test_rank_correlation_worked_by_hand() -> None:
    # The ranks differ by 1, 1, 0, 1 and 1, and 1 - 6 * (sum of squares) / (5 * 24).
    found = rank_correlation([[[1, 2, 3, 4, 5]]], [[[20, 10, 30, 60, 40]]])
    assert found.tolist() == pytest.approx([1 - 6 * 4 / 120])


def test_constant_and_broken_maps_have_no_rank_correlation() -> None:
    maps = HEATMAPS.copy()
    maps[0] = 0
    maps[1, 0, 0] = np.inf
    for pair in ((maps, HEATMAPS), (HEATMAPS, maps)):
        assert np.isnan(rank_correlation(*pair)).tolist() == [True, True, False]


def test_maps_of_different_size_are_refused() -> None:
    with pytest.raises(ValueError, match="must have the same shape.*Received"):
        rank_correlation(HEATMAPS, HEATMAPS[:, :2])
    with pytest.raises(ValueError, match="must have the same shape"):
        rank_correlation(HEATMAPS[0], HEATMAPS[0])


def test_rank_correlation_names_the_extra_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(ImportError, match=r'pip install "keras-embcam\[evaluation\]"'):
        rank_correlation(HEATMAPS, HEATMAPS)
