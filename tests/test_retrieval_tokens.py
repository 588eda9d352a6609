"""Contributions and pairs of transformers: token maps, class tokens left alone."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_embcam import contributions, explain_neighbors, explain_pair
from keras_embcam.network.view import ModelView

RNG = np.random.default_rng(0)
IMAGES = RNG.random((3, 32, 32, 3)).astype("float32") * 255


class AddTokens(layers.Layer):
    """Puts a class token in front and adds positions."""

    def build(self, shape):
        def add(name, *size):
            init = keras.initializers.RandomNormal(stddev=0.5, seed=len(size))
            return self.add_weight(shape=size, initializer=init, name=name)

        self.first = add("first", 1, 1, shape[-1])
        self.positions = add("positions", shape[1] + 1, shape[-1])

    def call(self, x):
        first = ops.repeat(self.first, ops.shape(x)[0], axis=0)
        return ops.concatenate([first, x], axis=1) + self.positions


def make(pool, change=lambda x: x):
    """Return a transformer of two blocks, 4 x 4 patches and a class token.

    Args:
        pool: "class" or "patches".
        change: what becomes of the patches, (n, 16, 16).
    """
    keras.utils.set_random_seed(0)
    images = keras.Input((32, 32, 3))
    x = layers.Conv2D(16, 8, 8)(layers.Rescaling(1 / 64, -2)(images))
    x = AddTokens()(change(layers.Reshape((-1, 16))(x)))
    for number in range(2):
        normed = layers.LayerNormalization(name=f"norm_{number}")(x)
        x = x + layers.MultiHeadAttention(2, 8)(normed, normed)
        hidden = layers.Dense(32, activation="gelu")(layers.LayerNormalization()(x))
        x = x + layers.Dense(16)(hidden)
    x = layers.LayerNormalization(name="final")(x)
    pooled = x[:, 0] if pool == "class" else ops.mean(x[:, 1:], axis=1)
    return keras.Model(images, layers.Dense(5, name="embedding")(pooled))


def test_pooled_patches_are_a_linear_head():
    model = make("patches")
    found = contributions(model, IMAGES, conv_layer="final")
    assert found.values.shape == (3, 4, 4, 5) and found.num_steps == 0
    expected = model.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(found.values.sum(axis=(1, 2)), expected, atol=1e-5)


def test_a_class_token_head_is_integrated():
    model = make("class")
    found = contributions(model, IMAGES, conv_layer="norm_1", num_steps=64)
    assert found.values.shape == (3, 4, 4, 5)
    assert found.errors.max() < 1e-3
    coarse = contributions(model, IMAGES, conv_layer="norm_1", num_steps=1)
    assert coarse.errors.max() > found.errors.max()
    pair = explain_pair(model, IMAGES, IMAGES[::-1], conv_layer="norm_1", num_steps=64)
    assert pair.heatmaps_a.shape == (3, 32, 32)
    sums = pair.signed_a.sum(axis=(1, 2)), pair.signed_b.sum(axis=(1, 2))
    np.testing.assert_allclose(sums, [pair.similarity] * 2, atol=5e-3)


@pytest.mark.parametrize("pool", ["class", "patches"])
def test_activations_are_put_back_between_the_other_tokens(pool):
    model = make(pool)
    view = ModelView(model, "norm_1")
    recording = view.record(IMAGES)
    again = view.record(IMAGES, recording.activations)
    np.testing.assert_allclose(again.embeddings, recording.embeddings, atol=1e-6)
    nothing = view.record(IMAGES, 0 * recording.activations)
    assert np.abs(nothing.embeddings - recording.embeddings).max() > 1e-3
    # The class token still tells the images apart, if only through the first block.
    assert np.abs(nothing.embeddings[0] - nothing.embeddings[1]).max() > 1e-5


class Shuffle(layers.Layer):
    """Puts the patches in another order, which no grid has row by row.

    Three tokens that follow each other in it once passed for a grid of 1 x 3.
    """

    def call(self, x):
        return ops.take(x, np.random.default_rng(0).permutation(16), axis=1)


@pytest.fixture(scope="module")
def shuffled():
    return make("patches", Shuffle())


TOLD = {"token_grid": (2, 8), "num_prefix_tokens": 1, "conv_layer": "final"}


def test_contributions_and_pairs_take_the_grid_that_they_are_told(shuffled):
    """Its sums are those of the tokens themselves, by numpy."""
    found = contributions(shuffled, IMAGES, **TOLD)
    tokens = keras.Model(shuffled.input, shuffled.get_layer("final").output)(IMAGES)
    kernel, bias = shuffled.get_layer("embedding").get_weights()
    expected = (np.asarray(tokens)[:, 1:] @ kernel + bias) / 16
    expected = expected.reshape(3, 2, 8, 5)
    np.testing.assert_allclose(found.values, expected, atol=1e-5)
    pair = explain_pair(shuffled, IMAGES, IMAGES[::-1], resize=False, **TOLD)
    assert pair.heatmaps_a.shape == (3, 2, 8)
    y = expected.sum(axis=(1, 2))
    cosines = expected[0] @ y[2] / np.linalg.norm(y[0]) / np.linalg.norm(y[2])
    np.testing.assert_allclose(pair.signed_a[0], cosines, atol=1e-5)


ALL = {
    "contributions": lambda model, **options: contributions(model, IMAGES, **options),
    "pair": lambda model, **options: explain_pair(model, IMAGES, IMAGES, **options),
    "neighbors": lambda model, **options: explain_neighbors(model, IMAGES, **options),
}


@pytest.mark.parametrize("name", ALL)
def test_what_is_said_where_no_grid_is_found_or_the_options_are_wrong(name, shuffled):
    with pytest.raises(ValueError, match=r"'final'.* pass `token_grid=\(h, w\)`, and"):
        ALL[name](shuffled, conv_layer="final")
    with pytest.raises(ValueError, match="`token_grid` must be a pair"):
        ALL[name](shuffled, token_grid=16)
    with pytest.raises(ValueError, match="`num_prefix_tokens` must be an integer >= 0"):
        ALL[name](shuffled, num_prefix_tokens=-1)


def test_neighbors_take_the_grid_that_they_are_told():
    model = make("patches")
    options = {"token_grid": (2, 8), "num_prefix_tokens": 1}
    found = explain_neighbors(model, IMAGES, k=1, resize=False, **options)
    assert found.heatmaps_matches.shape == (3, 1, 2, 8)
