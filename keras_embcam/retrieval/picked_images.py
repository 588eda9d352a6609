"""Some images of any source, by their numbers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_embcam.network.noise_images import find_images
from keras_embcam.retrieval.contribution_reader import (
    ContributionReader,
    Contributions,
    check_sizes,
)
from keras_embcam.retrieval.embedded import Embedded, digest_images
from keras_embcam.running.image_batches import ImageSource
from keras_embcam.running.image_files import list_files


class PickedImages:
    """Picks images of a source by their numbers.

    Files and arrays are picked directly; those of a data set are kept while it is read
    through once.

    Args:
        images: see `ImageSource`.
        open_images: makes an `ImageSource` of images.
        rows: all numbers that will be asked for.
        found: what is known of the images from an earlier run over them.

    Raises:
        ValueError: for a data set whose images are others than in the earlier run.
    """

    def __init__(
        self,
        images: Any,
        open_images: Callable[[Any], ImageSource],
        rows: np.ndarray,
        found: Embedded,
    ) -> None:
        if isinstance(images, str | Path):
            images = list_files(Path(images))
        self._images, self._open = images, open_images
        self._kept: dict[int, Any] | None = None
        if isinstance(images, tf.data.Dataset | keras.utils.PyDataset):
            self._kept = _read_rows(open_images(images), rows, found.digests)

    def pick(self, rows: np.ndarray) -> ImageSource:
        """Return the images of these rows, in their order.

        Raises:
            ValueError: for images of several sizes.
        """
        if self._kept is not None:
            chosen = [self._kept[int(row)] for row in rows]
            _check_sizes(chosen)
            images = tree.map_structure(lambda *parts: np.stack(parts), *chosen)
        elif isinstance(self._images, list | tuple) and _holds_images(self._images):
            images = [self._images[int(row)] for row in rows]
        else:
            images = tree.map_structure(lambda x: np.asarray(x)[rows], self._images)
        return self._open(images)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the images themselves (n, H, W, c), as given or read."""
        batches = [np.asarray(find_images(batch.images)) for batch in self.pick(rows)]
        return np.concatenate(batches)


class PickedContributions:
    """Contributions of some images of a source; of those not kept, they are made.

    Args:
        reader: of contributions.
        images: see `ImageSource`.
        open_images: makes an `ImageSource` of images.
        found: what is known of the images from an earlier run over them.
        rows: the numbers of all images whose contributions will be asked for.
        image_rows: of those that will be asked for themselves.
    """

    def __init__(
        self,
        reader: ContributionReader,
        images: Any,
        open_images: Callable[[Any], ImageSource],
        found: Embedded,
        rows: np.ndarray,
        image_rows: np.ndarray,
    ) -> None:
        self._reader, self._kept = reader, found.kept
        if found.kept is not None:
            rows = np.setdiff1d(rows, found.kept.rows)
        self._images = PickedImages(
            images, open_images, np.concatenate([rows, image_rows]), found
        )

    def read(self, rows: np.ndarray) -> list[Contributions]:
        """Return those of the images of these numbers, which ascend, in batches.

        Raises:
            ValueError: where their maps differ in size.
        """
        parts = []
        if self._kept is not None:
            is_kept = np.isin(rows, self._kept.rows)
            if is_kept.any():
                places = np.searchsorted(self._kept.rows, rows[is_kept])
                parts.append(self._kept.take(places))
            rows = rows[~is_kept]
        if len(rows):
            parts += list(self._reader.read(self._images.pick(rows)))
        check_sizes(parts)
        return parts

    def read_images(self, rows: np.ndarray) -> np.ndarray:
        """Return images themselves (n, H, W, c), as given or read."""
        return self._images.read(rows)


def _read_rows(
    source: ImageSource, rows: np.ndarray, digests: list[bytes] | None
) -> dict[int, Any]:
    wanted, start = {int(row) for row in rows}, 0
    kept: dict[int, Any] = {}
    for batch in source if wanted else ():
        found = digest_images(batch.inputs)
        for row in wanted.intersection(range(start, start + len(found))):
            # Of embeddings that were given, nobody knows the pixels.
            if digests is None or digests[row : row + 1] == [found[row - start]]:
                kept[row] = _take_one(batch.images, row - start)
        start += len(found)
        if len(kept) == len(wanted):
            break
    if len(kept) < len(wanted):
        raise ValueError(
            "A data set must come in the same order each time, for the images to show "
            "are read once more. The images "
            f"{sorted(wanted.difference(kept))[:10]} differ from those of the first "
            "time: leave out shuffling, or pass `reshuffle_each_iteration=False`."
        )
    return kept


def _check_sizes(images: list[Any]) -> None:
    shapes = [np.shape(x) for image in images for x in tree.flatten(image)]
    sizes = sorted({shape[:2] for shape in shapes if len(shape) == 3})
    if len(sizes) > 1:
        raise ValueError(
            "All images must have one size, so that their maps have one too. Received "
            f"the sizes {sizes[:5]}. Resize them, for example with `keras.ops.image."
            "resize`."
        )


def _take_one(images: Any, place: int) -> Any:
    return tree.map_structure(lambda x: np.array(x[place]), images)


def _holds_images(images: Any) -> bool:
    """Tell a list of files or of images from the list of a model's several inputs."""
    first = images[0] if len(images) else None
    return len(getattr(first, "shape", ())) in (0, 3)
