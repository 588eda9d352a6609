"""Batches of images from whatever a person has: arrays, files, pictures, data sets."""

from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import tree
from PIL import Image

from keras_embcam.network.inputs import (
    check_shapes,
    declared_images,
    fit_images,
    name_inputs,
)
from keras_embcam.running.data_set_elements import check_finite
from keras_embcam.running.image_files import check_image_size, list_files
from keras_embcam.running.picture_reader import PictureReader
from keras_embcam.running.preprocessing import get_preprocessing
from keras_embcam.running.sized_batches import batch_by_size
from keras_embcam.whole_numbers import check_integer


class Batch(NamedTuple):
    """Some images in a row, all of one size.

    Attributes:
        images: as given or read.
        labels: (n,) where the source has them.
        inputs: what the model takes: preprocessed, checked and cast.
        files: their paths where they come from files, else None.
        start: the number of the first one in the source. Files that could not be read
            have a number too, so what is given for each image stays with it.
        activations: of the explained layer, from an earlier run, to go on from there;
            None to run the whole model.
    """

    images: Any
    labels: np.ndarray | None
    inputs: Any = None
    files: list[Path] | None = None
    start: int = 0
    activations: np.ndarray | None = None


class ImageSource:
    """Batches of images for one model.

    Args:
        images: an array or tensor (n, H, W, c), or a list of images (H, W, c); the
            structure of arrays that a model of several inputs takes; a file, a folder
            (searched through, in order of the paths) or a list of files; Pillow images;
            or a `tf.data.Dataset` (batched or not) or `keras.utils.PyDataset` of
            images, of ``(images, labels)``, or of dicts with "image" and perhaps
            "label". Files and Pillow images are turned as their EXIF data say and
            resized to the images of the model (bilinear), as
            `keras.utils.image_dataset_from_directory` does, in [0, 255]. Where the
            model takes images of any size, a batch has one size: neighbours in the list
            share a batch as long as their sizes agree.
        model: whose inputs the images must fit.
        batch_size: of the batches, where the source is not batched by itself.
        preprocessing_function: applied to the images of each batch, or a name of
            `get_preprocessing`, or None.
        image_size: (H, W) that files and Pillow images are resized to; None for the
            size that the model states.
        strict: whether a file that cannot be read is an error. Otherwise it is left
            out, and a warning at the end names it.

    Attributes:
        num_images: how many there are (with those that cannot be read), None where
            that is not known.
        is_data_set: whether they may be others each time they are read.

    Raises:
        ValueError: for no images at all, or a wrong rank, size or number of channels.
        TypeError: for anything else than the above.
    """

    def __init__(
        self,
        images: Any,
        model: keras.Model,
        batch_size: int,
        preprocessing_function: str | Callable | None = None,
        *,
        image_size: tuple[int, int] | None = None,
        strict: bool = True,
    ) -> None:
        check_integer("batch_size", batch_size, 1)
        self._model = model
        self._batch_size = batch_size
        self._preprocess = get_preprocessing(preprocessing_function)
        self._images = images
        self._strict = strict
        self._image_size = check_image_size(image_size)
        self.num_images: int | None = None
        self.is_data_set = isinstance(images, tf.data.Dataset | keras.utils.PyDataset)
        self._batches = self._open()
        if image_size is not None and self._batches != self._read_pictures:
            raise ValueError(
                "`image_size` is for files and Pillow images. Resize arrays first, for "
                "example with `keras.ops.image.resize`, and data sets with `map`. "
                f"Received: {image_size!r} and {_describe(images)}"
            )

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches, each checked."""
        num_seen = 0
        for batch in self._batches():
            start = batch.start or num_seen
            inputs = batch.images
            if self._preprocess is not None:
                # On a copy: some of Keras's functions work in place.
                inputs = self._preprocess(tree.map_structure(np.copy, inputs))
                inputs = tree.map_structure(np.asarray, inputs)
            inputs = fit_images(inputs, self._model, start)
            num_seen += len(tree.flatten(inputs)[0])
            yield batch._replace(inputs=inputs, start=start)
        if not num_seen:
            raise ValueError("`images` must hold at least one image. Received none.")

    def _open(self) -> Any:
        images = self._images
        if isinstance(images, tf.data.Dataset):
            check_finite(images, "images")
            self._images = batch_by_size(images, self._split, self._batch_size)
            return self._read_dataset
        if isinstance(images, keras.utils.PyDataset):
            if images.num_batches is None:
                raise ValueError(
                    "A PyDataset must know how many batches it has (`__len__`). "
                    f"Received: {images!r}"
                )
            return self._read_py_dataset
        if isinstance(images, str | Path):
            images = list_files(Path(images))
        if isinstance(images, Image.Image):
            images = [images]
        if _is_list_of(images, (str, Path, Image.Image)):
            self._images = [Path(x) if isinstance(x, str) else x for x in images]
            self.num_images = len(images)
            return self._read_pictures
        if _is_list_of(images, (np.ndarray, tf.Tensor)) and _have_rank_3(images):
            shapes = sorted({tuple(x.shape) for x in images})
            if len(shapes) > 1:
                raise ValueError(
                    "The arrays of a list must have one shape. Received the shapes "
                    f"{shapes}. Resize them first, for example with "
                    "`keras.ops.image.resize`, or pass files or Pillow images."
                )
            images = np.stack([np.asarray(x) for x in images])
        self._images = tree.map_structure(_as_array, images)
        lengths = {len(x) for x in tree.flatten(self._images)}
        if len(lengths) != 1:
            raise ValueError(
                "All inputs must have one row for each image. Received the lengths "
                f"{sorted(lengths)}"
            )
        self.num_images = lengths.pop()
        # Preprocessing may change shapes. But a single image is refused in any case:
        # its rows would be taken for images.
        shape: tuple[int, ...] = getattr(self._images, "shape", ())
        is_single = len(shape) == 3 and shape[-1] == 3
        if self.num_images and (self._preprocess is None or is_single):
            check_shapes(self._images, self._model)
        return self._slice_arrays

    def _slice_arrays(self) -> Iterator[Batch]:
        for start in range(0, self.num_images or 0, self._batch_size):
            rows = slice(start, start + self._batch_size)
            batch = [array[rows] for array in tree.flatten(self._images)]
            yield Batch(tree.pack_sequence_as(self._images, batch), None)

    def _read_pictures(self) -> Iterator[Batch]:
        declared = declared_images(self._model)
        height, width, channels = (
            (None,) * 3 if declared is None else declared.shape[1:]
        )
        size = self._image_size or ((height, width) if height and width else None)
        takes_integers = declared is not None and "int" in declared.dtype
        reader = PictureReader(channels or 3, size, self._strict)
        for start in range(0, len(self._images), self._batch_size):
            pictures = self._images[start : start + self._batch_size]
            numbered = enumerate(map(reader.read, pictures), start)
            for shape, group in groupby(numbered, lambda x: getattr(x[1], "shape", 0)):
                if not shape:
                    continue  # those that could not be read
                numbers, images = zip(*group, strict=True)
                batch = np.stack(images)
                files = self._images[numbers[0] : numbers[-1] + 1]
                yield Batch(
                    np.rint(batch) if takes_integers else batch,
                    None,
                    files=files if _is_list_of(files, (Path,)) else None,
                    start=numbers[0],
                )
        reader.finish(len(self._images))

    def _read_dataset(self) -> Iterator[Batch]:
        is_read = callable(self._images)  # a data set is not
        parts = self._images() if is_read else map(self._split, self._images)
        for images, labels in parts:
            labels = None if labels is None else np.asarray(labels)
            yield Batch(tree.map_structure(np.asarray, images), labels)

    def _read_py_dataset(self) -> Iterator[Batch]:
        for number in range(self._images.num_batches):
            images, labels = self._split(self._images[number])
            labels = None if labels is None else np.asarray(labels)
            yield Batch(tree.map_structure(_as_array, images), labels)

    def _split(self, element: Any) -> tuple[Any, Any]:
        """Return images, or all inputs of the model, and labels or None."""
        if isinstance(element, dict) and "image" in element:
            names = name_inputs(self._model)
            if len(names) > 1 and set(names) <= set(element):
                images = {name: element[name] for name in names}
                return images, element.get("label")
            return element["image"], element.get("label")
        images, labels, _ = keras.utils.unpack_x_y_sample_weight(element)
        return images, labels


def join_rows(*arrays: np.ndarray) -> Any:
    """Return the rows of all arrays as one, or as a list where they differ in size."""
    if len({array.shape[1:] for array in arrays}) == 1:
        return np.concatenate(arrays)
    return [row for array in arrays for row in array]


def _is_list_of(images: Any, kinds: tuple) -> bool:
    return isinstance(images, list | tuple) and all(
        isinstance(x, kinds) for x in images
    )


def _have_rank_3(images: Any) -> bool:
    return bool(images) and all(x.ndim == 3 for x in images)


def _describe(images: Any) -> str:
    shape = getattr(images, "shape", None)
    return f"{type(images).__name__}" + ("" if shape is None else f" of {shape}")


def _as_array(x: Any) -> np.ndarray:
    array = np.asarray(x)
    if array.dtype == object or array.dtype.kind in "SU" or array.ndim == 0:
        raise TypeError(
            "`images` must be an array (n, H, W, c), a tensor, a folder, a list of "
            "files or of Pillow images, a tf.data.Dataset or a keras.utils.PyDataset. "
            f"Received: {_name_array(x, array)}"
        )
    return array


def _name_array(x: Any, array: np.ndarray) -> str:
    if not array.ndim:
        return f"{x!r} (of type {type(x).__name__})"
    kind = type(x).__name__
    found = f"{kind} of the dtype {array.dtype} and the shape {array.shape}"
    if array.dtype == object:
        found += '. Its rows differ in kind or shape, or it needs `.astype("float32")`'
    return found
