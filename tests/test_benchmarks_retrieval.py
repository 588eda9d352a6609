"""Figures on retrieval explained, on cases worked by hand."""

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
# Behind everything else, so that the package still comes from where it is installed.
sys.path.append(str(ROOT))

from benchmarks.papers import measure_retrieval  # noqa: E402
from benchmarks.papers import retrieval_figures as figures  # noqa: E402


@pytest.fixture
def examples():
    """Two images with one part each that both show, and one that only one shows."""
    return {
        "bbox": np.float32([[0, 0, 1, 1], [0.0, 0.0, 0.5, 1.0]]),
        "parts": np.float32(
            [[[0.25, 0.25, 1], [0.5, 0.5, 1]], [[0.25, 0.85, 1], [0, 0, 0]]]
        ),
    }


def test_parts_are_found_where_the_matrix_says(examples):
    matrix = np.zeros((2, 2, 2, 2))
    matrix[0, 0, 0, 1] = 1  # from the top left to the top right, centre (0.25, 0.75)
    pairs = figures.Pairs(np.array([0]), np.array([1]))
    distances = figures.find_parts(iter([matrix]), examples, pairs)
    np.testing.assert_allclose(distances, [0.1], atol=1e-6)
    row = figures.describe_distances("ours", np.array([0.05, 0.15, 0.3]), 1)
    assert row == ("ours", "0.333", "0.667", "3 of 1 pairs")


def test_guesses_stay_in_the_box(examples):
    pairs = figures.Pairs(np.zeros(500, int), np.ones(500, int))
    inside = figures.guess_parts(examples, pairs, True)
    anywhere = figures.guess_parts(examples, pairs, False)
    assert inside.max() <= np.hypot(0.25, 0.85) < anywhere.max()


def test_pairs_are_of_one_class_and_of_different_images():
    labels = np.repeat([0, 1, 2], 4)
    pairs = figures.draw_pairs(labels, 12)
    assert np.all(labels[pairs.a] == labels[pairs.b])
    assert np.all(pairs.a != pairs.b)


def test_the_hottest_pixels_are_covered():
    images = np.random.default_rng(0).random((1, 10, 10, 3)).astype("float32")
    heat = np.arange(100.0).reshape(1, 10, 10)
    changed = np.any(figures.cover_hottest(images, heat, 0.2) != images, axis=-1)[0]
    np.testing.assert_array_equal(changed, heat[0] >= 80)
    left = np.any(figures.cover_coldest(images, heat, 0.2) != images, axis=-1)[0]
    np.testing.assert_array_equal(left, heat[0] < 80)


def test_area_under_the_curve():
    is_right = np.array([True, True, False, False])
    assert figures.auc(np.array([3.0, 2.0, 1.0, 2.0]), is_right) == 0.875
    assert figures.auc(np.array([3.0, 2.0, 1.0, 0.0]), is_right) == 1
    assert np.isnan(figures.auc(np.ones(2), np.array([True, True])))
    low, high = figures.resample(np.mean, np.arange(100.0))
    assert low < 49.5 < high and high - low < 15


def test_wrong_matches_meet_right_ones_of_equal_similarity():
    similarities = np.array([0.9, 0.5, 0.52, 0.1])
    is_right = np.array([True, False, True, True])
    chosen = figures._match_by_similarity(similarities, is_right)
    assert chosen.tolist() == [1, 2]


def test_the_table_is_markdown():
    table = measure_retrieval.table(["a", "b"], [("1", "2")])
    assert table == "| a | b |\n| --- | --- |\n| 1 | 2 |"
