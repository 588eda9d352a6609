"""Tests of keras_embcam.network.view: a model is afterwards as it was before."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_embcam.network.view import ModelView


def remember(model: keras.Model) -> list[Any]:
    """Return all attributes of all layers and the values of all variables."""
    attributes = [
        {
            name: (id(value), list(value) if isinstance(value, list | dict) else None)
            for name, value in vars(layer).items()
        }
        for layer in model._flatten_layers()
    ]
    generators = [
        np.asarray(variable)
        for layer in model._flatten_layers()
        for generator in getattr(layer, "_seed_generators", [])
        for variable in [generator.state]
    ]
    return [attributes, [np.asarray(x) for x in model.variables], generators]


class Restless(layers.Layer):
    """Changes all its state on each call and may fail at the end."""

    broken = False

    def __init__(self) -> None:
        super().__init__(name="restless")
        self.seed = keras.random.SeedGenerator(3)
        self.norm = layers.BatchNormalization()

    def build(self, shape: Any) -> None:
        self.norm.build(shape)
        self.counter = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x: Any) -> Any:
        self.counter.assign_add(1.0)
        self.add_loss(ops.sum(x))
        x = self.norm(x, training=True)
        x = x + keras.random.normal(ops.shape(x), seed=self.seed)
        if self.broken:
            raise RuntimeError("broken")
        return x


@pytest.fixture
def restless(parts: Any) -> keras.Model:
    """Return a model that changes with each call, called once."""
    inputs = keras.Input((9, 8, 3))
    x = layers.RandomFlip(seed=1)(inputs)
    for layer in [*parts.body, Restless(), *parts.head]:
        x = layer(x)
    model = keras.Model(inputs, x)
    model(parts.images)
    return model


def assert_same(before: list[Any], after: list[Any]) -> None:
    """Compare what was remembered."""
    assert before[0] == after[0]
    np.testing.assert_equal(after[1:], before[1:])


def test_a_run_without_the_view_does_change_the_model(
    restless: Any, parts: Any
) -> None:
    before = remember(restless)
    restless(parts.images)
    with pytest.raises(AssertionError):
        assert_same(before, remember(restless))


def test_a_model_that_was_never_called_is_as_before(parts: Any) -> None:
    model = parts.functional()
    before = remember(model)
    ModelView(model, "target").record(parts.images)
    assert_same(before, remember(model))


@pytest.mark.parametrize("compiled", [False, True])
def test_a_model_is_as_before(restless: Any, parts: Any, compiled: bool) -> None:
    before = remember(restless)
    view = ModelView(restless, "target")
    assert_same(before, remember(restless))

    def run(images: Any, proxies: Any) -> Any:
        return view.record(images).pull_back(proxies)

    (tf.function(run) if compiled else run)(parts.images, parts.proxies)
    assert_same(before, remember(restless))


@pytest.mark.parametrize("compiled", [False, True])
def test_a_model_is_as_before_after_an_error(
    restless: Any, parts: Any, compiled: bool
) -> None:
    view = ModelView(restless, "target")
    layer = restless.get_layer("restless")
    layer.broken = True
    before = remember(restless)
    with pytest.raises(RuntimeError, match="broken"):
        ModelView(restless, "target")
    assert_same(before, remember(restless))
    run = tf.function(view.record) if compiled else view.record
    with pytest.raises(RuntimeError, match="broken"):
        run(parts.images)
    assert_same(before, remember(restless))
    layer.broken = False
    assert view.record(parts.images).embeddings.shape == (2, 3)


def test_recordings_do_not_depend_on_earlier_ones(restless: Any, parts: Any) -> None:
    view = ModelView(restless, "target")
    first, second = (view.record(parts.images).embeddings for _ in range(2))
    # The same random numbers are drawn again: their state did not move on.
    np.testing.assert_array_equal(first, second)


def test_a_model_may_be_trained_afterwards(parts: Any) -> None:
    model = parts.functional()
    view = ModelView(model, "target")
    model.compile("sgd", "mse")
    before = view.record(parts.images).embeddings
    model.fit(parts.images, np.zeros((2, 3)), epochs=1, verbose=0)
    after = view.record(parts.images).embeddings
    assert np.abs(after - before).max() > 1e-4
    np.testing.assert_allclose(after, parts.expect()[1], rtol=1e-4, atol=1e-6)
