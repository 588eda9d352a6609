"""What the lengths and directions of vectors say, up to half precision."""

import numpy as np

# Wide enough for bfloat16, which keeps 8 bits.
TOLERANCE = 0.02


def row_lengths(rows: np.ndarray) -> np.ndarray:
    """Return the length of each row."""
    return np.linalg.norm(rows, axis=1)


def is_fixed(lengths: np.ndarray) -> bool:
    """Tell whether all lengths are the same."""
    return bool(np.ptp(lengths) < TOLERANCE * lengths.mean())


def is_unit(lengths: np.ndarray) -> bool:
    """Tell whether all lengths are one."""
    return bool(np.all(np.abs(lengths - 1) < TOLERANCE))


def is_parallel(rows: np.ndarray, others: np.ndarray) -> bool:
    """Tell whether each row points where the other one does."""
    products = np.sum(rows * others, axis=1)
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
