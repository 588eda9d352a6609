"""What the lengths and directions of vectors say, up to half precision."""

from collections.abc import Callable

import numpy as np

# Wide enough for bfloat16, which keeps 8 bits.
TOLERANCE = 0.02

# What a normalisation may make one beside the length, (n, d) -> (n,).
NORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sum of absolute values": lambda rows: np.abs(rows).sum(axis=1),
    "largest absolute value": lambda rows: np.abs(rows).max(axis=1),
    "largest value": lambda rows: rows.max(axis=1),
    # In float64, where cubes are numbers.
    "3-norm": lambda rows: np.linalg.norm(rows.astype("float64"), 3, axis=1),
}
# Of numbers that agree by computation and not by chance.
ROUNDING = 1e-5
# Relative to the largest value: saturated ones are nearer to each other.
MARGIN = 1e-3


def row_lengths(rows: np.ndarray) -> np.ndarray:
    """Return the length of each row."""
    return np.linalg.norm(rows.astype("float64"), axis=1)


def is_fixed(lengths: np.ndarray) -> bool:
    """Tell whether all lengths are the same."""
    return bool(np.ptp(lengths) < TOLERANCE * lengths.mean())


def is_unit(lengths: np.ndarray) -> bool:
    """Tell whether all lengths are one."""
    return bool(np.all(np.abs(lengths - 1) < TOLERANCE))


def is_parallel(rows: np.ndarray, others: np.ndarray) -> bool:
    """Tell whether each row points where the other one does."""
    products = np.einsum("nd,nd->n", rows, others, dtype="float64")
    return bool(np.all(products > (1 - 1e-3) * row_lengths(rows) * row_lengths(others)))


def softmax(tensor: np.ndarray | None) -> np.ndarray | None:
    """Return the softmax of each row."""
    if tensor is None:
        return None
    shifted = np.exp(tensor - tensor.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def is_probabilities(rows: np.ndarray) -> bool:
    """Tell whether each row looks like the output of a softmax."""
    return (
        rows.shape[1] > 1
        and bool(np.all(rows >= 0))
        and bool(np.all(np.abs(rows.sum(axis=1) - 1) < TOLERANCE))
    )


def have_lengths(rows: np.ndarray | None) -> bool:
    """Tell whether vectors differ in length, or are not known: not normalised."""
    return rows is None or not is_fixed(row_lengths(rows))


def is_log_probabilities(rows: np.ndarray) -> bool:
    """Tell whether each row looks like the output of a log-softmax."""
    return bool(np.all(rows < TOLERANCE)) and is_probabilities(np.exp(rows))


def find_scale(rows: np.ndarray) -> str | None:
    """Return what is the same for all vectors, though they differ in length.

    The largest value alone is no sign where others come near it, as where an
    activation function saturates.

    Example: divided by the largest, by the range, and not at all.

    >>> find_scale(np.float32([[1, 0.2, 0.1], [0.3, 1, 0.9]]))
    'largest absolute value'
    >>> find_scale(np.float32([[1, -3, 2], [0.3, 1, 0.9]])) is None
    True
    """
    lengths = row_lengths(rows)
    if len(rows) < 2 or rows.shape[1] < 2 or is_fixed(lengths):
        return None
    ordered = np.sort(np.abs(rows), axis=1)
    is_alone = np.all(ordered[:, -2] < (1 - MARGIN) * ordered[:, -1])
    for name, measure in NORMS.items():
        found = measure(rows)
        is_same = np.ptp(found) < ROUNDING * np.abs(found).mean()
        if is_same and (is_alone or "largest" not in name):
            return name
    return None
