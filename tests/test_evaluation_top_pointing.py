"""Tests of keras_embcam.evaluation.top_pointing."""

import doctest

import numpy as np
import pytest
import tensorflow as tf

from keras_embcam.evaluation import top_pointing as module
from keras_embcam.evaluation.top_pointing import (
    choose_rejection_threshold,
    rank_classes,
    top_5_pointing,
)

NAN = float("nan")
RANDOM = np.random.default_rng(0)


def test_the_examples_run() -> None:
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


def test_classes_are_ranked_by_cosine() -> None:
    embeddings = RANDOM.normal(size=(6, 4)).astype("float32")
    proxies = RANDOM.normal(size=(7, 4)) * RANDOM.uniform(0.1, 9, size=(7, 1))
    ranked = rank_classes(tf.constant(embeddings), proxies)
    assert ranked.shape == (6, 5)
    for embedding, classes in zip(embeddings, ranked, strict=True):
        cosines = [
            embedding @ p / np.linalg.norm(p) / np.linalg.norm(embedding)
            for p in proxies
        ]
        assert classes.tolist() == sorted(range(7), key=lambda c: -cosines[c])[:5]
    assert rank_classes([[0.0, 0.0]], [[1, 0], [0, 1]], 2).tolist() == [[0, 1]]


def test_bad_classes_are_refused() -> None:
    for shapes in (((2, 3), (4, 2)), ((3,), (4, 3)), ((2, 3), (3,))):
        with pytest.raises(ValueError, match="`embeddings` must have the shape"):
            rank_classes(np.ones(shapes[0]), np.ones(shapes[1]), 1)
    for num_classes in (0, 5):
        with pytest.raises(ValueError, match="`num_classes` must be.*Received.*of 4"):
            rank_classes(np.ones((2, 3)), np.ones((4, 3)), num_classes)


def random_predictions(num_images: int = 30) -> tuple[np.ndarray, ...]:
    ranked = np.stack([RANDOM.permutation(9)[:5] for _ in range(num_images)])
    labels = np.stack([RANDOM.permutation(9)[:3] for _ in range(num_images)])
    labels[::2, 2] = -1
    maxima = RANDOM.integers(0, 12, size=ranked.shape) / 4.0
    return maxima, RANDOM.integers(0, 2, size=ranked.shape), ranked, labels


def test_pointing_agrees_with_a_slow_loop() -> None:
    maxima, hits, ranked, labels = random_predictions()
    found = top_5_pointing(maxima, hits, ranked, labels, threshold=1.25)
    for i in range(len(maxima)):
        right: dict[bool, list[bool]] = {True: [], False: []}
        for j in range(5):
            is_there = ranked[i, j] in labels[i]
            shown = maxima[i, j] >= 1.25
            right[is_there].append(shown and hits[i, j] == 1 if is_there else not shown)
        everything = right[True] + right[False]
        assert found.accuracy[i] == pytest.approx(np.mean(everything))
        for values, share in (
            (right[True], found.pointed),
            (right[False], found.rejected),
        ):
            expected = np.mean(values) if values else NAN
            assert share[i] == pytest.approx(expected, nan_ok=True)


def test_rejecting_everything_is_told_from_explaining() -> None:
    ranked = np.tile(np.arange(5), (4, 1))
    maxima, hits = np.ones((4, 5)), np.ones((4, 5))
    found = top_5_pointing(maxima, hits, ranked, [0, 1, 2, 7], threshold=2)
    assert found.accuracy.tolist() == [0.8, 0.8, 0.8, 1]
    assert found.rejected.tolist() == [1] * 4
    np.testing.assert_array_equal(found.pointed, [0, 0, 0, NAN])


def test_an_image_without_a_box_is_undefined_where_its_class_was_predicted() -> None:
    hits = [[NAN, NAN], [NAN, NAN]]
    found = top_5_pointing([[3, 1], [1, 1]], hits, [[4, 6], [4, 6]], [4, 5], 2)
    np.testing.assert_array_equal(found.accuracy, [NAN, 1])
    np.testing.assert_array_equal(found.pointed, [NAN, NAN])
    np.testing.assert_array_equal(found.rejected, [1, 1])
    rejected = top_5_pointing([[1, 1]], hits[:1], [[4, 6]], [4], 2)
    np.testing.assert_array_equal(rejected.accuracy, [NAN])


def test_the_chosen_threshold_is_the_best_of_all() -> None:
    for _ in range(5):
        predictions = random_predictions()
        chosen = choose_rejection_threshold(*predictions)
        accuracy = {
            threshold: top_5_pointing(*predictions, threshold).accuracy.mean()
            for threshold in np.arange(0, 3.5, 0.25)
        }
        best = max(accuracy.values())
        assert top_5_pointing(*predictions, chosen).accuracy.mean() == pytest.approx(
            best
        )
        equal = [t for t, value in accuracy.items() if value > best - 1e-9]
        assert chosen == pytest.approx(min(equal), abs=0.25)


def test_where_it_is_best_to_reject_everything_so_it_is() -> None:
    threshold = choose_rejection_threshold([[3, 2]], [[1, 1]], [[1, 2]], [9])
    assert 3 < threshold < 3.001
    assert choose_rejection_threshold([[3, 2]], [[1, 1]], [[1, 2]], [[1, 2]]) == 2


def test_bad_predictions_are_refused() -> None:
    maxima, hits, ranked, labels = random_predictions(3)
    with pytest.raises(ValueError, match="must have the same shape.*Received"):
        top_5_pointing(maxima, hits[:, :4], ranked, labels, 1)
    with pytest.raises(ValueError, match="must have the same shape"):
        top_5_pointing(maxima[0], hits[0], ranked[0], labels[0], 1)
    with pytest.raises(ValueError, match="`labels` must have the shape.*for 3 images"):
        choose_rejection_threshold(maxima, hits, ranked, labels[:2])
    nowhere = np.full(maxima.shape, NAN)
    with pytest.raises(
        ValueError, match="only be chosen on images with boxes.*3 images"
    ):
        choose_rejection_threshold(maxima, nowhere, np.zeros((3, 5)), [0, 0, 0])
