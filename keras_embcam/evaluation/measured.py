"""What a measure hands back: columns of the table, curves and notes."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np


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
        columns: a dict for each method, by the `key` of the measure's own columns.
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
