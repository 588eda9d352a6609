"""The layer of trainable proxies."""

import doctest

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_embcam import layers
from keras_embcam.layers import Proxies


@pytest.fixture
def mixed_float16():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(before)


def draw(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def cosines(embeddings, proxies):
    embeddings, proxies = np.float64(embeddings), np.float64(proxies)
    return np.array(
        [
            [np.dot(y, p) / np.sqrt(np.dot(y, y) * np.dot(p, p)) for p in proxies]
            for y in embeddings
        ]
    )


def test_examples():
    results = doctest.testmod(layers)
    assert results.failed == 0
    assert results.attempted > 0


def test_output_is_the_cosine_to_each_proxy():
    layer = Proxies(3)
    similarities = layer(10 * draw(5, 4))
    expected = cosines(10 * draw(5, 4), layer.proxies.numpy())
    np.testing.assert_allclose(similarities, expected, atol=1e-6)


def test_proxies_are_one_trainable_counted_weight():
    layer = Proxies(3, name="head")
    model = keras.Sequential([keras.Input((4,)), layer])
    assert [weight.name for weight in layer.trainable_weights] == ["proxies"]
    assert layer.proxies.path.endswith("head/proxies")
    assert layer.proxies.shape == (3, 4)
    assert model.count_params() == 12
    assert model.output_shape == (None, 3)
    assert layer.compute_output_shape((7, 4)) == (7, 3)


def test_default_initial_values_have_the_stated_deviation():
    layer = Proxies(50)
    layer.build((None, 2000))
    deviation = np.std(layer.proxies.numpy())
    assert deviation == pytest.approx(np.sqrt(2 / 50), rel=0.02)


def test_shorter_proxies_turn_faster():
    """Ten times shorter, ten times the angle in one small step of Adam."""
    directions, angles = draw(3, 4), []
    for length in (1.0, 0.1):
        layer = Proxies(3)
        layer.build((None, 4))
        layer.proxies.assign(length * directions)
        model = keras.Sequential([keras.Input((4,)), layer])
        model.compile(keras.optimizers.Adam(1e-4), "mse")
        model.train_on_batch(draw(6, 4), np.ones((6, 3)))
        turned = np.diag(cosines(layer.proxies.numpy(), directions))
        angles.append(np.arccos(np.minimum(turned, 1)))
    np.testing.assert_allclose(angles[1] / angles[0], 10, rtol=0.05)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1e3])
def test_gradients_are_finite_and_zero_embeddings_get_none(scale):
    embeddings = tf.constant(draw(4, 5) * np.array([[1], [scale], [1], [scale]]))
    embeddings = tf.cast(embeddings, "float32")
    layer = Proxies(2)
    layer.build((None, 5))
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        similarities = layer(embeddings)
    gradients = tape.gradient(similarities, [embeddings, layer.proxies.value])
    assert np.isfinite(similarities).all()
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    is_zero = not scale
    assert (gradients[0].numpy()[[1, 3]] == 0).all() == is_zero
    assert (similarities.numpy()[[1, 3]] == 0).all() == is_zero


def test_similarities_are_float32_in_mixed_float16(mixed_float16):
    layer = Proxies(3)
    embeddings = 300 * draw(5, 4)  # their squares exceed float16
    similarities = layer(embeddings)
    assert similarities.dtype == "float32"
    assert layer.proxies.dtype == "float32"
    expected = cosines(embeddings, layer.proxies.numpy())
    np.testing.assert_allclose(similarities, expected, atol=1e-6)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), Proxies(3)])
    assert model.layers[0].output.dtype == "float16"
    assert model.layers[1].output.dtype == "float32"
    assert model(embeddings).dtype == "float32"


def test_saved_and_loaded(tmp_path):
    model = keras.Sequential([keras.Input((4,)), Proxies(3, "random_normal", name="p")])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    layer = loaded.get_layer("p")
    assert type(layer) is Proxies
    assert layer.get_config() == model.get_layer("p").get_config()
    np.testing.assert_array_equal(layer.proxies, model.get_layer("p").proxies)
    np.testing.assert_array_equal(loaded(draw(5, 4)), model(draw(5, 4)))
    model.save_weights(tmp_path / "model.weights.h5")
    layer.proxies.assign(np.zeros((3, 4)))
    loaded.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(layer.proxies, model.get_layer("p").proxies)


@pytest.mark.parametrize("num_classes", [0, -2, 2.5, "3", None, True])
def test_number_of_classes_is_checked(num_classes):
    with pytest.raises(ValueError, match="num_classes must be an integer above 0. Rec"):
        Proxies(num_classes)


def test_numpy_integers_are_taken():
    assert Proxies(np.int64(4)).num_classes == 4


@pytest.mark.parametrize("shape", [(None, 7, 7, 4), (None, None), (4,)])
def test_shape_of_the_embeddings_is_checked(shape):
    with pytest.raises(ValueError, match=r"takes embeddings \(n, d\).*Put a Dense"):
        Proxies(3).build(shape)
