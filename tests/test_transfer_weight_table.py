"""Tests of keras_embcam.transfer.weight_table and .compression."""

import warnings

import keras
import numpy as np
import pytest
from builders import hide_module, make_units
from sklearn.metrics.pairwise import cosine_similarity

from keras_embcam.transfer import GradWeightDatabase
from keras_embcam.transfer.weight_table import GradWeightTable


def test_exact_search_needs_no_other_library(monkeypatch) -> None:
    """Failed before: a base install has neither, and README's example no answer."""
    hide_module(monkeypatch, "sklearn")
    hide_module(monkeypatch, "faiss")
    table = make_table(make_units(50))
    rows, similarities = table.find(3 * table.embeddings, 2, "exact")
    assert rows[:, 0].tolist() == list(range(50))
    np.testing.assert_allclose(similarities[:, 0], 1, atol=1e-6)


def test_a_base_install_fits_and_explains(monkeypatch) -> None:
    """README's example. Failed before: exact search needed an extra."""
    for module in ("sklearn", "scipy", "faiss", "matplotlib"):
        hide_module(monkeypatch, module)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    images = np.random.default_rng(0).random((6, 8, 8, 3), "float32")
    database = GradWeightDatabase.fit(model, images, [0, 0, 0, 1, 1, 1], margin=3.9)
    found = database.explain(model, images, details=True)
    assert found.neighbors[:, 0].tolist() == list(range(6))
    assert found.heatmaps.shape == (6, 8, 8)


def test_searches_agree_and_the_missing_one_is_named(monkeypatch) -> None:
    pytest.importorskip("faiss", reason="the extra [faiss] is not installed")
    table, queries = make_table(make_units(60)), make_units(10, seed=1)
    np.testing.assert_array_equal(
        table.find(queries, 3, "faiss")[0], table.find(queries, 3, "exact")[0]
    )
    hide_module(monkeypatch, "faiss")
    other = make_table(make_units(60))
    with pytest.raises(ImportError, match=r'pip install "keras-embcam\[faiss\]"'):
        other.query(queries, search="faiss")


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
    hide_module(monkeypatch, "sklearn")
    with pytest.raises(ImportError, match=r'pip install "keras-embcam\[evaluation\]"'):
        table.compress(2)
    hide_module(monkeypatch, "faiss")
    with pytest.raises(ImportError, match=r'pip install "keras-embcam\[faiss\]"'):
        table.compress(2, library="faiss")
    with pytest.raises(ValueError, match="`library` must be one of .*'sklearn'"):
        table.compress(2, library="sklearn")
