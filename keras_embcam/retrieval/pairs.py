"""explain_pair(): why two images are similar, on both sides."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_embcam.drawing import to_uint8
from keras_embcam.method import Method
from keras_embcam.network.inputs import check_model
from keras_embcam.network.noise_images import find_images
from keras_embcam.resizing import Field
from keras_embcam.retrieval.completeness import warn_of_errors
from keras_embcam.retrieval.contribution_reader import (
    ContributionReader,
    Contributions,
)
from keras_embcam.retrieval.drawing import draw_pair
from keras_embcam.retrieval.pair_maps import (
    Correspondences,
    check_finite,
    compare_positions,
    divide_by_length,
    find_correspondences,
    finish_maps,
    project,
    stack_correspondences,
)
from keras_embcam.running.image_batches import ImageSource
from keras_embcam.showing import check_indices, plot_pictures, to_html
from keras_embcam.whole_numbers import check_integer


@dataclass(frozen=True, eq=False)
class PairExplanation:
    """Why the images of n pairs are similar; in a notebook, pictures of the first.

    Attributes:
        similarity: (n,) float32, the cosine of the two embeddings.
        heatmaps_a: what of the first image makes it similar to the second, (n, H, W)
            float32 in [0, 1].
        heatmaps_b: the same of the second image.
        against_a: what of the first image pulls the two apart, like `heatmaps_a`.
        against_b: the same of the second image.
        signed_a: (n, h, w) float32, what each position of the first image adds to the
            cosine, which is their sum.
        signed_b: the same of the second image.
        correspondences: the pairs of positions that add most to the cosine.
        oppositions: the pairs of positions that take most from it.
        contributions_a: (n, h, w, d), of the first image, by the length of its
            embedding.
        contributions_b: the same of the second image.
        errors: (n,) the larger of the two completeness errors; see `Contributions`.
        images_a: as given or read.
        images_b: as given or read.
        rows: (n,) int64, the numbers of the pairs whose files could be read.
        fields: where in the images of either side the positions lie, see
            `keras_embcam.heatmaps.resize_heatmaps`; None for evenly over the image.
    """

    similarity: np.ndarray
    heatmaps_a: np.ndarray
    heatmaps_b: np.ndarray
    against_a: np.ndarray
    against_b: np.ndarray
    signed_a: np.ndarray
    signed_b: np.ndarray
    correspondences: Correspondences
    oppositions: Correspondences
    contributions_a: np.ndarray
    contributions_b: np.ndarray
    errors: np.ndarray
    images_a: Any
    images_b: Any
    rows: np.ndarray
    fields: tuple[Field | None, Field | None]

    def matrix(self, index: int) -> np.ndarray:
        """Return what each pair of positions of a pair of images adds to the cosine.

        Args:
            index: of the pair of images.

        Returns:
            (h, w, h', w') float32, whose total is the cosine.
        """
        return compare_positions(
            self.contributions_a[index], self.contributions_b[index]
        )

    def __repr__(self) -> str:
        """Return a line in place of pages of numbers."""
        shape = np.shape(self.heatmaps_a)
        return f"<PairExplanation of {len(self.similarity)} pairs: heatmaps {shape}>"

    def draw(self, num_lines: int = 5) -> list[np.ndarray]:
        """Return a picture of each pair: both images, their heat, lines between.

        Args:
            num_lines: how many correspondences are drawn, each position at most once.

        Returns:
            A list of (height, width, 3) uint8.
        """
        return self._draw(range(len(self.similarity)), num_lines)

    def plot(self, ax: Any = None, indices: Any = None) -> Any:
        """Show the pictures of `draw` on matplotlib's axes.

        Args:
            ax: the axes, None for new ones.
            indices: the numbers of the pairs to show, None for the first eight.

        Returns:
            The axes.

        Raises:
            ImportError: without matplotlib.
            ValueError: for numbers that are not there.
        """
        indices = check_indices(indices, len(self.similarity))
        return plot_pictures(self._draw(indices), None, ax)

    def _repr_html_(self) -> str:
        indices = check_indices(None, len(self.similarity))
        captions = [f"pair {index}" for index in indices]
        return to_html(self._draw(indices), captions, len(self.similarity))

    def _draw(self, indices: Iterable[int], num_lines: int = 5) -> list[np.ndarray]:
        pictures = []
        images = [to_uint8(find_images(x)) for x in (self.images_a, self.images_b)]
        for index in indices:
            lines = find_correspondences(
                self.matrix(index), num_lines, each_once=True, fields=self.fields
            )
            pictures.append(
                draw_pair(
                    images[0][index],
                    images[1][index],
                    self.heatmaps_a[index],
                    self.heatmaps_b[index],
                    lines,
                    float(self.similarity[index]),
                )
            )
        return pictures


def explain_pair(
    model: keras.Model,
    images_a: Any,
    images_b: Any,
    *,
    num_correspondences: int = 10,
    conv_layer: Any = None,
    embedding_layer: Any = None,
    num_steps: int | None = None,
    resize: bool = True,
    normalize: bool = True,
    token_grid: tuple[int, int] | None = None,
    num_prefix_tokens: int | None = None,
    preprocessing_function: str | Callable | None = None,
    image_size: tuple[int, int] | None = None,
    strict: bool = False,
    batch_size: int = 32,
    verbose: int = 0,
) -> PairExplanation:
    """Explain why each image is similar to its partner: heat on both, and what matches.

    With the contributions C of positions to the raw embeddings y (see `contributions`)
    the cosine of two images is ``sum of C_a[ij] . C_b[kl] / (|y_a| |y_b|)`` over all
    pairs of positions. Summed over the positions of b the terms are the signed map of
    a, summed over those of a the map of b. Their positive parts are the heatmaps, their
    negative parts what pulls the two apart. Returns a `PairExplanation`.

    Args:
        model: any Keras model, see `EmbeddingCAM`.
        images_a: the first image of each pair; see `explain_batches`.
        images_b: the second image of each, as many.
        num_correspondences: pairs of positions to return for each pair of images.
        conv_layer: one layer, see `EmbeddingCAM`.
        embedding_layer: see `EmbeddingCAM`.
        num_steps: see `contributions`.
        resize: True for heatmaps of the size of the images.
        normalize: True to divide each heatmap by its maximum.
        token_grid: see `EmbeddingCAM`.
        num_prefix_tokens: see `EmbeddingCAM`.
        preprocessing_function: see `explain_batches`.
        image_size: see `explain_batches`.
        strict: True to raise at a file that cannot be read; False to leave its pair
            out, with a warning that names it.
        batch_size: images at a time, >= 1.
        verbose: 1 for a progress bar.

    Raises:
        ValueError: for images or layers that do not fit, another number of images on
            either side, images of several sizes on one side, files of which no pair is
            left, or embeddings that hold NaN or infinity.
        TypeError: for images of an unknown kind, or what is no Keras model.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 3)),
    ...     keras.layers.Conv2D(6, 3, activation="relu"),
    ...     keras.layers.GlobalAveragePooling2D(),
    ...     keras.layers.Dense(4),
    ... ])
    >>> images_a, images_b = np.random.default_rng(0).random((2, 1, 8, 8, 3))
    >>> pair = explain_pair(model, images_a, images_b)
    >>> pair.heatmaps_a.shape, pair.correspondences.positions_a.shape
    ((1, 8, 8), (1, 10, 2))
    >>> bool(np.allclose(pair.signed_a.sum(axis=(1, 2)), pair.similarity, atol=1e-5))
    True
    """
    check_model(model)
    check_integer("num_correspondences", num_correspondences, 1)
    method = Method(
        conv_layer=conv_layer,
        embedding_layer=embedding_layer,
        resize=resize,
        joins_branches=False,
        token_grid=token_grid,
        num_prefix_tokens=num_prefix_tokens,
    )
    reader = ContributionReader(model, method, num_steps)
    how: dict[str, Any] = {"image_size": image_size, "strict": strict}
    sources = [
        ImageSource(images, model, batch_size, preprocessing_function, **how)
        for images in (images_a, images_b)
    ]
    sides = [reader.read_all(source, verbose) for source in sources]
    numbers = [x.num_images or len(y.rows) for x, y in zip(sources, sides, strict=True)]
    a, b = sides = _match_sides(sides, numbers)
    warn_of_errors(np.maximum(a.errors, b.errors))
    units = [divide_by_length(x.embeddings, x.embeddings) for x in sides]
    shares = [divide_by_length(x.values, x.embeddings) for x in sides]
    signed = [project(shares[0], units[1]), project(shares[1], units[0])]
    finish_a, finish_b = (
        partial(
            finish_maps,
            size=np.shape(find_images(x.images))[1:3] if resize else None,
            normalize=normalize,
            field=x.field,
        )
        for x in sides
    )
    fields = a.field, b.field
    find = partial(find_correspondences, number=num_correspondences, fields=fields)
    pairs = [(find(x), find(x, sign=-1)) for x in map(compare_positions, *shares)]
    correspondences, oppositions = zip(*pairs, strict=True)
    return PairExplanation(
        similarity=np.sum(units[0] * units[1], axis=1),
        heatmaps_a=finish_a(signed[0]),
        heatmaps_b=finish_b(signed[1]),
        against_a=finish_a(-signed[0]),
        against_b=finish_b(-signed[1]),
        signed_a=signed[0],
        signed_b=signed[1],
        correspondences=stack_correspondences(list(correspondences)),
        oppositions=stack_correspondences(list(oppositions)),
        contributions_a=shares[0],
        contributions_b=shares[1],
        errors=np.maximum(a.errors, b.errors),
        images_a=a.images,
        images_b=b.images,
        rows=a.rows,
        fields=fields,
    )


def _match_sides(sides: list[Contributions], numbers: list[int]) -> list[Contributions]:
    """Return both sides of the pairs whose images could all be read, checked.

    Args:
        sides: the images of each side that could be read.
        numbers: how many images each side has.
    """
    if numbers[0] != numbers[1]:
        raise ValueError(
            "`images_b` must hold a partner for each image of `images_a`. Received "
            f"{numbers[1]} for {numbers[0]}. Repeat an image to compare it with "
            "several, for example with `np.repeat(image[None], 5, axis=0)`."
        )
    rows = np.intersect1d(sides[0].rows, sides[1].rows)
    if not len(rows):
        raise ValueError(
            "`images_a` and `images_b` must have a pair of which both files can be "
            f"read. Received {numbers[0]} pairs without one."
        )
    sides = [
        x if len(x.rows) == len(rows) else x.take(np.searchsorted(x.rows, rows))
        for x in sides
    ]
    check_finite("images_a", sides[0].embeddings)
    check_finite("images_b", sides[1].embeddings)
    return sides
