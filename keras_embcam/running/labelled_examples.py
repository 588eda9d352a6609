"""Labelled examples: images with labels, boxes and masks, streamed in one form."""

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_embcam.network.inputs import declared_images, fit_images
from keras_embcam.running.data_set_elements import check_finite, read_elements
from keras_embcam.running.example_entries import KEYS, describe_unused, name_entries
from keras_embcam.running.example_inputs import ModelInputs, list_fit_inputs
from keras_embcam.running.example_names import find_name_key
from keras_embcam.running.example_order import OrderCheck
from keras_embcam.running.example_sizes import check_lengths, check_masks, check_sizes
from keras_embcam.running.example_values import (
    LabelNumbers,
    join_examples,
    pad_boxes,
    read_labels,
)
from keras_embcam.running.preprocessing import get_preprocessing
from keras_embcam.whole_numbers import check_integer

Examples = dict[str, np.ndarray]


class ExampleStream:
    """Batches of labelled examples from any of the usual forms.

    A batch is a dict of arrays of the same length:

    * "image" (n, H, W, c);
    * "label" (n,) int64, numbers from 0 to C - 1 whatever the labels were; the labels
      as they were given are ``stream.classes[batch["label"]]``;
    * "bbox" (n, m, 4) float32, as many as the image of this batch with most boxes has,
      the others padded with rows of -1, which `keras_embcam.metrics` leaves out;
    * "segmentation_mask" (n, H, W) or (n, H, W, 1);
    * the other inputs of the model, and the entry of `name_key`.

    All but "image" are there only where the examples have them. Memory hardly grows.

    Args:
        examples: an array of images, ``(images, labels)``, a dict of arrays, a
            `tf.data.Dataset` of these, batched or not, or a `keras.utils.PyDataset`;
            it must give the same order each time. The keys are those of TensorFlow
            Datasets, and the names of the inputs of the model; a warning names other
            keys, which are ignored. Labels may be integers, strings or (n, 1); boxes
            may have any of the forms of `pad_boxes`. Images of one set have one size.
            In place of the images there may be several inputs,
            ``({"image": ..., "age": ...}, labels)``.
        model: whose inputs the examples must fit: they are checked and cast. None to
            take them as they are; see `look_at`.
        batch_size: for what is not batched.
        preprocessing_function: applied to each batch of images, its name, or None.
        strict: raise for an example that cannot be read, instead of leaving it out.
        name: of the argument, for messages.

    Attributes:
        keys: those of `KEYS` that the examples have.
        name_key: the entry with names of the examples, None without one.
        file_paths: of the images, where `image_dataset_from_directory` read them.
        skipped: why examples were left out, of the last time through.

    Raises:
        ValueError: for no images, arrays that differ in length, or labels, boxes or
            inputs that do not fit.
        TypeError: for anything else than the above.

    Example:

    >>> images, labels = np.zeros((3, 4, 4, 3)), ["wren", "finch", "wren"]
    >>> stream = ExampleStream((images, labels), batch_size=2)
    >>> [batch["label"].tolist() for batch in stream]
    [[1, 0], [1]]
    >>> stream.classes.tolist()
    ['finch', 'wren']
    """

    def __init__(
        self,
        examples: Any,
        model: keras.Model | None = None,
        batch_size: int = 32,
        preprocessing_function: str | Callable | None = None,
        strict: bool = False,
        *,
        name: str = "examples",
    ) -> None:
        check_integer("batch_size", batch_size, 1)
        self._batch_size = batch_size
        self._preprocess = get_preprocessing(preprocessing_function)
        self._strict = strict
        self._name = name
        self._labels = LabelNumbers()
        self._order = OrderCheck(name)
        self._model: keras.Model | None = None
        self._inputs: ModelInputs | None = None
        self.skipped: list[str] = []
        self.file_paths = list(getattr(examples, "file_paths", ()))
        self._dataset: Any = None
        if isinstance(examples, tf.data.Dataset):
            check_finite(examples, name)
            self._dataset = examples.prefetch(tf.data.AUTOTUNE)
            examples = examples.element_spec
        elif isinstance(examples, keras.utils.PyDataset):
            self._dataset = examples
            examples = examples[0]
        self._entries = name_entries(examples, name)
        self._fit_inputs = list_fit_inputs(examples)
        self.keys = set(KEYS).intersection(self._entries)
        if self._dataset is None:
            self._read_arrays()
        self._is_batched = len(self._shape_of_images()) == 4
        self.name_key = find_name_key(self._entries, int(self._is_batched))
        if model is not None:
            self.look_at(model)
            self._model = model

    @property
    def classes(self) -> np.ndarray:
        """The labels as they were given, (C,), in the order of their numbers.

        Of a data set those that were seen so far: all, after the first time through.
        """
        return self._labels.classes

    def look_at(self, model: keras.Model) -> None:
        """Find out which inputs of a model take which entries; warn of unused ones.

        Raises:
            ValueError: where an input finds no entry.
        """
        inputs = ModelInputs(model, self._entries, self._fit_inputs, self._name)
        unused = describe_unused(self._entries, [*inputs.used, self.name_key])
        if unused:
            warnings.warn(
                f"`{self._name}` has the entries {list(self._entries)}; {unused}",
                stacklevel=3,
            )
        self._inputs = inputs
        if self._dataset is None:
            check_lengths(self._entries, self._keys_of_batch(), self._name)

    def inputs_of(self, batch: Examples) -> Any:
        """Return what the model takes of a batch, in the structure of its inputs."""
        if self._inputs is None:
            return batch["image"]
        return self._inputs.fill(batch, lambda: self.classes[batch["label"]])

    def __iter__(self) -> Iterator[Examples]:
        """Yield batches, in order.

        Raises:
            ValueError: where no example is left, for another order than before, images
                that do not fit the model, and, if strict, one that cannot be read.
        """
        self.skipped = []
        num_seen = 0
        read = self._slices if self._dataset is None else self._elements
        for raw in self._order.follow(read()):
            batch = self._finish(raw, num_seen)
            if len(batch["image"]):
                num_seen += len(batch["image"])
                yield batch
        if not num_seen:
            reasons = f" Left out: {self.skipped[:3]}" if self.skipped else ""
            raise ValueError(
                f"`{self._name}` must hold at least one image that can be read. "
                f"Received none.{reasons}"
            )

    def take(self, indices: Sequence[int] | np.ndarray) -> Examples:
        """Return the examples of these numbers, in this order, and no more.

        Raises:
            ValueError: where there is no example of a number.
        """
        parts: list[Examples] = []
        places: list[int] = []
        wanted, start = np.unique(indices), 0
        for batch in self:
            rows = wanted[(start <= wanted) & (wanted < start + len(batch["image"]))]
            if len(rows):
                parts.append({key: x[rows - start] for key, x in batch.items()})
                places += rows.tolist()
            start += len(batch["image"])
            if len(places) == len(wanted):
                break
        if len(places) < len(wanted):
            raise ValueError(
                f"`{self._name}` has {start} examples, numbered from 0. Received the "
                f"numbers {sorted({*wanted.tolist()}.difference(places))}"
            )
        order = [places.index(index) for index in indices]
        return {key: x[order] for key, x in join_examples(parts).items()}

    def _shape_of_images(self) -> tuple:
        shape = self._entries["image"].shape
        if getattr(shape, "rank", 0) is None:
            raise ValueError(
                f"`{self._name}` must state the rank of its images. Received: "
                f"{self._entries['image']}. Pass `output_signature` to "
                "`from_generator`, or map `tf.ensure_shape` over it."
            )
        return tuple(shape)

    def _read_arrays(self) -> None:
        """Make arrays of the entries among `KEYS`."""
        entries = self._entries
        images = entries["image"]
        if isinstance(images, list) or images.dtype == object:
            self._check_sizes(images)
            images = list(images)
        entries["image"] = np.asarray(images)
        if entries["image"].ndim != 4 or not len(entries["image"]):
            raise ValueError(
                f"The images of `{self._name}` must have the shape (n, H, W, c) with "
                f"n >= 1. Received the shape {entries['image'].shape}"
            )
        check_lengths(entries, self.keys, self._name)
        if "bbox" in entries:
            entries["bbox"] = pad_boxes(entries["bbox"], len(entries["image"]))
        if "segmentation_mask" in entries:
            entries["segmentation_mask"] = np.asarray(entries["segmentation_mask"])
        if "label" in entries:
            labels = read_labels(entries["label"])
            self._labels = LabelNumbers(labels)
            entries["label"] = self._labels.number(labels)

    def _slices(self) -> Iterator[Examples]:
        arrays = {key: self._entries[key] for key in self._keys_of_batch()}
        for start in range(0, len(arrays["image"]), self._batch_size):
            rows = slice(start, start + self._batch_size)
            yield {key: np.asarray(x[rows]) for key, x in arrays.items()}

    def _keys_of_batch(self) -> list[str]:
        used = {*self.keys, self.name_key, *(self._inputs.used if self._inputs else ())}
        return [key for key in self._entries if key in used]

    def _elements(self) -> Iterator[Examples]:
        """Yield the batches of a data set."""
        skipped = None if self._strict else self.skipped
        elements = (
            name_entries(element, self._name)
            for element in read_elements(self._dataset, skipped, self._is_batched)
        )
        if self._is_batched:
            yield from map(self._convert, elements)
            return
        # Batched here and not by tf.data, which drops what it has of a batch when one
        # of its elements cannot be read.
        while waiting := list(itertools.islice(elements, self._batch_size)):
            keys = self._keys_of_batch()
            yield self._convert({k: [np.asarray(x[k]) for x in waiting] for k in keys})

    def _convert(self, element: dict[str, Any]) -> Examples:
        """Return a batch as arrays, its labels numbered."""
        images = element["image"]
        if isinstance(images, list | tf.RaggedTensor):
            self._check_sizes(images)
        batch: Examples = {}
        for key in self._keys_of_batch():
            value = element[key]
            if key == "bbox":
                batch[key] = pad_boxes(value, len(images))
            elif key == "label":
                labels = np.stack(value) if isinstance(value, list) else value
                batch[key] = self._labels.number(read_labels(labels))
            elif isinstance(value, tf.RaggedTensor):
                batch[key] = value.to_tensor().numpy()
            else:
                is_list = isinstance(value, list)
                batch[key] = np.stack(value) if is_list else np.asarray(value)
        check_lengths(batch, batch, self._name)
        return batch

    def _finish(self, batch: Examples, num_seen: int) -> Examples:
        """Return a batch with its images as the model takes them."""
        if not len(batch["image"]):
            return batch
        if self._preprocess is not None:
            # On a copy: some of Keras's functions work in place.
            images = np.asarray(self._preprocess(np.copy(batch["image"])))
            batch = {**batch, "image": images}
        if self._model is not None and self._inputs is not None:
            fitted = fit_images(self.inputs_of(batch), self._model, num_seen)
            batch = self._inputs.put_back(fitted, batch)
        if "segmentation_mask" in batch:
            check_masks(batch["segmentation_mask"], batch["image"], self._name)
        return batch

    def _check_sizes(self, images: Iterable[Any]) -> None:
        declared = None if self._model is None else declared_images(self._model)
        size = None if declared is None else tuple(declared.shape[1:3])
        known = size if size and None not in size else None
        check_sizes(images, known, self.keys, self._name)
