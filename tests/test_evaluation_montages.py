"""Tests of keras_embcam.evaluation.montages."""

import doctest

import numpy as np
import pytest
import tensorflow as tf

from keras_embcam.evaluation import montages as module
from keras_embcam.evaluation.montages import heat_by_cell, make_montages

NAN = float("nan")
RANDOM = np.random.default_rng(0)
LABELS = np.array([3, 3, 5, 5, 5, 8, 9, 9])
IMAGES = RANDOM.integers(0, 256, size=(8, 6, 8, 3)).astype("uint8")


def test_the_examples_run() -> None:
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


@pytest.mark.parametrize("num_cells", [2, 4])
def test_montages_show_different_classes_and_say_which(num_cells: int) -> None:
    montages = make_montages(IMAGES, LABELS, num_cells, 30, seed=1)
    assert montages.images.shape == (30, 6, 8, 3)
    assert montages.images.dtype == "uint8"
    np.testing.assert_array_equal(montages.cell_labels, LABELS[montages.cell_indices])
    for labels in montages.cell_labels:
        assert len(set(labels)) == num_cells
    assert set(montages.cell_indices.ravel()) == set(
        range(8)
    )  # every image has its turn
    again = make_montages(IMAGES, LABELS, num_cells, 30, seed=1)
    np.testing.assert_array_equal(montages.images, again.images)
    other = make_montages(IMAGES, LABELS, num_cells, 30, seed=2)
    assert (montages.cell_indices != other.cell_indices).any()


def test_two_cells_are_the_middle_of_each_image_at_full_size() -> None:
    montages = make_montages(IMAGES, LABELS, 2, 10)
    for montage, (left, right) in zip(*montages[::2], strict=True):
        np.testing.assert_array_equal(montage[:, :4], IMAGES[left][:, 2:6])
        np.testing.assert_array_equal(montage[:, 4:], IMAGES[right][:, 2:6])


def test_four_cells_are_whole_images_at_half_the_size() -> None:
    images = IMAGES.astype("float32") / 127.5 - 1
    montages = make_montages(images, LABELS, 4, 10)
    assert montages.images.dtype == "float32"
    halves = tf.image.resize(images, (3, 4), antialias=True).numpy()
    for montage, cells in zip(*montages[::2], strict=True):
        rows = [
            np.concatenate([halves[cells[i]], halves[cells[i + 1]]], axis=1)
            for i in (0, 2)
        ]
        expected = np.concatenate(rows)
        np.testing.assert_allclose(montage, expected, atol=1e-6)


@pytest.mark.parametrize("num_cells", [2, 4])
def test_montages_of_odd_size_are_filled_without_distortion(num_cells: int) -> None:
    y, x = np.mgrid[:15, :21].astype("float32")
    images = np.stack([np.stack([y, x], axis=-1)] * 4)
    found = make_montages(images, range(4), num_cells, 1).images[0]
    assert found.shape == (15, 21, 2)
    # One step in the montage is the same distance in the image down and across.
    steps = (found[4, 4, 0] - found[3, 4, 0], found[4, 4, 1] - found[4, 3, 1])
    assert steps[0] == pytest.approx(steps[1], rel=0.06)
    assert steps[0] == pytest.approx(1 if num_cells == 2 else 2, rel=0.1)


def test_rounded_montages_stay_in_the_range_of_integers() -> None:
    stripes = np.zeros((2, 8, 8, 1), "uint8")
    stripes[:, :, 4:] = 255
    images = np.concatenate([stripes, 255 - stripes])
    found = make_montages(images, range(4), 4, 1).images
    exact = make_montages(images.astype("float32"), range(4), 4, 1).images
    assert np.abs(found - exact).max() <= 0.5


def test_bad_montages_are_refused() -> None:
    for images, labels in (
        (IMAGES[0], [1]),
        (IMAGES, LABELS[:3]),
        (IMAGES[:, :1], LABELS),
    ):
        with pytest.raises(ValueError, match="`images` must have the shape.*Received"):
            make_montages(images, labels, 2, 1)
    for num_cells in (3, 1):
        with pytest.raises(ValueError, match="`num_cells` must be 2.*or 4.*Received"):
            make_montages(IMAGES, LABELS, num_cells, 1)
        with pytest.raises(ValueError, match="`num_cells` must be 2.*or 4"):
            heat_by_cell(np.ones((1, 2, 2)), num_cells)
    with pytest.raises(ValueError, match="`num_montages` must be >= 1.*0"):
        make_montages(IMAGES, LABELS, 2, 0)
    with pytest.raises(ValueError, match=r"at least 4 classes. Received: \[3, 5\]"):
        make_montages(IMAGES[:5], LABELS[:5], 4, 1)


def test_heat_by_cell_agrees_with_a_slow_loop() -> None:
    heatmaps = RANDOM.random((5, 6, 8)).astype("float32") ** 4
    two, four = heat_by_cell(heatmaps, 2), heat_by_cell(heatmaps, 4)
    for heatmap, halves, quarters in zip(heatmaps, two, four, strict=True):
        sums = np.zeros((2, 2))
        for y in range(6):
            for x in range(8):
                sums[y // 3, x // 4] += heatmap[y, x]
        np.testing.assert_allclose(quarters, sums.ravel() / sums.sum(), rtol=1e-5)
        np.testing.assert_allclose(halves, sums.sum(axis=0) / sums.sum(), rtol=1e-5)


def test_chance_is_exact_and_empty_heatmaps_are_undefined() -> None:
    heatmaps = np.ones((3, 7, 5), "float32")
    heatmaps[1] = 0
    heatmaps[2, 0, 0] = NAN
    for num_cells in (2, 4):
        shares = heat_by_cell(heatmaps, num_cells)
        np.testing.assert_allclose(shares[0], 1 / num_cells, rtol=1e-6)
        assert np.isnan(shares[1:]).all()


def test_all_heat_on_one_cell() -> None:
    for cell in range(4):
        heatmap = np.zeros((1, 4, 6), "float32")
        heatmap[0, 2 * (cell // 2), 3 * (cell % 2)] = 7
        assert heat_by_cell(heatmap, 4)[0].argmax() == cell
        assert heat_by_cell(heatmap, 4)[0, cell] == 1
        assert heat_by_cell(heatmap, 2)[0, cell % 2] == 1
