"""The values of labelled examples in one form: labels, boxes and batches of them."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

# Keras pads lists of boxes with rows of this value; such a row is no box.
NO_BOX = -1.0


def read_labels(labels: Any, name: str = "label") -> list[Any]:
    """Return labels as plain Python integers or strings.

    Args:
        labels: (n,) or (n, 1): integers of any size and sign, booleans, whole
            floats, strings or bytes.
        name: of the entry, for messages.

    Raises:
        ValueError: for another shape, such as one-hot rows, fractions, or floats so
            large that neighbouring integers have become one.

    Example:

    >>> read_labels(np.array([[b"wren"], [b"finch"]]))
    ['wren', 'finch']
    """
    values = np.asarray(labels)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        one_hot = ""
        if values.ndim == 2:
            one_hot = ", for example np.argmax(labels, axis=1) of one-hot rows"
        raise ValueError(
            f'"{name}" must have the shape (n,) or (n, 1), one integer or string for '
            f"each image. Received the shape {values.shape}. Pass the classes{one_hot}."
        )
    if np.issubdtype(values.dtype, np.floating):
        if not np.array_equal(values, np.rint(values)) or not np.isfinite(values).all():
            raise ValueError(
                f'"{name}" must hold whole numbers or strings. Received: '
                f"{values[:5].tolist()} of {values.dtype}"
            )
        limit = 2 ** (np.finfo(values.dtype).nmant + 1)
        if values.size and np.abs(values).max() >= limit:
            raise ValueError(
                f'"{name}" must hold integers where they are so large: {values.dtype} '
                f"knows not all of those from {limit} on, and makes one class of "
                f"several. Received: {values[np.abs(values) >= limit][:5].tolist()}"
            )
        return [int(x) for x in values]
    listed = values.tolist()
    if values.dtype == bool:
        return [int(x) for x in listed]
    listed = [x.decode(errors="replace") if isinstance(x, bytes) else x for x in listed]
    if not all(isinstance(x, int | str) for x in listed):
        raise ValueError(
            f'"{name}" must hold integers or strings. Received: {listed[:5]} of '
            f"{values.dtype}"
        )
    return listed


class LabelNumbers:
    """Numbers from 0 to C - 1 for the labels of a set, the same for equal labels.

    Args:
        labels: to number in their order, integers before strings; others get the next
            numbers in the order in which they come.

    Example:

    >>> numbers = LabelNumbers()
    >>> numbers.number([2_000_000, -1, 2_000_000]).tolist()
    [0, 1, 0]
    >>> numbers.classes.tolist()
    [2000000, -1]
    """

    def __init__(self, labels: Iterable[int | str] = ()) -> None:
        ranked = sorted(set(labels), key=lambda x: (isinstance(x, str), x))
        self._numbers = {label: number for number, label in enumerate(ranked)}

    @property
    def classes(self) -> np.ndarray:
        """The labels themselves, (C,), in the order of their numbers."""
        labels = list(self._numbers)
        has_strings = any(isinstance(x, str) for x in labels)
        return np.array([str(x) for x in labels] if has_strings else labels)

    def number(self, labels: Iterable[int | str]) -> np.ndarray:
        """Return the numbers (n,) int64 of labels."""
        known = self._numbers
        return np.array([known.setdefault(x, len(known)) for x in labels], "int64")


def pad_boxes(boxes: Any, num_images: int) -> np.ndarray:
    """Return the boxes of some images as one array, padded where there are fewer.

    Args:
        boxes: (n, 4), one an image; (n, m, 4), padded in any of the ways that
            `keras_embcam.metrics` knows; a list of n arrays (m, 4), also of
            different m, or (4,); an object array of these; or a `tf.RaggedTensor`
            (n, None, 4).
        num_images: n.

    Returns:
        (n, m, 4) float32 with m >= 1, padded with rows of -1, which are no boxes in
        any `bounding_box_format`.

    Raises:
        ValueError: for other shapes.

    Example:

    >>> pad_boxes([np.zeros((2, 4)), np.ones((1, 4))], num_images=2)[1].tolist()
    [[1.0, 1.0, 1.0, 1.0], [-1.0, -1.0, -1.0, -1.0]]
    """
    if isinstance(boxes, tf.RaggedTensor):
        boxes = boxes.to_list()
    if isinstance(boxes, np.ndarray) and boxes.dtype == object:
        boxes = list(boxes)
    if isinstance(boxes, Sequence):
        boxes = _pad_rows(boxes)
    boxes = np.asarray(boxes)
    if boxes.ndim == 2:
        boxes = boxes[:, None]
    is_right = boxes.ndim == 3 and boxes.shape[-1] == 4 and boxes.dtype.kind in "iuf"
    if not is_right or len(boxes) != num_images:
        raise ValueError(
            '"bbox" must have the shape (n, 4), one box for each image, (n, m, 4), '
            "several, or be a list of n arrays (m, 4). Received the shape "
            f"{boxes.shape} of {boxes.dtype} for {num_images} images."
        )
    boxes = boxes.astype("float32")
    return boxes if boxes.shape[1] else np.full((num_images, 1, 4), NO_BOX, "float32")


def _pad_rows(rows: Sequence[Any]) -> np.ndarray:
    try:
        arrays = [np.asarray(row, "float32") for row in rows]
    except (ValueError, TypeError) as error:
        raise ValueError(
            '"bbox" must hold an array (m, 4) of numbers for each image. Received: '
            f"{rows[:3]!r:.300}"
        ) from error
    wrong = [x.shape for x in arrays if x.size and (x.shape[-1] != 4 or x.ndim > 2)]
    if wrong:
        raise ValueError(
            '"bbox" must hold an array (m, 4) for each image. Received the shapes '
            f"{wrong[:3]}"
        )
    arrays = [x.reshape(-1, 4) for x in arrays]
    most = max([1, *map(len, arrays)])
    padded = np.full((len(arrays), most, 4), NO_BOX, "float32")
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return padded


def join_examples(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return several batches as one, their boxes padded to the same number.

    Example:

    >>> few, many = np.zeros((1, 1, 4)), np.zeros((1, 3, 4))
    >>> join_examples([{"bbox": few}, {"bbox": many}])["bbox"].shape
    (2, 3, 4)
    """
    joined = {}
    for key in parts[0]:
        arrays = [part[key] for part in parts]
        if key == "bbox":
            joined[key] = _pad_rows([boxes for array in arrays for boxes in array])
        else:
            joined[key] = np.concatenate(arrays)
    return joined
