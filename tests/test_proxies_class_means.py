"""Tests of keras_embcam.proxies.class_means."""

import numpy as np
import pytest
import tensorflow as tf

from keras_embcam.proxies import RunningClassMean, class_mean


def make_classes() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    embeddings = random.normal(size=(20, 6)) * random.uniform(0.1, 50, size=(20, 1))
    return embeddings.astype("float32"), random.permutation(np.arange(20) % 4)


def mean_slowly(embeddings, labels, label, without=None) -> np.ndarray:
    total = np.zeros(embeddings.shape[1])
    for index, embedding in enumerate(embeddings.astype("float64")):
        if labels[index] == label and index != without:
            total += embedding / np.linalg.norm(embedding)
    return total / np.linalg.norm(total)


def test_class_mean_agrees_with_a_slow_loop() -> None:
    embeddings, labels = make_classes()
    means = class_mean(embeddings, labels)
    expected = [mean_slowly(embeddings, labels, label) for label in range(4)]
    assert means.dtype == "float32"
    np.testing.assert_allclose(means, expected, atol=1e-6)


def test_leave_one_out_agrees_with_a_slow_loop() -> None:
    embeddings, labels = make_classes()
    means = class_mean(embeddings, labels, leave_one_out=True)
    expected = [
        mean_slowly(embeddings, labels, label, without=index)
        for index, label in enumerate(labels)
    ]
    np.testing.assert_allclose(means, expected, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_running_mean_equals_that_of_all(batch_size) -> None:
    embeddings, labels = make_classes()
    running = RunningClassMean(4)
    for start in range(0, 20, batch_size):
        rows = slice(start, start + batch_size)
        running.update(tf.constant(embeddings[rows]), labels[rows])
    np.testing.assert_allclose(running.result(), class_mean(embeddings, labels))
    assert running.counts.tolist() == [5, 5, 5, 5]
    # A part of the images, or another order, is as good as all in a row.
    np.testing.assert_allclose(
        running.leave_one_out(embeddings[5:9], labels[5:9]),
        class_mean(embeddings, labels, leave_one_out=True)[5:9],
    )


def test_a_class_without_images_has_no_mean() -> None:
    means = class_mean([[1.0, 0.0]], [1], num_classes=3)
    np.testing.assert_array_equal(means, [[np.nan] * 2, [1, 0], [np.nan] * 2])


def test_the_only_image_of_a_class_has_no_others() -> None:
    embeddings = [[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]
    means = class_mean(embeddings, [0, 1, 0], leave_one_out=True)
    np.testing.assert_array_equal(means, [[1, 0], [np.nan] * 2, [1, 0]])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 4], r"must lie between 0 and 3, one for each of 4 classes. Received: \[4"),
        ([-1, 0], r"must lie between 0 and 3.*Received: \[-1\]"),
        ([0.0, 1.0], r"must be integers of the shape \(2,\).*float"),
        ([0], r"must be integers of the shape \(2,\).*Received the shape \(1,\)"),
        ([[0, 1], [1, 0]], r"must be integers of.*Received the shape \(2, 2\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, message) -> None:
    with pytest.raises(ValueError, match="`labels` " + message):
        class_mean(np.ones((2, 3)), labels, num_classes=4)


@pytest.mark.parametrize(
    ("labels", "hint"),
    [
        (["wren", "owl"], r"np.unique\(labels, return_inverse=True\)\[1\]"),
        ([[3], [0]], r"Pass `labels\[:, 0\]`"),
        (np.eye(2), r"Pass `labels.argmax\(axis=1\)`"),
        ([0.5, 1.0], "of float"),
    ],
)
def test_the_message_says_how_to_make_integers_of_labels(labels, hint) -> None:
    with pytest.raises(ValueError, match=f"`labels` must be integers.*{hint}"):
        class_mean(np.ones((2, 3)), labels)


def test_class_means_refuse_embeddings_that_do_not_fit() -> None:
    means = RunningClassMean(2)
    with pytest.raises(ValueError, match=r"must have the shape \(n, d\).*\(3,\)"):
        means.update(np.ones(3), [0])
    with pytest.raises(ValueError, match=r"`embeddings` must be finite.*images \[1\]"):
        means.update([[1.0, 1.0], [np.inf, 1.0]], [0, 1])
    assert not means.counts.any()
    means.update(np.ones((1, 3)), [0])
    with pytest.raises(ValueError, match=r"must have the shape \(n, 3\).*\(1, 2\)"):
        means.update(np.ones((1, 2)), [0])


def test_class_means_need_images() -> None:
    means = RunningClassMean(2)
    means.update(np.zeros((0, 3)), np.zeros(0, int))
    for function in (
        means.result,
        lambda: means.leave_one_out(np.ones((1, 3)), [0]),
        lambda: class_mean(np.zeros((0, 3)), np.zeros(0, int)),
    ):
        with pytest.raises(ValueError, match="Class means need images: call `update`"):
            function()


def test_labels_that_are_no_numbers_of_classes_are_refused() -> None:
    embeddings, labels = make_classes()
    for largest in (2_000_000, 10**9):
        labels[0] = largest
        with pytest.raises(ValueError, match=f"Received {largest} .* np.unique"):
            class_mean(embeddings, labels)


def test_embeddings_that_cancel_each_other_are_said() -> None:
    embeddings = np.float32([[3, 1], [-3, -1], [0, 2]])
    with pytest.warns(UserWarning, match=r"classes \[0\] have the mean zero"):
        means = class_mean(embeddings, [0, 0, 1])
    assert means.tolist() == [[0, 0], [0, 1]]
