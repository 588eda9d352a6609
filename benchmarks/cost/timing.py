"""Runs that alternate, so that all of them see the same state of the machine."""

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

# Runs something once and returns how many seconds it took.
Timer = Callable[[], float]


class Spread(NamedTuple):
    """Median of several measurements, and its 95 % confidence interval."""

    median: float
    low: float
    high: float


def timer(function: Callable[[], Any]) -> Timer:
    """Return what times a function in this process."""

    def run() -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    return run


def alternate(
    timers: Mapping[str, Timer], num_rounds: int, num_warm_ups: int = 2
) -> dict[str, list[float]]:
    """Run all timers one after the other, again and again, there and back.

    Args:
        timers: by name; A, B, C are run as A, B, C, C, B, A, A, B, C ... so that none
            always comes behind the same other one.
        num_rounds: of all of them, >= 2.
        num_warm_ups: rounds before, which do not count.

    Returns:
        The seconds of each round, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    gc.collect()
    for index in range(-num_warm_ups, num_rounds):
        names = list(timers) if index % 2 == 0 else list(timers)[::-1]
        for name in names:
            taken = timers[name]()
            if index >= 0:
                seconds[name].append(taken)
    return seconds


def find_spread(values: Sequence[float]) -> Spread:
    """Return the median, and two values that it lies between in 95 % of all series.

    It is above the k-th value of n, and below the k-th from the end, but for the cases
    where fewer than k of n coins show heads, or fewer than k tails. Of 15 values these
    are the 4th and the 12th, of 60 the 22nd and the 39th; of fewer than 6 values the
    first and the last one hold it less often than that.

    Example:

    >>> find_spread([7, 6, 5, 4, 3, 2, 1])
    Spread(median=4, low=1, high=7)
    """
    ordered, n = sorted(values), len(values)
    k, misses = 0, 1.0
    while misses <= 0.025 * 2**n:
        k += 1
        misses += math.comb(n, k)
    k = max(k, 1)
    return Spread(statistics.median(ordered), ordered[k - 1], ordered[n - k])


def compare(seconds: Sequence[float], baseline: Sequence[float]) -> Spread:
    """Return the spread of the ratios within each round.

    Example:

    >>> compare([2, 4, 9], [1, 2, 3])
    Spread(median=2.0, low=2.0, high=3.0)
    """
    return find_spread([a / b for a, b in zip(seconds, baseline, strict=True)])
