"""Mean and deviation of what is not NaN."""

from typing import Any

import numpy as np


def mean_of(values: Any) -> float:
    """Return the mean of what is not NaN; NaN of nothing.

    Example:

    >>> mean_of([1, float("nan"), 2])
    1.5
    """
    values = np.asarray(values, "float64")
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")


def std_of(values: Any) -> float:
    """Return the sample standard deviation of what is not NaN; NaN of less than two.

    Example:

    >>> std_of([1, 3, float("nan")]) == 2**0.5
    True
    """
    values = np.asarray(values, "float64")
    values = values[~np.isnan(values)]
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")
