"""Tests of keras_embcam.network.pixel_range: images in a wrong range are told of."""

import re
import warnings
from typing import Any

import keras
import numpy as np
import pytest
from builders import BIRD_WEIGHTS, BIRDS, needs_birds
from keras import layers

from keras_embcam import embed, explain

FILES = sorted((BIRDS / "images").glob("*/*.jpg"))[::150]
SIZE = 64


def photographs(size: int = SIZE) -> np.ndarray:
    """Return different pictures in [0, 255]: coarse noise over a gradient."""
    if FILES:
        pictures = [keras.utils.load_img(x, target_size=(size, size)) for x in FILES]
        return np.stack([np.asarray(x, "float32") for x in pictures])
    coarse = np.random.default_rng(0).uniform(0, 255, (6, 8, 8, 3))
    return coarse.repeat(size // 8, 1).repeat(size // 8, 2).astype("float32")


def network(*front: Any, norm: Any = None) -> keras.Model:
    kernel = keras.initializers.GlorotUniform(3)
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            *front,
            layers.Conv2D(8, 3, strides=2, kernel_initializer=kernel),
            *([norm] if norm is not None else []),
            layers.ReLU(),
            layers.Conv2D(8, 3, strides=2, kernel_initializer=kernel),
            layers.GlobalAveragePooling2D(),
        ]
    )


def told(model: keras.Model, images: np.ndarray, **options: Any) -> list[str]:
    """Return what `embed` warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        embed(model, images, **options)
    return [str(x.message) for x in caught if "take another range" in str(x.message)]


def test_a_model_that_scales_itself_given_fractions() -> None:
    """Measured before: a mean cosine of 0.99986 between different birds."""
    images = photographs()
    for scaling in (layers.Rescaling(1 / 255), layers.Rescaling(1 / 127.5, -1)):
        (message,) = told(network(scaling), images / 255)
        assert "from 0 to 1" in message and "takes [0, 255]" in message
        assert not told(network(scaling), images)
    normalization = layers.Normalization(mean=[120.0] * 3, variance=[3600.0] * 3)
    assert told(network(normalization), images / 127.5 - 1)


def test_a_model_that_widens_fractions_given_bytes() -> None:
    images = photographs()
    (message,) = told(network(layers.Rescaling(2.0, -1)), images)
    assert "takes [0, 1]" in message and "`preprocessing_function='0,1'`" in message
    assert not told(network(layers.Rescaling(2.0, -1)), images / 255)


@pytest.mark.parametrize("trained_on_bytes", [False, True])
def test_statistics_of_the_training(trained_on_bytes: bool) -> None:
    """Of a network that was really fitted, whatever its layers are."""
    images = photographs()
    bytes_and_fractions = {True: images, False: images / 127.5 - 1}
    norm = layers.BatchNormalization(momentum=0.5, name="first_norm")
    model = network(norm=norm)
    for _ in range(8):
        model(bytes_and_fractions[trained_on_bytes], training=True)
    assert not told(model, bytes_and_fractions[trained_on_bytes])
    (message,) = told(model, bytes_and_fractions[not trained_on_bytes])
    assert "'first_norm' varies" in message and "as much as in training" in message
    pattern = r"1/(\d+) of" if trained_on_bytes else r"(\d+) times"
    found = re.search(pattern, message)
    assert found is not None
    # Of the first four images, not of all.
    assert float(found[1]) == pytest.approx(255 / 2, rel=0.3)


@pytest.mark.parametrize("scale", [1 / 255, 1.0])
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_network_at_the_start_of_its_training_is_not_judged(
    scale: float, steps: int
) -> None:
    model = network(norm=layers.BatchNormalization())
    for _ in range(steps):
        model(scale * photographs(), training=True)
    assert not told(model, scale * photographs())


def test_it_is_told_once_for_a_model() -> None:
    images = photographs() / 255
    model = network(layers.Rescaling(1 / 255))
    assert told(model, images, batch_size=2)
    assert not told(model, images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain(model, images)
    assert told(network(layers.Rescaling(1 / 255)), images)


def test_a_range_that_comes_later_is_told_of() -> None:
    model = network(layers.Rescaling(1 / 255))
    assert not told(model, photographs())
    assert told(model, photographs() / 255)


def test_another_wrong_range_is_told_of_again() -> None:
    """Who mends the first one wrongly must not take the silence for success."""
    images = photographs()
    model = network(layers.Rescaling(2.0, -1))
    for wrong in (images, images - 124, images * 257):
        (message,) = told(model, wrong)
        assert f"from {wrong.min():.4g} to {wrong.max():.4g}" in message
        assert not told(model, wrong)
    model = network(layers.Rescaling(1 / 255))
    assert told(model, images / 255) and told(model, images / 127.5 - 1)


def test_images_that_were_preprocessed_twice() -> None:
    images = photographs()
    for once in (lambda x: x / 127.5 - 1, lambda x: x / 255):
        model = network()
        (message,) = told(model, once(once(images)))
        assert "a preprocessing that is done twice. Preprocess them once" in message
        assert not told(model, once(images))
    assert not told(network(layers.Rescaling(255.0)), images / 255 / 255)
    trained = network(norm=layers.BatchNormalization(momentum=0.01))
    for _ in range(8):
        trained(images / 255 / 255, training=True)
    assert not told(trained, images / 255 / 255)


def test_images_of_16_bits() -> None:
    images = photographs() * 257
    (message,) = told(network(layers.Rescaling(1 / 127.5, -1)), images)
    assert "scales pixels by 0.007843 itself, to 5" in message
    assert not told(network(layers.Rescaling(1 / 65535)), images)


def test_embeddings_that_hardly_differ() -> None:
    """Of a network without batch normalisation whose biases fit values up to 255."""
    model = network()
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D):
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel, bias + 60 * np.random.default_rng(0).random(8)])
    (message,) = told(model, photographs() / 255)
    assert "hardly differ" in message
    assert not told(keras.models.clone_model(model), photographs() / 255)


def test_images_without_contrast_and_bytes_are_no_ground_for_a_warning() -> None:
    model = network(layers.Rescaling(1 / 255))
    assert not told(model, np.ones((2, SIZE, SIZE, 3)))
    inputs = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    integers = keras.Model(inputs, model(inputs))
    assert not told(
        integers, np.eye(SIZE, dtype="uint8")[None, :, :, None].repeat(3, 3)
    )


def test_embeddings_that_are_nan_are_no_ground_for_a_warning() -> None:
    model = network()
    model.set_weights([np.full_like(x, np.nan) for x in model.get_weights()])
    assert not told(model, photographs() / 255)


def test_a_network_that_was_just_made_is_not_judged() -> None:
    images = photographs()
    for make in (keras.applications.MobileNetV2, keras.applications.ResNet50V2):
        model = make(
            include_top=False, weights=None, input_shape=(SIZE, SIZE, 3), pooling="avg"
        )
        assert not told(model, images) and not told(model, images / 127.5 - 1)


@needs_birds
def test_mobilenet_of_birds_given_files_as_they_are() -> None:
    """Measured before: a correlation of 0.69 with the right maps.

    Its statistics are put into its weights, so that only its name tells.
    """
    images = photographs(224)
    backbone = keras.applications.MobileNetV2(
        include_top=False, weights=str(BIRD_WEIGHTS), input_shape=(224, 224, 3)
    )
    pooled = layers.GlobalAveragePooling2D()(backbone.output)
    model = keras.Model(backbone.input, pooled)
    assert not told(model, images / 127.5 - 1)
    assert not told(model, images / 255)
    (message,) = told(model, images)
    assert "MobileNetV2" in message and "[-1, 1]" in message


def test_nearly_the_same_images_of_a_classifier_are_no_wrong_range(recwarn) -> None:
    # Probabilities differ more where pixels are larger, whatever the network takes.
    keras.utils.set_random_seed(0)
    model = network()
    model.add(layers.Dense(5, activation="softmax"))
    picture = photographs()[:1] / 255
    noise = np.random.default_rng(0).uniform(-1e-3, 1e-3, (4, *picture.shape[1:]))
    explain(model, (picture + noise).clip(0, 1).astype("float32"))
    assert not [x for x in recwarn if "take another range" in str(x.message)]
