"""Arguments that are numbers of something: the one place where they are checked."""

from numbers import Integral
from typing import Any


def check_integer(
    name: str,
    value: Any,
    least: int,
    most: int | None = None,
    *,
    other: str | None = None,
) -> None:
    """Check that an argument is an integer, of Python or of numpy, within bounds.

    Args:
        name: of the argument.
        value: that was passed for it.
        least: the lowest that is allowed.
        most: the highest that is allowed, None for any.
        other: a word that may stand in place of an integer, or None.

    Raises:
        ValueError: for anything else.

    Example:

    >>> check_integer("batch_size", 32, 1)
    >>> check_integer("batch_size", 0.5, 1)
    Traceback (most recent call last):
    ...
    ValueError: `batch_size` must be an integer >= 1. Received: 0.5
    """
    if other is not None and isinstance(value, str) and value == other:
        return
    is_integer = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_integer or value < least or (most is not None and value > most):
        word = "" if other is None else f'"{other}" or '
        bounds = f">= {least}" if most is None else f"between {least} and {most}"
        raise ValueError(
            f"`{name}` must be {word}an integer {bounds}. Received: {value!r}"
        )
