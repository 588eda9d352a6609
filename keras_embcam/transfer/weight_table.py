"""Unit embeddings with their channel weights: searched, averaged, compressed."""

import dataclasses
from typing import Any, Literal, Self

import numpy as np
from keras import ops

from keras_embcam.proxies import single_point
from keras_embcam.proxies.triplet_draws import check_directions
from keras_embcam.transfer.compression import average_weights, cluster_embeddings
from keras_embcam.vector_search import SEARCHES, Search
from keras_embcam.whole_numbers import check_integer


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class GradWeightTable:
    """Channel weights of training images, found by their embeddings.

    Knows nothing of models: this part works on arrays.

    Attributes:
        embeddings: (N, D) float32 of length 1.
        channels: (N, M) integers, the channels with the highest weights.
        values: (N, M) float32, their weights. Other channels weigh nothing.
        num_channels: k.

    Raises:
        ValueError: for arrays that do not belong together.

    Example:

    >>> table = GradWeightTable(
    ...     embeddings=np.float32([[1, 0], [0, 1]]),
    ...     channels=np.array([[2], [0]]),
    ...     values=np.float32([[0.5], [0.25]]),
    ...     num_channels=3,
    ... )
    >>> table.query([[8.0, 6.0]])
    array([[0. , 0. , 0.5]], dtype=float32)
    >>> table.query([[8.0, 6.0]], num_neighbors=2)
    array([[0.125, 0.   , 0.25 ]], dtype=float32)
    """

    embeddings: np.ndarray
    channels: np.ndarray
    values: np.ndarray
    num_channels: int

    def __post_init__(self) -> None:
        check_arrays(self.embeddings, self.channels, self.values, self.num_channels)
        self._searches: dict[str, Search] = {}

    def __len__(self) -> int:
        return len(self.embeddings)

    def query(
        self,
        embeddings: Any,
        num_neighbors: int = 1,
        *,
        search: Literal["exact", "faiss"] = "exact",
    ) -> np.ndarray:
        """Return the weights that the nearest entries lend.

        Args:
            embeddings: (n, D), raw or of length 1.
            num_neighbors: entries to average, 1 to N.
            search: "exact" (a comparison with every entry) or "faiss" (approximate,
                for large databases; its index is made at the first call).

        Returns:
            (n, k) float32: the plain mean over the neighbors, 0 for channels that
            none of them lists.

        Raises:
            ValueError: for another width, embeddings without direction, or a number
                or a search that is out of range.
            ImportError: where the library of the search is missing.
        """
        return self.lend(self.find(embeddings, num_neighbors, search)[0])

    def compress(
        self,
        num_clusters: int = 50,
        seed: int = 0,
        *,
        library: Literal["scikit-learn", "faiss"] = "scikit-learn",
    ) -> Self:
        """Return a smaller table of k-means centres (Chen et al.).

        The centres are scaled to length 1; their weights are the means of their
        members', cut to the same number of channels again.

        Args:
            num_clusters: 1 to N. There are fewer where entries repeat.
            seed: of k-means.
            library: what runs k-means: "scikit-learn" (extra ``[evaluation]``) or
                "faiss" (extra ``[faiss]``), which is faster for large databases.

        Raises:
            ValueError: for a number of clusters that is out of range, or an unknown
                library.
            ImportError: if the library is missing.
        """
        check_integer("num_clusters", num_clusters, 1, len(self))
        centres, clusters = cluster_embeddings(
            self.embeddings, num_clusters, seed, library
        )
        channels, values = average_weights(
            self.channels, self.values, clusters, self.num_channels
        )
        return dataclasses.replace(
            self, embeddings=centres, channels=channels, values=values
        )

    def find(
        self, embeddings: Any, num_neighbors: int, search: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest entries, the nearest first, and how similar they are.

        Args:
            embeddings: (n, D), raw or of length 1.
            num_neighbors: m, 1 to N.
            search: "exact" or "faiss".

        Returns:
            Rows (n, m) and cosine similarities (n, m) float32.

        Raises:
            ValueError: for another width, embeddings without direction, or a number
                or a search that is out of range.
            ImportError: where the library of the search is missing.
        """
        self.check_search(num_neighbors, search)
        raw = np.asarray(embeddings, dtype="float32")
        width = self.embeddings.shape[1]
        if raw.ndim != 2 or raw.shape[1] != width:
            raise ValueError(
                f"The database holds embeddings of the width {width}, so others must "
                f"have the shape (n, {width}), from the model that it was fitted "
                f"with. Received the shape {raw.shape}"
            )
        check_directions(raw)
        units = ops.convert_to_numpy(single_point(raw))
        if search not in self._searches:
            self._searches[search] = SEARCHES[search](self.embeddings)
        rows = self._searches[search](units, num_neighbors)
        return rows, np.einsum("nd,nmd->nm", units, self.embeddings[rows])

    def lend(self, rows: np.ndarray) -> np.ndarray:
        """Return the mean weights (n, k) float32 of the entries in rows (n, m)."""
        weights = np.zeros((len(rows), self.num_channels), "float32")
        images = np.arange(len(rows))[:, None]
        for neighbor in rows.T:
            # Indexing adds each channel once, and no entry lists a channel twice.
            weights[images, self.channels[neighbor]] += self.values[neighbor]
        return weights / rows.shape[1]

    def check_search(self, num_neighbors: int, search: str) -> None:
        """Check the number of neighbors and the kind of search.

        Raises:
            ValueError: for a number of neighbors or a search that is out of range.
        """
        check_integer("num_neighbors", num_neighbors, 1, len(self))
        if search not in SEARCHES:
            raise ValueError(
                f"`search` must be one of {sorted(SEARCHES)}. Received: {search!r}"
            )


def check_arrays(
    embeddings: np.ndarray, channels: np.ndarray, values: np.ndarray, num_channels: Any
) -> None:
    """Check the arrays of a database.

    Raises:
        ValueError: for shapes that do not belong together, embeddings that are not of
            length 1, values that are not finite, or channels that are out of range or
            listed twice.
    """
    check_integer("num_channels", num_channels, 1)
    fits = (
        embeddings.ndim == channels.ndim == 2
        and channels.shape == values.shape
        and 0 < len(embeddings) == len(channels)
        and 0 < channels.shape[1] <= num_channels
        and [x.dtype.kind for x in (embeddings, channels, values)] == ["f", "i", "f"]
    )
    if not fits:
        raise ValueError(
            "A database must have embeddings (N, D), channels (N, M) and values (N, M) "
            f"with N >= 1 and M <= {num_channels}, all float but the integer channels. "
            "Received "
            + ", ".join(f"{x.shape} {x.dtype}" for x in (embeddings, channels, values))
        )
    if not (np.isfinite(embeddings).all() and np.isfinite(values).all()):
        raise ValueError("A database must be finite. It holds NaN or infinity.")
    if not np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-3):
        raise ValueError("The embeddings of a database must have the length 1.")
    ordered = np.sort(channels, axis=1)
    in_range = ordered[:, 0].min() >= 0 and ordered[:, -1].max() < num_channels
    if not in_range or (ordered[:, 1:] == ordered[:, :-1]).any():
        raise ValueError(
            f"The channels of an entry must be different numbers of 0 to "
            f"{num_channels - 1}."
        )
