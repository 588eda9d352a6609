"""Tests of keras_embcam.evaluation.stability."""

import doctest

import numpy as np
import pytest

from keras_embcam.evaluation import stability
from keras_embcam.evaluation.stability import (
    add_adversarial_noise,
    shift_boxes,
    shift_images,
    translation_overlap,
)
from keras_embcam.heatmaps import find_boxes
from keras_embcam.metrics import box_overlaps

NAN = float("nan")
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.uniform(-1, 1, size=(2, 5, 7, 3)).astype("float32")
MAPS = RANDOM.random((2, 5, 7)).astype("float32")


def test_the_examples_run() -> None:
    results = doctest.testmod(stability)
    assert results.attempted and not results.failed


def test_noise_is_one_step_against_the_gradient_within_the_range() -> None:
    gradients = RANDOM.normal(size=IMAGES.shape)
    gradients[0, 0, 0, 0] = 0
    noisy = add_adversarial_noise(IMAGES, gradients, 0.25)
    assert noisy.dtype == "float32"
    lowest, highest = float(IMAGES.min()), float(IMAGES.max())
    for x, gradient, found in zip(IMAGES.flat, gradients.flat, noisy.flat, strict=True):
        step = -0.25 if gradient > 0 else 0.25 if gradient < 0 else 0
        expected = min(max(float(x) + step, lowest), highest)
        assert found == pytest.approx(expected, abs=1e-6)
    same = add_adversarial_noise(IMAGES, gradients, 0)
    np.testing.assert_array_equal(same, IMAGES)


def test_noise_lowers_a_linear_score_by_the_most_it_can() -> None:
    gradients = RANDOM.normal(size=IMAGES.shape)
    wide = np.concatenate([IMAGES, [np.full(IMAGES.shape[1:], x) for x in (-9, 9)]])
    padded = np.concatenate([gradients, np.zeros_like(gradients)])
    noisy = add_adversarial_noise(wide, padded, 0.01)[: len(IMAGES)]
    drop = ((IMAGES - noisy) * gradients).sum()
    assert drop == pytest.approx(0.01 * np.abs(gradients).sum(), rel=1e-4)


def test_the_range_of_the_images_is_kept() -> None:
    noisy = add_adversarial_noise(IMAGES, np.ones(IMAGES.shape), 10)
    assert (noisy == IMAGES.min()).all()


def test_bad_noise_is_refused() -> None:
    gradients = np.ones(IMAGES.shape)
    with pytest.raises(ValueError, match="must have the same shape.*Received"):
        add_adversarial_noise(IMAGES, gradients[..., 0], 1)
    with pytest.raises(ValueError, match="must have the same shape"):
        add_adversarial_noise(IMAGES[0], gradients[0], 1)
    for epsilon in (-1, NAN, float("inf")):
        with pytest.raises(
            ValueError, match="`epsilon` must be a number >= 0.*Received"
        ):
            add_adversarial_noise(IMAGES, gradients, epsilon)
    gradients[1, 0, 0, 0] = NAN
    with pytest.raises(ValueError, match=r"`gradients` must be finite.*\[1\]"):
        add_adversarial_noise(IMAGES, gradients, 1)


@pytest.mark.parametrize(("dy", "dx"), [(0, 0), (1, 0), (-2, 3), (4, -6), (0, 6)])
def test_shifts_agree_with_a_slow_loop(dy: int, dx: int) -> None:
    fill = np.float32([0.1, 0.2, 0.3])
    images = shift_images(IMAGES, dy, dx, fill)
    assert images.dtype == "float32"
    for y in range(5):
        for x in range(7):
            source = (y - dy, x - dx)
            if 0 <= source[0] < 5 and 0 <= source[1] < 7:
                np.testing.assert_array_equal(images[:, y, x], IMAGES[:, *source])
            else:
                assert (images[:, y, x] == fill).all()


def test_bad_shifts_are_refused() -> None:
    for dy, dx in ((5, 0), (0, -7), (0.5, 0), (NAN, 0)):
        with pytest.raises(
            ValueError, match="`dy` and `dx` must be whole.*5 x 7 pixels"
        ):
            shift_images(IMAGES, dy, dx, 0)
    with pytest.raises(ValueError, match=r"`fill` must be a number or \(c,\).*\(2,\)"):
        shift_images(IMAGES, 1, 1, [0, 1])
    with pytest.raises(ValueError, match="`images` must have the shape"):
        shift_images(MAPS, 1, 1, 0)


def test_boxes_move_with_the_content() -> None:
    heatmap = np.zeros((1, 12, 16), "float32")
    heatmap[0, 3:7, 2:9] = 1
    for dy, dx in ((2, 3), (-1, 6), (-5, 0), (0, 11)):
        moved = find_boxes(shift_images(heatmap[..., None], dy, dx, 0)[..., 0])
        expected = shift_boxes(find_boxes(heatmap), dy, dx, size=(12, 16))
        np.testing.assert_array_equal(moved, expected)


def test_boxes_that_are_none_stay_none() -> None:
    boxes = np.float32([[[1, 1, 3, 2], [0, 0, 0, 0], [-1, -1, -1, -1], [NAN] * 4]])
    moved = shift_boxes(boxes, 1, 2)
    assert moved[0, 0].tolist() == [3, 2, 5, 3]
    np.testing.assert_array_equal(moved[0, 1:], boxes[0, 1:])
    gone = shift_boxes(boxes, 0, 9, size=(4, 6))[0, 0]
    assert gone[2] - gone[0] == 0
    with pytest.raises(ValueError, match=r"`boxes` must have the shape \(\.\.\., 4\)"):
        shift_boxes(np.zeros((2, 3)), 1, 1)


def test_translation_overlap_is_the_overlap_with_the_moved_box() -> None:
    before, after = MAPS > 0.4, MAPS[:, ::-1] > 0.4
    before, after = before.astype("float32"), after.astype("float32")
    boxes = find_boxes(before), find_boxes(after)
    found = translation_overlap(*boxes, shift=(-1, 2), size=(5, 7))
    true = shift_boxes(boxes[0], -1, 2)
    np.testing.assert_allclose(found, box_overlaps(after, true, "xyxy"), rtol=1e-6)
    assert ((found > 0) & (found < 1)).all()


def test_translation_worked_by_hand() -> None:
    before = np.float32([[0, 0, 4, 2]] * 6)
    after = np.float32(
        [
            [3, 1, 7, 3],
            [0, 0, 4, 2],
            [4, 1, 8, 3],
            [NAN] * 4,
            [3, 1, 5, 3],
            [3, 1, 5, 3],
        ]
    )
    before[5] = NAN  # nothing was found there
    found = translation_overlap(before, after, (1, 3))
    # They share 1 x 1 of 8 + 8 - 1, and 3 x 2 of 8 + 8 - 6.
    np.testing.assert_allclose(found, [1, 1 / 15, 0.6, 0, 0.5, NAN], rtol=1e-6)
    # What has left an image of 5 pixels' width is not asked for.
    cut = translation_overlap(before, after, (1, 3), size=(9, 5))
    assert cut[4] == 1
    assert np.isnan(translation_overlap(before, after, (1, 5), size=(9, 5))).all()


def test_a_guessed_place_does_not_move() -> None:
    centre = np.float32([[2, 2, 6, 6]])
    assert translation_overlap(centre, centre, (0, 4)).tolist() == [0]


def test_boxes_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="same shape.*Received"):
        translation_overlap(np.zeros((2, 4)), np.zeros((3, 4)), (0, 0))
    with pytest.raises(ValueError, match=r"`boxes` must have the shape \(\.\.\., 4\)"):
        translation_overlap(np.zeros((2, 3)), np.zeros((2, 3)), (0, 0))
