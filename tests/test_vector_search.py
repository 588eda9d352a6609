"""Tests of keras_embcam.vector_search, against numpy, scikit-learn and faiss."""

import numpy as np
import pytest
from builders import hide_module, make_units

from keras_embcam import vector_search
from keras_embcam.vector_search import (
    find_nearest,
    search_exactly,
    search_with_faiss,
)


def find_slowly(entries, queries, num_neighbors) -> np.ndarray:
    similarities = queries.astype("float64") @ entries.astype("float64").T
    return np.argsort(-similarities, axis=1)[:, :num_neighbors]


@pytest.mark.parametrize("num_neighbors", [1, 5, 500])
@pytest.mark.parametrize("block_size", [None, 1, 7])
def test_the_exact_search_is_that_of_scikit_learn(num_neighbors, block_size) -> None:
    library = pytest.importorskip("sklearn.neighbors", reason="no extra [evaluation]")
    gallery, queries = make_units(500), make_units(100, seed=1)
    rows, similarities = find_nearest(
        queries, gallery, num_neighbors, block_size=block_size
    )
    nearest = library.NearestNeighbors(metric="cosine", algorithm="brute").fit(gallery)
    distances, expected = nearest.kneighbors(queries, num_neighbors)
    np.testing.assert_array_equal(rows[:, :5], expected[:, :5])
    np.testing.assert_allclose(similarities, 1 - distances, atol=1e-6)
    np.testing.assert_array_equal(np.sort(rows)[:, 0] >= 0, True)
    assert all(len({*row}) == num_neighbors for row in rows.tolist())
    found = search_exactly(gallery)(queries, num_neighbors)
    np.testing.assert_array_equal(found[:, :5], rows[:, :5])


def test_of_equally_similar_entries_the_lower_row_comes_first() -> None:
    gallery = np.float32([[0, 1], [1, 0], [0, 1], [1, 0], [0, 1], [1, 0]])
    queries = np.float32([[1, 0], [0, 1]])
    for num_neighbors in range(1, 7):
        rows, _ = find_nearest(queries, gallery, num_neighbors)
        assert rows.tolist() == [
            [1, 3, 5, 0, 2, 4][:num_neighbors],
            [0, 2, 4, 1, 3, 5][:num_neighbors],
        ]


def test_a_query_of_the_gallery_does_not_find_itself() -> None:
    units = make_units(60)
    rows, _ = find_nearest(units[20:40], units, 59, own_rows=np.arange(20, 40))
    for query, found in zip(range(20, 40), rows.tolist(), strict=True):
        assert sorted(found) == [row for row in range(60) if row != query]
    expected = find_slowly(units, units[20:40], 2)[:, 1]
    np.testing.assert_array_equal(rows[:, 0], expected)


def test_memory_is_that_of_a_block(monkeypatch) -> None:
    """The largest product is no larger than what is allowed."""
    monkeypatch.setattr(vector_search, "MAX_SIMILARITIES", 1000)
    sizes = []
    rank = vector_search._rank
    monkeypatch.setattr(
        vector_search, "_rank", lambda x, k: (sizes.append(x.size), rank(x, k))[1]
    )
    gallery, queries = make_units(300), make_units(20, seed=1)
    rows, _ = find_nearest(queries, gallery, 3)
    assert max(sizes) <= 1000 and len(sizes) == 7
    np.testing.assert_array_equal(rows, find_slowly(gallery, queries, 3))


def test_it_needs_no_other_library(monkeypatch) -> None:
    """Failed before: a base install has no scikit-learn."""
    hide_module(monkeypatch, "sklearn")
    hide_module(monkeypatch, "faiss")
    units = make_units(10)
    assert search_exactly(units)(units, 1)[:, 0].tolist() == list(range(10))


# faiss


def test_the_approximate_search_is_exact_within_the_cells_it_looks_into() -> None:
    """What an inverted file promises, by its own centres and numpy."""
    faiss = pytest.importorskip("faiss", reason="the extra [faiss] is not installed")
    entries, queries = make_units(5000), make_units(500, seed=1)
    search = search_with_faiss(entries)
    found = search(queries, 1)[:, 0]
    expected = find_slowly(entries, queries, 1)[:, 0]
    # The centres are learnt from these entries in the same way each time.
    num_cells = 5000 // vector_search.MIN_ENTRIES_PER_CELL
    index = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(16), 16, num_cells, faiss.METRIC_INNER_PRODUCT
    )
    index.train(entries)
    centres = index.quantizer.reconstruct_n(0, num_cells)
    cell_of_entry = find_slowly(centres, entries, 1)[:, 0]
    probed = find_slowly(centres, queries, vector_search.NUM_PROBED_CELLS)
    reached = (probed == cell_of_entry[expected][:, None]).any(axis=1)
    recall = np.mean(found == expected)
    print(f"recall at 1: {recall:.3f}, neighbor in a probed cell: {reached.mean():.3f}")
    assert np.all(found[reached] == expected[reached])
    assert 0.95 < reached.mean() <= recall


def test_few_entries_are_one_cell_and_searched_exactly() -> None:
    pytest.importorskip("faiss", reason="the extra [faiss] is not installed")
    entries, queries = make_units(50), make_units(20, seed=1)
    rows = search_with_faiss(entries)(queries, 50)
    np.testing.assert_array_equal(rows, find_slowly(entries, queries, 50))


def test_more_neighbors_than_the_probed_cells_hold() -> None:
    """The other cells are searched then too; faiss itself returns -1."""
    pytest.importorskip("faiss", reason="the extra [faiss] is not installed")
    entries, queries = make_units(4000), make_units(5, seed=1)
    rows = search_with_faiss(entries)(queries, 3000)
    assert rows.shape == (5, 3000) and rows.min() >= 0
    expected = find_slowly(entries, queries, 3000)
    for got, want in zip(rows, expected, strict=True):
        assert {*got[:2900]} <= {*want}  # equal but for ties in float32


def test_faiss_missing_is_said_with_what_to_install(monkeypatch) -> None:
    hide_module(monkeypatch, "faiss")
    with pytest.raises(ImportError, match=r'pip install "keras-embcam\[faiss\]"'):
        search_with_faiss(make_units(50))
