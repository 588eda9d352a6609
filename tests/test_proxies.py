"""Tests of keras_embcam.proxies."""

import doctest
import importlib
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_embcam import EmbeddingCAM, explain
from keras_embcam.layers import Proxies
from keras_embcam.proxies import (
    RunningClassMean,
    check_proxies_shape,
    class_mean,
    contrast,
    counterfactual,
    distance_difference,
    from_score,
    one_hot,
    pair,
    pairwise_distance,
    single_point,
    trained,
    triplet,
)

# The means of the channels are 2 and 3, so the embedding is (3 * 1, 2 * 2).
A1, A2 = np.float64([[4, 0], [0, 4]]), np.float64([[0, 8], [0, 4]])
IMAGES = np.stack([A1, A2], axis=-1)[None]
KERNEL = np.float64([[0, 2], [1, 0]])
EMBEDDING = [[3.0, 4.0]]
ROOT = 0.5**0.5


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """Return pooling and one Dense behind activations that are the images."""
    images = keras.Input((2, 2, 2))
    maps = layers.Conv2D(2, 1, use_bias=False)(images)
    features = layers.GlobalAveragePooling2D()(maps)
    model = keras.Model(images, layers.Dense(2, use_bias=False)(features))
    model.set_weights([np.eye(2).reshape(1, 1, 2, 2), KERNEL])
    return model


def explain_toy(model, proxies, **options) -> np.ndarray:
    """Return the raw 2x2 map of the toy."""
    cam = EmbeddingCAM(model, resize=False, normalize=False, **options)
    embeddings, heatmaps = cam(IMAGES, proxies=proxies)
    np.testing.assert_allclose(embeddings, EMBEDDING, atol=1e-6)
    return np.asarray(heatmaps)[0]


@pytest.mark.parametrize("name", ["vectors", "class_means", "triplets"])
def test_the_examples_run(name) -> None:
    results = doctest.testmod(importlib.import_module(f"keras_embcam.proxies.{name}"))
    assert results.attempted and not results.failed


# Heatmaps worked by hand. The channel weights are K p / 4 for the kernel K, that is
# (2 p_2, p_1) / 4, and the map is relu(weight_1 A1 + weight_2 A2).


def test_single_point_by_hand(model) -> None:
    # p = (0.6, 0.8), weights (0.4, 0.15); the sum is y . p = |y| = 5.
    expected = [[1.6, 1.2], [0, 2.2]]
    for proxies in (None, single_point, single_point(EMBEDDING)):
        np.testing.assert_allclose(explain_toy(model, proxies), expected, atol=1e-6)


def test_one_hot_by_hand(model) -> None:
    # p = (0, 1), weights (0.5, 0)
    heatmap = explain_toy(model, one_hot(1, 2))
    np.testing.assert_allclose(heatmap, [[2, 0], [0, 2]], atol=1e-6)


def test_contrast_by_hand(model) -> None:
    # p = (1, -1), weights (-0.5, 0.25): [[-2, 2], [0, -2 + 1]]
    heatmap = explain_toy(model, contrast([1, 0], [0, 1]))
    np.testing.assert_allclose(heatmap, [[0, 2], [0, 0]], atol=1e-6)


def test_counterfactual_by_hand(model) -> None:
    # What the contrast above cut away.
    heatmap = explain_toy(model, counterfactual(contrast([1, 0], [0, 1])))
    np.testing.assert_allclose(heatmap, [[2, 0], [0, 1]], atol=1e-6)


def test_pair_by_hand(model) -> None:
    # p = (-0.6, 0.8), weights (0.4, -0.15): [[1.6, -1.2], [0, 1.6 - 0.6]]
    heatmap = explain_toy(model, pair([-30.0, 40.0]))
    np.testing.assert_allclose(heatmap, [[1.6, 0], [0, 1]], atol=1e-6)


def test_class_mean_by_hand(model) -> None:
    # p = (1, 1) / sqrt 2, weights (2, 1) / (4 sqrt 2)
    means = class_mean([[3, 0], [0, 2], [0, -1]], [0, 0, 1])
    heatmap = explain_toy(model, means[0])
    np.testing.assert_allclose(heatmap, ROOT * np.float64([[2, 2], [0, 3]]), atol=1e-6)


def test_trained_by_hand(model) -> None:
    # Like one_hot(1): only the direction (0, 3) of the second proxy counts.
    head = Proxies(2, name="proxies")
    training_model = keras.Model(model.input, head(model.output))
    head.set_weights([np.float32([[2, 0], [0, 3]])])
    class_proxies = trained(training_model, "proxies")
    assert class_proxies.tolist() == [[1, 0], [0, 1]]
    heatmap = explain_toy(model, class_proxies[1])
    np.testing.assert_allclose(heatmap, [[2, 0], [0, 2]], atol=1e-6)


def test_triplet_by_hand(model) -> None:
    # f = (0.6, 0.8), q = 2 (n - p) = (2, -2), q.f = -0.4: the hinge is -0.4 + 0.5.
    # (q - (q.f) f) / 5 = (2 + 0.24, -2 + 0.32) / 5 = (0.448, -0.336)
    result = triplet([3, 4], [[0, 1]], [[1, 0]], margin=0.5)
    np.testing.assert_allclose(result.proxies, [[-0.448, 0.336]], atol=1e-6)
    np.testing.assert_allclose(result.losses, [0.1], atol=1e-6)
    # weights (0.672, -0.448) / 4 = (0.168, -0.112): [[.672, -.896], [0, .672 - .448]]
    heatmap = explain_toy(model, result.proxies)
    np.testing.assert_allclose(heatmap, [[0.672, 0], [0, 0.224]], atol=1e-6)
    result = triplet([3, 4], [[0, 1]], [[1, 0]], margin=0.5, sign=1)
    np.testing.assert_allclose(result.proxies, [[0.448, -0.336]], atol=1e-6)
    heatmap = explain_toy(model, result.proxies)
    np.testing.assert_allclose(heatmap, [[0, 0.896], [0, 0]], atol=1e-6)


def test_distance_difference_by_hand(model) -> None:
    # The direction above, whether the triplet is active or not.
    proxies = distance_difference([3, 4], [[0, 1]], [[1, 0]])
    np.testing.assert_allclose(proxies, [[-0.448, 0.336]], atol=1e-6)
    heatmap = explain_toy(model, proxies)
    np.testing.assert_allclose(heatmap, [[0.672, 0], [0, 0.224]], atol=1e-6)


def test_pairwise_distance_by_hand(model) -> None:
    # q = -2 (1, 0), q.f = -1.2, (q + 1.2 f) / 5 = (-2 + 0.72, 0.96) / 5
    proxies = pairwise_distance([3, 4], [[1, 0]])
    np.testing.assert_allclose(proxies, [[0.256, -0.192]], atol=1e-6)
    # weights (-0.384, 0.256) / 4: [[-0.384, 0.512], [0, -0.384 + 0.256]]
    heatmap = explain_toy(model, proxies)
    np.testing.assert_allclose(heatmap, [[0, 0.512], [0, 0]], atol=1e-6)


def test_from_score_by_hand(model) -> None:
    # d(y_1 y_2)/dy = (4, 3), weights (1.5, 1)
    proxies = from_score(lambda y: y[:, 0] * y[:, 1])
    heatmap = explain_toy(model, proxies)
    np.testing.assert_allclose(heatmap, [[6, 8], [0, 10]], atol=1e-5)
    heatmap = explain(model, IMAGES, proxies=proxies, resize=False, normalize=False)[0]
    np.testing.assert_allclose(heatmap, [[6, 8], [0, 10]], atol=1e-5)


# Single vectors


@pytest.mark.parametrize("length", [1e-30, 1e-3, 1, 1e3, 1e30])
def test_single_point_is_a_unit_vector_at_any_length(length) -> None:
    proxies = np.asarray(single_point(length * np.float32([[3, 4], [-4, 3]])))
    np.testing.assert_allclose(proxies, [[0.6, 0.8], [-0.8, 0.6]], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "int32"])
def test_proxies_are_float32(dtype) -> None:
    embeddings = tf.cast([[3, 4]], dtype)
    for proxies in (
        single_point(embeddings),
        counterfactual(embeddings),
        contrast(embeddings, embeddings),
        pair(embeddings),
        from_score(lambda y: ops.sum(y, axis=-1))(embeddings),
        one_hot([1], 3),
    ):
        assert proxies.dtype == tf.float32


def test_a_zero_embedding_has_a_zero_proxy() -> None:
    assert np.asarray(single_point([[0.0, 0.0]])).tolist() == [[0, 0]]
    assert np.asarray(single_point(np.zeros((0, 2)))).shape == (0, 2)


@pytest.mark.parametrize("indices", [-1, 3, [0, 3], 1.0, [True]])
def test_one_hot_refuses_what_is_no_index(indices) -> None:
    with pytest.raises(ValueError, match="`indices` must be integers of 0 to 2. Recei"):
        one_hot(indices, 3)


def test_one_hot_of_one_index_serves_all_images() -> None:
    assert np.asarray(one_hot(2, 3)).tolist() == [0, 0, 1]


def test_trained_finds_a_layer_at_any_depth(model) -> None:
    inner = keras.Sequential([keras.Input((2,)), Proxies(3, name="deep")])
    outer = keras.Model(model.input, inner(model.output))
    lengths = np.linalg.norm(trained(outer, "deep"), axis=-1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-6)
    with pytest.raises(ValueError, match=r"`proxy_layer` .*'dense'.*: \['deep'\]"):
        trained(outer, "dense")


def test_from_score_is_the_gradient_of_each_row() -> None:
    embeddings = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
    other = np.float32([1, 2, 3, 4, 5])

    def cosine(y):
        lengths = ops.sqrt(ops.sum(y**2, axis=-1)) * np.linalg.norm(other)
        return ops.matmul(y, other[:, None])[:, 0] / lengths

    proxies = np.asarray(from_score(cosine)(embeddings))
    step = 1e-3
    for row, column in np.ndindex(embeddings.shape):
        moved = np.stack([embeddings[row]] * 2)
        moved[:, column] += [step, -step]
        high, low = np.asarray(cosine(moved))
        slope = (high - low) / (2 * step)
        np.testing.assert_allclose(proxies[row, column], slope, atol=1e-3)


def test_from_score_takes_a_lookup() -> None:
    # tf.gather along the first axis has a sparse gradient.
    score = from_score(lambda y: ops.sum(tf.gather(y, [1, 0]) * [1.0, 2.0], axis=-1))
    np.testing.assert_array_equal(score(np.ones((2, 2))), [[1, 2], [1, 2]])


def test_from_score_refuses_a_score_without_gradient() -> None:
    with pytest.raises(ValueError, match="`score` must be a differentiable function"):
        from_score(lambda y: ops.ones(2))(np.ones((2, 3)))


@pytest.mark.parametrize("score", [ops.sum, lambda y: y])
def test_from_score_refuses_what_is_not_one_number_an_image(score) -> None:
    with pytest.raises(ValueError, match="`score` must return one number for each"):
        from_score(score)(np.ones((2, 3)))


@pytest.mark.parametrize("shape", [(4,), (7, 4), (None, 4), (7, 2, 4), (7, 1, None)])
def test_shapes_of_proxies_that_fit(shape) -> None:
    check_proxies_shape(shape, 7, 4)
    check_proxies_shape(shape, None, 4)


@pytest.mark.parametrize(
    "shape", [(), (3,), (7, 3), (1, 4), (8, 4), (7, 0, 4), (4, 7), (7, 1, 2, 4)]
)
def test_shapes_of_proxies_that_do_not_fit(shape) -> None:
    with pytest.raises(ValueError, match=r"`proxies` must have .*\(4,\).*n = 7 images"):
        check_proxies_shape(shape, 7, 4)


# Class means


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


# Triplets


def make_triplets() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    return tuple(
        random.normal(size=shape) * random.uniform(0.5, 20, size=(*shape[:-1], 1))
        for shape in ((4, 5), (4, 6, 5), (4, 6, 5))
    )


def differentiate_hinge(anchors, positives, negatives, margin, hinge=True):
    """Return losses and gradients at the raw anchors of the real loss, by a tape.

    The mean over the active triplets, the number of which is held constant.
    """
    anchors, positives, negatives = map(tf.constant, (anchors, positives, negatives))
    with tf.GradientTape() as tape:
        tape.watch(anchors)
        unit = tf.math.l2_normalize(anchors, axis=-1)[:, None]
        near = tf.reduce_sum((unit - tf.math.l2_normalize(positives, -1)) ** 2, -1)
        far = tf.reduce_sum((unit - tf.math.l2_normalize(negatives, -1)) ** 2, -1)
        terms = near - far
        if hinge:
            terms = tf.maximum(terms + margin, 0)
        num_terms = tf.math.count_nonzero(terms, axis=1, dtype="float64")
        losses = tf.reduce_sum(terms, axis=1) / num_terms
    return losses, tape.gradient(losses, anchors), num_terms


@pytest.mark.parametrize("margin", [0.2, 1.0])
@pytest.mark.parametrize("sign", [-1, 1])
def test_triplets_agree_with_a_tape_on_the_real_loss(margin, sign) -> None:
    triplets = make_triplets()
    losses, gradients, num_active = differentiate_hinge(*triplets, margin)
    # Each anchor has active triplets, and not all are active.
    assert np.all(num_active > 0) and np.any(num_active < 6)
    result = triplet(*triplets, margin=margin, sign=sign)
    np.testing.assert_allclose(result.proxies, sign * gradients, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(result.losses, losses, rtol=1e-6)
    np.testing.assert_array_equal(result.num_active, num_active)
    assert result.proxies.dtype == result.losses.dtype == "float32"
    # The loss does not change with the length of the embedding.
    scores = np.sum(result.proxies * triplets[0], axis=-1)
    np.testing.assert_allclose(scores, 0, atol=1e-6)


def test_repeated_triplets_count_again() -> None:
    anchor, positive, negatives = [1.0, 0.0], [0.0, 1.0], [[0.6, 0.8], [0.8, 0.6]]
    once = triplet(anchor, [positive] * 2, negatives, margin=1)
    again = triplet(anchor, [positive] * 3, [negatives[0], *negatives], margin=1)
    # Behind |y| = 1 and across f = (1, 0), 2 (mean n - mean p) is 2 (0.7 - 1) first,
    # then 2 ((0.8 + 0.8 + 0.6) / 3 - 1).
    np.testing.assert_allclose(once.proxies, [[0, 0.6]], atol=1e-6)
    np.testing.assert_allclose(again.proxies, [[0, 1.6 / 3]], atol=1e-6)


@pytest.mark.parametrize("sign", [-1, 1])
def test_distance_difference_agrees_with_a_tape(sign) -> None:
    triplets = make_triplets()
    _, gradients, _ = differentiate_hinge(*triplets, 0.0, hinge=False)
    proxies = distance_difference(*triplets, sign=sign)
    np.testing.assert_allclose(proxies, sign * gradients, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("sign", [-1, 1])
def test_pairwise_distance_agrees_with_a_tape(sign) -> None:
    anchors, others, _ = make_triplets()
    embeddings = tf.constant(anchors)
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        unit = tf.math.l2_normalize(embeddings, axis=-1)[:, None]
        squares = (unit - tf.math.l2_normalize(others, axis=-1)) ** 2
        distances = tf.reduce_mean(tf.reduce_sum(squares, axis=-1), axis=1)
    gradients = tape.gradient(distances, embeddings)
    proxies = pairwise_distance(anchors, others, sign=sign)
    np.testing.assert_allclose(proxies, sign * gradients, rtol=1e-5, atol=1e-7)


def test_an_image_without_active_triplet_is_reported() -> None:
    anchors = [[1.0, 0.0], [0.0, 1.0]]
    positives, negatives = [[[1.0, 0.0]]] * 2, [[[0.0, 1.0]]] * 2
    with pytest.warns(UserWarning, match=r"1 of 2 images .*NaN: \[0\].*`margin` \(0.2"):
        result = triplet(anchors, positives, negatives)
    assert np.isnan(result.proxies).all(axis=1).tolist() == [True, False]
    assert result.num_active.tolist() == [0, 1]
    np.testing.assert_allclose(result.losses, [0, 2.2], rtol=1e-6)


def test_a_triplet_on_the_margin_is_not_active() -> None:
    # The hinge is 2 f.n - 2 f.p + 2 = 0.
    with pytest.warns(UserWarning, match="1 of 1 images have no active triplet"):
        triplet([1.0, 0.0], [[1.0, 0.0]], [[0.0, 1.0]], margin=2)


def test_active_triplets_do_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        triplet(*make_triplets())


def test_proxies_of_inactive_triplets_are_refused_not_drawn(model) -> None:
    with pytest.warns(UserWarning, match="no active triplet"):
        result = triplet([1.0, 0.0], [[1.0, 0.0]], [[0.0, 1.0]])
    message = r"`proxies` must be finite \(an image without an active .*images \[0\]"
    with pytest.raises(ValueError, match=message):
        explain(model, IMAGES, proxies=result.proxies)


@pytest.mark.parametrize("function", [triplet, distance_difference])
def test_triplets_that_do_not_fit_are_refused(function) -> None:
    anchors, positives, negatives = make_triplets()
    for wrong in (
        (anchors, positives[:3], negatives[:3]),
        (anchors, positives[..., :4], negatives[..., :4]),
        (anchors, positives, negatives[:, :5]),
        (anchors, positives[0], negatives[0]),
        (anchors[None], positives, negatives),
    ):
        with pytest.raises(ValueError, match=r"must both have the shape \(n, s, d\)"):
            function(*wrong)
    with pytest.raises(ValueError, match="`sign` must be -1 or .1. Received: 2"):
        function(anchors, positives, negatives, sign=2)
    with pytest.raises(ValueError, match="at least one triplet"):
        function(anchors, positives[:, :0], negatives[:, :0])


@pytest.mark.parametrize("value", [0, np.nan, np.inf])
def test_triplets_of_embeddings_without_direction_are_refused(value) -> None:
    for position in range(3):
        triplets = make_triplets()
        triplets[position][0] = value
        with pytest.raises(ValueError, match="must be finite and not zero"):
            triplet(*triplets)


@pytest.mark.parametrize("margin", [-0.1, np.nan])
def test_a_negative_margin_is_refused(margin) -> None:
    with pytest.raises(ValueError, match="`margin` must be >= 0. Received: "):
        triplet(*make_triplets(), margin=margin)
