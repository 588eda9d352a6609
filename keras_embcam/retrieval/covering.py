"""Images of which the object, or everything else, is covered."""

from typing import Any

import cv2
import numpy as np

# Standard deviation of the blur, as a share of the longer side: no shape survives it.
BLUR = 0.1


def cover_with_mean(image: np.ndarray) -> np.ndarray:
    """Return the mean colour of an image (H, W, c) in its shape, float32.

    Example:

    >>> cover_with_mean(np.float32([[[0.0], [1.0]]])).ravel().tolist()
    [0.5, 0.5]
    """
    mean = image.mean(axis=(0, 1), keepdims=True, dtype="float64")
    return np.broadcast_to(mean, image.shape).astype("float32")


def cover_with_blur(image: np.ndarray) -> np.ndarray:
    """Return an image (H, W, c) strongly blurred, float32.

    Example:

    >>> image = np.zeros((20, 20, 1), "float32")
    >>> image[10:] = 1
    >>> blurred = cover_with_blur(image)
    >>> blurred.shape, bool(0.3 < blurred[9, 10, 0] < 0.5)
    ((20, 20, 1), True)
    """
    sigma = BLUR * max(image.shape[:2])
    blurred = cv2.GaussianBlur(
        image.astype("float32"), (0, 0), sigma, borderType=cv2.BORDER_REFLECT
    )
    return blurred.reshape(image.shape)


COVERS = ("constant", "mean", "blur")


def cover_images(
    images: np.ndarray, shares: Any, cover: str, constant: Any
) -> np.ndarray:
    """Return images, each covered as far as the shares say.

    Args:
        images: (n, H, W, c) of any dtype.
        shares: (n, H, W) in [0, 1], how much of each pixel is covered.
        cover: one of `COVERS`: the same colour for all images, which tells nothing of
            any of them; the mean colour of each; or a strong blur of it.
        constant: (c,), that colour.

    Returns:
        The same shape and dtype.

    Example:

    >>> images = np.uint8([[[[0], [30]]]])
    >>> cover_images(images, np.float32([[[1, 0]]]), "mean", 7).ravel().tolist()
    [15, 30]
    >>> cover_images(images, np.float32([[[0, 1]]]), "constant", 7).ravel().tolist()
    [0, 7]
    """
    if cover == "constant":
        covers = np.broadcast_to(np.asarray(constant, "float32"), images.shape)
    else:
        one = cover_with_mean if cover == "mean" else cover_with_blur
        covers = np.stack([one(image) for image in images])
    shares = np.asarray(shares, "float32")[..., None]
    mixed = images * (1 - shares) + covers * shares
    if np.issubdtype(images.dtype, np.integer):
        mixed = np.rint(mixed)
    return mixed.astype(images.dtype)
