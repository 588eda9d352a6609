"""Tests of keras_embcam.running.preprocessing."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_embcam import explain
from keras_embcam.running.preprocessing import get_preprocessing, list_preprocessings

IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype("float32")


def test_every_network_of_keras_applications_has_a_name() -> None:
    names = {*list_preprocessings()}
    assert {"resnet50", "resnet_v2", "mobilenet_v2", "vgg16", "convnext"} <= names
    assert "imagenet_utils" not in names
    for name in names - {"imagenet", "0,1", "-1,1"}:
        expected = getattr(keras.applications, name).preprocess_input
        assert get_preprocessing(name) is expected


def test_imagenet_is_what_torchvision_calls_normalisation() -> None:
    means, deviations = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    expected = (IMAGES / 255 - np.float32(means)) / np.float32(deviations)
    found = get_preprocessing("imagenet")(IMAGES.copy())
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_functions_and_none_stay_as_they_are() -> None:
    assert get_preprocessing(None) is None
    assert get_preprocessing(np.negative) is np.negative


def test_explain_takes_a_name() -> None:
    images = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="relu")(images)
    model = keras.Model(images, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    expected = explain(model, IMAGES, preprocessing_function=lambda x: x / 127.5 - 1)
    for name in ("-1,1", "mobilenet_v2"):
        found = explain(model, IMAGES, preprocessing_function=name)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"or one of these names: .*'resnet50'.*'rsn'"):
        explain(model, IMAGES, preprocessing_function="rsn")
