"""Tests of keras_embcam.network.branches: gates, and branches side by side."""

import warnings
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_embcam import embed, explain
from keras_embcam.method import AUTO, Method
from keras_embcam.network.view import ModelView

SIZE = 24
IMAGES = np.random.default_rng(0).uniform(size=(2, SIZE, SIZE, 3)).astype("float32")


def look(model: keras.Model, **options: Any) -> ModelView:
    """Return what is explained by default."""
    return Method(weighting=AUTO, **options).look(model, IMAGES)


def tower(x: Any, name: str, channels: int = 4, **options: Any) -> Any:
    x = layers.Conv2D(channels, 3, activation="relu", name=f"{name}1", **options)(x)
    return layers.Conv2D(channels, 3, activation="relu", name=f"{name}2", **options)(x)


def two_towers(order: str, head: Any = None, merge: Any = None) -> keras.Model:
    """Return a network that pools two towers on one stem, in this order.

    Its weights depend on the names alone.
    """
    inputs = keras.Input((SIZE, SIZE, 3))
    stem = layers.Conv2D(4, 3, activation="relu", name="stem")(inputs)
    pooled = [layers.GlobalAveragePooling2D()(tower(stem, name)) for name in order]
    x = (merge or layers.Concatenate())(pooled)
    model = keras.Model(inputs, head(x) if head else x)
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D):
            generator = np.random.default_rng(list(layer.name.encode()))
            layer.set_weights(
                [generator.normal(size=x.shape, scale=0.3) for x in layer.get_weights()]
            )
    return model


# Branches side by side


def test_the_order_of_two_towers_does_not_matter() -> None:
    found = [explain(two_towers(order), IMAGES) for order in ("ab", "ba")]
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    assert np.ptp(found[0]) > 0.5


def test_branches_add_up_as_they_add_to_the_score() -> None:
    """Behind mean pooling a map's sum is what its branch adds to the score."""
    model = two_towers("ab", head=layers.Dense(3, use_bias=False, name="head"))
    proxies = np.float32([1, -2, 3])
    options = {"proxies": proxies, "resize": False, "normalize": False}
    found = explain(model, IMAGES, **options)
    outputs = [model.get_layer(name).output for name in ("a2", "b2")]
    expected = 0.0
    kernel = np.split(model.get_layer("head").get_weights()[0] @ proxies, 2)
    for maps, weights in zip(
        keras.Model(model.input, outputs)(IMAGES), kernel, strict=True
    ):
        expected = expected + np.maximum(np.asarray(maps) @ weights / 18**2, 0)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    named = explain(model, IMAGES, conv_layer=["a2", "b2"], **options)
    assert not np.allclose(found, named)  # the mean of maps divided by their maxima
    # Half the activations, half the heat: the scale is kept.
    for name in ("a2", "b2"):
        kernel, bias = model.get_layer(name).get_weights()
        model.get_layer(name).set_weights([kernel / 2, bias / 2])
    np.testing.assert_allclose(explain(model, IMAGES, **options), found / 2, atol=1e-6)


@pytest.mark.parametrize("weighting", ["auto", "gradcam", "layercam"])
def test_every_weighting_explains_all_branches(weighting: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        view = Method(weighting=weighting).look(two_towers("ab"))
    assert sorted(view.conv_layer) == ["a2", "b2"]


def test_a_preset_of_one_branch_warns() -> None:
    with pytest.warns(UserWarning, match="only '[ab]2' is explained"):
        Method(preset="localize").look(two_towers("ab"))


@pytest.mark.parametrize("order", ["ab", "ba", "abc", "cba"])
def test_branches_are_explained_together_and_named(order: str) -> None:
    view = look(two_towers(order))
    assert sorted(view.conv_layer) == [f"{name}2" for name in sorted(order)]
    assert all(repr(path) in repr(view) for path in view.conv_layer)


def test_towers_whose_vectors_are_added_or_mixed_are_branches() -> None:
    keras.utils.set_random_seed(0)
    mixed = layers.Dense(32, activation="relu"), layers.Dense(3)
    for model in (
        two_towers("ab", merge=layers.Add()),
        two_towers("ab", head=lambda x: mixed[1](mixed[0](x))),
    ):
        assert sorted(look(model).conv_layer) == ["a2", "b2"]


def test_one_layer_alone_warns_and_names_the_others() -> None:
    model = two_towers("ab")
    message = "only '[ab]2' is explained. .* also made of '[ab]2'. Pass `conv_layer`"
    with pytest.warns(UserWarning, match=message):
        view = ModelView(model)
    assert view.conv_layer in ("a2", "b2")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ModelView(model, "a2").conv_layer == "a2"
        assert ModelView(model, ["a2", "b2"]).conv_layer == ["a2", "b2"]


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_a_branch_that_does_not_count_is_left_out(order: str) -> None:
    model = two_towers(order)
    kernel, bias = model.get_layer("a2").get_weights()
    model.get_layer("a2").set_weights([1e-8 * kernel, 0 * bias])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert look(model).conv_layer == "b2"


class Towers(keras.Model):
    """A subclassed model whose towers meet in the head."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = [layers.Conv2D(4, 3, name=f"conv{i}") for i in range(3)]

    def call(self, x: Any) -> Any:
        x = self.convs[0](x)
        parts = [ops.mean(conv(x), axis=(1, 2)) for conv in self.convs[1:]]
        return ops.concatenate(parts, axis=1)


def test_the_towers_of_a_subclassed_model_are_branches() -> None:
    assert look(Towers()).conv_layer == ["conv1", "conv2"]


def test_a_tower_of_another_input_is_not_explained() -> None:
    inputs = [keras.Input((SIZE, SIZE, 3)), keras.Input((SIZE, SIZE, 3))]
    pooled = [
        layers.GlobalAveragePooling2D()(tower(x, name))
        for x, name in zip(inputs, "ab", strict=True)
    ]
    model = keras.Model(inputs, layers.Concatenate()(pooled))
    with pytest.warns(UserWarning, match="only 'a2' is explained. .* of 'b2'"):
        view = Method(weighting=AUTO).look(model)
    assert view.conv_layer == "a2"


def test_towers_of_parts_of_the_image_are_not_laid_over_each_other() -> None:
    inputs = keras.Input((SIZE, SIZE, 3))
    halves = inputs[:, : SIZE // 2], inputs[:, SIZE // 2 :]
    pooled = [
        layers.GlobalAveragePooling2D()(tower(x, name))
        for x, name in zip(halves, "ab", strict=True)
    ]
    model = keras.Model(inputs, layers.Concatenate()(pooled))
    with pytest.warns(UserWarning, match="only '[ab]2' is explained. .* of '[ab]2'"):
        assert look(model).conv_layer in ("a2", "b2")


# What is no branch


class Residual(keras.Model):
    """Blocks that add what went in, in plain Python."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = layers.Conv2D(4, 3, name="stem")
        self.convs = [
            layers.Conv2D(4, 3, padding="same", name=f"conv{i}") for i in range(3)
        ]

    def call(self, x: Any) -> Any:
        x = self.stem(x)
        for conv in self.convs:
            x = x + conv(x)
        return ops.mean(x, axis=(1, 2))


def test_the_sums_of_a_residual_network_are_no_branches() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert look(Residual()).conv_layer == "conv2"
        assert ModelView(Residual(), images=IMAGES).conv_layer == "conv2"


def test_what_the_last_layer_is_made_of_is_no_branch() -> None:
    """Vectors of an earlier layer as well: it is explained by the last one."""
    inputs = keras.Input((SIZE, SIZE, 3))
    first = layers.Conv2D(4, 3, name="first")(inputs)
    last = layers.Conv2D(4, 3, name="last")(first)
    pooled = [layers.GlobalAveragePooling2D()(x) for x in (last, first)]
    model = keras.Model(inputs, layers.Concatenate()(pooled))
    assert look(model).conv_layer == "last"


@pytest.mark.parametrize(
    ("family", "size", "name"),
    [
        ("ResNet50", 64, "conv5_block3_out"),
        ("MobileNetV2", 64, "out_relu"),
        ("EfficientNetB0", 64, "top_activation"),
        ("DenseNet121", 64, "relu"),
        ("InceptionV3", 160, "mixed10"),
    ],
)
def test_backbones_keep_their_one_layer(family: str, size: int, name: str) -> None:
    model = getattr(keras.applications, family)(
        weights=None, input_shape=(size, size, 3), include_top=False, pooling="avg"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Method(weighting=AUTO).look(model).conv_layer == name


# Gates


class SpatialGate(layers.Layer):
    """Attention as in CBAM, made of its layers inside one call."""

    def __init__(self, activation: str | None, is_residual: bool = False) -> None:
        super().__init__(name="block")
        self.conv = layers.Conv2D(8, 3, name="features")
        self.gate = layers.Conv2D(1, 3, padding="same", name="gate")
        self.squash = layers.Activation(activation or "sigmoid", name="squash")
        self.is_residual = is_residual

    def call(self, x: Any) -> Any:
        x = self.conv(x)
        pools = [ops.mean(x, -1, keepdims=True), ops.max(x, -1, keepdims=True)]
        gate = self.squash(self.gate(ops.concatenate(pools, axis=-1)))
        gated = x * (1 + gate) if self.is_residual else x * gate
        return ops.mean(gated, axis=(1, 2))


@pytest.mark.parametrize("is_residual", [False, True])
def test_a_map_of_gate_values_is_not_explained_unless_named(is_residual: bool) -> None:
    inputs = keras.Input((SIZE, SIZE, 3))
    block = SpatialGate("sigmoid", is_residual)
    model = keras.Model(inputs, layers.Dense(4)(block(inputs)))
    assert look(model).conv_layer == "block/features"
    assert ModelView(model).conv_layer == "block/features"
    assert ModelView(model, "block/gate").conv_layer == "block/gate"


class WideGate(keras.Model):
    """One gate value for each channel and position, made before what it weighs."""

    def __init__(self, is_first: bool) -> None:
        super().__init__()
        self.conv = layers.Conv2D(8, 3, name="features")
        self.gate = layers.Conv2D(8, 3, activation="sigmoid", name="gate")
        self.is_first = is_first

    def call(self, x: Any) -> Any:
        order = [self.gate, self.conv] if self.is_first else [self.conv, self.gate]
        first, second = [layer(x) for layer in order]
        return ops.mean(first * second, axis=(1, 2))


@pytest.mark.parametrize("is_first", [False, True])
def test_a_gate_of_every_channel_is_not_explained(is_first: bool) -> None:
    assert look(WideGate(is_first)).conv_layer == "features"


def test_a_last_map_of_one_channel_that_is_no_gate_is_explained() -> None:
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="wide")(inputs)
    x = layers.Conv2D(1, 3, activation="sigmoid", name="narrow")(x)
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    assert look(model).conv_layer == "narrow"


def test_squashed_towers_are_no_gates() -> None:
    model = two_towers("ab", head=layers.Dense(3, activation="tanh"))
    for name in ("a2", "b2"):
        model.get_layer(name).activation = keras.activations.sigmoid
    assert sorted(look(model).conv_layer) == ["a2", "b2"]


def test_embeddings_alone_say_nothing_of_branches() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert embed(two_towers("ab"), IMAGES).shape == (2, 8)
