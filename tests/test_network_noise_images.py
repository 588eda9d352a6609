"""Tests of keras_embcam.network.noise_images."""

import doctest
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from keras_embcam.network import noise_images as module
from keras_embcam.network.noise_images import find_images, make_noise_images


def pooling(*shape: int | None, dtype: str | None = None) -> keras.Model:
    """Return a Functional model of images of a shape."""
    inputs = keras.Input(shape, dtype=dtype)
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(inputs))


def test_the_examples_run() -> None:
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


# make_noise_images


def test_noise_has_the_shape_that_the_model_states() -> None:
    assert make_noise_images(pooling(9, 7, 3)).shape == (3, 9, 7, 3)


def test_noise_is_the_same_every_time() -> None:
    model = pooling(9, 7, 3)
    np.testing.assert_array_equal(make_noise_images(model), make_noise_images(model))


def test_each_row_has_one_of_the_usual_ranges() -> None:
    noise = np.asarray(make_noise_images(pooling(32, 32, 3)))
    bounds = [(0, 1), (-1, 1), (0, 255)]
    for image, (low, high) in zip(noise, bounds, strict=True):
        assert low <= image.min() < low + 0.2 * (high - low)
        assert high - 0.2 * (high - low) < image.max() <= high


def test_integer_images_are_bytes() -> None:
    noise = make_noise_images(pooling(8, 8, 3, dtype="uint8"))
    assert keras.backend.standardize_dtype(noise.dtype) == "uint8"
    assert 200 < np.max(noise) <= 255


def test_a_size_that_is_left_open_comes_from_the_images_or_is_224() -> None:
    model = pooling(None, None, 3)
    assert make_noise_images(model).shape == (3, 224, 224, 3)
    assert make_noise_images(model, np.zeros((5, 6, 7, 3))).shape == (3, 6, 7, 3)
    symbols = keras.KerasTensor((None, 6, 7, 3))
    assert make_noise_images(model, symbols).shape == (3, 6, 7, 3)


@pytest.mark.parametrize("built_by_input", [True, False])
def test_a_sequential_model_states_its_shape(built_by_input: bool) -> None:
    first = [keras.Input((8, 6, 3))] if built_by_input else []
    model = keras.Sequential([*first, layers.Conv2D(2, 3)])
    if not built_by_input:
        model.build((None, 8, 6, 3))
    assert make_noise_images(model).shape == (3, 8, 6, 3)


def test_other_inputs_are_zeros_or_the_first_that_is_given() -> None:
    inputs = {
        "picture": keras.Input((8, 8, 3), name="picture"),
        "age": keras.Input((1,), name="age"),
    }
    x = layers.GlobalAveragePooling2D()(inputs["picture"])
    model = keras.Model(inputs, layers.Concatenate()([x, inputs["age"]]))
    probe = make_noise_images(model)
    assert probe["picture"].shape == (3, 8, 8, 3)
    assert np.asarray(probe["age"]).tolist() == [[0], [0], [0]]
    given = {"picture": np.zeros((2, 8, 8, 3)), "age": np.float32([[41], [7]])}
    assert np.asarray(make_noise_images(model, given)["age"]).tolist() == [[41]] * 3


class Subclassed(keras.Model):
    """Does not state the shape of its images."""

    def call(self, x: Any) -> Any:
        return keras.ops.mean(x, axis=(1, 2))


def test_a_model_that_states_no_shape_needs_images() -> None:
    with pytest.raises(ValueError, match="does not state the shape .* Pass `images`"):
        make_noise_images(Subclassed())
    assert make_noise_images(Subclassed(), np.zeros((1, 4, 5, 2))).shape == (3, 4, 5, 2)


def test_a_model_without_images_is_refused() -> None:
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(inputs))
    with pytest.raises(ValueError, match=r"must have the shape \(n, H, W, c\)"):
        make_noise_images(model)


# find_images


def test_the_images_are_the_first_4_d_input() -> None:
    images = np.zeros((2, 4, 4, 3))
    assert find_images(images) is images
    assert find_images([np.zeros((2, 5)), images]) is images
    assert find_images({"a": np.zeros((2, 5)), "b": images}) is images


def test_a_single_image_is_told_to_add_an_axis() -> None:
    message = r"image\[None\].*\[\(4, 4, 3\)\]"
    with pytest.raises(ValueError, match=message):
        find_images(np.zeros((4, 4, 3)))
