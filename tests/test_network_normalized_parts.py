"""Tests of keras_embcam.network.normalized_parts: embeddings of normalised parts."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_embcam import embed, explain
from keras_embcam.network.view import ModelView
from keras_embcam.proxies import single_point

IMAGES = np.random.default_rng(0).uniform(size=(2, 16, 16, 3)).astype("float32")
WIDTH = 6


def stripes(x: Any) -> list[Any]:
    """Return three pooled stripes of a map, as part-based re-identification does."""
    return [
        layers.Dense(WIDTH, name=f"part{i}")(
            layers.GlobalAveragePooling2D()(x[:, 4 * i : 4 * i + 4])
        )
        for i in range(3)
    ]


def joined(x: Any, scale: Callable) -> Any:
    return layers.Concatenate()([scale(part) for part in stripes(x)])


def joined_and_normalized(x: Any, scale: Callable) -> Any:
    return layers.UnitNormalization()(joined(x, scale))


def shared(x: Any, scale: Callable) -> Any:
    layer = layers.UnitNormalization(name="shared")
    return layers.Concatenate()([layer(part) for part in stripes(x)])


def stacked(x: Any, scale: Callable) -> Any:
    stack = ops.stack(stripes(x), axis=1)
    return layers.Flatten()(layers.UnitNormalization(axis=-1, name="rows")(stack))


def netvlad(x: Any, scale: Callable) -> Any:
    """Return residuals to soft clusters, normalised one by one and together."""
    stack = ops.stack(stripes(x), axis=2)  # (n, d, clusters)
    unit = layers.UnitNormalization(axis=1, name="columns")(stack)
    return layers.UnitNormalization()(layers.Flatten()(unit))


def unit(x: Any) -> Any:
    return layers.UnitNormalization()(x)


def make_model(head: Callable) -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 5, activation="relu", name="conv")(inputs)
    return keras.Model(inputs, head(x, unit))


def divide_by_hand(model: keras.Model, image: np.ndarray) -> keras.Model:
    """Return the network with each part divided by its length for one image."""
    parts = [model.get_layer(f"part{i}").output for i in range(3)]
    found = keras.Model(model.inputs[0], parts)(image)
    lengths = [float(ops.norm(x)) for x in found]
    return keras.Model(
        model.inputs[0],
        layers.Concatenate()(
            [layers.Rescaling(1 / y)(x) for x, y in zip(parts, lengths, strict=True)]
        ),
    )


@pytest.mark.parametrize(
    "head", [joined, joined_and_normalized, shared, stacked, netvlad]
)
def test_maps_are_those_of_parts_divided_by_constants(head: Callable) -> None:
    model = make_model(head)
    expected = explain(divide_by_hand(model, IMAGES[:1]), IMAGES[:1])
    assert np.ptp(expected) > 0.5
    np.testing.assert_allclose(explain(model, IMAGES)[:1], expected, atol=1e-4)


def test_maps_of_pairs_are_those_of_parts_divided_by_constants() -> None:
    model = make_model(joined)
    embeddings = embed(model, IMAGES)
    np.testing.assert_allclose(embeddings, model.predict(IMAGES, verbose=0), atol=1e-5)
    other = np.asarray(single_point(embeddings))[1]
    expected = explain(divide_by_hand(model, IMAGES[:1]), IMAGES[:1], proxies=other)
    found = explain(model, IMAGES[:1], proxies=other)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_description_says_where_the_parts_are() -> None:
    model = make_model(joined)
    found = ModelView(model).embedding
    assert "normalised parts joined" in found and "its length held constant" in found
    assert found.count("input of 'unit_normalization") == 3
    assert "input of 'columns'" in ModelView(make_model(netvlad)).embedding


def test_parts_that_do_not_show_are_refused() -> None:
    class Hidden(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.conv = layers.Conv2D(6, 3, activation="relu")

        def call(self, images: Any) -> Any:
            maps = self.conv(images)
            parts = [ops.mean(maps[:, i : i + 7], axis=(1, 2)) for i in (0, 7)]
            return ops.concatenate([ops.normalize(x) for x in parts], axis=1)

    with pytest.raises(ValueError, match="normalised .* Pass `embedding_layer`"):
        explain(Hidden(), IMAGES)
