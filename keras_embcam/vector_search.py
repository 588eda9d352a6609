"""Nearest neighbors among unit vectors: the one place where the package searches."""

from collections.abc import Callable

import numpy as np

from keras_embcam.extras import import_extra

# Similarities that are in memory at a time: 64 MB of float32.
MAX_SIMILARITIES = 2**24

# Enough that the highest values mostly lie in groups of their own.
GROUPS_PER_NEIGHBOR = 16

# Of the approximate search. About 4 sqrt(N) cells, as faiss advises, but no fewer
# entries in a cell than faiss wants to learn its centre from.
CELLS_PER_ROOT = 4
MIN_ENTRIES_PER_CELL = 39
NUM_PROBED_CELLS = 16

# (queries (n, d), number of neighbors k) -> rows of the gallery (n, k), the nearest
# first.
Search = Callable[[np.ndarray, int], np.ndarray]


def find_nearest(
    queries: np.ndarray,
    gallery: np.ndarray,
    num_neighbors: int,
    *,
    own_rows: np.ndarray | None = None,
    block_size: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows with the highest dot products, by comparing with every row.

    For unit vectors that is the cosine similarity, and the Euclidean distance ranks
    alike. Trees do not help in the hundreds of dimensions that embeddings have.

    Args:
        queries: (n, d) float, finite.
        gallery: (N, d) float, finite.
        num_neighbors: k, between 1 and N (N - 1 with ``own_rows``).
        own_rows: (n,) integers: the row of the gallery that each query is itself and
            must not find. None where queries are no part of the gallery.
        block_size: number of queries at a time; None for as many as 64 MB of
            similarities allow.

    Returns:
        Rows (n, k) int64, the most similar first and of equally similar ones the lower
        row first, and their dot products (n, k).

    Example:

    >>> gallery = np.float32([[1, 0], [0, 1], [0.6, 0.8]])
    >>> rows, similarities = find_nearest(np.float32([[0.8, 0.6]]), gallery, 2)
    >>> rows.tolist(), similarities.round(2).tolist()
    ([[2, 0]], [[0.9599999785423279, 0.800000011920929]])
    >>> find_nearest(gallery, gallery, 1, own_rows=np.arange(3))[0].tolist()
    [[2], [2], [1]]
    """
    if block_size is None:
        block_size = max(1, MAX_SIMILARITIES // len(gallery))
    rows = np.empty((len(queries), num_neighbors), "int64")
    found = np.empty((len(queries), num_neighbors), np.result_type(queries, gallery))
    for start in range(0, len(queries), block_size):
        block = slice(start, start + block_size)
        similarities = queries[block] @ gallery.T
        if own_rows is not None:
            similarities[np.arange(len(similarities)), own_rows[block]] = -np.inf
        rows[block] = _rank(similarities, num_neighbors)
        found[block] = np.take_along_axis(similarities, rows[block], axis=1)
    return rows, found


def _rank(similarities: np.ndarray, num_neighbors: int) -> np.ndarray:
    """Return the columns of the highest values of each row, (n, k), in order."""
    # Of the maxima of groups of columns, the k-th is no more than the k-th value of
    # all. A stable sort of the few that reach it does the rest.
    num_rows, num_columns = similarities.shape
    num_groups = min(GROUPS_PER_NEIGHBOR * num_neighbors, num_columns)
    size = num_columns // num_groups
    grouped = similarities[:, : size * num_groups].reshape(num_rows, size, num_groups)
    position = num_groups - num_neighbors
    least = np.partition(grouped.max(axis=1), position, axis=1)[:, position]
    ranked = np.empty((len(similarities), num_neighbors), "int64")
    for row, lowest, values in zip(ranked, least, similarities, strict=True):
        reached = np.flatnonzero(values >= lowest)
        order = np.argsort(-values[reached], kind="stable")
        row[:] = reached[order[:num_neighbors]]
    return ranked


def search_exactly(gallery: np.ndarray) -> Search:
    """Return the search that compares with every entry of a gallery.

    Args:
        gallery: (N, d) float32 of length 1.
    """

    def search(queries: np.ndarray, num_neighbors: int) -> np.ndarray:
        return find_nearest(queries, gallery, num_neighbors)[0]

    return search


def search_with_faiss(gallery: np.ndarray) -> Search:
    """Return the approximate search of faiss, in cells of an inverted file.

    A neighbor is found wherever it lies in one of the `NUM_PROBED_CELLS` cells
    whose centres are most similar to the query. Embeddings of a trained network lie in
    clusters: of 100,000 in 200 clusters (d = 128) it found all neighbors, and a graph
    (HNSW) 90 to 99 % in the same time. Of as many random directions, which have no
    cells to speak of, it finds 19 %.

    Args:
        gallery: (N, d) float32 of length 1.

    Raises:
        ImportError: if faiss is missing.
    """
    faiss = import_extra("faiss", "faiss", "The approximate search needs faiss")
    num_entries, width = gallery.shape
    num_cells = min(
        int(CELLS_PER_ROOT * num_entries**0.5), num_entries // MIN_ENTRIES_PER_CELL
    )
    num_cells = max(1, num_cells)
    index = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(width), width, num_cells, faiss.METRIC_INNER_PRODUCT
    )
    index.train(gallery)
    index.add(gallery)
    some, all_cells = faiss.SearchParametersIVF(), faiss.SearchParametersIVF()
    some.nprobe, all_cells.nprobe = min(NUM_PROBED_CELLS, num_cells), num_cells

    def search(queries: np.ndarray, num_neighbors: int) -> np.ndarray:
        rows = index.search(queries, num_neighbors, params=some)[1]
        # Where the probed cells hold too few entries, faiss fills up with -1.
        short = (rows < 0).any(axis=1)
        if short.any():
            others = queries[short]
            rows[short] = index.search(others, num_neighbors, params=all_cells)[1]
        return rows

    return search


SEARCHES: dict[str, Callable[[np.ndarray], Search]] = {
    "exact": search_exactly,
    "faiss": search_with_faiss,
}
