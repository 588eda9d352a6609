"""A measure: the columns of the report that it fills, and what it hands back."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

# The title of the table of all measures that look at a few images.
FAITHFULNESS = "Faithfulness"


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        key: of the rows, which are dicts.
        heading: to be printed.
        num_digits: behind the point.
    """

    key: str
    heading: str
    num_digits: int = 3


@dataclass
class Measured:
    """What one measure found.

    Attributes:
        columns: a dict for each method, by the `key` of the measure's own columns;
            see `fills`.
        curves: by title, see `Report`.
        notes: what a reader has to know.
        settings: what was used, by name.
        by_image: a dict for each method of arrays, one value for each image.
    """

    columns: list[dict[str, Any]]
    curves: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    by_image: list[dict[str, np.ndarray]] = field(default_factory=list)


@dataclass(frozen=True)
class Measure:
    """A function ``context -> Measured`` that names its columns; see `fills`.

    Attributes:
        function: that is called.
        tables: the columns that it fills, by the title of their table.
    """

    function: Callable[..., Measured]
    tables: dict[str, tuple[Column, ...]]

    def __call__(self, *arguments: Any, **options: Any) -> Measured:
        return self.function(*arguments, **options)


def fills(title: str, *columns: Column) -> Callable[[Callable[..., Measured]], Measure]:
    """Name the columns that the decorated measure fills, in the order of the table.

    Stands once for each table. What is named here is printed, once the measure is
    listed in `known_measures.py`.

    Args:
        title: of the table.
        columns: in their order.

    Example:

    >>> @fills("Cost", Column("seconds", "seconds an image", 4))
    ... def measure_nothing(context):
    ...     return Measured([{"seconds": 0.0} for _ in context.methods])
    >>> measure_nothing.tables["Cost"][0].heading
    'seconds an image'
    """

    def decorate(function: Callable[..., Measured]) -> Measure:
        if isinstance(function, Measure):
            return Measure(function.function, {title: columns, **function.tables})
        return Measure(function, {title: columns})

    return decorate
