"""Deletion and insertion: what the hottest pixels do to the similarity."""

from typing import Any

import cv2
import keras
import numpy as np
from keras import ops

from keras_embcam.evaluation.checked_arguments import (
    Embed,
    check_images,
    embed_checked,
)
from keras_embcam.evaluation.correlation import has_order
from keras_embcam.evaluation.measure import FAITHFULNESS, Column, Measured, fills
from keras_embcam.evaluation.measure_input import Context
from keras_embcam.metrics.statistics import mean_of
from keras_embcam.unit_vectors import normalize_rows
from keras_embcam.whole_numbers import check_integer

NUM_STEPS = 20
# Standard deviation of the blur, as a share of the longer side. Under the kernel of
# RISE (11 pixels of 224, sigma 5) a network trained on birds still found an image of
# the same species first for 31 of 32 birds, under this one for 6, and for 3 without
# any image.
BLUR = 10 / 224


@fills(
    FAITHFULNESS,
    Column("deletion", "deletion (low)"),
    Column("insertion", "insertion (high)"),
)
def measure_deletion(context: Context) -> Measured:
    """Measure how fast the similarity to the proxy falls and rises with the heat."""
    sample, curves = context.sample, {}
    rows: list[dict[str, Any]] = [{} for _ in context.methods]
    for key, follow in (("deletion", deletion_curve), ("insertion", insertion_curve)):
        y = {}
        for number, maps in enumerate(sample.maps):
            rows[number][key] = float("nan")
            if not has_order(maps.reshape(len(maps), -1)).any():
                continue  # such as the uniform map, where no pixel is the hottest
            curve = follow(
                context.embed, sample.images, maps, sample.targets[number], NUM_STEPS
            )
            rows[number][key] = mean_of(area_under(curve))
            y[context.methods[number].name] = np.nanmean(curve, axis=0).tolist()
        curves[f"{key.capitalize()}: similarity to the proxy"] = {
            "x": [step / NUM_STEPS for step in range(NUM_STEPS + 1)],
            "x_name": f"share of pixels, hottest first ({key})",
            "y": y,
        }
    notes = [
        f"Faithfulness on {len(sample.rows)} images. Deletion, insertion and occlusion "
        "look at the similarity to the proxy of each row, or to the image's own "
        "embedding where a row has no proxy",
        f"Deletion and insertion: {NUM_STEPS} steps from or to a blurred image",
    ]
    if any(method.is_direction for method in context.methods):
        notes.append(
            "Triplets and pairs, whose proxies are at right angles to the embedding, "
            "are compared with the image's own embedding too"
        )
    return Measured(rows, curves, notes)


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
        embed: see ``deletion_curve``, also for the others.
        images: (n, H, W, c).
        heatmaps: (n, H, W) float.
        proxies: (n, d).
        num_steps: >= 1.
        fill: what the image starts from.

    Returns:
        (n, num_steps + 1) float32, from nothing of the image to all of it.

    Raises:
        ValueError: as ``deletion_curve``.

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
    images = check_images(images)
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
    check_integer("num_steps", num_steps, 1)
    flat = heatmaps.reshape(len(heatmaps), -1)
    order = np.argsort(-flat, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(flat.shape[1])[None], axis=1)
    ranks = ranks.reshape(*heatmaps.shape, 1)
    unit_proxies = keras.utils.normalize(np.asarray(proxies, "float64"), axis=1)
    curve = np.empty((len(flat), num_steps + 1), "float32")
    for step in range(num_steps + 1):
        turned = ranks < round(step / num_steps * flat.shape[1])
        embeddings = embed_checked(embed, np.where(turned, end, start), proxies)
        units = ops.convert_to_numpy(normalize_rows(embeddings))
        curve[:, step] = (units * unit_proxies).sum(axis=1)
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
