"""Recall@K and MAP@R: does the embedding find images of the same class."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_embcam.unit_vectors import normalize_rows, warn_of_zeros
from keras_embcam.vector_search import find_nearest

Tensor = Any


def measure_retrieval(
    embeddings: Tensor,
    labels: Tensor,
    ks: Sequence[int] = (1, 2, 4, 8),
    block_size: int = 256,
) -> dict[str, float]:
    """Return Recall@K and MAP@R of embeddings that are queries and gallery at once.

    Every embedding is compared with all others by cosine, itself excluded.

    * Recall@K (Jegou et al., Product Quantization for Nearest Neighbor Search, 2011;
      Song et al., Deep Metric Learning via Lifted Structured Feature Embedding,
      2016): the share of queries with one of their class among the K nearest. More
      neighbors than there are count as all there are.
    * MAP@R (Musgrave et al., A Metric Learning Reality Check, 2020): the mean over
      queries of ``1/R * sum over i <= R of P(i)``, R being the number of other
      members of the query's class and P(i) the precision of the first i neighbors
      where the i-th is of the class, else 0.

    A class with one member has nothing to find: it is no query, but stays in the
    gallery, as Musgrave's library has it. Equally similar neighbors are ranked by
    row, the lower first. A zero embedding has similarity 0 to everything. All values
    are NaN where no class has two members or an embedding is NaN or infinite.

    Similarities are computed for `block_size` queries at a time, so memory beside
    the embeddings is a few times ``block_size * n * 4`` bytes. Takes arrays and
    eager tensors, not the symbolic ones of a ``tf.function``.

    Args:
        embeddings: (n, d) float, normalised or not.
        labels: (n,) integers or strings.
        ks: the values of K, each >= 1.
        block_size: number of queries at a time, >= 1; it changes no result.

    Returns:
        A dict of floats in [0, 1] or NaN: "recall_at_1" and so on, and "map_at_r".

    Raises:
        ValueError: for other shapes, or where a K or the block size is below 1.

    Example:

    >>> import numpy as np
    >>> embeddings = np.float32([[1, 0], [0, 1], [2, 0.1], [0.9, 1]])
    >>> measure_retrieval(embeddings, [0, 1, 0, 0], ks=(1, 2))
    {'recall_at_1': 0.6666666666666666, 'recall_at_2': 1.0, 'map_at_r': 0.75}
    """
    ks = _check_ks(ks)
    if block_size < 1:
        raise ValueError(f"`block_size` must be at least 1. Received: {block_size!r}")
    embeddings, labels = _check_pair(embeddings, labels)
    _, classes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    num_relevant = sizes[classes] - 1
    queries = np.flatnonzero(num_relevant)
    if not queries.size or not np.isfinite(embeddings).all():
        return dict.fromkeys([*map("recall_at_{}".format, ks), "map_at_r"], np.nan)
    warn_of_zeros("`embeddings`", embeddings)
    units = ops.convert_to_numpy(normalize_rows(embeddings))
    depth = min(max(*ks, num_relevant.max()), len(units) - 1)
    ranks = np.arange(1, depth + 1)
    num_found = np.zeros(len(ks))
    precision_sum = 0.0
    for start in range(0, len(queries), block_size):
        rows = queries[start : start + block_size]
        nearest, _ = find_nearest(units[rows], units, depth, own_rows=rows)
        correct = classes[nearest] == classes[rows, None]
        num_found += [correct[:, :k].any(axis=1).sum() for k in ks]
        relevant = num_relevant[rows, None]
        correct &= ranks <= relevant
        precision_sum += (correct.cumsum(axis=1) * correct / ranks / relevant).sum()
    found = {
        f"recall_at_{k}": float(f / len(queries))
        for k, f in zip(ks, num_found, strict=True)
    }
    return found | {"map_at_r": float(precision_sum / len(queries))}


def _check_ks(ks: Sequence[int]) -> tuple[int, ...]:
    ks = tuple(ks)
    if not ks or any(int(k) != k or k < 1 for k in ks):
        raise ValueError(
            "`ks` must hold the numbers of neighbors to look at, each an integer of "
            f"at least 1. Received: {ks!r}"
        )
    return tuple(int(k) for k in ks)


def _check_pair(embeddings: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    embeddings = np.asarray(ops.convert_to_numpy(embeddings), dtype="float32")
    labels = np.asarray(labels)
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise ValueError(
            "`embeddings` must have the shape (n, d) and `labels` (n,), one label for "
            f"each embedding. Received: embeddings.shape={embeddings.shape}, "
            f"labels.shape={labels.shape}"
        )
    return embeddings, labels


@keras.saving.register_keras_serializable(package="keras_embcam")
class Retrieval(keras.metrics.Metric):
    """Recall@K and MAP@R of all embeddings seen (see ``measure_retrieval``).

    ``update_state(labels, embeddings)``. Every embedding may be the neighbor of any
    other, so all are kept, as arrays, until ``reset_state``, and there are no sample
    weights. ``result()`` is a dict, which Keras writes into its logs key by key.
    Takes arrays and eager tensors: where it is compiled into a model,
    ``compile(..., run_eagerly=True)``, which asks for the result after every batch.

    Args:
        ks: the values of K, each >= 1.
        name: of the metric.
        dtype: as for every Keras metric; nothing here depends on it.

    Example:

    >>> import numpy as np
    >>> metric = Retrieval(ks=(1,))
    >>> metric.update_state([0, 0], np.float32([[1, 0], [1, 1]]))
    >>> metric.update_state([1], np.float32([[1, 0.1]]))
    >>> metric.result()
    {'recall_at_1': 0.0, 'map_at_r': 0.0}
    """

    def __init__(
        self,
        ks: Sequence[int] = (1, 2, 4, 8),
        name: str = "retrieval",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.ks = _check_ks(ks)
        self.reset_state()

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: None = None
    ) -> None:
        """Add a batch of labels (n,) and embeddings (n, d)."""
        if sample_weight is not None:
            raise ValueError(
                "Retrieval counts every query alike: `sample_weight` must be None. "
                f"Received: {sample_weight!r}"
            )
        embeddings, labels = _check_pair(y_pred, y_true)
        self._embeddings.append(embeddings.copy())  # the caller may reuse the array
        self._labels.append(labels.copy())

    def result(self) -> dict[str, float]:
        """Return what ``measure_retrieval`` returns for everything seen."""
        if not self._labels:
            return measure_retrieval(np.zeros((0, 1)), np.zeros(0), self.ks)
        return measure_retrieval(
            np.concatenate(self._embeddings), np.concatenate(self._labels), self.ks
        )

    def reset_state(self) -> None:
        """Forget all embeddings."""
        self._embeddings: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []

    def get_config(self) -> dict[str, Any]:
        """Return what ``from_config`` needs."""
        return super().get_config() | {"ks": list(self.ks)}
