"""More proxies than the embedding has numbers: maps from those of the unit vectors."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_embcam import explain

RNG = np.random.default_rng(0)
IMAGES = RNG.random((2, 10, 9, 3)).astype("float32")
PROXIES = RNG.normal(scale=30, size=(2, 9, 4)).astype("float32")


@pytest.fixture(scope="module")
def model():
    """Return a network whose head is not linear."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((10, 9, 3)),
            layers.Conv2D(6, 3, activation="relu", name="target"),
            layers.Conv2D(5, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4),
        ]
    )


@pytest.mark.parametrize("weighting", ["gradcam", "hirescam", "xgradcam", "layercam"])
@pytest.mark.parametrize("layer", ["target", None])
def test_the_maps_are_those_of_each_proxy_alone(model, weighting, layer):
    options = {"weighting": weighting, "conv_layer": layer, "normalize": False}
    many = explain(model, IMAGES, proxies=PROXIES, **options)
    # Four at a time are explained one by one.
    few = [
        explain(model, IMAGES, proxies=PROXIES[:, rows], **options)
        for rows in (slice(0, 4), slice(4, 8), slice(8, 9))
    ]
    assert many.max() > 0.1
    np.testing.assert_allclose(many, np.concatenate(few, axis=1), atol=1e-6)


def test_gradients_are_those_of_the_unit_vectors_alone(model, monkeypatch):
    from keras_embcam.running import one_batch

    counted = []
    original = one_batch._multiply_unit_maps
    monkeypatch.setattr(
        one_batch,
        "_multiply_unit_maps",
        lambda *args: counted.append(1) or original(*args),
    )
    images = RNG.random((2, 12, 12, 3)).astype("float32")
    wide = keras.Sequential([keras.Input((12, 12, 3)), *model.layers])
    explain(wide, images, proxies=PROXIES, weighting="hirescam")
    assert counted == [1]
    explain(wide, images, proxies=PROXIES, weighting="gradcam++")
    explain(wide, images, proxies=PROXIES, weighting="hirescam", top_channels=3)
    explain(wide, images, proxies=PROXIES[:, :4], weighting="hirescam")
    assert counted == [1]


def test_a_head_whose_gradient_has_no_shape_in_a_loop():
    """Of a maximum, TensorFlow forgets the rank there."""
    conv = layers.Conv2D(6, 3, activation="relu")
    parts = [conv, layers.GlobalMaxPooling2D(), layers.Dense(4)]
    model = keras.Sequential([keras.Input((10, 9, 3)), *parts])
    many = explain(model, IMAGES, proxies=PROXIES[:, :3])
    each = [explain(model, IMAGES, proxies=PROXIES[:, i]) for i in range(3)]
    np.testing.assert_allclose(many, np.stack(each, axis=1), atol=1e-6)
