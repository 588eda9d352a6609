"""The labelled images that a logger measures on, in batches of numpy arrays."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

KEYS = ("image", "label", "bbox", "segmentation_mask")
Examples = dict[str, np.ndarray]


class ValidationExamples:
    """Batches of examples from any of the usual forms.

    Args:
        examples: an array of images (n, H, W, c); ``(images, labels)``; a dict of
            arrays; or a `tf.data.Dataset` of these, batched or not, that gives the
            same order each time. The keys are those of TensorFlow Datasets:
            "image" (n, H, W, c) in the range that the model takes, "label" (n,)
            integers, "bbox" (n, 4) or (n, m, 4), "segmentation_mask" (n, H, W) or
            (n, H, W, 1). All but "image" are optional, other keys are ignored.
        batch_size: for arrays and data sets that are not batched.

    Raises:
        ValueError: without images, or where the arrays differ in length.
        TypeError: for anything else than the above.
    """

    def __init__(self, examples: Any, batch_size: int) -> None:
        if isinstance(examples, tf.data.Dataset):
            specification = _to_dict(examples.element_spec)
            if len(specification["image"].shape) == 3:
                examples = examples.batch(batch_size)
            self._dataset, self._arrays = examples, None
            self.keys = set(specification)
            return
        arrays = {key: np.asarray(x) for key, x in _to_dict(examples).items()}
        lengths = {key: len(x) if x.ndim else 0 for key, x in arrays.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                "`validation_examples` must have as many of each as there are images. "
                f"Received: {lengths}"
            )
        if arrays["image"].ndim != 4 or not len(arrays["image"]):
            raise ValueError(
                "The images of `validation_examples` must have the shape (n, H, W, c)"
                f" with n >= 1. Received the shape {arrays['image'].shape}"
            )
        self._dataset, self._arrays = None, arrays
        self._batch_size = batch_size
        self.keys = set(arrays)

    def batches(self) -> Iterator[Examples]:
        """Yield the examples in order, as dicts of arrays."""
        if self._arrays is None:
            for element in self._dataset:
                yield {key: np.asarray(x) for key, x in _to_dict(element).items()}
            return
        for start in range(0, len(self._arrays["image"]), self._batch_size):
            rows = slice(start, start + self._batch_size)
            yield {key: array[rows] for key, array in self._arrays.items()}

    def take(self, indices: Sequence[int]) -> Examples:
        """Return the examples of these numbers, in this order.

        Raises:
            ValueError: where there is no example of a number.
        """
        found: dict[int, Examples] = {}
        wanted, start = set(indices), 0
        for batch in self.batches():
            stop = start + len(batch["image"])
            for index in wanted.intersection(range(start, stop)):
                found[index] = {key: x[index - start] for key, x in batch.items()}
            start = stop
            if len(found) == len(wanted):
                break
        missing = sorted(wanted - set(found))
        if missing:
            raise ValueError(
                f"There are {start} validation examples, numbered from 0. Received "
                f"the numbers {missing} in `picture_indices`"
            )
        return {
            key: np.stack([found[index][key] for index in indices]) for key in self.keys
        }

    def choose(self, num_images: int, class_balanced: bool) -> list[int]:
        """Return the numbers of the examples to show: the first, or of all classes.

        Balanced means: the first of each class, then the second of each, and so on.
        """
        if not class_balanced:
            count = 0
            for batch in self.batches():
                count += len(batch["image"])
                if count >= num_images:
                    break
            return list(range(min(num_images, count)))
        if "label" not in self.keys:
            raise ValueError(
                '`picture_indices="class_balanced"` needs labels. Received examples '
                f"with {sorted(self.keys)}"
            )
        labels = np.concatenate([batch["label"] for batch in self.batches()])
        # The how-many-th of its class each example is.
        rank = np.zeros(len(labels), int)
        for label in np.unique(labels):
            members = np.flatnonzero(labels == label)
            rank[members] = np.arange(len(members))
        order = np.lexsort((labels, rank))[:num_images]
        return [int(index) for index in order]


def _to_dict(element: Any) -> dict[str, Any]:
    if isinstance(element, tuple | list) and len(element) == 2:
        element = dict(zip(("image", "label"), element, strict=True))
    elif not isinstance(element, dict):
        is_array = keras.ops.is_tensor(element) or isinstance(
            element, np.ndarray | tf.TensorSpec
        )
        if not is_array:
            raise TypeError(
                "`validation_examples` must be an array of images, (images, labels), a "
                'dict with "image", or a tf.data.Dataset of these. '
                f"Received an object of type {type(element).__name__}"
            )
        element = {"image": element}
    if "image" not in element:
        raise ValueError(
            f'`validation_examples` must have an "image". Received: {list(element)}'
        )
    return {key: element[key] for key in KEYS if element.get(key) is not None}
