"""Tests of keras_embcam.heatmaps."""

import doctest
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_embcam import heatmaps as module
from keras_embcam.heatmaps import (
    combine_channels,
    find_boxes,
    reconstruct_heatmaps,
    resize_heatmaps,
    scale_heatmaps,
)

NAN_BOX = [np.nan] * 4
WITNESSES = Path(__file__).parent / "witnesses"


def test_the_examples_run() -> None:
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


# combine_channels


def test_channel_weights_worked_by_hand() -> None:
    activations = np.float32([[[[1, 2], [3, 0]], [[0, 5], [2, 1]]]])
    weights = np.float32([[[[2, -1]]]])
    # 2*1 - 2, 2*3 - 0, 2*0 - 5 (cut to 0), 2*2 - 1
    expected = [[[0, 6], [0, 3]]]
    assert np.asarray(combine_channels(activations, weights)).tolist() == expected


def test_position_weights_worked_by_hand() -> None:
    activations = np.float32([[[[1, 2], [3, 1]]]])
    weights = np.float32([[[[1, 1], [-1, 2]]]])
    expected = [[[3, 0]]]  # 1 + 2, and -3 + 2 cut to 0
    assert np.asarray(combine_channels(activations, weights)).tolist() == expected


@pytest.mark.parametrize("weight_size", [(1, 1), (3, 5)])
def test_combining_agrees_with_a_slow_loop(weight_size: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    activations = random.normal(size=(2, 3, 5, 4)).astype("float32")
    weights = random.normal(size=(2, *weight_size, 4)).astype("float32")
    spread = np.broadcast_to(weights, activations.shape)
    expected = np.zeros((2, 3, 5))
    for n, y, x in np.ndindex(2, 3, 5):
        total = sum(
            float(spread[n, y, x, k]) * activations[n, y, x, k] for k in range(4)
        )
        expected[n, y, x] = max(total, 0)
    combined = np.asarray(combine_channels(activations, weights))
    np.testing.assert_allclose(combined, expected, atol=1e-6)


# resize_heatmaps


@pytest.mark.parametrize(
    ("coarse", "size"),
    [
        ((7, 7), (224, 224)),
        ((3, 5), (17, 11)),
        ((5, 4), (5, 4)),
        ((9, 7), (4, 3)),
        ((1, 1), (3, 2)),
        ((2, 9), (13, 5)),
    ],
)
def test_resizing_agrees_with_tensorflow(
    coarse: tuple[int, int], size: tuple[int, int]
) -> None:
    maps = np.random.default_rng(0).random((3, *coarse)).astype("float32")
    expected = tf.image.resize(maps[..., None], size, method="bilinear")[..., 0]
    resized = np.asarray(resize_heatmaps(maps, size))
    assert resized.shape == (3, *size)
    np.testing.assert_allclose(resized, expected, atol=1e-6)


def test_several_explanations_are_resized_as_one_is() -> None:
    maps = np.random.default_rng(1).random((2, 3, 4, 5)).astype("float32")
    resized = np.asarray(resize_heatmaps(maps, (9, 7)))
    assert resized.shape == (2, 3, 9, 7)
    for image, explanation in np.ndindex(2, 3):
        single = resize_heatmaps(maps[image, explanation][None], (9, 7))[0]
        np.testing.assert_allclose(resized[image, explanation], single, atol=1e-6)


def test_pixel_centres_are_aligned() -> None:
    # Twice the size: the new centres lie at 1/4 and 3/4 between the old ones, and
    # what lies outside the first and last centre repeats them.
    resized = np.asarray(resize_heatmaps(np.float32([[[0, 4, 8]]]), (1, 6)))
    assert resized.tolist() == [[[0, 1, 3, 5, 7, 8]]]


# scale_heatmaps


def test_scaling_divides_by_the_maximum_and_never_shifts() -> None:
    maps = np.float32([[[2, 4], [8, 6]], [[0, 0], [0, 5]]])
    expected = [[[0.25, 0.5], [1, 0.75]], [[0, 0], [0, 1]]]
    assert np.asarray(scale_heatmaps(maps)).tolist() == expected


def test_an_empty_map_stays_empty() -> None:
    assert np.asarray(scale_heatmaps(np.zeros((1, 2, 2), "float32"))).tolist() == [
        [[0, 0], [0, 0]]
    ]


@pytest.mark.parametrize("height", [1e-30, 1e38])
def test_scaling_reaches_one_at_any_height(height: float) -> None:
    maps = np.float32(height) * np.float32([[[1, 0.5]]])
    np.testing.assert_allclose(scale_heatmaps(maps), [[[1, 0.5]]], rtol=1e-6)


def test_each_explanation_is_scaled_by_itself() -> None:
    maps = np.float32([[[[2, 1]], [[4, 1]]]])
    assert np.asarray(scale_heatmaps(maps)).tolist() == [[[[1, 0.5]], [[1, 0.25]]]]


# find_boxes


def find_box_slowly(heatmap: np.ndarray, threshold: float) -> list[float]:
    """Flood-fill every region; of the largest, take the first box by row and column."""
    hot = {
        (int(y), int(x))
        for y, x in np.ndindex(heatmap.shape)
        if heatmap[y, x] > np.float32(threshold) * heatmap.max()
    }
    regions = []
    while hot:
        waiting, region = [hot.pop()], []
        while waiting:
            y, x = waiting.pop()
            region.append((y, x))
            around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)}
            waiting += around & hot
            hot -= around
        rows, columns = zip(*region, strict=True)
        top, left = min(rows), min(columns)
        box = [left, top, max(columns) + 1, max(rows) + 1]
        regions.append((-len(region), top, left, box))
    return min(regions)[-1] if regions else NAN_BOX


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 0.8])
def test_boxes_agree_with_a_flood_fill(threshold: float) -> None:
    random = np.random.default_rng(int(10 * threshold))
    # Few levels and small maps: many ties, holes and corners that touch.
    maps = random.integers(0, 6, size=(150, 7, 9)).astype("float32")
    maps[3] = 0
    found = find_boxes(maps, threshold)
    expected = [find_box_slowly(heatmap, threshold) for heatmap in maps]
    np.testing.assert_array_equal(found, expected)


def test_the_largest_region_wins_not_the_hottest() -> None:
    heatmap = np.zeros((6, 8), "float32")
    heatmap[0, 0] = 9
    heatmap[2:5, 3:7] = 4
    assert find_boxes(heatmap[None]).tolist() == [[3, 2, 7, 5]]


def test_pixels_and_not_the_box_make_a_region_large() -> None:
    heatmap = np.zeros((6, 8), "float32")
    heatmap[[0, 1, 2, 3], [0, 1, 2, 3]] = 1  # four pixels in a box of sixteen
    heatmap[3:6, 5:7] = 1  # six pixels
    assert find_boxes(heatmap[None]).tolist() == [[5, 3, 7, 6]]


def test_regions_that_touch_at_a_corner_are_one() -> None:
    heatmap = np.float32([[0, 1, 0, 0], [1, 0, 0, 1]])
    assert find_boxes(heatmap[None]).tolist() == [[0, 0, 2, 2]]


def test_of_equal_regions_the_highest_then_the_leftmost_wins() -> None:
    # OpenCV numbers the lower one first here: it scans two rows at a time.
    lower_first = np.float32([[0, 0, 0, 0, 1], [1, 0, 0, 0, 0], [0] * 5])
    same_row = np.float32([[0] * 5, [0, 1, 0, 0, 1], [0] * 5])
    found = find_boxes(np.stack([lower_first, same_row]))
    assert found.tolist() == [[4, 0, 5, 1], [1, 1, 2, 2]]


def test_a_pixel_at_the_threshold_is_not_hot() -> None:
    heatmap = np.float32([[[1, 0.2, 0], [0, 0, 0]], [[5, 1, 0], [0, 0, 0]]])
    for threshold in (0.2, np.float64(0.2)):  # 0.2 in float32 is a little more
        assert find_boxes(heatmap, threshold).tolist() == [[0, 0, 1, 1], [0, 0, 1, 1]]
    assert find_boxes(heatmap, 0.1999).tolist() == [[0, 0, 2, 1], [0, 0, 2, 1]]


def test_a_uniform_map_gives_the_whole_image() -> None:
    assert find_boxes(np.ones((1, 3, 5))).tolist() == [[0, 0, 5, 3]]


@pytest.mark.parametrize("rule", ["otsu", "otsu_4th_root"])
def test_otsu_parts_maps_where_scikit_image_does(rule: str) -> None:
    """Maps of birds, with the thresholds that scikit-image finds for them."""
    maps = np.load(WITNESSES / "bird_heatmaps.npz")["heatmaps"].astype("float32")
    shares = np.load(WITNESSES / "otsu.npz")[rule]
    found = find_boxes(maps, rule)
    for heatmap, share, box in zip(maps, shares, found, strict=True):
        np.testing.assert_array_equal(find_boxes(heatmap[None], float(share))[0], box)
        scaled = heatmap / heatmap.max()
        found_share = module._otsu_share(scaled, module.OTSU_ROOTS[rule])
        assert found_share == pytest.approx(share, abs=1e-6)


def test_reconstruction_is_that_of_scikit_image() -> None:
    """Maps of birds, flooded from where others are high; see record_reconstruction."""
    masks = np.load(WITNESSES / "bird_heatmaps.npz")["heatmaps"].astype("float32")
    expected = np.load(WITNESSES / "reconstruction.npz")["heatmaps"].astype("float32")
    markers = np.where(masks[::-1] >= 0.8, masks, 0)
    np.testing.assert_array_equal(reconstruct_heatmaps(markers, masks), expected)
    assert (expected < masks).mean() > 0.1  # or nothing was held back
    compiled = tf.function(reconstruct_heatmaps, jit_compile=True)
    np.testing.assert_array_equal(compiled(markers, masks), expected)


def test_heat_flows_round_corners_and_diagonally() -> None:
    mask = np.float32([[3, 0, 0, 9], [9, 9, 0, 9], [0, 0, 5, 0], [9, 0, 0, 0]])
    reached = reconstruct_heatmaps(
        np.float32([[[9] + [0] * 3] + [[0] * 4] * 3]), mask[None]
    )
    expected = np.minimum(mask, 3) * (np.arange(16).reshape(4, 4) != 12)
    np.testing.assert_array_equal(reached[0], expected)


@pytest.mark.parametrize("value", [0, np.nan, np.inf])
def test_a_map_that_shows_nothing_has_no_box(value: float) -> None:
    maps = np.zeros((2, 3, 3), "float32")
    maps[0, 1, 1] = value
    maps[1, 1, 1] = 1
    np.testing.assert_array_equal(find_boxes(maps), [NAN_BOX, [1, 1, 2, 2]])


def test_boxes_do_not_depend_on_the_scale() -> None:
    maps = np.random.default_rng(3).random((5, 9, 9)).astype("float32")
    np.testing.assert_array_equal(find_boxes(maps, 0.6), find_boxes(maps * 8, 0.6))


def test_boxes_take_tensors_and_give_arrays() -> None:
    found = find_boxes(tf.constant([[[0.0, 1.0]]], dtype="float16"))
    assert isinstance(found, np.ndarray) and found.dtype == "float32"
    assert found.tolist() == [[1, 0, 2, 1]]
    assert find_boxes(np.zeros((0, 4, 4))).shape == (0, 4)


def test_boxes_refuse_another_shape() -> None:
    with pytest.raises(ValueError, match=r"\(n, H, W\).*shape=\(4, 4\)"):
        find_boxes(np.zeros((4, 4)))


@pytest.mark.parametrize("threshold", [-0.1, 1.0, 20, np.nan])
def test_boxes_refuse_a_threshold_out_of_range(threshold: float) -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\).*Received"):
        find_boxes(np.zeros((1, 4, 4)), threshold)
