"""Vectors of length one: the one place where rows are divided by their length."""

import warnings
from typing import Any

import numpy as np
from keras import ops


def normalize_rows(vectors: Any) -> Any:
    """Divide each vector by its length.

    A zero vector has no direction: it stays zero and gets a zero gradient, where
    dividing by a small epsilon (as `keras.ops.normalize` does) would send it a gradient
    of one over epsilon. Squares neither overflow nor underflow.

    Args:
        vectors: tensor (..., d), float32 or float64.

    Returns:
        The same shape and dtype, of length one or zero.

    Example:

    >>> normalize_rows(ops.array([[3.0, 4.0], [0.0, 0.0]])).numpy()
    array([[0.6, 0.8],
           [0. , 0. ]], dtype=float32)
    """
    largest = ops.max(ops.abs(vectors), axis=-1, keepdims=True, initial=0.0)
    # The scale changes no direction, so it need not be differentiated.
    scale = ops.stop_gradient(ops.where(largest > 0, largest, 1.0))
    scaled = vectors / scale
    squared = ops.sum(ops.square(scaled), axis=-1, keepdims=True)
    has_direction = squared > 0
    # The inner where keeps infinity out of the gradient, the outer out of the value.
    inverse = 1.0 / ops.sqrt(ops.where(has_direction, squared, 1.0))
    return scaled * ops.where(has_direction, inverse, 0.0)


def warn_of_zeros(name: str, embeddings: np.ndarray) -> None:
    """Warn of embeddings without a direction: they are equally similar to all others.

    Args:
        name: of the embeddings, for the message.
        embeddings: (n, d).
    """
    num_zeros = int(np.count_nonzero(~embeddings.any(axis=1)))
    if num_zeros:
        warnings.warn(
            f"{num_zeros} of {len(embeddings)} embeddings of {name} are all zero. "
            "Their cosine with every other one is 0, so what is found for them is "
            "found by row order alone: look for a layer whose outputs are all zero, "
            "such as a dead ReLU.",
            stacklevel=3,
        )
