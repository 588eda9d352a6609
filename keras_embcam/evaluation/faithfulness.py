"""Whether a map shows what the network uses: tests that need no box and no mask."""

from collections.abc import Callable
from numbers import Integral
from typing import Any

import cv2
import numpy as np
from keras import ops

from keras_embcam.evaluation.correlation import has_order

# The alias says that it belongs to the names of this module too.
from keras_embcam.evaluation.weight_randomization import (
    randomize_weights as randomize_weights,
)

Embed = Callable[[np.ndarray], Any]

# Of the longer side. Under the kernel of RISE (11 pixels of 224, sigma 5) a network
# trained on birds still found an image of the same species first for 31 of 32 birds,
# under this one for 6, and for 3 without any image.
BLUR = 10 / 224


def deletion_curve(
    embed: Embed,
    images: np.ndarray,
    heatmaps: np.ndarray,
    proxies: np.ndarray,
    num_steps: int = 20,
    fill: Any = None,
) -> np.ndarray:
    """Return how like the proxy an image stays while its hottest pixels go.

    ``cos(embed(x_s), p)`` where in ``x_s`` the share ``s / num_steps`` of the pixels,
    the hottest first, is replaced by `fill`: the deletion metric of Petsiuk et al.
    ("RISE", BMVC 2018, section 4.2) with the cosine in place of the class
    probability. A faithful map makes the curve fall at once: the smaller the area
    under it (``area_under``), the better. Pixels of equal heat go in reading order.

    RISE deletes to a constant and inserts into a blurred image. Here the default is
    the blurred image for both, which makes no edges that the network could take for
    something; pass a constant as `fill` for the other.

    Args:
        embed: returns the embeddings (n, d) of images (n, H, W, c) float32. Called
            `num_steps` + 1 times with all images.
        images: (n, H, W, c), in the range that the model expects.
        heatmaps: (n, H, W) float, at the size of the images.
        proxies: (n, d), one for each image.
        num_steps: >= 1.
        fill: what replaces the pixels: a number, (c,), or (n, H, W, c); None for the
            image under a Gaussian blur of 10 pixels in 224.

    Returns:
        (n, num_steps + 1) float32 in [-1, 1], from the whole image to nothing of it;
        NaN for a map that is constant or not finite: it has no order.

    Raises:
        ValueError: for shapes that do not fit or another number of steps.

    Example:

    >>> def embed(images):  # the left pixel, and a constant
    ...     return np.stack([images[:, 0, 0, 0], np.ones(len(images))], axis=1)
    >>> images, heatmaps = np.ones((1, 1, 2, 1)), np.array([[[0.9, 0.1]]])
    >>> proxies = np.array([[1.0, 0.0]])
    >>> deletion_curve(embed, images, heatmaps, proxies, 2, fill=0).round(2).tolist()
    [[0.7099999785423279, 0.0, 0.0]]
    """
    images, fill = _prepare(images, fill)
    return _follow(embed, images, fill, heatmaps, proxies, num_steps)


def insertion_curve(
    embed: Embed,
    images: np.ndarray,
    heatmaps: np.ndarray,
    proxies: np.ndarray,
    num_steps: int = 20,
    fill: Any = None,
) -> np.ndarray:
    """Return how like the proxy an image becomes while its hottest pixels appear.

    As ``deletion_curve``, from `fill` to the image (Petsiuk et al., "RISE", BMVC
    2018, section 4.2): the larger the area under the curve, the better.

    Args:
        embed: see ``deletion_curve``.
        images: see ``deletion_curve``.
        heatmaps: see ``deletion_curve``.
        proxies: see ``deletion_curve``.
        num_steps: >= 1.
        fill: what the image starts from; see ``deletion_curve``.

    Returns:
        (n, num_steps + 1) float32 in [-1, 1], from nothing of the image to all of it;
        NaN for a map that is constant or not finite.

    Raises:
        ValueError: for shapes that do not fit or another number of steps.

    Example:

    >>> def embed(images):
    ...     return np.stack([images[:, 0, 0, 0], np.ones(len(images))], axis=1)
    >>> images, heatmaps = np.ones((1, 1, 2, 1)), np.array([[[0.1, 0.9]]])
    >>> proxies = np.array([[0.0, 1.0]])
    >>> insertion_curve(embed, images, heatmaps, proxies, 2, fill=0).round(2).tolist()
    [[1.0, 1.0, 0.7099999785423279]]
    """
    images, fill = _prepare(images, fill)
    return _follow(embed, fill, images, heatmaps, proxies, num_steps)


def _prepare(images: np.ndarray, fill: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the images and what replaces them, both (n, H, W, c) float32."""
    images = _check_images(images)
    if fill is None:
        sigma = BLUR * max(images.shape[1:3])
        blurred = [cv2.GaussianBlur(image, (0, 0), sigma) for image in images]
        return images, np.reshape(blurred, images.shape)  # cv2 drops a single channel
    try:
        return images, np.broadcast_to(np.asarray(fill, "float32"), images.shape)
    except ValueError as error:
        raise ValueError(
            "`fill` must be a number, one for each channel (c,), or images of the "
            f"same shape. Received: fill.shape={np.shape(fill)} for "
            f"images.shape={images.shape}"
        ) from error


def _follow(
    embed: Embed,
    start: np.ndarray,
    end: np.ndarray,
    heatmaps: np.ndarray,
    proxies: np.ndarray,
    num_steps: int,
) -> np.ndarray:
    """Return the cosines while the hottest pixels turn from `start` to `end`."""
    heatmaps = np.asarray(heatmaps, "float32")
    if heatmaps.shape != start.shape[:3]:
        raise ValueError(
            "`heatmaps` must have the shape (n, H, W) of the images; resize them with "
            "keras_embcam.heatmaps.resize_heatmaps. Received: "
            f"heatmaps.shape={heatmaps.shape}, images.shape={start.shape}"
        )
    _check_whole("num_steps", num_steps)
    flat = heatmaps.reshape(len(heatmaps), -1)
    order = np.argsort(-flat, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(flat.shape[1])[None], axis=1)
    ranks = ranks.reshape(*heatmaps.shape, 1)
    curve = np.empty((len(flat), num_steps + 1), "float32")
    for step in range(num_steps + 1):
        turned = ranks < round(step / num_steps * flat.shape[1])
        embeddings = _embed(embed, np.where(turned, end, start), proxies)
        norms = np.linalg.norm(embeddings, axis=1) * np.linalg.norm(proxies, axis=1)
        dots = (embeddings * proxies).sum(axis=1)
        curve[:, step] = dots / np.where(norms > 0, norms, 1)
    return np.where(has_order(flat)[:, None], curve, np.float32(np.nan))


def area_under(curve: np.ndarray) -> np.ndarray:
    """Return the area under each curve by the trapezoidal rule, over [0, 1].

    Args:
        curve: (n, num_steps + 1) float, at equal steps from 0 to 1.

    Returns:
        (n,) float: between the lowest and the highest value of the curve.

    Raises:
        ValueError: for another shape.

    Example:

    >>> area_under([[1.0, 0.5, 0.0], [1.0, 0.0, 0.0]]).tolist()
    [0.5, 0.25]
    """
    curve = np.asarray(curve)
    if curve.ndim != 2 or curve.shape[1] < 2:
        raise ValueError(
            "`curve` must have the shape (n, num_steps + 1), at least two points for "
            f"each image. Received: curve.shape={curve.shape}"
        )
    return (curve[:, 1:] + curve[:, :-1]).mean(axis=1) / 2


def occlusion_maps(
    embed: Embed,
    images: np.ndarray,
    proxies: np.ndarray,
    patch_size: int,
    stride: int | None = None,
) -> np.ndarray:
    """Return how much the score ``y . p`` drops when a patch covers each pixel.

    What a map is compared with to see whether it is faithful (Selvaraju et al.,
    "Grad-CAM", ICCV 2017, appendix on occlusion; Zeiler and Fergus, 2014): the score
    of the whole image minus the score with a patch over it, averaged over the patches
    that cover the pixel. A patch has the mean colour of its image, which is grey in
    whatever range the model expects. Compare with ``correlation.rank_correlation``.

    Args:
        embed: returns the embeddings (n, d) of images (n, H, W, c) float32, raw, not
            normalised. Called once for the images and once for each patch.
        images: (n, H, W, c), in the range that the model expects.
        proxies: (n, d), one for each image.
        patch_size: side of the square in pixels, >= 1, at most the image's.
        stride: pixels from one patch to the next, >= 1 and at most `patch_size`; None
            for `patch_size`. The last patch is moved to end at the border.

    Returns:
        (n, H, W) float32, signed: negative where covering helps.

    Raises:
        ValueError: for shapes that do not fit, or sizes out of range.

    Example:

    >>> def embed(images):  # the mean of all pixels
    ...     return images.mean(axis=(1, 2))
    >>> images = np.array([0, 0, 4, 8]).reshape(1, 1, 4, 1)
    >>> occlusion_maps(embed, images, np.ones((1, 1)), 1).tolist()
    [[[-0.75, -0.75, 0.25, 1.25]]]
    """
    images = _check_images(images)
    height, width = images.shape[1:3]
    _check_whole("patch_size", patch_size, min(height, width))
    stride = patch_size if stride is None else stride
    _check_whole("stride", stride, patch_size)
    proxies = np.asarray(proxies, "float64")
    grey = images.mean(axis=(1, 2), keepdims=True)
    whole = (_embed(embed, images, proxies) * proxies).sum(axis=1)
    drops = np.zeros(images.shape[:3])
    num_covering = np.zeros((height, width))
    for top in _place_patches(height, patch_size, stride):
        for left in _place_patches(width, patch_size, stride):
            patch = np.s_[..., top : top + patch_size, left : left + patch_size]
            covered = images.copy()
            covered[(*patch, slice(None))] = grey
            score = (_embed(embed, covered, proxies) * proxies).sum(axis=1)
            drops[patch] += (whole - score)[:, None, None]
            num_covering[patch] += 1
    return (drops / num_covering).astype("float32")


def _place_patches(length: int, patch_size: int, stride: int) -> list[int]:
    last = length - patch_size
    return [*range(0, last, stride), last]


def _check_images(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images, "float32")
    if images.ndim != 4:
        raise ValueError(
            "`images` must have the shape (n, H, W, c). Received: "
            f"images.shape={images.shape}"
        )
    return images


def _embed(embed: Embed, images: np.ndarray, proxies: np.ndarray) -> np.ndarray:
    embeddings = np.asarray(ops.convert_to_numpy(embed(images)), "float64")
    if embeddings.ndim != 2 or embeddings.shape != np.shape(proxies):
        raise ValueError(
            "`embed` must return (n, d), and `proxies` must hold one vector of the "
            f"same width for each image. Received: {embeddings.shape} from `embed`, "
            f"proxies.shape={np.shape(proxies)}"
        )
    return embeddings


def _check_whole(name: str, number: Any, most: int | None = None) -> None:
    is_whole = isinstance(number, Integral) and int(number) >= 1
    if not is_whole or (most is not None and number > most):
        limit = "" if most is None else f" and at most {most}"
        raise ValueError(
            f"`{name}` must be a whole number, at least 1{limit}. Received: {number!r}"
        )
