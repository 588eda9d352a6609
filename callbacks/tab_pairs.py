"""Heat of wrong first matches on both sides, for TensorBoard's EmbeddingCAM tab."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_embcam.callbacks.tab_writer import MAX_MAP_SIDE
from keras_embcam.callbacks.update import Update, shrink_heatmaps
from keras_embcam.callbacks.validation_run import ValidationRun
from keras_embcam.method import Method
from keras_embcam.resizing import spread_heatmaps
from keras_embcam.retrieval.known_pairs import map_known_pairs
from keras_embcam.running.labelled_examples import ExampleStream

MAX_PAIRS = 24  # of an update; each costs it a look at two images


def choose_wrong(
    labels: np.ndarray, neighbors: np.ndarray, similarities: np.ndarray
) -> np.ndarray:
    """Return the examples whose wrong first matches are most similar, at most 24.

    Args:
        labels: (n,).
        neighbors: (n, k), as of `find_neighbors`.
        similarities: (n, k).

    Example:

    >>> neighbors = np.array([[1], [2], [1], [0]])
    >>> cosines = np.array([[0.1], [0.8], [0.8], [0.9]])
    >>> choose_wrong(np.array([0, 1, 1, 2]), neighbors, cosines).tolist()
    [3, 0]
    """
    if not neighbors.shape[1]:
        return np.empty(0, int)
    wrong = np.flatnonzero(labels[neighbors[:, 0]] != labels)
    order = np.argsort(-similarities[wrong, 0], kind="stable")
    return wrong[order[:MAX_PAIRS]]


class PairMaps:
    """Maps wrong first matches of the updates, in one more run over these images.

    Args:
        stream: of the examples.
        strict: raise errors instead of warning once and leaving the maps out.
    """

    def __init__(self, stream: ExampleStream, strict: bool) -> None:
        self._stream = stream
        self._strict = strict
        self._has_failed = False

    def find(
        self,
        update: Update,
        neighbors: np.ndarray,
        similarities: np.ndarray,
        run: ValidationRun,
    ) -> dict[str, Any]:
        """Return `pair_examples` and `pair_maps` of `tab_format.Update`, if any.

        Args:
            update: what was found.
            neighbors: of the first examples, (n, k).
            similarities: (n, k).
            run: that found it.
        """
        is_finite = np.isfinite(update.embeddings).all()
        if update.labels is None or self._has_failed or not is_finite:
            return {}
        labels = update.labels[: len(neighbors)]
        rows = choose_wrong(labels, neighbors, similarities)
        if not len(rows):
            return {}
        try:
            return self._map(rows, neighbors[rows, 0], update.embeddings, run)
        except Exception as error:
            if self._strict:
                raise
            self._has_failed = True
            warnings.warn(
                "EmbeddingCAMLogger leaves out the heat of pairs in TensorBoard's "
                "EmbeddingCAM tab; everything else goes on. "
                f"{type(error).__name__}: {error}",
                stacklevel=2,
            )
            return {}

    def _map(
        self,
        rows: np.ndarray,
        matches: np.ndarray,
        embeddings: np.ndarray,
        run: ValidationRun,
    ) -> dict[str, Any]:
        layer = run.method.conv_layer
        # Of a pair, heat is that of one layer.
        method = Method(
            conv_layer=None if isinstance(layer, list | tuple) else layer,
            embedding_layer=run.method.embedding_layer,
            token_grid=run.method.token_grid,
            num_prefix_tokens=run.method.num_prefix_tokens,
            joins_branches=False,
        )
        *both, field = map_known_pairs(
            run.model,
            method,
            self._read(max(*rows, *matches)),
            rows,
            matches,
            embeddings,
        )
        heat = [
            np.asarray(spread_heatmaps(np.maximum(signed, 0), field)) for signed in both
        ]
        small = [shrink_heatmaps(x, x.shape[1:], MAX_MAP_SIDE) for x in heat]
        return {"pair_examples": rows, "pair_maps": np.stack(small)}

    def _read(self, last: int) -> Iterator[Any]:
        """Yield what the model takes of each batch, up to that of an example."""
        start = 0
        for batch in self._stream:
            yield self._stream.inputs_of(batch)
            start += len(batch["image"])
            if start > last:
                return
