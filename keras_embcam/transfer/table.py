"""A table of unit embeddings and sparse channel weights, looked up by neighbour."""

import dataclasses
from typing import Any, Literal, Self

import numpy as np
from keras import ops

from keras_embcam.proxies import single_point
from keras_embcam.transfer.checks import check_arrays, check_directions, check_integer
from keras_embcam.transfer.clustering import average_weights, cluster_embeddings
from keras_embcam.transfer.neighbours import SEARCHES, Search


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class GradWeightTable:
    """Channel weights of the images of a training set, by their embedding.

    Knows nothing of models: this part works on arrays.

    Attributes:
        embeddings: (N, D) float32 of length 1.
        channels: (N, M) integers, the channels with the highest weights.
        values: (N, M) float32, their weights. Other channels weigh nothing.
        num_channels: k.

    Raises:
        ValueError: for arrays that do not belong together.

    Example (needs scikit-learn):

    >>> table = GradWeightTable(
    ...     embeddings=np.float32([[1, 0], [0, 1]]),
    ...     channels=np.array([[2], [0]]),
    ...     values=np.float32([[0.5], [0.25]]),
    ...     num_channels=3,
    ... )
    >>> table.query([[8.0, 6.0]])
    array([[0. , 0. , 0.5]], dtype=float32)
    >>> table.query([[8.0, 6.0]], num_neighbours=2)
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
        num_neighbours: int = 1,
        *,
        search: Literal["exact", "faiss"] = "exact",
    ) -> np.ndarray:
        """Return the weights that the nearest entries lend.

        Args:
            embeddings: (n, D), raw or of length 1.
            num_neighbours: entries to average, 1 to N.
            search: "exact" (scikit-learn compares with every entry) or "faiss"
                (approximate, for large databases; made at the first call).

        Returns:
            (n, k) float32: the plain mean over the neighbours, 0 for channels that
            none of them lists.

        Raises:
            ValueError: for another width, embeddings without direction, or a number
                or a search that is out of range.
            ImportError: where the library of the search is missing.
        """
        return self.lend(self.find(embeddings, num_neighbours, search)[0])

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
            library: that runs k-means; "faiss" for large databases.

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
        self, embeddings: Any, num_neighbours: int, search: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest entries, the nearest first, and how similar they are.

        Args:
            embeddings: see `query`.
            num_neighbours: see `query`.
            search: see `query`.

        Returns:
            Rows (n, m) and cosine similarities (n, m) float32.

        Raises:
            ValueError: as `query`.
            ImportError: as `query`.
        """
        self.check_search(num_neighbours, search)
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
        rows = self._searches[search](units, num_neighbours)
        return rows, np.einsum("nd,nmd->nm", units, self.embeddings[rows])

    def lend(self, rows: np.ndarray) -> np.ndarray:
        """Return the mean weights (n, k) float32 of the entries (n, m)."""
        weights = np.zeros((len(rows), self.num_channels), "float32")
        images = np.arange(len(rows))[:, None]
        for neighbour in rows.T:
            # No channel is listed twice in one entry.
            weights[images, self.channels[neighbour]] += self.values[neighbour]
        return weights / rows.shape[1]

    def check_search(self, num_neighbours: int, search: str) -> None:
        """Check how to search.

        Raises:
            ValueError: for a number of neighbours or a search that is out of range.
        """
        check_integer("num_neighbours", num_neighbours, 1, len(self))
        if search not in SEARCHES:
            raise ValueError(
                f"`search` must be one of {sorted(SEARCHES)}. Received: {search!r}"
            )
