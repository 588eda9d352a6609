"""Tests of keras_embcam.network.raw_embedding: what is taken for the raw embedding."""

import doctest
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_embcam import embed, explain
from keras_embcam.layers import Proxies
from keras_embcam.network import raw_embedding as module
from keras_embcam.network.raw_embedding import find_embedding
from keras_embcam.network.trial_run import TrialRun
from keras_embcam.network.view import ModelView

IMAGES = np.random.default_rng(0).random((2, 8, 8, 3), "float32")
WIDTH = 5


def divide_by_norm(x: Any) -> Any:
    """Normalise by hand."""
    return ops.divide(x, ops.norm(x, axis=-1, keepdims=True))


class Normalize(layers.Layer):
    """Normalises in its own code."""

    def call(self, x: Any) -> Any:
        return tf.math.l2_normalize(x, axis=-1)


NORMALIZATIONS = {
    "UnitNormalization": lambda: layers.UnitNormalization(),
    "Lambda with tf": lambda: layers.Lambda(lambda x: tf.math.l2_normalize(x, axis=1)),
    "Lambda with keras": lambda: layers.Lambda(lambda x: ops.normalize(x)),
    "ops.normalize": lambda: ops.normalize,
    "ops.divide": lambda: divide_by_norm,
    "layer of one's own": Normalize,
}
BEHIND = {
    "nothing": lambda x: x,
    "cast": lambda x: ops.cast(x, "float16"),
    "linear activation": layers.Activation("linear"),
    "dropout": layers.Dropout(0.5),
    "factor": lambda x: x * 16,
    "Rescaling": layers.Rescaling(16.0),
    "sum of zero": lambda x: x + 0.0,
}


def by_largest(x: Any) -> Any:
    return x / ops.max(ops.abs(x), axis=-1, keepdims=True)


def by_range(x: Any) -> Any:
    shifted = x - ops.min(x, axis=-1, keepdims=True)
    return shifted / ops.max(shifted, axis=-1, keepdims=True)


SCALINGS = {
    "sum of absolute values": lambda x: ops.normalize(x, order=1),
    "largest absolute value": by_largest,
    "largest value": lambda x: x / ops.max(x, axis=-1, keepdims=True),
    "3-norm": lambda x: ops.normalize(x, order=3),
}


class Network:
    """Convolution, pooling and a Dense layer: the raw embedding."""

    def __init__(self, activation: Any = None, width: int = WIDTH) -> None:
        self.conv = layers.Conv2D(4, 3, activation="relu", name="conv")
        self.pool = layers.GlobalAveragePooling2D(name="pool")
        self.dense = layers.Dense(width, activation=activation, name="dense")
        self.inputs = keras.Input((8, 8, 3))
        self.raw = self.dense(self.pool(self.conv(self.inputs)))
        self.models: list[keras.Model] = []  # views do not keep them

    def model(self, *steps: Any, name: str | None = None) -> keras.Model:
        """Return the model with more steps behind the raw embedding."""
        x = self.raw
        for step in steps:
            x = step(x)
        self.models.append(keras.Model(self.inputs, x, name=name))
        return self.models[-1]

    def expected(self) -> np.ndarray:
        """Return the raw embeddings of the images, or the logits."""
        kernel, bias = self.dense.get_weights()
        return np.asarray(self.pool(self.conv(IMAGES))) @ kernel + bias


@pytest.fixture
def network() -> Network:
    """Return a network whose raw embedding is no unit vector."""
    network = Network()
    # The three ranges of the probe would hide a length that is always the same.
    network.dense.bias.assign([0.5, -0.5, 0.2, 0.1, -0.3])
    return network


def check(model: keras.Model, network: Network, name: Any = None) -> str:
    """Check the recorded embeddings; return where they were found."""
    view = ModelView(model, "conv", name, images=IMAGES)
    assert view.length_has_gradient
    assert view.embedding_width == network.dense.units
    recorded = view.record(IMAGES).embeddings
    np.testing.assert_allclose(recorded, network.expected(), rtol=1e-5, atol=1e-6)
    return view.embedding


def test_the_examples_run() -> None:
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


# A final L2 normalisation


@pytest.mark.parametrize("kind", NORMALIZATIONS)
def test_a_normalisation_is_stepped_over(network: Network, kind: str) -> None:
    check(network.model(NORMALIZATIONS[kind]()), network)


@pytest.mark.parametrize("kind", NORMALIZATIONS)
def test_a_normalisation_inside_a_nested_model_is_stepped_over(
    network: Network, kind: str
) -> None:
    inner = network.model(NORMALIZATIONS[kind](), name="inner")
    middle = keras.Sequential([keras.Input((8, 8, 3)), inner], name="middle")
    inputs = keras.Input((8, 8, 3))
    check(keras.Model(inputs, middle(inputs)), network)


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("kind", ["UnitNormalization", "ops.divide"])
def test_what_is_behind_a_normalisation_is_stepped_over_too(
    network: Network, kind: str, behind: str
) -> None:
    check(network.model(NORMALIZATIONS[kind](), BEHIND[behind]), network)


def test_what_is_taken_is_described(network: Network) -> None:
    normalize = layers.UnitNormalization(name="unit")
    assert check(network.model(normalize), network) == "input of 'unit'"
    inner = network.model(normalize, name="inner")
    model = keras.Sequential([keras.Input((8, 8, 3)), inner])
    assert check(model, network) == "input of 'inner/unit'"
    assert check(network.model(), network) == "model's output"
    assert check(network.model(normalize), network, "dense") == "output of 'dense'"


class Subclassed(keras.Model):
    """Normalises in the code of its call, with no layer or operation for it."""

    def __init__(self, network: Network, factor: float = 1.0) -> None:
        super().__init__()
        self.steps = [network.conv, network.pool, network.dense]
        self.factor = factor

    def call(self, x: Any) -> Any:
        for step in self.steps:
            x = step(x)
        return self.factor * tf.math.l2_normalize(x, axis=-1)


def test_a_normalisation_in_the_code_of_a_model_is_stepped_over(
    network: Network,
) -> None:
    assert check(Subclassed(network), network) == "output of 'dense'"


def test_the_same_one_level_down_with_a_factor_behind(network: Network) -> None:
    inner = Subclassed(network)
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layers.Rescaling(16.0)(inner(inputs)))
    assert check(model, network).endswith("/dense'")


def test_a_scaled_normalisation_in_the_code_is_trap_1(network: Network) -> None:
    model = Subclassed(network, factor=16.0)
    message = (
        r"\(model's output\) has a fixed length: it is normalised .* would be noise. "
        r"Pass `embedding_layer`, the layer .* Candidates:\n  dense \(None, 5\)"
    )
    with pytest.raises(ValueError, match=message):
        ModelView(model, images=IMAGES)
    check(model, network, "dense")


# A final layer normalisation


def trained(norm: Any) -> Any:
    """Return a normalisation with weights that are not those it starts with."""
    norm.build((None, WIDTH))
    for weight in norm.weights:
        rng = np.random.default_rng(len(weight.name))
        weight.assign(rng.uniform(0.5, 1.5, WIDTH))
    return norm


def undo(norm: Any, network: Network) -> Any:
    """Return a Dense layer that centres and scales as a normalisation does."""
    centre = np.eye(WIDTH) - (0 if type(norm).__name__.startswith("RMS") else 1 / WIDTH)
    gamma = norm.gamma if hasattr(norm, "gamma") else norm.scale
    kernel = centre * (1 if gamma is None else np.asarray(gamma))
    dense = layers.Dense(WIDTH, use_bias=False, name="linear")
    dense.build((None, WIDTH))
    dense.set_weights([kernel])
    return dense


@pytest.mark.parametrize("behind", ["nothing", "UnitNormalization", "factor"])
@pytest.mark.parametrize(
    "options", [{}, {"center": False}, {"center": False, "scale": False}, None]
)
def test_a_layer_normalisation_is_stepped_over(
    network: Network, options: Any, behind: str
) -> None:
    norm = layers.RMSNormalization if options is None else layers.LayerNormalization
    norm = trained(norm(name="norm", **(options or {})))
    steps = {**NORMALIZATIONS, **BEHIND}[behind]
    step = steps if behind in BEHIND else steps()
    model = network.model(norm, step)
    view = ModelView(model, "conv")
    assert view.length_has_gradient
    assert view.embedding == "what the layer normalisation 'norm' scales"
    recording = view.record(IMAGES)
    # As retrieval sees it: parallel to what the model returns.
    raw, outputs = np.asarray(recording.embeddings), np.asarray(model(IMAGES))
    cosines = np.sum(raw * outputs, axis=1) / np.linalg.norm(raw, axis=1)
    np.testing.assert_allclose(cosines, np.linalg.norm(outputs, axis=1), rtol=1e-5)
    # Its gradient is that of the network with a Dense layer that only centres and
    # scales by gamma.
    linear = ModelView(network.model(undo(norm, network)), "conv").record(IMAGES)
    proxies = np.random.default_rng(1).normal(size=(2, WIDTH)).astype("float32")
    np.testing.assert_allclose(
        recording.pull_back(proxies), linear.pull_back(proxies), rtol=1e-4, atol=1e-7
    )
    if options is None or not options.get("center", True):
        np.testing.assert_allclose(raw, linear.embeddings, rtol=1e-4, atol=1e-6)


def test_a_token_of_a_layer_normalisation_is_stepped_over() -> None:
    inputs = keras.Input((16, 16, 3))
    x = layers.Reshape((16, 8))(layers.Conv2D(8, 4, 4)(inputs))
    x = x + layers.MultiHeadAttention(2, 4)(x, x)
    norm = layers.LayerNormalization(name="norm")(x)
    model = keras.Model(inputs, norm[:, 3])
    view = ModelView(model)
    assert view.embedding == "what the layer normalisation 'norm' scales, token 3"
    images = np.random.default_rng(0).random((2, 16, 16, 3), "float32")
    expected = np.asarray(keras.Model(inputs, x)(images))[:, 3]
    expected = expected - expected.mean(axis=1, keepdims=True)
    raw = view.record(images).embeddings
    np.testing.assert_allclose(raw, expected, rtol=1e-4, atol=1e-6)
    # The mean of all tokens is no normalised vector.
    pooled = keras.Model(inputs, ops.mean(norm, axis=1))
    assert ModelView(pooled).embedding == "model's output"


def test_convnext_with_pooling_is_explained() -> None:
    model = keras.applications.ConvNeXtTiny(
        weights=None, input_shape=(32, 32, 3), include_top=False, pooling="avg"
    )
    assert "what the layer normalisation" in ModelView(model, images=None).embedding


def test_a_layer_normalisation_by_hand_is_trap_1_unless_it_is_named(
    network: Network,
) -> None:
    def normalize(x: Any) -> Any:
        x = x - ops.mean(x, axis=1, keepdims=True)
        return x / ops.std(x, axis=1, keepdims=True) * np.sqrt(WIDTH) + 0.0

    model = network.model(layers.Lambda(lambda x: normalize(x) + 1.0))
    with pytest.raises(ValueError, match="normalised .L2 or layer normalisation."):
        ModelView(model)
    check(model, network, "dense")


@pytest.mark.parametrize("name", SCALINGS)
def test_other_scalings_are_stepped_over(network: Network, name: str) -> None:
    if name == "largest value":
        network.dense.kernel.assign(network.dense.kernel * 1e-2)
        network.dense.bias.assign([-300, 3, -20, -40, -10])  # not by absolute value
    check(network.model(layers.Lambda(SCALINGS[name])), network)


def scaled_in_code(network: Network, scale: Any) -> keras.Model:
    class Scaled(Subclassed):
        def call(self, x: Any) -> Any:
            for step in self.steps:
                x = step(x)
            return scale(ops.relu(x) + 0.01 * ops.square(x))

    return Scaled(network)


@pytest.mark.parametrize("name", ["3-norm", "largest absolute value"])
def test_a_scaling_of_what_is_not_found_is_refused(network: Network, name: str) -> None:
    model = scaled_in_code(network, SCALINGS[name])
    message = rf"(?s)its {name} is the same for every image.* Pass `embedding_layer`.*"
    with pytest.raises(ValueError, match=message + r"dense \(None, 5\)"):
        ModelView(model, images=IMAGES)
    check(model, network, "dense")


def test_a_range_in_the_code_is_refused(network: Network) -> None:
    with pytest.raises(ValueError, match="its largest absolute value is the same"):
        ModelView(scaled_in_code(network, by_range), images=IMAGES)


@pytest.mark.parametrize("saturate", [ops.sigmoid, ops.tanh, ops.relu6])
def test_what_saturates_is_not_taken_for_scaled(saturate: Any) -> None:
    network = Network(width=64)
    model = network.model(lambda x: saturate(100 * x))
    assert find_embedding(TrialRun(model)).description == "model's output"


def test_a_named_normalisation_is_stepped_over_too(network: Network) -> None:
    steps = layers.UnitNormalization(name="unit"), layers.Rescaling(16.0, name="scale")
    for name in ("unit", "scale"):
        assert check(network.model(*steps), network, name) == "input of 'unit'"


def test_a_raw_embedding_of_fixed_length_is_taken_as_it_is() -> None:
    # The bias outweighs the images: the lengths agree within a percent, but nothing
    # normalises, and the gradient along the embedding is not zero.
    network = Network()
    network.dense.kernel.assign(network.dense.kernel * 1e-5)
    network.dense.bias.assign([3.0, 4.0, 0.0, 0.0, 0.0])
    assert check(network.model(), network) == "model's output"
    model = network.model(layers.UnitNormalization(name="unit"))
    assert check(model, network) == "input of 'unit'"


def test_one_vector_an_image_may_have_axes_of_one(network: Network) -> None:
    inputs = keras.Input((8, 8, 3))
    pool = layers.GlobalAveragePooling2D(keepdims=True)
    x = layers.Conv2D(WIDTH, 1, name="dense")(pool(network.conv(inputs)))
    normalized = layers.UnitNormalization(name="unit")(x)
    model = keras.Model(inputs, layers.Flatten()(normalized))
    kernel, bias = network.dense.get_weights()
    model.get_layer("dense").set_weights([kernel[None, None], bias])
    assert check(model, network) == "input of 'unit'"
    assert check(model, network, "dense") == "output of 'dense'"


def test_rows_that_overflow_in_float16_do_not_hide_a_normalisation() -> None:
    # 255 * 8 * 4 squared is beyond float16: the normalised vector is zero there.
    inputs = keras.Input((8, 8, 3))
    conv = layers.Conv2D(3, 3, name="conv", dtype="float16", kernel_initializer="ones")
    x = layers.GlobalAveragePooling2D(dtype="float16")(conv(inputs))
    outputs = layers.UnitNormalization(dtype="float16", name="unit")(x)
    model = keras.Model(inputs, outputs)
    trial = TrialRun(model)
    assert np.linalg.norm(trial.outputs, axis=1).tolist()[2] < 0.5
    assert find_embedding(trial).description == "input of 'unit'"


def test_an_embedding_that_is_always_zero_is_taken_as_it_is() -> None:
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(3, 3, kernel_initializer="zeros")(inputs)
    view = ModelView(keras.Model(inputs, layers.GlobalAveragePooling2D()(x)))
    assert view.embedding == "model's output" and view.length_has_gradient


# A final softmax

SOFTMAXES = {
    "activation of a Dense": ("softmax", []),
    "Activation": (None, [layers.Activation("softmax")]),
    "Softmax": (None, [layers.Softmax()]),
    "operation": (None, [ops.softmax]),
    "Lambda": (None, [layers.Lambda(lambda x: tf.nn.softmax(x))]),
    "Activation in float32": (None, [layers.Activation("softmax", dtype="float32")]),
    "logarithm": ("log_softmax", []),
    "logarithm of TensorFlow": (tf.nn.log_softmax, []),
    "logarithm in a Lambda": (None, [layers.Lambda(tf.nn.log_softmax)]),
    "softmax of TensorFlow": (tf.nn.softmax, []),
    "with a cast behind": ("softmax", [lambda x: ops.cast(x, "float16")]),
    "with a dropout behind": ("softmax", [layers.Dropout(0.5)]),
    "with an identity behind": ("softmax", [layers.Activation("linear")]),
}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", SOFTMAXES)
def test_the_logits_are_taken_instead_of_a_softmax(kind: str, nested: bool) -> None:
    activation, steps = SOFTMAXES[kind]
    network = Network(activation)
    model = network.model(*steps, name="classifier")
    if nested:
        model = keras.Sequential([keras.Input((8, 8, 3)), model])
    check(model, network)


@pytest.mark.parametrize("name", ["dense", "probabilities"])
def test_the_logits_are_taken_where_the_softmax_is_named(name: str) -> None:
    network = Network("softmax" if name == "dense" else None)
    steps = [] if name == "dense" else [layers.Softmax(name="probabilities")]
    model = network.model(*steps, layers.Dense(7, name="behind"))
    check(model, network, name)


def test_the_logits_of_many_classes_are_not_mistaken() -> None:
    # All probabilities are near 1/200, as are the softmax values of most tensors.
    inputs = keras.Input((8, 8, 3))
    conv = layers.Conv2D(4, 3, name="conv")
    hidden = layers.Dense(200, name="hidden")
    dense = layers.Dense(200, activation="softmax", name="dense")
    dense_input = hidden(layers.GlobalAveragePooling2D()(conv(inputs)))
    model = keras.Model(inputs, dense(dense_input))
    assert ModelView(model).embedding == "logits of 'dense'"


def test_equal_probabilities_are_not_mistaken() -> None:
    network = Network("softmax")
    network.dense.kernel.assign(np.zeros((4, WIDTH)))
    network.dense.bias.assign(np.zeros(WIDTH))
    model = network.model(layers.Activation("linear", name="identity"))
    assert find_embedding(TrialRun(model)).description == "logits of 'dense'"


def test_logits_without_a_bias() -> None:
    inputs = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(inputs))
    dense = layers.Dense(WIDTH, use_bias=False, activation="softmax")
    model = keras.Model(inputs, dense(x))
    logits = ModelView(model).record(IMAGES).embeddings
    np.testing.assert_allclose(ops.softmax(logits), model(IMAGES), rtol=1e-5)


class SoftmaxInCode(Subclassed):
    """Makes probabilities in the code of its call."""

    def call(self, x: Any) -> Any:
        for step in self.steps:
            x = step(x)
        return tf.nn.softmax(x)


def test_a_softmax_in_the_code_says_what_to_pass() -> None:
    network = Network()
    model = SoftmaxInCode(network)
    message = (
        r"The model's output holds probabilities \(a softmax\), and the logits before "
        r"it cannot be found. .* pass `embedding_layer`, .*Candidates:\n  dense"
    )
    with pytest.raises(ValueError, match=message):
        ModelView(model, images=IMAGES)
    check(model, network, "dense")


def test_a_log_softmax_in_the_code_says_what_to_pass() -> None:
    class InCode(SoftmaxInCode):
        def call(self, x: Any) -> Any:
            return tf.math.log(super().call(x))

    network = Network()
    with pytest.raises(ValueError, match=r"holds logarithms of probabilities \(a log"):
        ModelView(InCode(network), images=IMAGES)


def test_a_histogram_is_explained_where_its_layer_is_named() -> None:
    """It is positive and sums to one, as probabilities do, but no logits exist."""
    inputs = keras.Input((8, 8, 3))
    bins = layers.Conv2D(5, 3, activation="relu", bias_initializer="ones")(inputs)
    sums = layers.GlobalAveragePooling2D()(bins)
    scale = layers.Lambda(lambda x: x / tf.reduce_sum(x, -1, keepdims=True))
    histogram = layers.Activation("linear", name="histogram")(scale(sums))
    model = keras.Model(inputs, histogram)
    with pytest.raises(ValueError, match="want explained, name its own layer"):
        ModelView(model)
    view = ModelView(model, embedding_layer="histogram")
    assert view.embedding == "output of 'histogram'"
    np.testing.assert_allclose(view.record(IMAGES).embeddings, model(IMAGES), 1e-5)


def test_small_logits_and_probabilities_are_not_taken_for_each_other() -> None:
    network = Network(width=200)
    last = layers.Dense(200, name="last")
    model = SoftmaxInCode(network)
    model.steps.append(last)
    hidden = TrialRun(model, IMAGES).first_call(network.dense).output
    network.dense.kernel.assign(network.dense.kernel / np.abs(hidden).max())
    last.kernel.assign(last.kernel * 1e-3)
    trial = TrialRun(model, IMAGES)
    logits = trial.first_call(last).output
    assert np.abs(logits).max() < 0.01 and np.max(trial.outputs) < 0.01
    # Neither is the input of the last layer, from -1 to 1, whose softmax is small too.
    with pytest.raises(ValueError, match="logits before it cannot be found"):
        find_embedding(trial)


def test_the_softmax_of_a_quantized_dense_says_what_to_pass() -> None:
    network = Network("softmax")
    model = network.model()
    network.dense.quantize("int8")
    for name in (None, "dense"):
        with pytest.raises(ValueError, match="logits before it cannot be found"):
            ModelView(model, embedding_layer=name)


# Outputs


def test_of_several_outputs_one_has_to_be_named(network: Network) -> None:
    other = layers.Dense(2, name="other")(network.raw)
    model = keras.Model(network.inputs, [network.raw, other])
    message = (
        r"The model has 2 outputs. Pass `embedding_layer`, the name of the layer that "
        r"makes the embedding. Candidates:\n  other \(None, 2\)\n  dense \(None, 5\)"
    )
    with pytest.raises(ValueError, match=message):
        ModelView(model)
    check(model, network, "dense")
    assert ModelView(model, None, network.dense).embedding == "output of 'dense'"


def test_outputs_with_names_are_named_by_them(network: Network) -> None:
    unit = layers.UnitNormalization(name="unit")(network.raw)
    outputs = {"vector": unit, "other": layers.Dense(2)(network.raw)}
    model = keras.Model(network.inputs, outputs)
    with pytest.raises(ValueError, match=r"has 2 outputs \['vector', 'other'\]"):
        ModelView(model)
    assert check(model, network, "vector") == "input of 'unit'"
    assert ModelView(model, None, "other").embedding == "output 'other'"


def test_a_factor_on_another_output_does_not_count(network: Network) -> None:
    unit = layers.UnitNormalization(name="unit")(network.raw)
    scaled = layers.Rescaling(16.0, name="scaled")(unit)
    model = keras.Model(network.inputs, [unit, scaled])
    assert check(model, network, "unit") == "input of 'unit'"
    assert check(model, network, "scaled") == "input of 'unit'"


class Other(layers.Layer):
    """Returns what is no embedding."""

    kind: str = ""

    def call(self, x: Any) -> Any:
        return {
            "map": ops.reshape(x, (-1, 2, 2)),
            "whole numbers": ops.cast(x, "int32"),
            "two tensors": (x, x),
        }[self.kind]


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("map", r"\(3, 2, 2\)"),
        ("whole numbers", r"\(3, 4\)"),
        ("two tensors", "not one tensor"),
    ],
)
def test_a_named_layer_must_make_one_vector_an_image(kind: str, shape: str) -> None:
    other = Other(name="other")
    other.kind = kind
    network = Network(width=4)
    model = network.model(other)
    message = (
        r"The embedding must be one floating-point tensor of the shape \(n, d\). The "
        rf"output of 'other' is {shape}. Pass `embedding_layer`, .*Candidates:\n"
    )
    with pytest.raises(ValueError, match=message):
        ModelView(model, embedding_layer="other")
    if kind == "map":
        message = (
            r"The model's output is \(3, 2, 2\).* pass `keras.Model\(model.inputs, "
            r"vectors\)` with `vectors = keras.layers.GlobalAveragePooling1D\(\)"
            r".* `model.output\[:, 0\]` for a class token"
        )
        with pytest.raises(ValueError, match=message):
            ModelView(model)


def test_an_output_that_is_a_map_is_to_be_pooled() -> None:
    images = keras.Input((8, 8, 3))
    model = keras.Model(images, keras.layers.Conv2D(2, 3)(images))
    message = r"output is \(3, 6, 6, 2\).*GlobalAveragePooling2D\(\)\(model.output\)`\."
    with pytest.raises(ValueError, match=message):
        ModelView(model)


def test_an_unknown_embedding_layer_lists_vectors(network: Network) -> None:
    message = r"`embedding_layer` must name a layer .* 'dens'. Did you mean 'dense'"
    with pytest.raises(ValueError, match=message):
        ModelView(network.model(), embedding_layer="dens")


# The same maps with and without a normalisation


@pytest.mark.parametrize("kind", NORMALIZATIONS)
def test_gradients_are_those_without_a_normalisation(
    network: Network, kind: str
) -> None:
    plain = ModelView(network.model()).record(IMAGES)
    unit = ModelView(network.model(NORMALIZATIONS[kind]())).record(IMAGES)
    proxies = ops.normalize(plain.embeddings)
    np.testing.assert_array_equal(unit.activations, plain.activations)
    gradients = plain.pull_back(proxies)
    assert np.abs(gradients).max() > 1e-4
    np.testing.assert_allclose(unit.pull_back(proxies), gradients, rtol=1e-5)


# Similarities to classes


class Cosines(layers.Layer):
    """As users write ArcFace: weights (d, classes), scale, margin at the label."""

    def __init__(self, scale: float = 30.0, transpose: bool = False) -> None:
        super().__init__(name="arcface")
        self.scale, self.transpose = scale, transpose

    def build(self, shape: Any) -> None:
        width = (shape[0] if isinstance(shape, list) else shape)[-1]
        shape = (7, width) if self.transpose else (width, 7)
        self.kernel = self.add_weight(shape=shape, initializer="glorot_uniform")

    def call(self, x: Any) -> Any:
        x, label = x if isinstance(x, list) else (x, None)
        kernel = ops.transpose(self.kernel) if self.transpose else self.kernel
        cosines = ops.matmul(
            ops.normalize(x, axis=1), ops.normalize(ops.cast(kernel, x.dtype), axis=0)
        )
        if label is not None:
            moved = ops.cos(ops.arccos(cosines) + 0.5)
            cosines = ops.where(ops.one_hot(label[:, 0], 7) > 0, moved, cosines)
        return self.scale * cosines


HEADS = {
    "Proxies": lambda: Proxies(7),
    "ArcFace": Cosines,
    "CosFace by rows": lambda: Cosines(64.0, transpose=True),
    "with a softmax": lambda: keras.Sequential([Cosines(), layers.Softmax()]),
    "scaled again": lambda: keras.Sequential([Proxies(7), layers.Rescaling(16.0)]),
}


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("head", HEADS)
def test_similarities_to_classes_are_stepped_over(
    network: Network, head: str, unit: bool
) -> None:
    """Measured before with `Proxies`: Recall@1 0.23 on birds where it is 0.63."""
    steps = [layers.UnitNormalization()] if unit else []
    model = network.model(*steps, HEADS[head]())
    source = find_embedding(TrialRun(model))
    view = ModelView(model)
    assert source.width == WIDTH and view.cosine_head == source.head is not None
    assert "stepped over" in view.embedding and repr(source.head) in view.embedding
    embeddings = view.record(IMAGES).embeddings
    np.testing.assert_allclose(embeddings, network.expected(), rtol=1e-5)


def test_a_head_that_takes_the_label_too(network: Network) -> None:
    label = keras.Input((1,), dtype="int32", name="label")
    model = keras.Model([network.inputs, label], Cosines()([network.raw, label]))
    view = ModelView(model)
    embeddings = view.record([IMAGES, np.int32([[3], [1]])]).embeddings
    np.testing.assert_allclose(embeddings, network.expected(), rtol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        layers.Dense(7, name="classes"),
        layers.Dense(7, name="last", use_bias=False, kernel_initializer="orthogonal"),
        keras.Sequential([layers.UnitNormalization(), layers.Dense(7, use_bias=False)]),
    ],
)
def test_other_layers_are_not_stepped_over(network: Network, layer: Any) -> None:
    source = find_embedding(TrialRun(network.model(layer)))
    assert source.width == 7 and source.head is None


def test_similarities_that_are_named_are_taken(network: Network) -> None:
    model = network.model(Proxies(7, name="proxies"))
    source = find_embedding(TrialRun(model), "proxies")
    assert source.width == 7 and source.head is None


def test_a_target_class_is_an_output_of_the_head(network: Network) -> None:
    """As before: the map of one similarity, through the head."""
    model = network.model(Proxies(7, name="proxies"))
    found = explain(model, IMAGES, target_class=6)
    vector = np.eye(7, dtype="float32")[6]
    named = explain(model, IMAGES, proxies=vector, embedding_layer="proxies")
    np.testing.assert_allclose(found, named, atol=1e-6)
    assert embed(model, IMAGES).shape == (len(IMAGES), WIDTH)


def test_what_normalises_is_no_candidate(network: Network) -> None:
    """Measured before: the first layer of the list was the one to be stepped over."""

    class Centre(layers.Layer):
        """Normalises what it changes itself, so that nothing parallel is seen."""

        def call(self, x: Any) -> Any:
            x = x * ops.array([1.0, -2.0, 3.0, -4.0, 5.0])
            return x / ops.norm(x, axis=1, keepdims=True)

    with pytest.raises(ValueError, match="has a fixed length") as caught:
        ModelView(network.model(Centre(name="centre")))
    candidates = str(caught.value).split("Candidates:\n")[1].split("\n")
    assert candidates[0].split()[0] == "dense"
    assert not any("centre" in x for x in candidates)


def test_a_number_of_another_input_is_no_scale() -> None:
    """The largest of each embedding was an age, the same for all noise images."""
    images, age = keras.Input((8, 8, 3)), keras.Input((1,))
    maps = layers.Conv2D(3, 3, kernel_initializer=keras.initializers.HeNormal(seed=0))
    pooled = layers.GlobalAveragePooling2D()(maps(images))
    model = keras.Model([images, age], layers.Concatenate()([-ops.abs(pooled), age]))
    given = [np.zeros((3, 8, 8, 3), "float32"), np.ones((3, 1), "float32")]
    assert find_embedding(TrialRun(model, given)).description == "model's output"
