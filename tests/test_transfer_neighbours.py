"""Tests of keras_embcam.transfer: search and compression."""

import builtins
import warnings

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from keras_embcam.transfer import neighbours
from keras_embcam.transfer.neighbours import search_exactly, search_with_faiss
from keras_embcam.transfer.table import GradWeightTable


def make_units(num_entries: int, width: int = 16, num_classes: int = 40, seed: int = 0):
    """Return unit vectors in clusters, as those of a trained network are."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(num_classes, width))
    vectors = centres[random.integers(num_classes, size=num_entries)]
    vectors = vectors + 0.5 * random.normal(size=vectors.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype("float32")


def find_slowly(entries, queries, num_neighbours) -> np.ndarray:
    similarities = queries.astype("float64") @ entries.astype("float64").T
    return np.argsort(-similarities, axis=1)[:, :num_neighbours]


@pytest.mark.parametrize("num_neighbours", [1, 5])
def test_the_exact_search_is_that_of_numpy(num_neighbours) -> None:
    entries, queries = make_units(500), make_units(100, seed=1)
    rows = search_exactly(entries)(queries, num_neighbours)
    np.testing.assert_array_equal(rows, find_slowly(entries, queries, num_neighbours))


def test_the_approximate_search_is_exact_within_the_cells_it_looks_into() -> None:
    """What an inverted file promises, by its own centres and numpy."""
    entries, queries = make_units(5000), make_units(500, seed=1)
    search = search_with_faiss(entries)
    found = search(queries, 1)[:, 0]
    expected = find_slowly(entries, queries, 1)[:, 0]
    # The centres are learnt from these entries in the same way each time.
    import faiss

    num_cells = 5000 // neighbours.MIN_ENTRIES_PER_CELL
    index = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(16), 16, num_cells, faiss.METRIC_INNER_PRODUCT
    )
    index.train(entries)
    centres = index.quantizer.reconstruct_n(0, num_cells)
    cell_of_entry = find_slowly(centres, entries, 1)[:, 0]
    probed = find_slowly(centres, queries, neighbours.NUM_PROBED_CELLS)
    reached = (probed == cell_of_entry[expected][:, None]).any(axis=1)
    recall = np.mean(found == expected)
    print(
        f"recall at 1: {recall:.3f}, neighbour in a probed cell: {reached.mean():.3f}"
    )
    assert np.all(found[reached] == expected[reached])
    assert 0.95 < reached.mean() <= recall


def test_few_entries_are_one_cell_and_searched_exactly() -> None:
    entries, queries = make_units(50), make_units(20, seed=1)
    rows = search_with_faiss(entries)(queries, 50)
    np.testing.assert_array_equal(rows, find_slowly(entries, queries, 50))


def test_more_neighbours_than_the_probed_cells_hold() -> None:
    """The other cells are searched then too; faiss itself returns -1."""
    entries, queries = make_units(4000), make_units(5, seed=1)
    rows = search_with_faiss(entries)(queries, 3000)
    assert rows.shape == (5, 3000) and rows.min() >= 0
    expected = find_slowly(entries, queries, 3000)
    for got, want in zip(rows, expected, strict=True):
        assert {*got[:2900]} <= {*want}  # equal but for ties in float32


@pytest.mark.parametrize(
    ("search", "module", "extra"),
    [(search_exactly, "sklearn", "evaluation"), (search_with_faiss, "faiss", "faiss")],
)
def test_a_missing_library_is_named(monkeypatch, search, module, extra) -> None:
    hide(monkeypatch, module)
    with pytest.raises(ImportError, match=rf'pip install "keras-embcam\[{extra}\]"'):
        search(make_units(50))


def hide(monkeypatch, module) -> None:
    real = builtins.__import__

    def refuse(name, *arguments, **options):
        if name.split(".")[0] == module:
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)


# Compression


def make_table(embeddings, num_channels: int = 10, num_kept: int = 4):
    random = np.random.default_rng(5)
    channels = np.stack(
        [random.permutation(num_channels)[:num_kept] for _ in embeddings]
    )
    return GradWeightTable(
        embeddings=embeddings,
        channels=channels,
        values=random.normal(size=channels.shape).astype("float32"),
        num_channels=num_channels,
    )


@pytest.mark.parametrize("library", ["scikit-learn", "faiss"])
def test_clusters_are_unit_means_with_the_mean_weights_of_their_members(
    library,
) -> None:
    if library == "faiss":
        pytest.importorskip("faiss", reason="the extra [faiss] is not installed")
    random = np.random.default_rng(0)
    members = np.repeat(np.arange(3), 4)
    embeddings = np.eye(3)[members] + 0.05 * random.normal(size=(12, 3))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    table = make_table(embeddings.astype("float32"))
    small = table.compress(3, seed=1, library=library)
    assert len(small) == 3 and small.channels.shape == small.values.shape == (3, 4)
    for cluster in range(3):
        row = int(cosine_similarity(np.eye(3)[[cluster]], small.embeddings).argmax())
        mean = embeddings[members == cluster].mean(axis=0)
        expected = mean / np.linalg.norm(mean)
        np.testing.assert_allclose(small.embeddings[row], expected, atol=1e-6)
        dense: dict[int, float] = {}
        for entry in np.flatnonzero(members == cluster):
            for channel, value in zip(
                table.channels[entry], table.values[entry], strict=True
            ):
                dense[channel] = dense.get(channel, 0) + value / 4
        best = sorted(dense, key=lambda channel: -dense[channel])[:4]
        assert small.channels[row].tolist() == best
        expected = [dense[channel] for channel in best]
        np.testing.assert_allclose(small.values[row], expected, atol=1e-6)
    assert small.values.dtype == small.embeddings.dtype == "float32"
    assert len(table) == 12  # as it was


def test_the_seed_chooses_the_clusters() -> None:
    table = make_table(make_units(200))
    one, same, other = (table.compress(20, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.embeddings, same.embeddings)
    np.testing.assert_array_equal(one.values, same.values)
    assert np.abs(one.embeddings - other.embeddings).max() > 1e-3


def test_as_many_clusters_as_entries_lend_the_same_weights() -> None:
    table = make_table(make_units(30))
    same, queries = table.compress(30), make_units(10, seed=1)
    np.testing.assert_allclose(same.query(queries), table.query(queries), atol=1e-6)
    assert len(table.compress(1)) == 1


def test_repeated_entries_make_fewer_clusters() -> None:
    table = make_table(np.repeat(make_units(3), 4, axis=0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn tells
        small = table.compress(5)
    assert len(small) == 3


def test_members_that_cancel_out_are_refused() -> None:
    table = make_table(np.float32([[1, 0], [-1, 0]]))
    with pytest.raises(ValueError, match="opposite directions.* Raise `num_clusters`"):
        table.compress(1)


def test_compression_without_scikit_learn(monkeypatch) -> None:
    table = make_table(make_units(30))
    hide(monkeypatch, "sklearn")
    with pytest.raises(ImportError, match=r'pip install "keras-embcam\[evaluation\]"'):
        table.compress(2)
    hide(monkeypatch, "faiss")
    with pytest.raises(ImportError, match=r'pip install "keras-embcam\[faiss\]"'):
        table.compress(2, library="faiss")
    with pytest.raises(ValueError, match="`library` must be one of .*'sklearn'"):
        table.compress(2, library="sklearn")
