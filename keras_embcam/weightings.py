"""Weightings: how much each channel, or each position of it, counts.

Each is a pure function ``(activations, gradients) -> weights``, both inputs
(n, h, w, k) float32, the result broadcastable to them. A user's own function of
the same form serves wherever a name does.

Example: one image of one row with two positions of one channel.

>>> import numpy as np
>>> activations = np.float32([[[[1], [3]]]])
>>> gradients = np.float32([[[[-1], [2]]]])
>>> for name, weighting in WEIGHTINGS.items():
...     print(name, np.asarray(weighting(activations, gradients)).ravel())
gradcam [0.5]
gradcam++ [0.2]
layercam [0. 2.]
hirescam [-1.  2.]
xgradcam [1.25]
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

Tensor = Any
Weighting = Callable[[Tensor, Tensor], Tensor]


def gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Mean gradient of each channel (Selvaraju et al., eq. 1): (n, 1, 1, k)."""
    return ops.mean(gradients, axis=(1, 2), keepdims=True)


def gradcam_plus_plus(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM++ (Chattopadhay et al.): (n, 1, 1, k), >= 0.

    ``sum over positions of relu(G) / (2 + G * sum(A))``, where G > 0 and the
    denominator is positive; other positions count nothing. The score is not
    exponentiated. Not homogeneous in the gradient: twice the proxy is another map.
    """
    total = ops.sum(activations, axis=(1, 2), keepdims=True)
    denominator = 2.0 + gradients * total
    counts = ops.logical_and(gradients > 0, denominator > 0)
    quotient = gradients / ops.where(counts, denominator, 1.0)
    return ops.sum(ops.where(counts, quotient, 0.0), axis=(1, 2), keepdims=True)


def layercam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Positive gradient of each position (Jiang et al.): (n, h, w, k), >= 0."""
    return ops.relu(gradients)


def hirescam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Gradient of each position (Draelos and Carin): (n, h, w, k)."""
    return gradients


def xgradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Gradient averaged by activation (Fu et al.): (n, 1, 1, k).

    ``sum(G * A) / sum(A)``; a channel whose activations sum to zero counts nothing.
    """
    total = ops.sum(activations, axis=(1, 2), keepdims=True)
    product = ops.sum(gradients * activations, axis=(1, 2), keepdims=True)
    empty = ops.equal(total, 0)
    return ops.where(empty, 0.0, product / ops.where(empty, 1.0, total))


WEIGHTINGS: dict[str, Weighting] = {
    "gradcam": gradcam,
    "gradcam++": gradcam_plus_plus,
    "layercam": layercam,
    "hirescam": hirescam,
    "xgradcam": xgradcam,
}


def get_weighting(identifier: str | Weighting) -> Weighting:
    """Return the weighting of this name, or the function itself.

    Args:
        identifier: a key of ``WEIGHTINGS``, or a function
            ``(activations, gradients) -> weights``.

    Raises:
        ValueError: for an unknown name.

    Example:

    >>> get_weighting("gradcam") is gradcam
    True
    """
    if callable(identifier):
        return identifier
    if not isinstance(identifier, str) or identifier not in WEIGHTINGS:
        raise ValueError(
            f"`weighting` must be one of {sorted(WEIGHTINGS)} or a function "
            f"(activations, gradients) -> weights. Received: {identifier!r}"
        )
    return WEIGHTINGS[identifier]


def check_top_channels(top_channels: Any, num_channels: int | None = None) -> None:
    """Check how many channels to keep.

    Raises:
        ValueError: unless it is None or an integer from 1 to the number of channels,
            where that is known.
    """
    if top_channels is None:
        return
    is_integer = isinstance(top_channels, int | np.integer)
    if not is_integer or not 1 <= top_channels <= (num_channels or top_channels):
        raise ValueError(
            "`top_channels` must be an integer between 1 and the number of channels "
            f"({num_channels or 'k'}) of the chosen layer, or None for all. Received: "
            f"{top_channels!r}"
        )


def keep_top_channels(weights: Tensor, top_channels: int) -> Tensor:
    """Set all but the highest channel weights to zero (Chen et al., M = 50).

    Channels are ranked by the spatial mean of their weight, by value and not by
    magnitude, so a strongly negative channel goes first.

    Args:
        weights: (n, 1, 1, k) or (n, h, w, k).
        top_channels: how many channels of each image to keep, 1 to k.

    Returns:
        The same shape.

    Raises:
        ValueError: where ``top_channels`` is not between 1 and k.

    Example:

    >>> import numpy as np
    >>> weights = np.float32([[[[3, -9, 1]]]])
    >>> np.asarray(keep_top_channels(weights, 1)).tolist()
    [[[[3.0, 0.0, 0.0]]]]
    """
    num_channels = weights.shape[-1]
    check_top_channels(top_channels, num_channels)
    _, indices = ops.top_k(ops.mean(weights, axis=(1, 2)), top_channels)
    kept = ops.sum(ops.one_hot(indices, num_channels, dtype=weights.dtype), axis=1)
    return ops.where(kept[:, None, None, :] > 0, weights, 0.0)
