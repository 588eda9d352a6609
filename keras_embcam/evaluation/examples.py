"""The labelled images to evaluate on, streamed, without those that cannot be read."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_embcam.running.image_batches import ImageSource

KEYS = ("image", "label", "bbox", "segmentation_mask")
# More errors in a row than this come from a broken set, not from broken images.
MAX_ERRORS_IN_A_ROW = 100

Examples = dict[str, np.ndarray]


class ExampleStream:
    """Batches of examples, their images as the model takes them.

    Args:
        examples: an array of images (n, H, W, c); ``(images, labels)``; a dict of
            arrays; or a `tf.data.Dataset` of these, batched or not, that gives the
            same order each time. Keys as in TensorFlow Datasets: "image", "label"
            (n,) integers, "bbox" (n, 4) or (n, m, 4), "segmentation_mask" (n, H, W)
            or (n, H, W, 1). All but "image" are optional, other keys are ignored.
        model: whose inputs the images must fit.
        batch_size: for arrays and data sets that are not batched.
        preprocessing_function: applied to the images of each batch, or None.
        strict: raise for an example that cannot be read, instead of leaving it out.

    Attributes:
        keys: those of `KEYS` that the examples have.
        skipped: why examples were left out, of the last time through.

    Raises:
        ValueError: for no images, or arrays that differ in length.
        TypeError: for anything else than the above.

    Example:

    >>> model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten()])
    >>> stream = ExampleStream(np.zeros((3, 4, 4, 3)), model, batch_size=2)
    >>> [len(batch["image"]) for batch in stream]
    [2, 1]
    """

    def __init__(
        self,
        examples: Any,
        model: keras.Model,
        batch_size: int,
        preprocessing_function: Any = None,
        strict: bool = False,
    ) -> None:
        if not isinstance(batch_size, int | np.integer) or batch_size < 1:
            raise ValueError(
                f"`batch_size` must be an integer >= 1. Received: {batch_size!r}"
            )
        self._model = model
        self._batch_size = batch_size
        self._preprocess = preprocessing_function
        self._strict = strict
        self.skipped: list[str] = []
        if isinstance(examples, tf.data.Dataset):
            self._dataset = examples.prefetch(tf.data.AUTOTUNE)
            specification = _to_dict(examples.element_spec)
            self._is_batched = len(specification["image"].shape) == 4
            self.keys = set(specification)
            return
        self._dataset = None
        self._arrays = {key: np.asarray(x) for key, x in _to_dict(examples).items()}
        lengths = {key: len(x) if x.ndim else 0 for key, x in self._arrays.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                "`examples` must have as many of each as there are images. Received: "
                f"{lengths}"
            )
        self.keys = set(lengths)

    def __iter__(self) -> Iterator[Examples]:
        """Yield dicts of arrays, in order.

        Raises:
            ValueError: where no example is left, for images that do not fit the
                model, and, if strict, for one that cannot be read.
        """
        self.skipped = []
        is_empty = True
        for batch in self._slices() if self._dataset is None else self._elements():
            if not len(batch["image"]):
                continue
            source = ImageSource(
                batch["image"], self._model, len(batch["image"]), self._preprocess
            )
            is_empty = False
            yield {**batch, "image": next(iter(source)).inputs}
        if is_empty:
            reasons = f" Left out: {self.skipped[:3]}" if self.skipped else ""
            raise ValueError(
                "`examples` must hold at least one image that can be read. Received "
                f"none.{reasons}"
            )

    def take(self, indices: np.ndarray) -> Examples:
        """Return the examples of these numbers, ascending, and no more."""
        found: list[Examples] = []
        start = 0
        for batch in self:
            length = len(batch["image"])
            rows = indices[(start <= indices) & (indices < start + length)] - start
            found.append({key: values[rows] for key, values in batch.items()})
            start += length
            if start > indices[-1]:
                break
        return {key: np.concatenate([x[key] for x in found]) for key in self.keys}

    def _slices(self) -> Iterator[Examples]:
        for start in range(0, len(self._arrays["image"]), self._batch_size):
            rows = slice(start, start + self._batch_size)
            yield {key: array[rows] for key, array in self._arrays.items()}

    def _elements(self) -> Iterator[Examples]:
        if self._is_batched:
            yield from self._readable()
            return
        # Batched here and not by tf.data, which drops what it has of a batch when one
        # of its elements cannot be read.
        waiting: list[Examples] = []
        for element in self._readable():
            waiting.append(element)
            if len(waiting) == self._batch_size:
                yield _stack(waiting)
                waiting = []
        if waiting:
            yield _stack(waiting)

    def _readable(self) -> Iterator[Examples]:
        """Yield the elements of the data set that can be read."""
        elements, errors_in_a_row = iter(self._dataset), 0
        while True:
            try:
                element = next(elements)
            except StopIteration:
                return
            except tf.errors.OpError as error:
                errors_in_a_row += 1
                if self._strict or errors_in_a_row > MAX_ERRORS_IN_A_ROW:
                    raise ValueError(
                        f"An example cannot be read: {_reason(error)}"
                    ) from error
                lost = " and what its batch held before it" if self._is_batched else ""
                self.skipped.append(_reason(error) + lost)
                continue
            errors_in_a_row = 0
            yield {key: np.asarray(x) for key, x in _to_dict(element).items()}


def _stack(elements: list[Examples]) -> Examples:
    shapes = {element["image"].shape for element in elements}
    if len(shapes) > 1:
        raise ValueError(
            "The images of `examples` must have one size. Received the shapes "
            f"{sorted(shapes)[:3]}. Resize them, boxes and masks along, for example "
            "with `image_size` of `keras_embcam.datasets.cub200`."
        )
    return {key: np.stack([x[key] for x in elements]) for key in elements[0]}


def _reason(error: tf.errors.OpError) -> str:
    """Return the line of a message that says what is wrong."""
    lines = [x.strip() for x in str(error.message or error).splitlines()]
    lines = [x.removeprefix("ValueError: ") for x in lines if x]
    told = [x for x in lines if x.startswith("Cannot read")]
    return (told or lines or [type(error).__name__])[0].partition(" [[")[0]


def _to_dict(element: Any) -> dict[str, Any]:
    if isinstance(element, tuple | list) and len(element) == 2:
        element = dict(zip(("image", "label"), element, strict=True))
    elif not isinstance(element, dict):
        is_array = keras.ops.is_tensor(element) or isinstance(
            element, np.ndarray | tf.TensorSpec
        )
        if not is_array:
            raise TypeError(
                "`examples` must be an array of images, (images, labels), a dict with "
                '"image", or a tf.data.Dataset of these. Received an object of type '
                f"{type(element).__name__}"
            )
        element = {"image": element}
    if "image" not in element:
        raise ValueError(f'`examples` must have an "image". Received: {list(element)}')
    return {key: element[key] for key in KEYS if element.get(key) is not None}
