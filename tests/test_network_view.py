"""Tests of keras_embcam.network.view: what is recorded, for every shape of model."""

import doctest
import gc
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_embcam.network import view as module
from keras_embcam.network.gradient_scale import cotangent_scale
from keras_embcam.network.noise_images import find_images
from keras_embcam.network.view import ModelView

SHAPE = (9, 8, 3)


def check(model: keras.Model, parts: Any, **options: Any) -> ModelView:
    """Compare with the plain tape; return the view."""
    view = ModelView(model, "target", images=parts.images, **options)
    recording = view.record(parts.images)
    activations, embeddings, gradients = parts.expect()
    np.testing.assert_allclose(recording.activations, activations, rtol=1e-5)
    np.testing.assert_allclose(recording.embeddings, embeddings, rtol=1e-5, atol=1e-6)
    assert np.abs(gradients).max() > 1e-4
    result = recording.pull_back(parts.proxies)
    np.testing.assert_allclose(result, gradients, rtol=1e-4, atol=1e-7)
    assert view.map_size == activations.shape[1:3]
    assert view.image_size == parts.images.shape[1:3]
    assert view.embedding_width == embeddings.shape[1]
    return view


def test_the_examples_run() -> None:
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


# The shapes of models


class Subclassed(keras.Model):
    """Calls layers one after the other, without knowing about training."""

    def __init__(self, parts: Any) -> None:
        super().__init__()
        self.parts = parts

    def call(self, x: Any) -> Any:
        for layer in self.parts:
            x = layer(x)
        return x


class WithTraining(Subclassed):
    """Passes the mode on by hand."""

    def call(self, x: Any, training: bool | None = None) -> Any:
        for layer in self.parts:
            if layer.name in ("norm", "drop"):
                x = layer(x, training=training)
            else:
                x = layer(x)
        return x


class TrainingByDefault(WithTraining):
    """Is in training mode unless told otherwise."""

    def call(self, x: Any, training: bool | None = True) -> Any:
        return super().call(x, training)


class Block(layers.Layer):
    """A subclassed layer with layers inside."""

    def __init__(self, parts: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.parts = parts

    call = Subclassed.call


def functional(parts: list[Any], shape: Any = SHAPE, name: Any = None) -> keras.Model:
    """Return layers in a Functional model."""
    inputs = x = keras.Input(shape)
    for layer in parts:
        x = layer(x)
    return keras.Model(inputs, x, name=name)


def sequential(*parts: Any) -> keras.Model:
    """Return layers in a built Sequential model."""
    return keras.Sequential([keras.Input(SHAPE), *parts])


def nest_twice(parts: Any) -> keras.Model:
    """Return a Functional model in a Functional model in a Functional model."""
    inner = functional([*parts.body, parts.drop], name="inner")
    middle = functional([inner, parts.late], name="middle")
    return functional([middle, parts.pool, parts.dense])


MODELS: dict[str, Callable[[Any], keras.Model]] = {
    "Functional": lambda parts: functional(parts.all),
    "Sequential": lambda parts: sequential(*parts.all),
    "Sequential that is not built": lambda parts: keras.Sequential(parts.all),
    "nested whole": lambda parts: functional([functional(parts.all)]),
    "nested up to the convolution": lambda parts: functional(
        [functional(parts.body), *parts.head]
    ),
    "nested twice": nest_twice,
    "Functional in Sequential": lambda parts: sequential(
        functional([*parts.body, parts.drop]), *parts.head[1:]
    ),
    "Sequential in Sequential that is not built": lambda parts: keras.Sequential(
        [keras.Sequential(parts.body), *parts.head]
    ),
    "subclassed": lambda parts: Subclassed(parts.all),
    "subclassed with training": lambda parts: WithTraining(parts.all),
    "subclassed, training by default": lambda parts: TrainingByDefault(parts.all),
    "Functional in subclassed": lambda parts: Subclassed(
        [functional(parts.body), *parts.head]
    ),
    "subclassed layer in Functional": lambda parts: functional(
        [Block(parts.body), Block(parts.head)]
    ),
    "subclassed layer in Sequential": lambda parts: sequential(
        parts.stem, Block(parts.all[1:])
    ),
    "Functional of any size": lambda parts: functional(parts.all, (None, None, 3)),
}


@pytest.mark.parametrize("kind", MODELS)
def test_recordings_agree_with_a_plain_tape(parts: Any, kind: str) -> None:
    check(MODELS[kind](parts), parts)


def test_a_model_whose_layers_are_not_built() -> None:
    conv, pool = layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()
    model = keras.Sequential([conv, layers.Dropout(0.5), pool, layers.Dense(3)])
    images = np.random.default_rng(1).random((2, 9, 8, 3), "float32")
    recording = ModelView(model, images=images).record(images)
    assert model.built and len(model.weights) == 4
    np.testing.assert_allclose(recording.activations, conv(images), rtol=1e-5)
    np.testing.assert_allclose(recording.embeddings, model(images), rtol=1e-5)


def test_a_graph_split_by_hand_agrees(parts: Any) -> None:
    model = parts.functional()
    head = keras.Model(model.get_layer("target").output, model.output)
    recording = ModelView(model, "target").record(parts.images)
    with tf.GradientTape() as tape:
        tape.watch(recording.activations)
        embeddings = head(recording.activations, training=False)
    expected = tape.gradient(embeddings, recording.activations, parts.proxies)
    np.testing.assert_allclose(recording.pull_back(parts.proxies), expected, rtol=1e-5)


def test_the_closed_form_of_pooling_and_one_dense_layer(parts: Any) -> None:
    # alpha = W p / (h w) (eq. 17): the gradient is the same at each position.
    model = functional([parts.stem, parts.pool, layers.Dense(3, name="last")])
    recording = ModelView(model).record(parts.images)
    kernel = model.get_layer("last").get_weights()[0]
    expected = np.einsum("kd,nd->nk", kernel, parts.proxies)[:, None, None] / (7 * 6)
    np.testing.assert_allclose(
        recording.pull_back(parts.proxies),
        np.broadcast_to(expected, (2, 7, 6, 4)),
        rtol=1e-5,
    )


@pytest.mark.parametrize("around", ["the layer", "the head"])
def test_a_skip_connection(parts: Any, around: str) -> None:
    # For both, by hand: y = mean(h + relu(conv(h))) or y = mean(a + b * a).
    inputs = keras.Input(SHAPE)
    stem = parts.stem(inputs)
    conv = layers.Conv2D(4, 3, padding="same", activation="relu", name="conv")(stem)
    if around == "the layer":
        chosen, summed = "conv", stem + conv
    else:
        chosen, summed = "stem", stem + stem * 3.0 + 0.0 * conv
    pooled = layers.GlobalAveragePooling2D()(summed)
    model = keras.Model(inputs, pooled)
    recording = ModelView(model, chosen).record(parts.images)
    proxies = np.float32([[1, 2, 3, 4], [-1, 0, 1, 0]])
    factor = 1.0 if around == "the layer" else 4.0
    expected = np.broadcast_to(factor * proxies[:, None, None] / 42, (2, 7, 6, 4))
    np.testing.assert_allclose(recording.pull_back(proxies), expected, rtol=1e-5)


@pytest.mark.parametrize("identifier", ["target", "inner/target", "object", "inner"])
def test_a_layer_by_name_path_object_or_as_the_last_of_a_container(
    parts: Any, identifier: Any
) -> None:
    model = functional([functional(parts.body, name="inner"), *parts.head])
    layer = parts.target if identifier == "object" else identifier
    view = ModelView(model, layer)
    assert view.conv_layer == ("inner" if identifier == "inner" else "inner/target")
    gradients = view.record(parts.images).pull_back(parts.proxies)
    np.testing.assert_allclose(gradients, parts.expect()[2], rtol=1e-4, atol=1e-7)


def test_the_default_is_the_last_convolution(parts: Any) -> None:
    assert ModelView(parts.functional()).conv_layer == "late"


def test_several_inputs(parts: Any) -> None:
    inputs = {
        "flag": keras.Input((5,), name="flag"),
        "picture": keras.Input(SHAPE, name="picture"),
    }
    x = inputs["picture"]
    for layer in parts.all:
        x = layer(x)
    model = keras.Model(inputs, x + 0.0 * layers.Dense(3, name="two")(inputs["flag"]))
    images = {"flag": np.ones((2, 5), "float32"), "picture": parts.images}
    view = ModelView(model, "target")
    recording = view.record(images)
    activations, embeddings, gradients = parts.expect()
    np.testing.assert_allclose(recording.activations, activations, rtol=1e-5)
    np.testing.assert_allclose(recording.embeddings, embeddings, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        recording.pull_back(parts.proxies), gradients, rtol=1e-4, atol=1e-7
    )
    assert view.image_size == (9, 8)


def test_preprocessing_layers_inside(parts: Any) -> None:
    normalization = layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 4.0, 9.0])
    before = [layers.RandomFlip(), layers.Rescaling(1 / 255), normalization]
    model = functional([*before, layers.RandomRotation(0.2), *parts.all])
    pixels = (parts.images * 255).astype("float32")
    # No flip and no rotation on inference.
    expected = parts.expect((pixels / 255 - [0.1, 0.2, 0.3]) / np.float32([1, 2, 3]))
    recording = ModelView(model, "target").record(pixels)
    np.testing.assert_allclose(recording.activations, expected[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        recording.pull_back(parts.proxies), expected[2], rtol=1e-4, atol=1e-7
    )


def test_integer_images(parts: Any) -> None:
    inputs = keras.Input(SHAPE, dtype="uint8")
    model = keras.Model(inputs, functional(parts.all)(layers.Rescaling(1.0)(inputs)))
    images = np.arange(2 * 9 * 8 * 3).reshape(2, 9, 8, 3).astype("uint8")
    expected = parts.expect(images.astype("float32"))
    recording = ModelView(model, "target").record(images)
    np.testing.assert_allclose(recording.activations, expected[0], rtol=1e-5)


def test_layers_that_are_not_trained(parts: Any) -> None:
    model = parts.functional()
    model.trainable = False
    check(model, parts)


def test_layers_that_are_shared_with_another_model(parts: Any) -> None:
    model = parts.functional()
    other = functional([*parts.body, parts.pool, layers.Dense(2)])
    check(model, parts)
    assert ModelView(other).record(parts.images).embeddings.shape == (2, 2)
    check(model, parts)


def test_a_changed_weight_shows(parts: Any) -> None:
    view = check(parts.functional(), parts)
    before = view.record(parts.images).pull_back(parts.proxies)
    parts.dense.kernel.assign(2 * parts.dense.kernel)
    after = view.record(parts.images).pull_back(parts.proxies)
    np.testing.assert_allclose(after, 2 * before, rtol=1e-5)


def test_another_size_and_number_of_images(parts: Any) -> None:
    model = functional(parts.all, (None, None, 3))
    view = ModelView(model, "target", images=np.ones((1, 9, 8, 3)))
    images = np.random.default_rng(3).random((5, 14, 11, 3), "float32")
    recording = view.record(images)
    activations, embeddings, _ = parts.expect(images[:2])
    np.testing.assert_allclose(recording.activations[:2], activations, rtol=1e-5)
    np.testing.assert_allclose(
        recording.embeddings[:2], embeddings, rtol=1e-5, atol=1e-6
    )
    assert recording.pull_back(np.ones((5, 3), "float32")).shape == (5, 10, 7, 5)


def test_many_cotangents_for_one_run(parts: Any) -> None:
    recording = ModelView(parts.functional(), "target").record(parts.images)
    first, second = (recording.pull_back(parts.proxies) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    double = recording.pull_back(2 * parts.proxies)
    np.testing.assert_allclose(double, 2 * first, rtol=1e-5)


# Errors


def test_one_cotangent_an_image_and_no_other_number(parts: Any) -> None:
    recording = ModelView(parts.functional(), "target").record(parts.images)
    for shape in ((1, 3), (3, 3), (2, 1), (3,)):
        with pytest.raises(
            tf.errors.InvalidArgumentError, match="one proxy for each image"
        ):
            recording.pull_back(np.ones(shape, "float32"))


def test_a_single_image_is_told_to_add_an_axis(parts: Any) -> None:
    with pytest.raises(ValueError, match=r"add the batch axis .* `image\[None\]`"):
        ModelView(parts.functional(), images=parts.images[0])
    with pytest.raises(ValueError, match=r"shapes \[\(9, 8\)\]"):
        find_images(np.zeros((9, 8)))


def test_a_model_without_a_stated_shape_needs_images(parts: Any) -> None:
    with pytest.raises(ValueError, match="does not state the shape of its images"):
        ModelView(Subclassed(parts.all))
    with pytest.raises(ValueError, match="does not state the shape of its images"):
        ModelView(keras.Sequential(parts.all))


def test_a_discarded_model_is_freed_and_missed(parts: Any) -> None:
    model = functional(parts.all)
    reference = weakref.ref(model)
    view = ModelView(model, "target")
    view.record(parts.images)
    del model
    gc.collect()
    assert reference() is None
    with pytest.raises(ReferenceError, match="model of this view no longer exists"):
        view.record(parts.images)


class Moody(layers.Layer):
    """Changes its behaviour after the model was looked at."""

    mood = "fine"

    def __init__(self, conv: Any) -> None:
        super().__init__()
        self.conv = conv

    def call(self, x: Any) -> Any:
        if self.mood == "lazy":
            return ops.zeros((ops.shape(x)[0], 7, 6, 4))
        if self.mood == "eager":
            self.conv(x)
        outputs = self.conv(x)
        return ops.stop_gradient(outputs) if self.mood == "shy" else outputs


@pytest.mark.parametrize(("mood", "num_calls"), [("lazy", 0), ("eager", 2)])
def test_a_layer_must_be_called_once_in_each_run(
    parts: Any, mood: str, num_calls: int
) -> None:
    moody = Moody(parts.stem)
    model = functional([moody, parts.pool])
    view = ModelView(model, "stem")
    view.record(parts.images)
    moody.mood = mood
    message = f"stem' must be computed exactly once .* Seen: {num_calls} times"
    with pytest.raises(ValueError, match=message):
        view.record(parts.images)


def test_a_gradient_that_stops_in_a_later_run_says_so(parts: Any) -> None:
    moody = Moody(parts.stem)
    model = functional([moody, parts.pool])
    view = ModelView(model, "stem")
    moody.mood = "shy"
    recording = view.record(parts.images)
    with pytest.raises(ValueError, match="No gradient reaches .*stem' from the embed"):
        recording.pull_back(np.ones((2, 4), "float32"))


class Branching(layers.Layer):
    """Calls its convolution in a branch of the graph."""

    def __init__(self, conv: Any) -> None:
        super().__init__()
        self.conv = conv

    def call(self, x: Any) -> Any:
        return ops.cond(ops.sum(x) > -1e9, lambda: self.conv(x), lambda: -self.conv(x))


def test_a_layer_in_a_branch_of_a_graph_is_out_of_reach(parts: Any) -> None:
    model = functional([Branching(parts.stem), parts.pool])
    view = ModelView(model, "stem")
    view.record(parts.images)  # eager code takes one branch

    @tf.function(autograph=False)
    def record(images: Any) -> Any:
        return view.record(images).embeddings

    with pytest.raises(ValueError, match="outside of any inner .* Seen: 0 times"):
        record(parts.images)


# The scale of cotangents


def test_scales_worked_by_hand() -> None:
    cotangents = np.float32([[1, -0.5], [0, -1000], [1e-3, 0], [0, 0]])
    # 49 / 1 -> 32; 49 / 1000 = 2^-4.4 -> 2^-5; 49000 = 2^15.6 -> 2^15; zero -> 1
    expected = [[32], [2**-5], [2**15], [1]]
    assert np.asarray(cotangent_scale(cotangents, (7, 7))).tolist() == expected


def test_a_scale_does_not_overflow_float16_on_large_maps() -> None:
    scale = cotangent_scale(np.float32([[1.0], [1.9]]), (1000, 1000))
    assert np.asarray(scale).tolist() == [[2**14], [2**13]]
    # A size that is not known yet counts as one.
    assert np.asarray(cotangent_scale(np.ones((1, 1)), (None, 7))).tolist() == [[4]]


def test_a_layer_named_twice_in_different_ways(parts) -> None:
    model = parts.functional()
    with pytest.raises(ValueError, match="must name no layer twice. Received 'target'"):
        ModelView(model, ["target", parts.target])


def test_it_says_what_it_explains(parts) -> None:
    view = ModelView(parts.functional(), "target")
    text = repr(view)
    for part in ("'target'", "5 x 4", "9 x 8", "model's output", "width 3"):
        assert part in text
