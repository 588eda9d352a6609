"""Tests of keras_embcam.network.feature_maps: which layer is explained by default."""

import doctest
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_embcam.network import feature_maps as module
from keras_embcam.network.view import ModelView

IMAGES = np.zeros((1, 12, 12, 3), "float32")


def find(model: keras.Model, *names: Any) -> str:
    """Return the path of the convolution that is found."""
    states_shape = isinstance(model, keras.Function | keras.Sequential)
    images = None if states_shape else IMAGES
    return ModelView(model, *names, images=images).conv_layer


def network(*between: Any, size: int = 12) -> keras.Model:
    """Return a network with layers or functions between convolution and pooling."""
    inputs = keras.Input((size, size, 3))
    x = layers.Conv2D(4, 3, name="first")(inputs)
    x = layers.Conv2D(4, 3, name="last")(x)
    for layer in between:
        x = layer(x)
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def test_the_examples_run() -> None:
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


# The backbones of keras.applications


def test_the_1x1_top_of_a_mobilenet_is_passed_over() -> None:
    model = keras.applications.MobileNet(
        weights=None, input_shape=(64, 64, 3), alpha=0.25, classes=3
    )
    paths = [x.name for x in model.layers if len(getattr(x.output, "shape", ())) == 4]
    assert paths[-1] == "conv_preds"  # 4-D, one position
    assert find(model) == "conv_pw_13_relu"


def test_the_last_activation_of_a_mobilenet_v2_in_a_sequential() -> None:
    backbone = keras.applications.MobileNetV2(
        weights=None, input_shape=(64, 64, 3), alpha=0.35, include_top=False
    )
    pool = layers.GlobalAveragePooling2D()
    model = keras.Sequential([keras.Input((64, 64, 3)), backbone, pool])
    assert find(model).endswith("/out_relu")


# Recorded before transformers were explained: how far from the end of the backbone's
# layers, and its name where Keras does not number it.
FAMILIES = {
    "ConvNeXtTiny": (64, -1, None),
    "DenseNet121": (64, -1, "relu"),
    "EfficientNetB0": (64, -1, "top_activation"),
    "EfficientNetV2B0": (64, -1, "top_activation"),
    "InceptionResNetV2": (160, -1, "conv_7b_ac"),
    "InceptionV3": (160, -1, "mixed10"),
    "MobileNet": (64, -1, "conv_pw_13_relu"),
    "MobileNetV2": (64, -1, "out_relu"),
    "MobileNetV3Large": (64, -1, None),
    "MobileNetV3Small": (64, -1, None),
    "NASNetMobile": (64, -1, None),
    "ResNet50": (64, -1, "conv5_block3_out"),
    "ResNet50V2": (64, -1, "post_relu"),
    "VGG16": (64, -2, "block5_conv3"),
    "VGG19": (64, -2, "block5_conv4"),
    "Xception": (96, -1, "block14_sepconv2_act"),
}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_layer_of_a_family_of_applications_is_as_it_was(family: str) -> None:
    size, place, name = FAMILIES[family]
    backbone = getattr(keras.applications, family)(
        weights=None, input_shape=(size, size, 3), include_top=False
    )
    inputs = keras.Input((size, size, 3))
    pooled = layers.GlobalAveragePooling2D()(backbone(inputs))
    model = keras.Model(inputs, layers.Dense(4)(pooled))
    layer = backbone.layers[place]
    assert name in (None, layer.name)
    assert find(model) == f"{backbone.name}/{layer.name}"


def test_every_family_of_applications_is_tried() -> None:
    everything = [getattr(keras.applications, x) for x in dir(keras.applications)]
    families = [x for x in everything if hasattr(x, "preprocess_input")]
    assert len(families) > 10
    for family in families:
        makers = {x for x in dir(family) if x[0].isupper() and not x.isupper()}
        assert makers.intersection(FAMILIES) or not makers


# What does not make activations


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (layers.MaxPooling2D, ()),
        (layers.AveragePooling2D, (2,)),
        (layers.GlobalAveragePooling2D, (None, True)),
        (layers.GlobalMaxPooling2D, (None, True)),
        (layers.Dropout, (0.5,)),
        (layers.SpatialDropout2D, (0.5,)),
        (layers.AlphaDropout, (0.5,)),
        (layers.GaussianDropout, (0.5,)),
        (layers.GaussianNoise, (0.5,)),
        (layers.ActivityRegularization, (0.1,)),
        (layers.Identity, ()),
        (layers.Reshape, ((4, 16, 4),)),
        (layers.Permute, ((2, 1, 3),)),
        (layers.Cropping2D, (1,)),
        (layers.ZeroPadding2D, (1,)),
        (layers.UpSampling2D, (2,)),
        (layers.Rescaling, (2.0,)),
        (layers.Resizing, (4, 4)),
        (layers.CenterCrop, (4, 4)),
        (layers.RandomFlip, ()),
        (layers.RandomRotation, (0.1,)),
    ],
)
def test_layers_that_make_no_activations_are_passed_over(
    make: Any, arguments: tuple
) -> None:
    assert find(network(make(*arguments))) == "last"


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: ops.max_pool(x, 2),
        lambda x: ops.reshape(x, (-1, 4, 16, 4)),
        lambda x: ops.transpose(x, (0, 2, 3, 1)),
        lambda x: x[:, 1:],
    ],
)
def test_operations_that_make_no_activations_are_passed_over(operation: Any) -> None:
    assert find(network(operation)) == "last"


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (layers.Activation, ("relu",)),
        (layers.BatchNormalization, ()),
        (layers.DepthwiseConv2D, (3,)),
        (layers.SeparableConv2D, (2, 3)),
        (layers.Conv2DTranspose, (2, 3)),
        (layers.Lambda, (lambda x: x * 2,)),
    ],
)
def test_layers_that_make_activations_are_taken(make: Any, arguments: tuple) -> None:
    assert find(network(make(*arguments, name="added"))) == "added"


def test_an_operation_of_the_graph_is_taken_where_it_adds_or_activates() -> None:
    def block(x: Any) -> Any:
        return x + layers.Conv2D(4, 3, padding="same", name="branch")(x)

    model = network(block)
    added = find(model)
    assert added != "branch"
    [operation] = [x for x in model.operations if x.name == added]
    assert type(operation).__name__ == "Add"


def test_an_operation_at_the_end_of_a_nested_model_is_taken_once() -> None:
    inputs = keras.Input((12, 12, 3))
    inner = keras.Model(inputs, ops.relu(layers.Conv2D(2, 3)(inputs)), name="inner")
    pool = layers.GlobalAveragePooling2D()
    path = find(keras.Sequential([keras.Input((12, 12, 3)), inner, pool]))
    assert path.startswith("inner/relu")


def test_one_position_is_passed_over() -> None:
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 5, name="four")(inputs)
    x = layers.Conv2D(4, 2, name="one")(x)
    assert find(keras.Model(inputs, layers.Flatten()(x))) == "four"


def test_one_row_of_several_positions_is_taken() -> None:
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, (6, 2), name="row")(inputs)
    assert find(keras.Model(inputs, layers.Flatten()(x))) == "row"


# Branches


def test_an_unused_branch_of_a_graph_is_passed_over() -> None:
    inputs = keras.Input((12, 12, 3))
    used = layers.Conv2D(4, 3, name="used")(inputs)
    unused = layers.Conv2D(4, 3, name="unused")(layers.Conv2D(2, 3)(inputs))
    pool = layers.GlobalAveragePooling2D()
    outputs = [layers.Dense(3, name="a")(pool(used)), layers.Dense(3)(pool(unused))]
    model = keras.Model(inputs, outputs)
    assert find(model, None, "a") == "used"


class Branches(keras.Model):
    """Calls a convolution whose output it drops, after the one that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.used = layers.Conv2D(4, 3, name="used")
        self.unused = layers.Conv2D(4, 3, name="unused")

    def call(self, x: Any) -> Any:
        x = self.used(x)
        self.unused(x)
        return ops.mean(x, axis=(1, 2))


def test_an_unused_branch_of_a_subclassed_model_is_passed_over() -> None:
    assert find(Branches()) == "used"


class OneRelu(keras.Model):
    """One ReLU layer serves several convolutions, as is common."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = [layers.Conv2D(4, 3, name=f"conv{i}") for i in range(3)]
        self.relu = layers.ReLU(name="relu")

    def call(self, x: Any) -> Any:
        for conv in self.convs:
            x = self.relu(conv(x))
        return ops.mean(x, axis=(1, 2))


def test_a_relu_that_serves_many_places_is_passed_over() -> None:
    assert find(OneRelu()) == "conv2"
    with pytest.raises(ValueError, match="'relu' is called 3 times in one run"):
        find(OneRelu(), "relu")


def test_a_siamese_network_asks_for_the_branch_model() -> None:
    inputs = [keras.Input((12, 12, 3)) for _ in range(2)]
    branch = network()
    dense = layers.Dense(2, name="behind")
    one, other = (dense(branch(x)) for x in inputs)
    distance = ops.norm(one - other, axis=1, keepdims=True)
    message = (
        r"is called 2 times .* siamese .* Pass the branch model that makes one .*"
        r"`keras.Model\(model.inputs\[0\], model.get_layer\(NAME\).output\)`"
    )
    siamese = keras.Model(inputs, distance)
    with pytest.raises(ValueError, match=message):
        find(siamese)
    # What the message proposes.
    assert find(siamese.get_layer(branch.name)) == "last"
    one = siamese.get_layer("behind").output
    assert find(keras.Model(siamese.inputs[0], one)).endswith("/last")


# Errors


def test_a_network_without_convolution_lists_what_is_4_d() -> None:
    inputs = keras.Input((4, 4, 3))
    x = layers.RandomFlip(name="flip")(layers.Rescaling(2.0, name="scale")(inputs))
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    message = (
        r"No layer with a 4-D output \(n, h, w, k\) of more than one position reaches "
        r"the embedding \(model's output\). .*\n  flip \(None, 4, 4, 3\)\n  scale"
    )
    with pytest.raises(ValueError, match=message):
        find(model)


def test_images_that_are_too_small_say_so() -> None:
    inputs = keras.Input((None, None, 3))
    x = layers.Conv2D(2, 3, name="conv")(inputs)
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
    assert ModelView(model, images=IMAGES).map_size == (10, 10)
    with pytest.raises(ValueError, match="images that are large enough"):
        ModelView(model, images=IMAGES[:, :3, :3])


@pytest.mark.parametrize(
    ("name", "shape"), [("pooled", r"\(3, 4\)"), ("pair", "not one tensor")]
)
def test_a_layer_whose_output_is_not_4_d_says_so(name: str, shape: str) -> None:
    class Pair(layers.Layer):
        def call(self, x: Any) -> Any:
            return [x, x]

    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    x = ops.add(*Pair(name="pair")(x))
    model = keras.Model(inputs, layers.GlobalAveragePooling2D(name="pooled")(x))
    message = (
        r"`conv_layer` must name a layer with a 4-D output \(n, h, w, k\), or with "
        rf"tokens \(n, t, k\). The output of '{name}' is {shape}. "
        r"Candidates:\n(.*\n)?  conv \(None, 10, 10, 4\)"
    )
    with pytest.raises(ValueError, match=message):
        find(model, name)


def test_a_named_layer_that_the_embedding_does_not_use_says_so() -> None:
    message = "No gradient reaches 'unused' .* does not use this layer, or `stop_gra"
    with pytest.raises(ValueError, match=message):
        find(Branches(), "unused")


def test_stop_gradient_says_so_or_another_layer_is_found() -> None:
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    pool = layers.GlobalAveragePooling2D()
    stopped = pool(layers.Conv2D(4, 3, name="stopped")(x))
    stopped = layers.Lambda(ops.stop_gradient)(stopped)
    model = keras.Model(inputs, pool(x) + stopped)
    with pytest.raises(ValueError, match="No gradient reaches 'stopped'"):
        find(model, "stopped")
    assert find(model) == "conv"
    cut = keras.Model(inputs, stopped)
    with pytest.raises(ValueError, match="No layer with a 4-D output"):
        find(cut)


# Rematerialised layers

needs_remat = pytest.mark.skipif(
    not hasattr(keras, "RematScope"), reason="this Keras has no RematScope"
)


def remat_layers() -> keras.Model:
    """Return a model that was built in a scope as a whole."""
    with keras.RematScope(mode="full"):
        return network()


def remat_container() -> keras.Model:
    """Return a model where the scope is around the call of a block only."""

    class Block(layers.Layer):
        def __init__(self, inner: Any) -> None:
            super().__init__(name="block")
            self.inner = inner

        def call(self, x: Any) -> Any:
            return self.inner(x)

    inner = keras.Sequential(
        [keras.Input((10, 10, 4)), layers.Conv2D(4, 3, name="last")], name="inner"
    )
    with keras.RematScope(mode="full"):
        block = Block(inner)
    inputs = keras.Input((12, 12, 3))
    x = block(layers.Conv2D(4, 3, name="first")(inputs))
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(x))


@needs_remat
@pytest.mark.parametrize("make", [remat_layers, remat_container])
@pytest.mark.parametrize("name", [None, "last"])
def test_rematerialised_layers_say_what_to_do(
    make: Callable[[], keras.Model], name: str | None
) -> None:
    message = "last' was built inside a `keras.RematScope` .* Build the model again wi"
    with pytest.raises(ValueError, match=message):
        find(make(), name)


@needs_remat
def test_a_rematerialised_layer_before_the_chosen_one_does_not_matter() -> None:
    with keras.RematScope(mode="full"):
        first = layers.Conv2D(4, 3)
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(4, 3, name="last")(first(inputs))
    assert find(keras.Model(inputs, layers.GlobalAveragePooling2D()(x))) == "last"


# Calls compiled with tf.function


class CompiledConv(layers.Conv2D):
    """A leaf whose call is compiled."""

    call = tf.function(layers.Conv2D.call)


class CompiledBlock(layers.Layer):
    """A container whose call is compiled, with a 4-D output."""

    def __init__(self) -> None:
        super().__init__(name="block")
        self.conv = layers.Conv2D(4, 3, name="conv")

    def build(self, shape: Any) -> None:
        self.conv.build(shape)

    @tf.function
    def call(self, x: Any) -> Any:
        return self.conv(x)


class CompiledHead(layers.Layer):
    """A container whose call is compiled, without a convolution inside."""

    def __init__(self) -> None:
        super().__init__(name="head")
        self.dense = layers.Dense(3, name="dense")

    def build(self, shape: Any) -> None:
        self.dense.build((None, shape[-1]))

    @tf.function
    def call(self, x: Any) -> Any:
        return self.dense(ops.mean(x, axis=(1, 2)))


class CompiledNetwork(CompiledHead):
    """A container whose call is compiled, with a convolution inside."""

    def build(self, shape: Any) -> None:
        self.conv = layers.Conv2D(4, 3, name="hidden")
        self.conv.build(shape)
        self.dense.build((None, 4))

    @tf.function
    def call(self, x: Any) -> Any:
        return self.dense(ops.mean(self.conv(x), axis=(1, 2)))


def compiled(layer: Any, after: Any = None, traced: bool = False) -> keras.Model:
    """Return a network with this layer behind a convolution, perhaps traced before."""
    inputs = keras.Input((12, 12, 3))
    x = layer(layers.Conv2D(4, 3, name="first")(inputs))
    model = keras.Model(inputs, after(x) if after else x)
    if traced:
        model(IMAGES)
    return model


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("block", [CompiledConv, CompiledBlock])
def test_the_output_of_a_compiled_layer_is_in_reach(block: Any, traced: bool) -> None:
    layer = block(4, 3, name="block") if block is CompiledConv else block()
    model = compiled(layer, layers.GlobalAveragePooling2D(), traced)
    view = ModelView(model)
    assert view.conv_layer == "block"
    gradient = view.record(IMAGES).pull_back(np.float32([[1, 2, 3, 4]]))
    # Pooling over 8 x 8 positions.
    expected = np.broadcast_to(np.float32([1, 2, 3, 4]) / 64, (1, 8, 8, 4))
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


@pytest.mark.parametrize("traced", [False, True])
def test_a_convolution_inside_a_compiled_block_says_what_to_do(traced: bool) -> None:
    model = compiled(CompiledBlock(), layers.GlobalAveragePooling2D(), traced)
    with pytest.raises(ValueError, match="'block/conv' cannot be .* Remove that deco"):
        find(model, "conv")


@pytest.mark.parametrize("traced", [False, True])
def test_a_compiled_head_is_differentiated(traced: bool) -> None:
    model = compiled(CompiledHead(), None, traced)
    view = ModelView(model)
    assert view.conv_layer == "first"
    proxy = np.float32([[1, -1, 2]])
    kernel = model.get_layer("head").dense.get_weights()[0]
    expected = np.broadcast_to(kernel @ proxy[0] / 100, (1, 10, 10, 4))
    gradient = view.record(IMAGES).pull_back(proxy)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("traced", [False, True])
def test_a_compiled_network_hides_its_convolution(traced: bool) -> None:
    model = compiled(CompiledNetwork(), None, traced)
    message = "'head/hidden' cannot be recorded: it runs inside the `call` of 'head'"
    with pytest.raises(ValueError, match=message):
        find(model)
    assert find(model, "first") == "first"


@pytest.mark.parametrize("traced", [False, True])
def test_a_compiled_model_hides_all_its_layers(traced: bool) -> None:
    class Compiled(OneRelu):
        call = tf.function(OneRelu.call)

    model = Compiled()
    if traced:
        model(IMAGES)
    message = "'conv0' cannot be recorded: it runs inside the `call` of the model, wh"
    with pytest.raises(ValueError, match=message):
        find(model)
