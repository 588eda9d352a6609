"""Explanation: heatmaps and what belongs to them."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from keras import tree

from keras_embcam.network.noise_images import find_images
from keras_embcam.showing import check_indices, overlay_all, plot_pictures, to_html


class Explanation(NamedTuple):
    """Heatmaps and what belongs to them, as numpy arrays.

    In a notebook it shows the heat over the first images.

    Attributes:
        heatmaps: (n, H, W) float32 in [0, 1], or (n, m, H, W); see `explain`.
        embeddings: (n, d) float32, raw.
        scores: (n,) float32, or (n, m): ``y . p``.
        images: (n, H, W, c) as given or read, before `preprocessing_function`.
        files: n paths where the images come from files, without those that could not
            be read; else None.
        prefix_shares: (n,) float32 in [0, 1], or (n, m), for a transformer with tokens
            that are no patches (class, distillation and register tokens): the share
            of the gradient's length that falls on them, the mean over the explained
            layers. No map shows it: where it is high, the patches are a small part
            of the story. Else None, also with presets of the attention, such as
            "legrad", which record no tokens and so no gradient at them.
    """

    heatmaps: np.ndarray
    embeddings: np.ndarray
    scores: np.ndarray
    images: Any
    files: list[Path] | None = None
    prefix_shares: np.ndarray | None = None

    def __repr__(self) -> str:
        """Return the shapes in place of pages of numbers."""
        shapes = {name: getattr(x, "shape", None) for name, x in self._asdict().items()}
        named = [f"{name} {shape}" for name, shape in shapes.items() if shape]
        return f"<Explanation of {len(self.embeddings)} images: {', '.join(named)}>"

    def plot(self, ax: Any = None, indices: Any = None) -> Any:
        """Show the heat over the images on matplotlib's axes.

        Args:
            ax: the axes, None for new ones.
            indices: the numbers of the images to show, None for the first eight.

        Returns:
            The axes.

        Raises:
            ImportError: without matplotlib.
            ValueError: for numbers that are not there.
        """
        indices = check_indices(indices, len(self.embeddings))
        return plot_pictures(*self._pictures(indices), ax)

    def _repr_html_(self) -> str:
        indices = check_indices(None, len(self.embeddings))
        return to_html(*self._pictures(indices), len(self.embeddings))

    def _pictures(self, indices: list[int]) -> tuple[list[np.ndarray], list[str]]:
        """Draw each map of some images, with its image and score as the caption."""
        images = self.images
        if not isinstance(images, list) or np.ndim(images[0]) != 3:
            # Of several inputs the one of the size of the maps, where one has it.
            size = np.shape(self.heatmaps)[-2:]
            images = next(
                (x for x in tree.flatten(images) if np.shape(x)[1:3] == size),
                find_images(images),
            )
        pictures, captions = [], []
        overlays = overlay_all(images, self.heatmaps, indices)
        for index, maps in zip(indices, overlays, strict=True):
            name = self.files[index].name if self.files else f"image {index}"
            for picture, score in zip(maps, np.ravel(self.scores[index]), strict=False):
                pictures.append(picture)
                captions.append(f"{name}, score {score:.3g}")
        return pictures, captions
