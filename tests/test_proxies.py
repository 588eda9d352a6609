"""Tests of keras_embcam.proxies."""

import doctest
import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_embcam import EmbeddingCAM, explain
from keras_embcam.layers import Proxies
from keras_embcam.proxies import (
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


@pytest.mark.parametrize("name", ["elementary", "class_means", "triplets"])
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


class KeepsItsProxies(keras.Model):
    """Has the layer as an attribute of the name that its weight has."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.proxies = layers.Dense(2), Proxies(3, name="of_classes")

    def call(self, features):
        return self.proxies(self.dense(features))


@pytest.mark.parametrize("name", [None, "of_classes"])
def test_trained_takes_a_model_that_keeps_the_layer_as_proxies(name) -> None:
    model = KeepsItsProxies()
    model(np.ones((1, 2)))
    [weights] = model.proxies.get_weights()
    expected = weights / np.linalg.norm(weights, axis=-1, keepdims=True)
    np.testing.assert_allclose(trained(model, name), expected, rtol=1e-5)


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


def test_contrast_refuses_two_widths() -> None:
    with pytest.raises(ValueError, match=r"one width d. Received the shapes \(2,"):
        contrast([1.0, 0.0], [1.0, 0.0, 0.0])
