"""Tests of keras_embcam.evaluation.deletion and occlusion."""

import doctest

import numpy as np
import pytest

from keras_embcam.evaluation import deletion, occlusion
from keras_embcam.evaluation.deletion import (
    area_under,
    deletion_curve,
    insertion_curve,
)
from keras_embcam.evaluation.occlusion import occlusion_maps

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(size=(3, 4, 6, 2)).astype("float32")
HEATMAPS = np.round(RANDOM.random((3, 4, 6)), 1).astype("float32")  # many are equal
PROXIES = RANDOM.normal(size=(3, 5)).astype("float32")
MIXING = 0.1 * RANDOM.normal(size=(48, 5)).astype("float32")


def embed(images: np.ndarray) -> np.ndarray:
    assert images.dtype == "float32"
    return np.tanh(images.reshape(len(images), -1) @ MIXING) + 0.1


@pytest.mark.parametrize("module", [deletion, occlusion])
def test_the_examples_run(module) -> None:
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


def slow_curve(image, heatmap, proxy, num_steps, fill, inserting) -> list[float]:
    """Sort pixels one by one and replace them in a copy."""
    pixels = [(y, x) for y in range(4) for x in range(6)]
    pixels.sort(key=lambda place: -heatmap[place])  # Python's sort keeps ties in order
    values = []
    for step in range(num_steps + 1):
        hottest = pixels[: round(step / num_steps * len(pixels))]
        picture = image.copy()
        for y, x in pixels:
            if ((y, x) in hottest) != inserting:
                picture[y, x] = fill
        values.append(cosine(embed(picture[None])[0], proxy))
    return values


@pytest.mark.parametrize("num_steps", [1, 5, 24])
def test_curves_agree_with_a_slow_loop(num_steps: int) -> None:
    for curve, inserting in ((deletion_curve, False), (insertion_curve, True)):
        found = curve(embed, IMAGES, HEATMAPS, PROXIES, num_steps, fill=[0.5, -1])
        expected = [
            slow_curve(*one, num_steps, [0.5, -1], inserting)
            for one in zip(IMAGES, HEATMAPS, PROXIES, strict=True)
        ]
        assert found.dtype == "float32"
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_deletion_ends_where_insertion_starts() -> None:
    down = deletion_curve(embed, IMAGES, HEATMAPS, PROXIES)
    up = insertion_curve(embed, IMAGES, HEATMAPS, PROXIES)
    assert down.shape == up.shape == (3, 21)
    np.testing.assert_array_equal(down[:, [0, -1]], up[:, [-1, 0]])
    assert (np.abs(down[:, 0] - down[:, -1]) > 1e-5).all()  # something was blurred


def test_the_default_fill_is_a_blur_of_ten_pixels_in_224() -> None:
    size = 112
    image = np.zeros((1, size, size, 1), "float32")
    image[0, 56, 56] = 1  # what it is blurred to is the Gaussian itself
    seen = []

    def remember(images: np.ndarray) -> np.ndarray:
        seen.append(images[0, ..., 0])
        return np.ones((1, 1))

    heatmap = np.arange(size * size).reshape(1, size, size)
    deletion_curve(remember, image, heatmap, np.ones((1, 1)), num_steps=1)
    assert len(seen) == 2 and seen[1].sum() == pytest.approx(1, rel=1e-4)
    distances = np.arange(size) - 56
    for axis in (0, 1):
        variance = (seen[1].sum(axis=axis) * distances**2).sum()
        assert variance**0.5 == pytest.approx(5, rel=0.02)


def test_a_better_map_falls_faster_and_rises_faster() -> None:
    # Only the first two pixels count.
    def embed_two(images: np.ndarray) -> np.ndarray:
        return np.stack([images[:, 0, :2, 0].sum(axis=1), np.ones(len(images))], axis=1)

    images, proxies = np.ones((2, 1, 8, 1)), np.tile([1.0, 0.0], (2, 1))
    heatmaps = np.stack([[np.arange(8)[::-1]], [np.arange(8)]])
    down = area_under(deletion_curve(embed_two, images, heatmaps, proxies, 8, fill=0))
    up = area_under(insertion_curve(embed_two, images, heatmaps, proxies, 8, fill=0))
    assert down[0] < 0.3 < 0.7 < down[1] and up[1] < 0.3 < 0.7 < up[0]
    two = [2 / 5**0.5, 1 / 2**0.5, 0, 0, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(down[0], np.trapezoid(two) / 8, rtol=1e-6)


def test_maps_without_an_order_have_no_curve() -> None:
    heatmaps = HEATMAPS.copy()
    heatmaps[0] = 0.5
    heatmaps[1, 0, 0] = np.nan
    curve = deletion_curve(embed, IMAGES, heatmaps, PROXIES, 2)
    assert np.isnan(curve).all(axis=1).tolist() == [True, True, False]
    assert np.isnan(area_under(curve)).tolist() == [True, True, False]


def test_a_vector_of_zeros_is_like_nothing() -> None:
    curve = deletion_curve(embed, IMAGES, HEATMAPS, 0 * PROXIES, 2)
    assert not curve.any()


def test_bad_curves_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`heatmaps` must have the shape.*resize"):
        deletion_curve(embed, IMAGES, HEATMAPS[:, :2], PROXIES)
    with pytest.raises(
        ValueError, match=r"`images` must have the shape \(n, H, W, c\)"
    ):
        insertion_curve(embed, IMAGES[0], HEATMAPS, PROXIES)
    with pytest.raises(ValueError, match="`embed` must return.*Received"):
        deletion_curve(embed, IMAGES, HEATMAPS, PROXIES[:, :4])
    with pytest.raises(ValueError, match="`fill` must be a number"):
        deletion_curve(embed, IMAGES, HEATMAPS, PROXIES, fill=[1, 2, 3])
    for num_steps in (0, 2.5):
        with pytest.raises(ValueError, match="`num_steps` must be an integer >= 1"):
            deletion_curve(embed, IMAGES, HEATMAPS, PROXIES, num_steps)
    for curve in (np.ones(3), np.ones((3, 1))):
        with pytest.raises(ValueError, match="`curve` must have the shape"):
            area_under(curve)


@pytest.mark.parametrize(("patch_size", "stride"), [(2, 1), (3, 2), (4, None), (1, 1)])
def test_occlusion_agrees_with_a_slow_loop(patch_size: int, stride: int | None) -> None:
    found = occlusion_maps(embed, IMAGES, PROXIES, patch_size, stride)
    step = stride or patch_size
    places = [
        sorted({min(start, side - patch_size) for start in range(0, side, step)})
        for side in (4, 6)
    ]
    for image, proxy, drops in zip(IMAGES, PROXIES, found, strict=True):
        covering: dict[tuple[int, int], list[float]] = {}
        whole = embed(image[None])[0] @ proxy
        for top in places[0]:
            for left in places[1]:
                covered = image.copy()
                inside = [
                    (y, x)
                    for y in range(top, top + patch_size)
                    for x in range(left, left + patch_size)
                ]
                for place in inside:
                    covered[place] = image.reshape(-1, 2).mean(axis=0)
                drop = whole - embed(covered[None])[0] @ proxy
                for place in inside:
                    covering.setdefault(place, []).append(drop)
        expected = [[np.mean(covering[y, x]) for x in range(6)] for y in range(4)]
        np.testing.assert_allclose(drops, expected, rtol=1e-4, atol=1e-5)


def test_bad_patches_are_refused() -> None:
    for patch_size in (0, 5, 1.5):
        with pytest.raises(
            ValueError, match="`patch_size` must be.*between 1 and 4.*Received"
        ):
            occlusion_maps(embed, IMAGES, PROXIES, patch_size)
    for stride in (0, 3):  # a larger one would leave pixels out
        with pytest.raises(
            ValueError, match="`stride` must be.*between 1 and 2. Received"
        ):
            occlusion_maps(embed, IMAGES, PROXIES, 2, stride)
