"""Runs that alternate, so that all of them see the same state of the machine."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

# Runs something once and returns how many seconds it took.
Timer = Callable[[], float]


class Spread(NamedTuple):
    """Median and quartiles of several measurements.

    With 15 of them the quartiles are the 4th and the 12th, which is also the 96 %
    confidence interval of the median.
    """

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
    """Run all timers one after the other, again and again.

    Args:
        timers: by name; A, B, C are run as A, B, C, A, B, C ...
        num_rounds: of all of them, >= 2.
        num_warm_ups: rounds before, which do not count.

    Returns:
        The seconds of each round, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    gc.collect()
    for index in range(-num_warm_ups, num_rounds):
        for name, run in timers.items():
            taken = run()
            if index >= 0:
                seconds[name].append(taken)
    return seconds


def find_spread(values: Sequence[float]) -> Spread:
    """Return median and quartiles of two or more values.

    Example:

    >>> find_spread([1, 2, 3, 4, 5, 6, 7])
    Spread(median=4.0, low=2.0, high=6.0)
    """
    low, median, high = statistics.quantiles(values, n=4)
    return Spread(median, low, high)


def compare(seconds: Sequence[float], baseline: Sequence[float]) -> Spread:
    """Return the spread of the ratios within each round.

    Example:

    >>> compare([2, 4, 9], [1, 2, 3])
    Spread(median=2.0, low=2.0, high=3.0)
    """
    return find_spread([a / b for a, b in zip(seconds, baseline, strict=True)])
