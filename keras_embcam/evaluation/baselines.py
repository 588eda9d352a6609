"""Maps that explain nothing: the rows that a method has to beat.

Each but `activation_sum`, which is a weighting, maps images (n, H, W, c) to maps
(n, H, W) float32, >= 0.
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from keras import ops

Tensor = Any


def uniform(images: np.ndarray) -> np.ndarray:
    """Return the same heat everywhere.

    Args:
        images: (n, H, W, c).

    Returns:
        (n, H, W) float32 of ones.

    Example:

    >>> uniform(np.zeros((1, 1, 2, 3))).tolist()
    [[[1.0, 1.0]]]
    """
    return np.ones(images.shape[:3], "float32")


def centred_gaussian(images: np.ndarray) -> np.ndarray:
    """Return a Gaussian in the middle, as wide as a quarter of each side.

    ``exp(-(x^2 / (2 (W/4)^2) + y^2 / (2 (H/4)^2)))`` with x and y from the middle.

    Args:
        images: (n, H, W, c).

    Returns:
        (n, H, W) float32.

    Example:

    >>> centred_gaussian(np.zeros((1, 1, 4, 3))).round(3)
    array([[[0.325, 0.882, 0.882, 0.325]]], dtype=float32)
    """
    rows, columns = (
        np.exp(-8 * ((np.arange(length) + 0.5) / length - 0.5) ** 2)
        for length in images.shape[1:3]
    )
    heat = (rows[:, None] * columns).astype("float32")
    return np.broadcast_to(heat, images.shape[:3])


def central_box(share: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return a baseline: a box in the middle, `share` of each side long.

    Choose the share on other images than those that it is reported on.

    Args:
        share: in (0, 1].

    Returns:
        A function of images, whose maps are 1 where a pixel's centre is in the box.

    Raises:
        ValueError: for another share.

    Example:

    >>> central_box(0.5)(np.zeros((1, 1, 4, 3))).tolist()
    [[[0.0, 1.0, 1.0, 0.0]]]
    """
    if not 0 < share <= 1:
        raise ValueError(
            f"`share` of each side must lie above 0 and not above 1. Received: {share}"
        )

    def draw_box(images: np.ndarray) -> np.ndarray:
        rows, columns = (
            np.abs((np.arange(length) + 0.5) / length - 0.5) <= share / 2
            for length in images.shape[1:3]
        )
        heat = rows[:, None] & columns
        return np.broadcast_to(heat.astype("float32"), images.shape[:3])

    return draw_box


def find_edges(images: np.ndarray) -> np.ndarray:
    """Return how fast the brightness changes: the length of the Sobel gradient.

    Of the mean over the colours, with a window of 3 by 3 (OpenCV).

    Args:
        images: (n, H, W, c), in any range.

    Returns:
        (n, H, W) float32, in the units of the images.

    Example:

    >>> image = np.float32([0, 0, 1, 1]).reshape(1, 1, 4, 1)
    >>> find_edges(image).tolist()
    [[[0.0, 4.0, 4.0, 0.0]]]
    """
    grey = np.asarray(images, "float32").mean(axis=-1)
    return np.stack(
        [
            np.hypot(
                cv2.Sobel(image, cv2.CV_32F, 1, 0), cv2.Sobel(image, cv2.CV_32F, 0, 1)
            )
            for image in grey
        ]
    )


def activation_sum(activations: Tensor, gradients: Tensor) -> Tensor:
    """Weight all channels alike, a weighting that knows of no proxy: (n, 1, 1, k).

    The map is ``relu(sum_k A_k)``. On many networks its heatmap ratio is as good as
    any method's, so a ratio alone does not tell that a method explains.
    """
    return ops.ones_like(activations[:, :1, :1])
