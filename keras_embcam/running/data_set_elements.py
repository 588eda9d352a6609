"""The elements of a data set, without those that cannot be read."""

from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

# More errors in a row than this come from a broken set, not from broken images.
MAX_ERRORS_IN_A_ROW = 100


def check_finite(dataset: tf.data.Dataset, name: str) -> None:
    """Check that a data set ends, since all of it will be read.

    Args:
        dataset: of any kind.
        name: of the argument that holds it, for the message.

    Raises:
        ValueError: for one that is known to repeat without end.
    """
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            f"`{name}` must end. Received a data set that repeats without end. Leave "
            "out `.repeat()`, or pass `dataset.take(n)`."
        )


def read_elements(
    dataset: tf.data.Dataset | keras.utils.PyDataset,
    skipped: list[str] | None,
    is_batched: bool,
) -> Iterator[Any]:
    """Yield what can be read of a data set, in order.

    Args:
        dataset: batched or not.
        skipped: a list that takes the reason for each element left out; None to raise
            instead.
        is_batched: whether an element holds several examples, for the reasons.

    Raises:
        ValueError: for an element that cannot be read where nothing is skipped, and
            for many in a row.
    """
    if isinstance(dataset, keras.utils.PyDataset):
        for number in range(len(dataset)):
            yield dataset[number]
        return
    elements, errors_in_a_row = iter(dataset), 0
    while True:
        try:
            element = next(elements)
        except StopIteration:
            return
        except tf.errors.OpError as error:
            errors_in_a_row += 1
            reason = _reason(error)
            if skipped is None or errors_in_a_row > MAX_ERRORS_IN_A_ROW:
                raise ValueError(f"An example cannot be read: {reason}") from error
            lost = " and what its batch held before it" if is_batched else ""
            skipped.append(reason + lost)
            continue
        errors_in_a_row = 0
        yield element


def _reason(error: tf.errors.OpError) -> str:
    """Return the line of a message that says what is wrong."""
    lines = [x.strip() for x in str(error.message or error).splitlines()]
    lines = [x.removeprefix("ValueError: ") for x in lines if x]
    about_files = [x for x in lines if x.startswith("Cannot read")]
    # In a chain of errors the last one has the name of the file.
    found = about_files[-1:] or lines or [type(error).__name__]
    return found[0].partition(" [[")[0]
