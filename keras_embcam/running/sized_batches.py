"""Batches of one size each, from data sets whose images may have several."""

from collections.abc import Callable, Iterator
from itertools import groupby, islice
from typing import Any

import numpy as np
import tensorflow as tf
from keras import tree

# Returns the images, or all inputs of a model, and the labels or None.
Split = Callable[[Any], tuple[Any, Any]]


def batch_by_size(
    dataset: tf.data.Dataset, split: Split, batch_size: int
) -> tf.data.Dataset | Callable[[], Iterator[tuple[Any, Any]]]:
    """Return a data set in batches, or what yields batches where sizes may differ.

    Neighbours share a batch as long as their sizes agree.

    Args:
        dataset: batched or not, also with `ragged_batch`.
        split: see `Split`.
        batch_size: for what is not batched.

    Raises:
        ValueError: where the rank of the images is not stated.
    """
    images = tree.flatten(split(dataset.element_spec)[0])
    ranks = [x.shape.rank for x in images]
    if None in ranks:
        raise ValueError(
            "The data set must state the rank of its images. Received: "
            f"{dataset.element_spec}. Pass `output_signature` to `from_generator`, "
            "or map `tf.ensure_shape` over it."
        )
    is_ragged = any(isinstance(x, tf.RaggedTensorSpec) for x in images)
    is_batched = max(ranks) > 3
    if not is_ragged and is_batched:
        return dataset
    if not is_ragged and all(None not in x.shape for x in images):
        return dataset.batch(batch_size)

    def read() -> Iterator[tuple[Any, Any]]:
        rows = _read_rows(map(split, dataset), is_batched)
        for _, group in groupby(rows, lambda row: _shapes(row[0])):
            while some := list(islice(group, batch_size)):
                inputs, labels = zip(*some, strict=True)
                yield (
                    tree.map_structure(lambda *x: np.stack(x), *inputs),
                    None if labels[0] is None else np.stack(labels),
                )

    return read


def _read_rows(elements: Iterator, is_batched: bool) -> Iterator[tuple[Any, Any]]:
    for element in elements:
        numbers = range(tree.flatten(element[0])[0].shape[0]) if is_batched else (None,)
        for number in numbers:
            inputs, labels = (_take(part, number) for part in element)
            yield inputs, labels


def _take(part: Any, number: int | None) -> Any:
    """Return arrays of one row of tensors, or of the tensors themselves."""

    def take(x: Any) -> np.ndarray:
        x = x if number is None else x[number]
        return np.asarray(x.to_tensor() if isinstance(x, tf.RaggedTensor) else x)

    return None if part is None else tree.map_structure(take, part)


def _shapes(inputs: Any) -> list[tuple[int, ...]]:
    return [x.shape for x in tree.flatten(inputs)]
