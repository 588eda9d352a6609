"""Contributions of images' positions to their embeddings, batch by batch."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import tree

from keras_embcam.method import Method
from keras_embcam.network.noise_images import find_images
from keras_embcam.resizing import Field
from keras_embcam.retrieval.completeness import check_finite_maps, measure_errors
from keras_embcam.retrieval.head_functions import (
    find_field,
    integrate_head,
    read_pooled_head,
    read_scaled_head,
    record_parts,
)
from keras_embcam.running.chosen_proxies import ProxyChooser
from keras_embcam.running.compiled_functions import run_batches
from keras_embcam.running.image_batches import Batch, ImageSource
from keras_embcam.running.one_batch import read_field

# Steps of the integral through a head that is not linear; see docs/retrieval.md.
NUM_STEPS = 16
# A sum that is nearer to the embedding than this, relative to its length, is complete.
# Rounding of the embedding itself is about 1e-7, of half-precision models 1e-3.
TOLERANCE = 1e-4
TOLERANCE_HALF = 2e-2


class Contributions(NamedTuple):
    """What each position of some images adds to their embeddings.

    Attributes:
        values: (n, h, w, d) float32, in the units of the embedding.
        embeddings: (n, d) float32, raw.
        errors: (n,) float32, the completeness error of each image: the length of the
            difference between the sum of its values and its embedding, relative to
            the length of the embedding.
        num_steps: of the integral; 0 where the head is pooling and a linear map, which
            needs none, and 1 where one step is exact.
        images: as given or read, before `preprocessing_function`.
        rows: (n,) int64, the numbers of the images as they were given: all, but for
            files that could not be read.
        field: where in the images the positions lie, see `resize_heatmaps`.
    """

    values: np.ndarray
    embeddings: np.ndarray
    errors: np.ndarray
    num_steps: int
    images: Any
    rows: np.ndarray
    field: Field | None = None

    def take(self, places: np.ndarray) -> "Contributions":
        """Return those of some of the images, whose places ascend."""
        if len(places) == len(self.rows):
            return self
        return Contributions(
            self.values[places],
            self.embeddings[places],
            self.errors[places],
            self.num_steps,
            tree.map_structure(lambda x: np.asarray(x)[places], self.images),
            self.rows[places],
            self.field,
        )


class ContributionReader:
    """Contributions of any images to one model's embeddings.

    Args:
        model: see `contributions`.
        method: names the layers.
        num_steps: see `contributions`.

    Raises:
        ValueError: for a number of steps that is none, or several layers.
    """

    def __init__(
        self, model: keras.Model, method: Method, num_steps: int | None = None
    ) -> None:
        is_number = isinstance(num_steps, int | np.integer)
        if num_steps is not None and (not is_number or num_steps < 1):
            raise ValueError(
                "`num_steps` must be an integer >= 1, or None for as many as are "
                f"needed. Received: {num_steps!r}"
            )
        if isinstance(method.layers, list | tuple):
            raise ValueError(
                "Contributions are those of one layer's positions: `conv_layer` must "
                f"be one layer. Received: {method.layers!r}"
            )
        self._model, self._method = model, method
        half = any(x in str(model.compute_dtype) for x in ("float16", "bfloat16"))
        self._tolerance = TOLERANCE_HALF if half else TOLERANCE
        # Numbers of steps to try, from what is fast to what always serves; 0 stands
        # for the matrix of a pooled head.
        self._tries = [0, 1, NUM_STEPS] if num_steps is None else [num_steps]
        self._matrix: np.ndarray | None = None
        self._fields: dict[Any, Field | None] = {}

    def read(self, batches: Any) -> Iterator[Contributions]:
        """Yield the contributions of each batch of images."""
        for batch in batches:
            yield self._read_batch(batch)

    def read_all(self, source: ImageSource, verbose: int) -> Contributions:
        """Return the contributions of all images of a source.

        Raises:
            ValueError: where their maps differ in size.
        """
        bar = keras.utils.Progbar(source.num_images, verbose=verbose, unit_name="image")
        batches = []
        for batch in self.read(source):
            batches.append(batch)
            bar.add(len(batch.embeddings))
        return join(batches)

    def read_at_once(self, batch: Batch) -> Contributions | None:
        """Return the contributions where they cost little more than the embeddings.

        That is behind pooling and a linear map; None elsewhere.
        """
        found = None if self._tries[0] else self._try(batch, 0)
        is_exact = found is not None and np.all(found.errors <= self._tolerance)
        return found if is_exact else None

    def project(self, batch: Batch, proxies: np.ndarray) -> np.ndarray:
        """Return the contributions of a batch times proxies, without making them.

        One gradient of the head for each proxy and step, where the contributions would
        take d.

        Args:
            batch: of n images.
            proxies: (n, m, d) float32.

        Returns:
            Signed maps (n, m, h, w) float32, whose sums are the embeddings times the
            proxies, up to the completeness error.
        """
        while True:
            num_steps = max(1, self._tries[0])  # a linear head takes one
            values, embeddings, rest = self._run(
                batch, integrate_head, num_steps, proxies=proxies
            )
            maps = values.transpose(0, 3, 1, 2)
            size = maps.shape[2] * maps.shape[3]
            maps = (
                maps + (np.einsum("nd,nmd->nm", rest, proxies) / size)[..., None, None]
            )
            scores = np.einsum("nd,nmd->nm", embeddings, proxies)
            differences = np.abs(maps.sum(axis=(2, 3)) - scores)
            lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
            allowed = self._tolerance * lengths * np.linalg.norm(proxies, axis=2)
            if self._serves(differences <= allowed, embeddings):
                check_finite_maps(maps, embeddings)
                return maps
            self._tries = self._tries[1:]

    def _read_batch(self, batch: Batch) -> Contributions:
        while True:
            num_steps = self._tries[0]
            found = self._try(batch, num_steps)
            if found is not None:
                is_exact = found.errors <= self._tolerance
                if self._serves(is_exact, found.embeddings):
                    check_finite_maps(found.values, found.embeddings)
                    return found
            # What is not exact for these images is not tried for others.
            self._tries = self._tries[1:]

    def find_field(self, batch: Batch) -> Field | None:
        """Return where in images of this size the positions lie."""
        size = tuple(np.shape(find_images(batch.inputs))[1:3])
        if size not in self._fields:
            one = tree.map_structure(lambda x: x[:1], batch.inputs)
            [fields] = self._run(batch._replace(inputs=one), find_field)
            self._fields[size] = read_field(fields)
        return self._fields[size]

    def _serves(self, is_exact: np.ndarray, embeddings: np.ndarray) -> bool:
        """Tell whether what was tried is exact, or is the last to try.

        Args:
            is_exact: (n, ...) bool.
            embeddings: (n, d); those that are not finite tell nothing.
        """
        tells = np.isfinite(embeddings).all(axis=1)
        return len(self._tries) == 1 or bool(is_exact[tells].all())

    def _try(self, batch: Batch, num_steps: int) -> Contributions | None:
        if num_steps:
            values, embeddings, rest = self._run(batch, integrate_head, num_steps)
        else:
            if self._matrix is None:
                self._matrix = self._read_matrix(batch)
            if self._matrix is None:
                return None
            activations, embeddings, rest = self._run(batch, record_parts)
            values = _multiply(activations, self._matrix)
        height, width = values.shape[1:3]
        if rest.any():
            values += (rest / (height * width))[:, None, None]
        errors = measure_errors(values, embeddings)
        rows = batch.start + np.arange(len(values))
        return Contributions(
            *(values, embeddings, errors, num_steps, batch.images, rows),
            self.find_field(batch),
        )

    def _read_matrix(self, batch: Batch) -> np.ndarray | None:
        """Return the matrix (k, d) of a pooled head, None where there is none.

        Or (k,), the factors of a head that only pools.
        """
        one = batch._replace(inputs=tree.map_structure(lambda x: x[:1], batch.inputs))
        for read in (read_scaled_head, read_pooled_head):
            weights, differences = self._run(one, read)
            if np.all(differences <= self._tolerance):  # NaN is not
                return np.ascontiguousarray(weights[0].T)
        return None

    def _run(
        self, batch: Batch, function: Callable, *options: Any, proxies: Any = None
    ) -> list[np.ndarray]:
        batch = batch._replace(start=0)  # of which the proxies are
        chooser = None if proxies is None else ProxyChooser(proxies)
        [(_, found)] = run_batches(
            self._model, [batch], self._method, function, *options, chooser=chooser
        )
        return found


def _multiply(activations: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return activations (n, h, w, k) times a matrix (k, d), or times factors (k,)."""
    if matrix.ndim == 1:
        return activations * matrix
    # As one product: numpy multiplies a stack of matrices one by one.
    product = activations.reshape(-1, len(matrix)) @ matrix
    return product.reshape(*activations.shape[:3], -1)


def check_sizes(batches: list[Contributions]) -> None:
    """Check that the maps of several batches have one size.

    Raises:
        ValueError: where they differ.
    """
    sizes = sorted({batch.values.shape[1:3] for batch in batches})
    if len(sizes) > 1:
        raise ValueError(
            "All images must have one size, so that their maps have one too. Received "
            f"images whose maps are {sizes}. Resize the images, or pass those of each "
            "size in a call of their own."
        )


def join(batches: list[Contributions]) -> Contributions:
    """Return the contributions of several batches as one.

    Raises:
        ValueError: where their maps differ in size.
    """
    if len(batches) == 1:
        return batches[0]
    check_sizes(batches)
    return Contributions(
        np.concatenate([batch.values for batch in batches]),
        np.concatenate([batch.embeddings for batch in batches]),
        np.concatenate([batch.errors for batch in batches]),
        max(batch.num_steps for batch in batches),
        tree.map_structure(
            lambda *arrays: np.concatenate(arrays), *[batch.images for batch in batches]
        ),
        np.concatenate([batch.rows for batch in batches]),
        batches[0].field,
    )
