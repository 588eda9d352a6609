"""Tests of keras_embcam.network.relu_gradients: which ReLUs, which gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import Input, Sequential, layers, ops

from keras_embcam.method import Method
from keras_embcam.network.relu_gradients import GUIDED
from keras_embcam.network.view import ModelView
from keras_embcam.pixels import (
    deconvnet,
    deconvnet_gradcam,
    guided_backpropagation,
    guided_gradcam,
    saliency,
)
from keras_embcam.running.pixel_gradients import explain_pixels

METHODS = [
    saliency,
    guided_backpropagation,
    deconvnet,
    guided_gradcam,
    deconvnet_gradcam,
]
RULES = [guided_backpropagation, deconvnet]
IMAGES = np.random.default_rng(0).normal(size=(5, 6, 6, 2)).astype("float32")


def make_model(*middle, dtype="float32") -> keras.Model:
    """Return a small network with random weights and these layers inside."""
    images = Input(IMAGES.shape[1:], dtype=dtype)
    model = Sequential([images, *middle, layers.Flatten(), layers.Dense(3)])
    randomize(model)
    return model


def randomize(model: keras.Model) -> None:
    """Fill all weights, biases too, always in the same way."""
    random = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(random.normal(size=weight.shape) / 2)


def convolution(**options) -> layers.Conv2D:
    """Return a convolution with four channels."""
    return layers.Conv2D(4, 3, **options)


def assert_same(actual, expected, tolerance: float = 1e-5) -> None:
    """Compare to a fraction of the largest value, which is not zero."""
    expected = np.asarray(expected)
    assert actual.shape == expected.shape
    largest = np.abs(expected).max()
    assert largest > 0
    assert np.abs(actual - expected).max() <= tolerance * largest


def loop_over_rules(image, weights, proxy) -> dict:
    """Work out all three maps of one image in plain loops, in float64."""
    kernel1, bias1, kernel2, bias2, kernel3, _ = [w.astype("float64") for w in weights]

    def convolve(x, kernel, bias):
        size = kernel.shape[0]
        height, width = x.shape[0] - size + 1, x.shape[1] - size + 1
        out = np.zeros((height, width, kernel.shape[3])) + bias
        for i, j, di, dj, c, k in np.ndindex(
            height, width, size, size, *kernel.shape[2:]
        ):
            out[i, j, k] += x[i + di, j + dj, c] * kernel[di, dj, c, k]
        return out

    def send_back(gradient, kernel, shape):
        size = kernel.shape[0]
        out = np.zeros(shape)
        for i, j, k in np.ndindex(gradient.shape):
            for di, dj, c in np.ndindex(size, size, kernel.shape[2]):
                out[i + di, j + dj, c] += gradient[i, j, k] * kernel[di, dj, c, k]
        return out

    image = image.astype("float64")
    before1 = convolve(image, kernel1, bias1)
    after1 = np.maximum(before1, 0)
    before2 = convolve(after1, kernel2, bias2)
    assert (before2 > 6).any() and (before2 < 0).any()
    open1, open2 = before1 > 0, (before2 > 0) & (before2 < 6)
    maps = {}
    for name, rule in {
        "plain": lambda g, is_open: g * is_open,
        "deconvnet": lambda g, is_open: g * (g > 0),
        "guided": lambda g, is_open: g * (g > 0) * is_open,
    }.items():
        gradient = (kernel3 @ proxy).reshape(before2.shape)
        gradient = send_back(rule(gradient, open2), kernel2, after1.shape)
        maps[name] = send_back(rule(gradient, open1), kernel1, image.shape)
    return maps


def test_rules_agree_with_a_slow_loop() -> None:
    model = make_model(
        convolution(activation="relu"), layers.Conv2D(3, 2, activation="relu6")
    )
    images = IMAGES[:2] * 4
    proxies = np.float32([[1, -2, 0.5], [-1, 0, 3]])
    expected = [
        loop_over_rules(image, model.get_weights(), proxy)
        for image, proxy in zip(images, proxies, strict=True)
    ]
    guided = guided_backpropagation(model, images, proxies)
    assert_same(guided, [maps["guided"] for maps in expected])
    assert_same(deconvnet(model, images, proxies), [x["deconvnet"] for x in expected])
    plain = np.array([x["plain"] for x in expected])
    assert_same(saliency(model, images, proxies), np.abs(plain).max(axis=-1))


class Inline(layers.Layer):
    """A ReLU in the code of a layer."""

    def __init__(self, function=tf.nn.relu) -> None:
        super().__init__()
        self.function = function

    def call(self, x):
        """Apply the function."""
        return self.function(x)


def nested() -> keras.Model:
    images = Input((4, 4, 4))
    inner = keras.Model(images, ops.relu(images))
    images = Input((4, 4, 4))
    return keras.Model(images, inner(images))


@pytest.mark.parametrize("method", RULES)
@pytest.mark.parametrize(
    "make_relu",
    [
        layers.ReLU,
        lambda: layers.Activation("relu"),
        lambda: layers.ReLU(max_value=1e9),
        lambda: layers.Lambda(tf.nn.relu),
        lambda: layers.TimeDistributed(layers.Activation("relu")),
        Inline,
        nested,
    ],
)
def test_relu_is_found_however_it_is_written(method, make_relu) -> None:
    expected = method(make_model(convolution(activation="relu")), IMAGES)
    maps = method(make_model(convolution(), make_relu()), IMAGES)
    assert_same(maps, expected)
    # It is not the plain gradient, which would show that nothing was found.
    plain = saliency(make_model(convolution(activation="relu")), IMAGES)
    assert np.abs(np.abs(maps).max(axis=-1) - plain).max() > 0.1 * plain.max()


@pytest.mark.parametrize("method", RULES)
@pytest.mark.parametrize(
    "leaky",
    [
        lambda: layers.PReLU(keras.initializers.Constant(0.25), trainable=False),
        lambda: layers.ReLU(negative_slope=0.25),
        lambda: layers.ReLU(negative_slope=0.25, max_value=1e9),
    ],
)
def test_leaky_relu_keeps_its_gradient(method, leaky) -> None:
    def make(activation):
        return make_model(
            convolution(), activation, layers.Conv2D(3, 2, activation="relu")
        )

    def formula(x):
        return tf.where(x > 0, x, 0.25 * x)

    assert_same(method(make(leaky()), IMAGES), method(make(Inline(formula)), IMAGES))


@pytest.mark.parametrize("method", RULES)
def test_compiled_call_without_relu_is_no_obstacle(method) -> None:
    """Keras compiles grouped convolutions by themselves."""
    grouped = make_model(
        convolution(activation="relu"), layers.Conv2D(4, 1, groups=2, use_bias=False)
    )
    dense = make_model(
        convolution(activation="relu"), layers.Conv2D(4, 1, use_bias=False)
    )
    weights = grouped.get_weights()
    halves = np.zeros((1, 1, 4, 4), "float32")
    halves[..., :2, :2], halves[..., 2:, 2:] = np.split(weights[2], 2, axis=-1)
    dense.set_weights([*weights[:2], halves, *weights[3:]])
    assert_same(method(grouped, IMAGES), method(dense, IMAGES))


def test_relu_behind_a_stopped_gradient_is_no_obstacle() -> None:
    def make(gate_activation):
        images = Input((6, 6, 2))
        maps = convolution(activation="relu")(images)
        gate = layers.Activation(gate_activation)(convolution()(images))
        maps = layers.Multiply()([maps, layers.Lambda(tf.stop_gradient)(gate)])
        model = keras.Model(images, layers.Dense(3)(layers.Flatten()(maps)))
        randomize(model)
        return model

    def relu(x):
        return tf.maximum(x, 0.0)

    expected = guided_backpropagation(make(relu), IMAGES)
    assert_same(guided_backpropagation(make("relu"), IMAGES), expected)


@pytest.mark.parametrize("method", [*RULES, guided_gradcam, deconvnet_gradcam])
@pytest.mark.parametrize(
    "make_layer",
    [
        lambda: layers.Activation("gelu"),
        lambda: layers.Activation("swish"),
        layers.LeakyReLU,
        layers.PReLU,
        lambda: layers.Lambda(lambda x: tf.maximum(x, 0.0)),
    ],
)
def test_model_without_relu_is_refused(method, make_layer) -> None:
    with pytest.raises(ValueError, match="there is no `relu` or `relu6`.*Conv2D"):
        method(make_model(convolution(), make_layer()), IMAGES)


def test_relu_that_the_embedding_does_not_use_does_not_count() -> None:
    images = Input((6, 6, 2))
    maps = convolution(activation="gelu")(images)
    vector = layers.Dense(3, name="embedding")(layers.Flatten()(maps))
    other = layers.Dense(2, activation="relu")(vector)
    model = keras.Model(images, [vector, other])
    with pytest.raises(ValueError, match="no `relu`"):
        guided_backpropagation(model, IMAGES, embedding_layer="embedding")


@tf.custom_gradient
def own_gradient(x):
    return tf.nn.relu(x), lambda gradient: gradient * tf.cast(x > 0, x.dtype)


def remat() -> layers.Layer:
    with keras.RematScope(mode="full"):
        return layers.Activation("relu")


HIDDEN = {
    "function": lambda: Inline(tf.function(lambda x: tf.nn.relu(x))),
    "deeper": lambda: Inline(tf.function(lambda x: tf.function(tf.nn.relu)(x))),
    "jit": lambda: Inline(tf.function(lambda x: tf.nn.relu(x), jit_compile=True)),
    "loop": lambda: Inline(
        lambda x: tf.while_loop(
            lambda i, y: i < 2, lambda i, y: (i + 1, tf.nn.relu(y)), (0, x)
        )[1]
    ),
    "condition": lambda: Inline(
        lambda x: tf.cond(tf.reduce_sum(x) < 1e9, lambda: tf.nn.relu(x), lambda: x)
    ),
    "custom gradient": lambda: Inline(own_gradient),
}
if hasattr(keras, "RematScope"):  # not in Keras 3.8
    HIDDEN["remat"] = remat


@pytest.mark.filterwarnings("ignore:AutoGraph")
@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_relu_is_refused_but_has_a_saliency(name) -> None:
    """With another ReLU in plain sight, which would pass for the only one."""

    def make(relu):
        return make_model(convolution(activation="relu"), relu, convolution())

    model = make(HIDDEN[name]())
    for method in RULES:
        with pytest.raises(ValueError, match="cannot change the gradient of the ReLUs"):
            method(model, IMAGES)
    assert_same(saliency(model, IMAGES), saliency(make(layers.ReLU()), IMAGES))


@pytest.mark.parametrize("rule", [None, GUIDED])
def test_rules_hold_under_xla(rule) -> None:
    model = make_model(convolution(activation="relu"), convolution(activation="relu"))
    view = ModelView(model)

    def run(images):
        return explain_pixels(view, images, None, Method(), rule, True)[0]

    compiled = tf.function(run, jit_compile=True, autograph=False)
    expected = tf.function(run, autograph=False)(IMAGES)
    assert_same(compiled(IMAGES).numpy(), expected.numpy())


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("size", [1e-3, 1, 1e3])
@pytest.mark.parametrize("method", [saliency, deconvnet, guided_gradcam])
def test_half_precision(method, policy, size) -> None:
    def make():
        return make_model(
            convolution(activation="relu"), layers.Conv2D(3, 2, activation="relu6")
        )

    proxies = size * np.float32([1, -2, 3])
    expected = method(make(), IMAGES, proxies)
    keras.config.set_dtype_policy(policy)
    try:
        half = make()
    finally:
        keras.config.set_dtype_policy("float32")
    maps = method(half, IMAGES, proxies)
    assert maps.dtype == "float32"
    assert np.corrcoef(maps.ravel(), expected.ravel())[0, 1] > 0.99


def test_gradient_that_grows_in_half_precision() -> None:
    """Three layers sum 64 channels each: beyond float16 without headroom."""
    ones = {"kernel_initializer": "ones", "dtype": "mixed_float16"}
    sums = [layers.Conv2D(64, 1, **ones) for _ in range(3)]
    model = Sequential([Input((6, 6, 1)), *sums, layers.Flatten()])
    maps = saliency(model, np.full((1, 6, 6, 1), 1e-3), np.ones(36 * 64))
    assert np.array_equal(maps, np.full((1, 6, 6), 64.0**3))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "step",
    [
        lambda: layers.Lambda(tf.round),
        lambda: layers.Lambda(tf.stop_gradient),
        lambda: layers.Lambda(lambda x: tf.cast(tf.cast(x, "int32"), "float32")),
    ],
)
def test_images_out_of_reach_of_the_gradient(method, step) -> None:
    model = make_model(step(), convolution(activation="relu"))
    with pytest.raises(ValueError, match="No gradient reaches.* here are float32"):
        method(model, IMAGES * 9)


@pytest.mark.parametrize("method", METHODS)
def test_integer_images(method) -> None:
    model = make_model(
        layers.Rescaling(1 / 255), convolution(activation="relu"), dtype="uint8"
    )
    with pytest.raises(ValueError, match="No gradient reaches.* here are uint8"):
        method(model, np.full((2, 6, 6, 2), 9, "uint8"))


def test_operation_that_has_no_gradient() -> None:
    hue = layers.Lambda(
        lambda x: tf.image.adjust_hue(tf.concat([x, x[..., :1]], -1), 0.1)
    )
    model = make_model(hue, convolution(activation="relu"))
    with pytest.raises(ValueError, match="TensorFlow says: No gradient.*AdjustHue"):
        guided_backpropagation(model, IMAGES)
