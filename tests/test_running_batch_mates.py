"""A word where the embedding of an image depends on more than the image."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_embcam import embed, explain, explain_pair
from keras_embcam.retrieval import head_functions
from keras_embcam.running import batch_mates, details, one_batch

IMAGES = np.random.default_rng(0).random((4, 8, 8, 3)).astype("float32")
MESSAGE = "must depend on this image alone. In the first batch that of the last image"


class Sampled(layers.Layer):
    """Adds random numbers, the same ones in each run."""

    def call(self, x):
        return x + keras.random.normal(ops.shape(x), seed=3)


HEADS = {
    "mean of the batch": lambda x: x - ops.mean(x, axis=0, keepdims=True),
    "image before it": lambda x: x + ops.roll(x, 1, axis=0),
    "random numbers": layers.Lambda(lambda x: x + keras.random.normal(ops.shape(x))),
    "random numbers of a seed": Sampled(),
}


def make(head=None, dtype=None):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, activation="relu", dtype=dtype)(x)
    x = layers.GlobalAveragePooling2D(dtype=dtype)(x)
    return keras.Model(inputs, x if head is None else head(x))


@pytest.mark.parametrize("name", HEADS)
def test_a_warning_once_a_model(name):
    model = make(HEADS[name])
    with pytest.warns(UserWarning, match=MESSAGE):
        embed(model, IMAGES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embed(model, IMAGES)


def test_a_pooling_head_of_a_single_image_is_explained():
    """A function that reads it returns what looks like the embedding of one image."""
    found = explain_pair(make(), IMAGES[:1], IMAGES[1:2])
    np.testing.assert_allclose(found.signed_a.sum(), found.similarity[0], rtol=1e-4)


def test_a_single_image_and_pairs():
    model = make(HEADS["random numbers of a seed"])
    with pytest.warns(UserWarning, match=MESSAGE):
        explain(model, IMAGES[:1], proxies=np.ones((1, 6), "float32"))
    model = make(HEADS["mean of the batch"])
    with pytest.warns(UserWarning, match=MESSAGE):
        explain_pair(model, IMAGES[:2], IMAGES[2:], num_steps=1)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("num_images", [1, 4])
def test_no_false_alarm(dtype, num_images):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = make(layers.BatchNormalization(dtype=dtype), dtype)
        explain(model, IMAGES[:num_images], target_class=1)


def test_the_functions_that_are_checked_are_there():
    modules = details, one_batch, head_functions
    for name in batch_mates.PLACES:
        assert any(callable(getattr(module, name, None)) for module in modules), name


@pytest.mark.parametrize("limit, num_rows", [(64, 2), (63, 1)])
def test_a_single_large_image_is_not_doubled(monkeypatch, limit, num_rows) -> None:
    """Two images took 1.6 times the memory of `predict` at 1200 x 1600 pixels."""
    monkeypatch.setattr(batch_mates, "MAX_EAGER_PIXELS", limit)
    given = []

    def run(inputs, proxies):
        given.append(len(inputs))
        return [np.ones((len(inputs), 3))]

    image = np.zeros((1, 8, 8, 3))
    batch_mates.warn_of_batch_mates(run, image, None, np.ones((1, 3)), 0, False)
    assert given == [num_rows]
