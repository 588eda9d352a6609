"""Contributions through a head that is not linear, against captum's."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from keras_embcam import contributions

NUM_STEPS = 12  # of tests/witnesses/record_contributions.py


@pytest.fixture(scope="module")
def recorded():
    with np.load(Path(__file__).parent / "witnesses" / "contributions.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def model(recorded):
    """The twin, whose images are its activations."""
    target = layers.Conv2D(4, 1, use_bias=False, name="target")
    parts = [
        layers.Conv2D(6, 3, padding="same", activation="relu", name="late"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(8, activation="tanh", name="hidden"),
        layers.Dense(5, name="embedding"),
    ]
    model = keras.Sequential([keras.Input((5, 4, 4)), target, *parts])
    target.set_weights([np.eye(4).reshape(1, 1, 4, 4)])
    for name in ("late", "hidden", "embedding"):
        weights = [recorded[f"{name}/{part}"] for part in ("kernel", "bias")]
        model.get_layer(name).set_weights(weights)
    return model


def test_integrated_gradients_are_captums(model, recorded):
    found = contributions(
        model, recorded["activations"], conv_layer="target", num_steps=NUM_STEPS
    )
    np.testing.assert_allclose(found.embeddings, recorded["embeddings"], atol=1e-6)
    rest = recorded["rest"][:, None, None] / 20
    expected = recorded["contributions"] + rest
    np.testing.assert_allclose(found.values, expected, atol=2e-6)
    assert np.abs(expected).max() > 0.05
    assert found.errors.max() < 0.05


def test_they_are_not_those_of_one_step(model, recorded):
    one = contributions(
        model, recorded["activations"], conv_layer="target", num_steps=1
    )
    expected = recorded["contributions"] + recorded["rest"][:, None, None] / 20
    assert np.abs(one.values - expected).max() > 1e-3
