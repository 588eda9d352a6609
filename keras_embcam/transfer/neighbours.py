"""Nearest neighbours on the unit sphere, by other people's libraries."""

from collections.abc import Callable

import numpy as np

# (queries (n, d), number of neighbours m) -> rows (n, m), the nearest first.
Search = Callable[[np.ndarray, int], np.ndarray]

# Of the approximate search. About 4 sqrt(N) cells, as faiss advises, but no fewer
# entries in a cell than faiss wants to learn its centre from.
CELLS_PER_ROOT = 4
MIN_ENTRIES_PER_CELL = 39
NUM_PROBED_CELLS = 16


def search_exactly(entries: np.ndarray) -> Search:
    """Return the exact search of scikit-learn, by comparing with every entry.

    Trees do not help in the hundreds of dimensions that embeddings have.

    Args:
        entries: (N, d) float32 of length 1; then the Euclidean distance ranks as the
            cosine similarity does.

    Raises:
        ImportError: if scikit-learn is missing.
    """
    try:
        from sklearn.neighbors import NearestNeighbors
    except ImportError as error:
        raise ImportError(missing_message("scikit-learn", "evaluation")) from error
    nearest = NearestNeighbors(algorithm="brute").fit(entries)

    def search(queries: np.ndarray, num_neighbours: int) -> np.ndarray:
        return nearest.kneighbors(queries, num_neighbours, return_distance=False)

    return search


def search_with_faiss(entries: np.ndarray) -> Search:
    """Return the approximate search of faiss, in cells of an inverted file.

    A neighbour is found wherever it lies in one of the `NUM_PROBED_CELLS` cells
    whose centres are most similar to the query. Embeddings of a trained network lie in
    clusters: of 100,000 in 200 clusters (d = 128) it found all neighbours, and a graph
    (HNSW) 90 to 99 % in the same time. Of as many random directions, which have no
    cells to speak of, it finds 19 %.

    Args:
        entries: (N, d) float32 of length 1.

    Raises:
        ImportError: if faiss is missing.
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError(missing_message("faiss", "faiss")) from error
    num_entries, width = entries.shape
    num_cells = min(
        int(CELLS_PER_ROOT * num_entries**0.5), num_entries // MIN_ENTRIES_PER_CELL
    )
    num_cells = max(1, num_cells)
    index = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(width), width, num_cells, faiss.METRIC_INNER_PRODUCT
    )
    index.train(entries)
    index.add(entries)
    some, all_cells = faiss.SearchParametersIVF(), faiss.SearchParametersIVF()
    some.nprobe, all_cells.nprobe = min(NUM_PROBED_CELLS, num_cells), num_cells

    def search(queries: np.ndarray, num_neighbours: int) -> np.ndarray:
        rows = index.search(queries, num_neighbours, params=some)[1]
        # Where the probed cells hold too few entries, faiss fills up with -1.
        short = (rows < 0).any(axis=1)
        if short.any():
            rows[short] = index.search(
                queries[short], num_neighbours, params=all_cells
            )[1]
        return rows

    return search


SEARCHES: dict[str, Callable[[np.ndarray], Search]] = {
    "exact": search_exactly,
    "faiss": search_with_faiss,
}


def missing_message(library: str, extra: str) -> str:
    """Return what to tell a user who lacks a library."""
    return (
        f"The database of grad-weights needs {library}, which is not installed. "
        f'Install the extra: pip install "keras-embcam[{extra}]".'
    )
