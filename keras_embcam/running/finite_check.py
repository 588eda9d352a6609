"""Say where maps mean nothing: those that are not finite, or all of them empty."""

import warnings

import numpy as np

NUM_LISTED = 20


class FiniteCheck:
    """Looks at batches of embeddings and maps: raises at the first, or warns once."""

    def __init__(self) -> None:
        self._has_warned = False
        self._has_seen_finite = False
        self._has_heat = False
        self._has_embedding = False

    def update(
        self, embeddings: np.ndarray, heatmaps: np.ndarray, first: int = 0
    ) -> None:
        """Look at a batch.

        Args:
            embeddings: (n, d).
            heatmaps: (n, h, w) or (n, m, h, w).
            first: the number of the first image, for messages.

        Raises:
            ValueError: where no image so far has a finite embedding and map.
        """
        self._has_heat = self._has_heat or bool(heatmaps.any())
        self._has_embedding = self._has_embedding or bool(embeddings.any())
        # What is not finite in a map is in all of it, once it is divided by its
        # maximum. Sums of rows would take as long as the maps of small images.
        corners = heatmaps[..., 0, 0].reshape(len(embeddings), -1)
        is_finite = np.isfinite(embeddings).all(axis=1) & np.isfinite(corners).all(1)
        self._has_seen_finite |= bool(is_finite.any())
        if is_finite.all() or (self._has_seen_finite and self._has_warned):
            return
        self._has_warned = True
        bad = np.flatnonzero(~is_finite)[:NUM_LISTED] + first
        message = (
            "The embeddings are not finite, or the maps, so these say nothing. Not so "
            f"for the images {bad.tolist()}. Look for NaN in the weights of the model "
            "(a training that diverged), and for half precision that overflows: "
            "`keras.DTypePolicy('float32')` does not."
        )
        if not self._has_seen_finite:
            raise ValueError(message)
        warnings.warn(message, stacklevel=3)

    def finish(self) -> None:
        """Warn where no map of all batches had any heat."""
        if self._has_heat:
            return
        if not self._has_embedding:
            warnings.warn(
                "All heatmaps are empty, since all embeddings are zero. Look for a "
                "layer whose outputs are all zero (weights of zero, a dead ReLU), or "
                "pass the `embedding_layer` in front of it.",
                stacklevel=3,
            )
            return
        warnings.warn(
            "All heatmaps are empty: at the explained layer nothing speaks for the "
            "proxies. Look at `scores` (`details=True`): where they are negative, the "
            "negated proxies show what speaks against them; else try another "
            "`conv_layer`.",
            stacklevel=3,
        )
