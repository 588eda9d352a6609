"""Keep only the channels that count most (Chen et al.)."""

from typing import Any

import numpy as np
from keras import ops

Tensor = Any


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
