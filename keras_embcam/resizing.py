"""Bring maps to the size of their images, where their positions look."""

from typing import Any

import numpy as np
from keras import ops

Tensor = Any
# Top, left, bottom and right of a rectangle, as fractions of height and width; or of
# two, see `resize_heatmaps`.
Field = tuple[float, ...]
DECAY = 0.01  # of a value, for each position beyond the last one


def resize_heatmaps(
    heatmaps: Tensor, size: tuple[int, int], field: Field | None = None
) -> Tensor:
    """Resize maps bilinearly with pixel centres aligned, as ``tf.image.resize`` does.

    Args:
        heatmaps: (n, h, w) or (n, m, h, w) float32.
        size: (H, W) of the result, in pixels: integers, or scalar tensors of them.
        field: the rectangle of the image that the positions of the maps share evenly,
            for a network that crops or pads it: top, left, bottom and right as
            fractions of the height and the width, below 0 or above 1 beyond the image.
            The result is zero outside. Four more numbers are a rectangle in place of
            this one outside of which it is zero. Between the two the values at the
            border go on, ever so little less, so that the peak stays at the centre of
            a position. None for the whole image.

    Returns:
        (n, H, W) or (n, m, H, W) float32.

    Example:

    >>> import numpy as np
    >>> np.asarray(resize_heatmaps(np.float32([[[0, 1]]]), (1, 4))).tolist()
    [[[0.0, 0.25, 0.75, 1.0]]]
    >>> middle = resize_heatmaps(np.float32([[[1, 2]]]), (1, 4), (0, 0.25, 1, 0.75))
    >>> np.asarray(middle).tolist()
    [[[0.0, 1.0, 2.0, 0.0]]]
    >>> field = (0, 0.25, 1, 0.75, 0, 0, 1, 0.75)
    >>> np.asarray(resize_heatmaps(np.float32([[[1, 2]]]), (1, 4), field)).round(2)
    array([[[0.99, 1.  , 2.  , 0.  ]]], dtype=float32)
    """
    # Two matrix products: as fast as any other way, and the size may be a tensor.
    height, width = ops.shape(heatmaps)[-2:]
    if field is None:
        rows = _interpolation(height, size[0])
        columns = _interpolation(width, size[1])
    else:
        rows = _interpolation(height, size[0], field[0::2])
        columns = _interpolation(width, size[1], field[1::2])
    return ops.matmul(ops.matmul(rows, heatmaps), ops.transpose(columns))


def _interpolation(
    num_given: Any, num_wanted: Any, ends: Field | None = None
) -> Tensor:
    """Return (num_wanted, num_given): the share of each given value in each new one."""
    # Of numbers a graph gets the result, in place of twenty operations that make it.
    are_numbers = isinstance(num_given, int) and isinstance(num_wanted, int)
    xp: Any = np if are_numbers else ops
    given, length = (xp.array(x, dtype="float32") for x in (num_given, num_wanted))
    wanted = xp.arange(num_wanted, dtype="float32")
    if ends is None:
        centres = (wanted + 0.5) * (given / length) - 0.5
    else:
        places = (wanted + 0.5) / length
        # From end to end of the map, and of what may be shown.
        shares, shown = (
            (places - first) / (last - first) for first, last in (ends[:2], ends[-2:])
        )
        centres = shares * given - 0.5
    inner = xp.clip(centres, 0.0, given - 1)
    distances = inner[:, None] - xp.arange(num_given, dtype="float32")
    weights = xp.maximum(1 - xp.abs(distances), 0.0)
    if ends is not None:
        is_shown = xp.logical_and(shown >= 0, shown <= 1)
        weights = xp.where(is_shown[:, None], weights, 0.0)
        if len(ends) > 2:
            beyond = xp.abs(centres - inner)
            weights = weights / (1 + DECAY * beyond)[:, None]
    return weights


def spread_heatmaps(heatmaps: Tensor, field: Field | None) -> Tensor:
    """Return small maps whose positions share the whole image evenly.

    Args:
        heatmaps: (n, h, w) or (n, m, h, w) float32.
        field: see `resize_heatmaps`.

    Returns:
        The same where there is no field; else of about as many positions to the
        rectangle as before.

    Example:

    >>> import numpy as np
    >>> middle = np.float32([[[1, 2]]])
    >>> np.asarray(spread_heatmaps(middle, (0, 0.25, 1, 0.75))).tolist()
    [[[0.0, 1.0, 2.0, 0.0]]]
    """
    if field is None:
        return heatmaps
    return resize_heatmaps(heatmaps, spread_size(heatmaps.shape[-2:], field), field)


def spread_size(map_size: tuple[int, int], field: Field | None) -> tuple[int, int]:
    """Return (h, w) of what `spread_heatmaps` returns.

    Example:

    >>> spread_size((1, 2), (0, 0.25, 1, 0.75))
    (1, 4)
    """
    if field is None:
        return map_size
    sides = abs(field[2] - field[0]), abs(field[3] - field[1])
    height, width = (
        max(1, round(n / side)) for n, side in zip(map_size, sides, strict=True)
    )
    return height, width
