"""Checks of arguments that several measures share."""

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

# Returns the embeddings (n, d) of images (n, H, W, c) float32.
Embed = Callable[[np.ndarray], Any]


def check_images(images: np.ndarray) -> np.ndarray:
    """Return the images as float32.

    Raises:
        ValueError: unless they are (n, H, W, c).
    """
    images = np.asarray(images, "float32")
    if images.ndim != 4:
        raise ValueError(
            "`images` must have the shape (n, H, W, c). Received: "
            f"images.shape={images.shape}"
        )
    return images


def embed_checked(embed: Embed, images: np.ndarray, proxies: np.ndarray) -> np.ndarray:
    """Return what `embed` makes of the images, (n, d) float64.

    Raises:
        ValueError: for another shape than that of the proxies.
    """
    embeddings = np.asarray(ops.convert_to_numpy(embed(images)), "float64")
    if embeddings.ndim != 2 or embeddings.shape != np.shape(proxies):
        raise ValueError(
            "`embed` must return (n, d), and `proxies` must hold one vector of the "
            f"same width for each image. Received: {embeddings.shape} from `embed`, "
            f"proxies.shape={np.shape(proxies)}"
        )
    return embeddings
