"""Keep gradients of half-precision models in range."""

from typing import Any

import numpy as np
from keras import ops

Tensor = Any


def cotangent_scale(cotangents: Tensor, map_size: tuple) -> Tensor:
    """Return a power of two for each image that keeps float16 gradients in range.

    ``2^floor(log2(h w / max|p|))``: average pooling divides by h w. It is exact to
    multiply by and to divide by, in any dtype.

    Args:
        cotangents: (n, d) float32.
        map_size: (h, w) of the activations; None counts as one.

    Returns:
        (n, 1) float32.

    Example:

    >>> cotangent_scale(np.float32([[1.0, -0.5], [0.0, 3.0]]), (4, 4)).numpy()
    array([[16.],
           [ 4.]], dtype=float32)
    """
    largest = ops.max(ops.abs(cotangents), axis=-1, keepdims=True)
    # 2^14 is the largest power of two with room for a factor 2 in float16.
    positions = min(float(np.prod([size or 1 for size in map_size])), 2.0**14)
    exponent = ops.floor(ops.log2(positions / ops.maximum(largest, 1e-30)))
    return ops.where(largest > 0, ops.power(2.0, exponent), 1.0)
