"""Tables in Markdown, and the numbers in their cells."""

import math
from collections.abc import Iterable, Sequence
from typing import Any


def draw_table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table.

    Args:
        headings: of the columns.
        rows: the cells of each row, as many as there are headings; written with `str`.

    Returns:
        One line for the headings, one that separates them and one for each row,
        without a line break at the end.

    Raises:
        ValueError: for a row with another number of cells.

    Example:

    >>> print(draw_table(["method", "ratio"], [["uniform", format_number(0.25, 3)]]))
    | method | ratio |
    | --- | --- |
    | uniform | 0.250 |
    """
    lines: list[Sequence[Any]] = [headings, ["---"] * len(headings), *rows]
    for cells in lines:
        if len(cells) != len(headings):
            raise ValueError(
                "Each row of a table must have one cell for each heading. Received: "
                f"{list(cells)} for the headings {list(headings)}"
            )
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)


def format_number(value: Any, num_digits: int) -> str:
    """Return a number as text, "n/a" for NaN; what is no number as `str` writes it.

    Args:
        value: anything.
        num_digits: behind the point.

    Example:

    >>> format_number(0.25, 3), format_number(float("nan"), 3), format_number("-", 3)
    ('0.250', 'n/a', '-')
    """
    if not isinstance(value, int | float):
        return str(value)
    return "n/a" if math.isnan(value) else f"{value:.{num_digits}f}"
