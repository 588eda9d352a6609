"""Batches of images from arrays, tensors, files, folders and tf.data."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_embcam.network.inputs import declared_images, fit_images

# What tf.io.decode_image reads.
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")


class Batch(NamedTuple):
    """Some images.

    Attributes:
        images: as given or read.
        labels: (n,) where the source has them.
        inputs: what the model takes: preprocessed, checked and cast.
    """

    images: Any
    labels: np.ndarray | None
    inputs: Any = None


class ImageSource:
    """Batches of images for one model.

    Args:
        images: an array or tensor (n, H, W, c); the structure of arrays that a model
            of several inputs takes; a file, a folder (searched through, in order of
            the paths) or a list of files; or a `tf.data.Dataset`, batched or not, of
            images, of ``(images, labels)``, or of dicts with "image" and perhaps
            "label". Files are resized to the images of the model (bilinear), as
            `keras.utils.image_dataset_from_directory` does, in [0, 255].
        model: whose inputs the images must fit.
        batch_size: of the batches, where the source is not batched by itself.
        preprocessing_function: applied to the images of each batch, or None.

    Attributes:
        num_images: how many there are, None where that is not known.

    Raises:
        ValueError: for no images at all, or a wrong rank, size or number of channels.
        TypeError: for anything else than the above.
    """

    def __init__(
        self,
        images: Any,
        model: keras.Model,
        batch_size: int,
        preprocessing_function: Callable | None = None,
    ) -> None:
        if not isinstance(batch_size, int | np.integer) or batch_size < 1:
            raise ValueError(
                f"`batch_size` must be an integer >= 1. Received: {batch_size!r}"
            )
        self._model = model
        self._batch_size = batch_size
        self._preprocess = preprocessing_function
        self._images = images
        self.num_images: int | None = None
        self._batches = self._open()

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches, each checked."""
        num_seen = 0
        for batch in self._batches():
            inputs = batch.images
            if self._preprocess is not None:
                # On a copy: some of Keras's functions work in place.
                inputs = self._preprocess(tree.map_structure(np.copy, inputs))
                inputs = tree.map_structure(np.asarray, inputs)
            inputs = fit_images(inputs, self._model, num_seen)
            num_seen += len(tree.flatten(inputs)[0])
            yield batch._replace(inputs=inputs)
        if not num_seen:
            raise ValueError("`images` must hold at least one image. Received none.")

    def _open(self) -> Any:
        images = self._images
        if isinstance(images, tf.data.Dataset):
            self._images = self._batched(images)
            return self._read_dataset
        if isinstance(images, str | Path):
            self._images = list_files(Path(images))
        if _is_list_of(self._images, (str, Path)):
            self._images = [Path(x) for x in self._images]
            self.num_images = len(self._images)
            return self._read_files
        if _is_list_of(images, (np.ndarray, tf.Tensor)) and images[0].ndim == 3:
            images = np.stack([np.asarray(x) for x in images])
        self._images = tree.map_structure(_as_array, images)
        lengths = {len(x) for x in tree.flatten(self._images)}
        if len(lengths) != 1:
            raise ValueError(
                "All inputs must have one row for each image. Received the lengths "
                f"{sorted(lengths)}"
            )
        self.num_images = lengths.pop()
        return self._slice_arrays

    def _slice_arrays(self) -> Iterator[Batch]:
        for start in range(0, self.num_images or 0, self._batch_size):
            rows = slice(start, start + self._batch_size)
            batch = [array[rows] for array in tree.flatten(self._images)]
            yield Batch(tree.pack_sequence_as(self._images, batch), None)

    def _read_files(self) -> Iterator[Batch]:
        declared = declared_images(self._model)
        shape = (None,) * 3 if declared is None else declared.shape[1:]
        height, width, channels = shape
        size = (height, width) if height and width else None
        takes_integers = declared is not None and "int" in declared.dtype
        for start in range(0, len(self._images), self._batch_size):
            paths = self._images[start : start + self._batch_size]
            images = [read_image(path, channels or 3, size) for path in paths]
            shapes = {image.shape for image in images}
            if len(shapes) > 1:
                raise ValueError(
                    "The model takes images of any size, so files are not resized, and "
                    f"those of one batch must agree. Received the sizes "
                    f"{sorted(shapes)}. Resize them, or pass `batch_size=1`."
                )
            batch = np.stack(images)
            yield Batch(np.rint(batch) if takes_integers else batch, None)

    def _batched(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        images = _split_element(dataset.element_spec)[0]
        ranks = [x.shape.rank for x in tree.flatten(images)]
        if None in ranks:
            raise ValueError(
                "The data set must state the rank of its images. Received: "
                f"{dataset.element_spec}. Pass `output_signature` to `from_generator`, "
                "or map `tf.ensure_shape` over it."
            )
        return dataset.batch(self._batch_size) if max(ranks) == 3 else dataset

    def _read_dataset(self) -> Iterator[Batch]:
        for element in self._images:
            images, labels = _split_element(element)
            labels = None if labels is None else np.asarray(labels)
            yield Batch(tree.map_structure(np.asarray, images), labels)


def read_image(
    path: Path, channels: int = 3, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Read an image file as float32 (H, W, channels) in [0, 255].

    Args:
        path: of a JPEG, PNG, GIF (its first picture) or BMP file.
        channels: 3 for RGB, 1 for grey.
        size: (H, W) to resize to, bilinearly, or None.

    Raises:
        ValueError: for a file that is missing, truncated or no image.
    """
    try:
        image = tf.io.decode_image(
            tf.io.read_file(str(path)), channels=channels, expand_animations=False
        )
    except tf.errors.OpError as error:
        # Without the names of TensorFlow's operations around it.
        reason = re.sub(r"\{\{.*?\}\} | \[Op:.*", "", error.message.splitlines()[0])
        raise ValueError(f"Cannot read the image {str(path)!r}: {reason}") from error
    image = tf.cast(image, tf.float32)
    return (image if size is None else tf.image.resize(image, size)).numpy()


def list_files(path: Path) -> list[Path]:
    """Return the image files of a folder and its folders, sorted; a file is itself.

    Raises:
        ValueError: where the path does not exist, or there is no image in it.
    """
    if not path.exists():
        raise ValueError(f"`images` must exist. Received: {str(path)!r}")
    if path.is_file():
        return [path]
    files = sorted(x for x in path.rglob("*") if x.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(
            f"The folder {str(path)!r} has no images ({', '.join(SUFFIXES)})."
        )
    return files


def _is_list_of(images: Any, kinds: tuple) -> bool:
    return isinstance(images, list | tuple) and all(
        isinstance(x, kinds) for x in images
    )


def _as_array(x: Any) -> np.ndarray:
    array = np.asarray(x)
    if array.dtype == object or array.dtype.kind in "SU" or array.ndim == 0:
        raise TypeError(
            "`images` must be an array (n, H, W, c), a tensor, a list of files, a "
            f"folder or a tf.data.Dataset. Received: {x!r} (of type {type(x).__name__})"
        )
    return array


def _split_element(element: Any) -> tuple[Any, Any]:
    if isinstance(element, dict) and "image" in element:
        return element["image"], element.get("label")
    images, labels, _ = keras.utils.unpack_x_y_sample_weight(element)
    return images, labels
