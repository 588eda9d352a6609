"""Proxies of single images and of given vectors."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_embcam.keras_private import flatten_layers
from keras_embcam.unit_vectors import normalize_rows

Tensor = Any


def single_point(embeddings: Tensor) -> Tensor:
    """Return the unit embedding of each image itself (Bachhawat, *single point*).

    Explains what makes the embedding of the image what it is.

    Args:
        embeddings: (n, d) raw. A zero embedding has a zero proxy.

    Returns:
        (n, d) float32 of length 1.

    Example:

    >>> np.asarray(single_point([[3.0, 4.0]]))
    array([[0.6, 0.8]], dtype=float32)
    """
    return normalize_rows(to_float32(embeddings))


def one_hot(indices: Any, dimension: int) -> Tensor:
    """Return one-hot proxies; on the logits of a classifier this is Grad-CAM.

    Args:
        indices: (n,) integers, or one for all images.
        dimension: d, the number of logits.

    Returns:
        (n, d) float32, or (d,).

    Raises:
        ValueError: where an index is not between 0 and d - 1.

    Example:

    >>> np.asarray(one_hot([1], dimension=3)).tolist()
    [[0.0, 1.0, 0.0]]
    """
    values = ops.convert_to_numpy(indices)
    is_integer = np.issubdtype(values.dtype, np.integer)
    if not is_integer or np.any(values < 0) or np.any(values >= dimension):
        raise ValueError(
            f"`indices` must be integers of 0 to {dimension - 1}. Received: {indices!r}"
        )
    return ops.one_hot(values, dimension, dtype="float32")


def counterfactual(proxies: Any) -> Tensor:
    """Return ``-p``: what speaks against the concept (Grad-CAM, section 3.3).

    Example:

    >>> np.asarray(counterfactual([1.0, -2.0])).tolist()
    [-1.0, 2.0]
    """
    return -to_float32(proxies)


def contrast(proxies: Any, other_proxies: Any) -> Tensor:
    """Return ``p_a - p_b``: why the first concept rather than the second.

    Args:
        proxies: (..., d).
        other_proxies: broadcastable to the first, of the same width d.

    Raises:
        ValueError: for two widths.

    Example:

    >>> np.asarray(contrast([1.0, 0.0], [0.0, 1.0])).tolist()
    [1.0, -1.0]
    """
    both = [to_float32(x) for x in (proxies, other_proxies)]
    widths = [tuple(x.shape)[-1:] for x in both]
    if widths[0] != widths[1]:
        raise ValueError(
            "`proxies` and `other_proxies` must have one width d. Received the shapes "
            f"{tuple(both[0].shape)} and {tuple(both[1].shape)}"
        )
    return both[0] - both[1]


def pair(other_embeddings: Any) -> Tensor:
    """Return the unit embeddings of other images: why are these two similar.

    Args:
        other_embeddings: (n, d) raw, one for each image, or (d,) for all.

    Example:

    >>> np.asarray(pair([3.0, 4.0]))
    array([0.6, 0.8], dtype=float32)
    """
    return single_point(to_float32(other_embeddings))


def trained(model: keras.Model, proxy_layer: str | None = None) -> np.ndarray:
    """Return the trained proxies of a layer as unit class proxies.

    Args:
        model: that has the layer, at any depth.
        proxy_layer: name of a layer with a weight ``proxies`` (classes, d), such as
            `keras_embcam.layers.Proxies`; None for the only one.

    Returns:
        (classes, d) float32 of length 1.

    Raises:
        ValueError: where there is no such layer, or several and none is named.

    Example:

    >>> from keras_embcam.layers import Proxies
    >>> similarities = Proxies(num_classes=3)
    >>> model = keras.Sequential([keras.Input((2,)), similarities])
    >>> similarities.set_weights([np.float32([[2, 0], [0, 3], [3, 4]])])
    >>> trained(model).round(2).tolist()
    [[1.0, 0.0], [0.0, 1.0], [0.6000000238418579, 0.800000011920929]]
    """
    # A model that keeps the layer itself as `self.proxies` is not meant: a layer has no
    # shape, the weight has.
    layers = [
        x
        for x in flatten_layers(model)
        if len(getattr(getattr(x, "proxies", None), "shape", ())) == 2
    ]
    named = [x for x in layers if proxy_layer in (None, x.name)]
    if len(named) != 1:
        raise ValueError(
            "`proxy_layer` must name the one layer with a weight `proxies` (classes, "
            f"d). Received: {proxy_layer!r}. Such layers: {[x.name for x in layers]}"
        )
    return ops.convert_to_numpy(single_point(named[0].proxies))


def from_score(score: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the proxies of any differentiable score: its gradient.

    Since ``y . p`` has the gradient of the score where p is held constant, its
    heatmaps are those of the score.

    Args:
        score: maps raw embeddings (n, d) float32 to (n,), each from its own row,
            written with `keras.ops` or TensorFlow.

    Returns:
        A function ``embeddings -> proxies`` (n, d), to pass as ``proxies``.

    Raises:
        ValueError: when called, where the score is not (n,) or has no gradient.

    Example:

    >>> proxies = from_score(lambda y: ops.sum(y**2, axis=-1))
    >>> np.asarray(proxies(np.float32([[1, 2]]))).tolist()
    [[2.0, 4.0]]
    """

    def proxies(embeddings: Tensor) -> Tensor:
        embeddings = ops.convert_to_tensor(to_float32(embeddings))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(embeddings)
            scores = score(embeddings)
        if len(scores.shape) != 1:
            raise ValueError(
                "`score` must return one number for each image, (n,). Received the "
                f"shape {tuple(scores.shape)} from {score!r}"
            )
        gradients = tape.gradient(scores, embeddings)
        if gradients is None:
            raise ValueError(
                "`score` must be a differentiable function of the embeddings. "
                f"Received {score!r}, whose result has no gradient."
            )
        return tf.convert_to_tensor(gradients)  # tf.gather has sparse gradients

    return proxies


def check_proxies_shape(
    shape: tuple[int | None, ...], num_images: int | None, width: int
) -> None:
    """Check the shape of proxies.

    Args:
        shape: of the proxies, None for what is not known yet.
        num_images: n, None where it is not known yet.
        width: d of the embeddings.

    Raises:
        ValueError: unless it is (d,), (n, d) or (n, m, d) with m >= 1.
    """
    fits = len(shape) in (1, 2, 3) and shape[-1] in (None, width)
    if len(shape) > 1:
        fits = fits and (None in (shape[0], num_images) or shape[0] == num_images)
    if not fits or 0 in shape:
        raise ValueError(
            f"`proxies` must have the shape ({width},) for all images, (n, {width}) or "
            f"(n, m, {width}) for n = {num_images or 'any number of'} images, where "
            f"{width} is the width of the embedding. Received the shape {shape}. One "
            "vector for all images has no first axis."
        )


def to_float32(values: Any) -> Tensor:
    """Return a float32 tensor of an array, a tensor or a list."""
    return ops.cast(ops.convert_to_tensor(values), "float32")
