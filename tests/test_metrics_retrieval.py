"""Tests of keras_embcam.metrics.retrieval.

The witness is pytorch-metric-learning: tests/witnesses/record_metrics.py.
"""

import doctest
import math
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_embcam.metrics import Retrieval, measure_retrieval
from keras_embcam.metrics import retrieval as module

CASES = ["mixed", "separated", "pairs", "all_alone", "repeated"]


@pytest.fixture(scope="module")
def witness() -> dict[str, np.ndarray]:
    """Return the recorded arrays."""
    with np.load(Path(__file__).parent / "witnesses" / "metrics.npz") as file:
        return dict(file)


def measure_slowly(embeddings, labels, ks) -> dict[str, float]:
    """Rank by cosine with nested loops; equal similarities by row."""
    hits, precisions = {k: [] for k in ks}, []
    for query, label in enumerate(labels):
        others = [i for i in range(len(labels)) if i != query]
        num_relevant = sum(labels[i] == label for i in others)
        if not num_relevant:
            continue

        def similarity(i: int, query: int = query) -> float:
            a, b = embeddings[query].astype("float64"), embeddings[i].astype("float64")
            norms = math.sqrt(a @ a) * math.sqrt(b @ b)
            return (a @ b) / norms if norms else 0.0

        ranked = sorted(others, key=lambda i: (-round(similarity(i), 9), i))
        same = [labels[i] == label for i in ranked]
        for k in ks:
            hits[k].append(any(same[:k]))
        average = 0.0
        for i in range(num_relevant):
            average += same[i] * sum(same[: i + 1]) / (i + 1) / num_relevant
        precisions.append(average)
    found = {f"recall_at_{k}": float(np.mean(hits[k])) for k in ks}
    return found | {"map_at_r": float(np.mean(precisions))}


def test_the_examples_run() -> None:
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


@pytest.mark.parametrize("case", CASES)
def test_values_are_those_of_pytorch_metric_learning(case: str, witness) -> None:
    embeddings, labels = witness[f"{case}/embeddings"], witness[f"{case}/labels"]
    measured = measure_retrieval(embeddings, labels)
    for name in ("recall_at_1", "map_at_r"):
        np.testing.assert_allclose(
            measured[name], witness[f"{case}/{name}"], rtol=1e-12
        )


@pytest.mark.parametrize("case", ["mixed", "separated", "pairs", "repeated"])
def test_values_agree_with_a_slow_loop(case: str, witness) -> None:
    embeddings, labels = witness[f"{case}/embeddings"], witness[f"{case}/labels"]
    expected = measure_slowly(embeddings, labels, (1, 2, 4, 8, 200))
    measured = measure_retrieval(embeddings, labels, (1, 2, 4, 8, 200))
    assert measured == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("block_size", [1, 7, 58, 59, 1000])
def test_the_block_size_changes_nothing(block_size: int, witness) -> None:
    embeddings, labels = witness["mixed/embeddings"], witness["mixed/labels"]
    whole = measure_retrieval(embeddings, labels)
    blocks = measure_retrieval(embeddings, labels, block_size=block_size)
    assert blocks == pytest.approx(whole, rel=1e-12)


def unit(degrees: float) -> list[float]:
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]


def test_values_worked_by_hand() -> None:
    # On a circle, nearest first: 0 a -> b a a b; 10 b -> a a a b; 25 a -> b a a b;
    # 45 a -> a b a b; 100 b -> a a b a.
    embeddings = [unit(angle) for angle in (0, 10, 25, 45, 100)]
    labels = ["a", "b", "a", "a", "b"]
    measured = measure_retrieval(np.float32(embeddings), labels, (1, 2, 3, 4))
    # R = 2 for a: (0 + 1/2)/2, (0 + 1/2)/2, (1 + 0)/2; R = 1 for b: 0, 0.
    assert measured == pytest.approx(
        {
            "recall_at_1": 1 / 5,
            "recall_at_2": 3 / 5,
            "recall_at_3": 4 / 5,
            "recall_at_4": 1,
            "map_at_r": (1 / 4 + 1 / 4 + 1 / 2) / 5,
        }
    )


def test_length_plays_no_part(witness) -> None:
    embeddings, labels = witness["mixed/embeddings"], witness["mixed/labels"]
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    assert measure_retrieval(units, labels) == measure_retrieval(embeddings, labels)


def test_ties_are_ranked_by_row() -> None:
    embeddings = np.float32([[1, 0], [1, 0], [1, 0], [0, 1]])
    # Every query sees the lowest row but its own first: 1, 0, 0, and 0 for the last.
    found = measure_retrieval(embeddings, [0, 1, 1, 0], (1,))
    assert found == {"recall_at_1": 1 / 4, "map_at_r": 1 / 4}
    found = measure_retrieval(embeddings, [1, 1, 0, 0], (1,))
    assert found == {"recall_at_1": 1 / 2, "map_at_r": 1 / 2}


def test_a_lone_member_is_no_query_but_a_wrong_answer() -> None:
    embeddings = np.float32([unit(0), unit(10), unit(3)])
    alone = measure_retrieval(embeddings, [0, 0, 7], (1, 2))
    assert alone == {"recall_at_1": 0, "recall_at_2": 1, "map_at_r": 0}


def test_a_zero_embedding_is_similar_to_nothing() -> None:
    embeddings = np.float32([[1, 0], [0, 0], [-1, 0.1], [1, 1]])
    # To the first: the last, the zero, the third; to the zero: all alike, by row.
    with pytest.warns(UserWarning, match="^1 of 4 embeddings of `embeddings` are all"):
        found = measure_retrieval(embeddings, [0, 0, 1, 1], (1, 2))
    assert found["recall_at_1"] == 1 / 4  # the zero's
    assert found["recall_at_2"] == 3 / 4  # the first's, and the third's


@pytest.mark.parametrize("scale", [1e-30, 1e25])
def test_lengths_whose_squares_are_no_numbers(scale: float) -> None:
    """Of float32 they overflow, or vanish."""
    random = np.random.default_rng(0)
    labels = np.arange(20) % 4
    embeddings = random.normal(size=(4, 8))[labels] + random.normal(size=(20, 8)) / 2
    embeddings = embeddings.astype("float32")
    expected = measure_retrieval(embeddings, labels)
    assert measure_retrieval(embeddings * np.float32(scale), labels) == expected


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_broken_embeddings_give_nan(value: float) -> None:
    embeddings = np.ones((4, 2), "float32")
    embeddings[2, 1] = value
    found = measure_retrieval(embeddings, [0, 0, 1, 1], (1,))
    assert list(found) == ["recall_at_1", "map_at_r"]
    assert np.isnan(list(found.values())).all()


def test_strings_tensors_and_half_precision_are_welcome(witness) -> None:
    embeddings, labels = witness["pairs/embeddings"][:8], witness["pairs/labels"][:8]
    expected = measure_retrieval(embeddings, labels)
    assert measure_retrieval(embeddings, labels.astype(str)) == expected
    assert measure_retrieval(tf.constant(embeddings), tf.constant(labels)) == expected
    assert measure_retrieval(np.eye(4, dtype="float16"), [0, 0, 1, 1], (1,))


@pytest.mark.parametrize("ks", [(), (0,), (1, -2), (1.5,)])
def test_wrong_ks_are_refused(ks: tuple) -> None:
    with pytest.raises(ValueError, match="`ks`.*at least 1. Received"):
        measure_retrieval(np.eye(2), [0, 0], ks)
    with pytest.raises(ValueError, match="`ks`.*at least 1. Received"):
        Retrieval(ks)


def test_a_block_size_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="`block_size`.*at least 1. Received: 0"):
        measure_retrieval(np.eye(2), [0, 0], block_size=0)


@pytest.mark.parametrize(
    ("embeddings", "labels"),
    [((4,), (4,)), ((4, 2), (3,)), ((4, 2), (4, 1)), ((4, 2, 2), (4,))],
)
def test_wrong_shapes_are_refused(embeddings: tuple, labels: tuple) -> None:
    with pytest.raises(ValueError, match=r"\(n, d\).*one label for each.*Received"):
        measure_retrieval(np.zeros(embeddings), np.zeros(labels))
    with pytest.raises(ValueError, match=r"\(n, d\).*one label for each.*Received"):
        Retrieval().update_state(np.zeros(labels), np.zeros(embeddings))


# The class


def test_unequal_batches_are_measured_as_one(witness) -> None:
    embeddings, labels = witness["mixed/embeddings"], witness["mixed/labels"]
    metric = Retrieval(ks=(1, 3))
    for start, end in [(0, 5), (5, 6), (6, 40), (40, 59)]:
        metric.update_state(labels[start:end], tf.constant(embeddings[start:end]))
    assert metric.result() == measure_retrieval(embeddings, labels, (1, 3))
    metric.reset_state()
    assert np.isnan(list(metric.result().values())).all()
    metric.update_state([0, 0, 1], np.float32([unit(0), unit(9), unit(3)]))
    assert metric.result()["recall_at_3"] == 1 and metric.result()["recall_at_1"] == 0


def test_a_batch_may_be_overwritten_after_it_was_added() -> None:
    embeddings = np.float32([unit(0), unit(10), unit(40), unit(50)])
    metric = Retrieval(ks=(1,))
    metric.update_state(labels := np.array([0, 0, 1, 1]), embeddings)
    embeddings[:], labels[:] = np.eye(2)[[0, 1, 0, 1]], [0, 1, 1, 0]
    assert metric.result() == {"recall_at_1": 1, "map_at_r": 1}


def test_the_metric_is_saved_and_loaded() -> None:
    metric = Retrieval(ks=(1, 16), name="mine")
    config = keras.saving.serialize_keras_object(metric)
    assert config["registered_name"] == "keras_embcam>Retrieval"
    loaded = keras.saving.deserialize_keras_object(config)
    assert isinstance(loaded, Retrieval)
    assert (loaded.ks, loaded.name) == ((1, 16), "mine")


def test_sample_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="`sample_weight` must be None. Received: 2"):
        Retrieval().update_state([0, 0], np.eye(2), sample_weight=2)


def no_loss(y_true, y_pred):
    return keras.ops.zeros_like(y_pred[:, 0])


def test_keras_logs_every_value_in_an_eager_model(witness) -> None:
    embeddings, labels = witness["mixed/embeddings"], witness["mixed/labels"]
    model = keras.Sequential([keras.Input((6,)), keras.layers.UnitNormalization()])
    model.compile(loss=no_loss, metrics=[Retrieval(ks=(1,))], run_eagerly=True)
    logs = model.evaluate(
        embeddings, labels, batch_size=25, verbose=0, return_dict=True
    )
    expected = measure_retrieval(embeddings, labels, (1,))
    assert {name: logs[name] for name in expected} == pytest.approx(expected)
