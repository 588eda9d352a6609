"""What must be true of every explanation, whatever the weights: DESIGN, section 6."""

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_embcam import EmbeddingCAM, explain
from keras_embcam.proxies import from_score, one_hot

SIZE, CHANNELS, WIDTH = 6, 5, 4
HEADS = ["dense", "deep", "normalised"]


def make_images(num_images: int = 3) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.normal(size=(num_images, SIZE, SIZE, 3)).astype("float32")


def make_model(*head: layers.Layer, activation: str | None = "relu") -> keras.Model:
    """Return a convolution, global average pooling and a head."""
    keras.utils.set_random_seed(1)
    images = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(CHANNELS, 3, activation=activation, name="conv")(images)
    x = layers.GlobalAveragePooling2D()(x)
    for layer in head:
        x = layer(x)
    model = keras.Model(images, x)
    for weight in model.trainable_weights:
        if weight.name == "bias":
            weight.assign(keras.random.normal(weight.shape, stddev=0.1, seed=2))
    return model


def make_head(name: str) -> list[layers.Layer]:
    if name == "dense":
        return [layers.Dense(WIDTH)]
    if name == "deep":
        return [layers.Dense(7, activation="tanh"), layers.Dense(WIDTH)]
    return [layers.Dense(WIDTH), layers.UnitNormalization()]


def activations_of(model: keras.Model) -> np.ndarray:
    layer = model.get_layer("conv")
    return np.asarray(keras.Model(model.input, layer.output)(make_images()))


def raw_maps(model: keras.Model, proxies=None, **options) -> np.ndarray:
    cam = EmbeddingCAM(model, "conv", resize=False, normalize=False, **options)
    return np.asarray(cam(make_images(), proxies)[1])


def signed_maps(model: keras.Model, proxies=None, weighting: str = "gradcam"):
    """Return the maps before ReLU: what speaks for the proxies, less what against."""
    if proxies is None:
        proxies = EmbeddingCAM(model, "conv")(make_images())[0]
        proxies = proxies / np.linalg.norm(proxies, axis=-1, keepdims=True)
    positive = raw_maps(model, proxies, weighting=weighting)
    negative = raw_maps(model, -np.asarray(proxies), weighting=weighting)
    assert not np.any((positive > 0) & (negative > 0))
    return positive - negative


def random_proxies() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(3, WIDTH)).astype("float32")


def record_weights(model: keras.Model, weighting: Callable) -> np.ndarray:
    """Return what a weighting makes of the gradients of random proxies."""
    seen = []

    def spy(activations, gradients):
        seen.append(np.asarray(weighting(activations, gradients)))
        return seen[-1]

    raw_maps(model, random_proxies(), weighting=spy)
    return seen[0]


# A head that reads the activations only through global average pooling.


@pytest.mark.parametrize("head", HEADS)
def test_gradients_behind_pooling_are_constant_over_space(head) -> None:
    model = make_model(*make_head(head))
    gradients = record_weights(model, lambda activations, gradients: gradients)
    assert gradients.shape == (3, 4, 4, CHANNELS)
    np.testing.assert_allclose(
        gradients, np.broadcast_to(gradients[:, :1, :1], gradients.shape), atol=1e-7
    )
    assert gradients.std() > 1e-3


@pytest.mark.parametrize("head", HEADS)
def test_behind_pooling_three_weightings_are_one(head) -> None:
    model = make_model(*make_head(head))
    expected = raw_maps(model, random_proxies())
    assert expected.max() > 1e-3
    for weighting in ("hirescam", "xgradcam"):
        maps = raw_maps(model, random_proxies(), weighting=weighting)
        np.testing.assert_allclose(maps, expected, atol=1e-6)
    # LayerCAM leaves out the channels of a negative gradient.
    maps = raw_maps(model, random_proxies(), weighting="layercam")
    assert np.all(maps >= expected - 1e-6) and np.any(maps > expected + 1e-3)


@pytest.mark.parametrize("head", HEADS)
def test_gradcam_plus_plus_behind_pooling_in_closed_form(head) -> None:
    model = make_model(*make_head(head))
    gradients = record_weights(model, lambda activations, gradients: gradients)
    g = gradients[:, 0, 0].astype("float64")
    activations = activations_of(model).astype("float64")
    total = activations.sum(axis=(1, 2))
    weights = 16 * np.maximum(g, 0) / (2 + g * total)
    expected = np.einsum("nk,nhwk->nhw", weights, activations)
    maps = raw_maps(model, random_proxies(), weighting="gradcam++")
    np.testing.assert_allclose(maps, expected, rtol=1e-5, atol=1e-6)


# Pooling and one Dense


def test_channel_weights_in_closed_form() -> None:
    """Bachhawat, equation 17: ``alpha = W p / (h w)``."""
    model = make_model(layers.Dense(WIDTH))
    kernel = model.layers[-1].get_weights()[0]
    weights = record_weights(
        model, lambda activations, gradients: ops.mean(gradients, (1, 2), keepdims=True)
    )
    expected = random_proxies() @ kernel.T / 16
    np.testing.assert_allclose(weights[:, 0, 0], expected, atol=1e-7)
    maps = raw_maps(model, random_proxies())
    signed = np.einsum("nk,nhwk->nhw", expected, activations_of(model))
    np.testing.assert_allclose(maps, np.maximum(signed, 0), atol=1e-6)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_without_a_bias_the_signed_map_sums_to_the_score(activation) -> None:
    model = make_model(layers.Dense(WIDTH, use_bias=False), activation=activation)
    embeddings = model.predict(make_images(), verbose=0)
    for proxies in (random_proxies(), embeddings):
        scores = np.sum(embeddings * proxies, axis=-1)
        sums = signed_maps(model, proxies).sum(axis=(1, 2))
        np.testing.assert_allclose(sums, scores, rtol=1e-4)
    details = explain(model, make_images(), proxies=random_proxies(), details=True)
    expected = np.sum(embeddings * random_proxies(), axis=-1)
    np.testing.assert_allclose(details.scores, expected, rtol=1e-4)


# Classifiers


def gradcam_slowly(model: keras.Model, label: int) -> np.ndarray:
    """Return plain Grad-CAM of one logit by a split of the graph of the model."""
    *_, dense = model.layers
    split = keras.Model(model.input, [model.get_layer("conv").output, dense.input])
    with tf.GradientTape() as tape:
        activations, features = split(make_images())
        tape.watch(activations)
        logits = tf.matmul(features, dense.kernel) + dense.bias
        score = tf.reduce_sum(logits[:, label])
    gradients = tape.gradient(score, activations).numpy()
    alpha = gradients.mean(axis=(1, 2))
    activations = activations.numpy()
    maps = np.zeros(activations.shape[:3])
    for image, channel in np.ndindex(*alpha.shape):
        maps[image] += alpha[image, channel] * activations[image, ..., channel]
    return np.maximum(maps, 0)


@pytest.mark.parametrize("activation", [None, "softmax"])
@pytest.mark.parametrize("label", [0, WIDTH - 1])
def test_one_hot_on_a_classifier_is_gradcam_of_the_logit(activation, label) -> None:
    hidden = layers.Dense(16, activation="relu")
    model = make_model(hidden, layers.Dense(WIDTH, activation=activation))
    expected = gradcam_slowly(model, label)
    assert expected.max() > 1e-4
    maps = raw_maps(model, one_hot(label, WIDTH))
    np.testing.assert_allclose(maps, expected, atol=1e-6)
    maps = explain(
        model, make_images(), target_class=label, resize=False, normalize=False
    )
    np.testing.assert_allclose(maps, expected, atol=1e-6)


def test_through_the_softmax_the_maps_would_differ() -> None:
    """So that the test above tells the two apart."""
    model = make_model(layers.Dense(WIDTH, activation="softmax"))
    split = keras.Model(model.input, [model.get_layer("conv").output, model.output])
    with tf.GradientTape() as tape:
        activations, probabilities = split(make_images())
        score = tf.reduce_sum(probabilities[:, 0])
    alpha = tf.reduce_mean(tape.gradient(score, activations), (1, 2))
    through = tf.nn.relu(tf.einsum("nk,nhwk->nhw", alpha, activations)).numpy()
    logit = raw_maps(model, one_hot(0, WIDTH))
    assert np.corrcoef(through.ravel(), logit.ravel())[0, 1] < 0.95


def test_one_hot_behind_pooling_is_cam_up_to_a_factor() -> None:
    """Zhou et al. 2016: the kernel's column weighs the activations."""
    model = make_model(layers.Dense(WIDTH, activation="softmax"))
    kernel = model.layers[-1].get_weights()[0]
    cams = np.moveaxis(np.maximum(activations_of(model) @ kernel, 0), -1, 1)
    every_class = np.broadcast_to(np.eye(WIDTH, dtype="float32"), (3, WIDTH, WIDTH))
    maps = raw_maps(model, every_class)
    np.testing.assert_allclose(maps * 16, cams, atol=1e-5)


# The L2 normalisation


def test_through_the_normalisation_the_signed_map_sums_to_zero() -> None:
    """Behind pooling and a positively homogeneous head, for any proxy."""
    hidden = layers.Dense(16, activation="relu", use_bias=False)
    model = make_model(hidden, layers.Dense(WIDTH, use_bias=False))
    fixed = random_proxies()
    for proxies in (fixed, None):
        sums = signed_maps(model, proxies).sum(axis=(1, 2))
        assert np.all(np.abs(sums) > 1e-2)
    towards = from_score(lambda y: ops.sum(ops.normalize(y) * fixed, axis=-1))
    away = from_score(lambda y: -ops.sum(ops.normalize(y) * fixed, axis=-1))
    cam = EmbeddingCAM(model, "conv", resize=False, normalize=False)
    positive, negative = (cam(make_images(), proxies=p)[1] for p in (towards, away))
    sums = np.sum(positive, axis=(1, 2))
    assert np.all(sums > 1e-2)
    np.testing.assert_allclose(sums, np.sum(negative, axis=(1, 2)), atol=1e-6)


def normalise_by(kind: str) -> list[layers.Layer]:
    if kind == "layer":
        return [layers.UnitNormalization()]
    if kind == "keras":
        return [layers.Lambda(lambda y: ops.normalize(y))]
    if kind == "tensorflow":
        return [layers.Lambda(lambda y: tf.math.l2_normalize(y, axis=-1))]
    if kind == "scaled":
        return [layers.UnitNormalization(), layers.Rescaling(16.0)]
    return [keras.Sequential([keras.Input((WIDTH,)), layers.UnitNormalization()])]


@pytest.mark.parametrize("kind", ["layer", "keras", "tensorflow", "scaled", "nested"])
def test_a_final_normalisation_changes_no_single_point_map(kind) -> None:
    raw = make_model(layers.Dense(16, activation="relu"), layers.Dense(WIDTH))
    hidden = layers.Dense(16, activation="relu")
    model = make_model(hidden, layers.Dense(WIDTH), *normalise_by(kind))
    assert np.ptp(np.linalg.norm(model(make_images()), axis=-1)) < 1e-5
    for weighting in ("gradcam", "gradcam++", "layercam"):
        expected = raw_maps(raw, weighting=weighting)
        assert expected.max() > 1e-3
        maps = raw_maps(model, weighting=weighting)
        np.testing.assert_allclose(maps, expected, atol=1e-6)


# The proxy


@pytest.mark.parametrize("weighting", ["gradcam", "layercam", "hirescam", "xgradcam"])
def test_maps_grow_with_the_proxy(weighting) -> None:
    model = make_model(*make_head("deep"))
    maps = raw_maps(model, random_proxies(), weighting=weighting)
    for factor in (1e-3, 1e3):
        grown = raw_maps(model, factor * random_proxies(), weighting=weighting)
        np.testing.assert_allclose(grown, factor * maps, rtol=1e-4, atol=factor * 1e-6)


def test_signed_maps_are_linear_in_the_proxy() -> None:
    model = make_model(*make_head("deep"))
    first, second = random_proxies(), random_proxies()[::-1].copy()
    both = signed_maps(model, 2 * first - second)
    expected = 2 * signed_maps(model, first) - signed_maps(model, second)
    np.testing.assert_allclose(both, expected, atol=1e-5)


def test_an_image_is_explained_by_itself_alone() -> None:
    model = make_model(*make_head("deep"))
    maps = explain(model, make_images(), proxies=random_proxies())
    for index in range(3):
        rows = slice(index, index + 1)
        alone = explain(model, make_images()[rows], proxies=random_proxies()[rows])
        np.testing.assert_allclose(alone, maps[rows], atol=1e-6)
