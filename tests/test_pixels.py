"""Tests of keras_embcam.pixels."""

import doctest
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf
from builders import BIRDS, make_bird_network, needs_birds
from keras import Input, Sequential, layers, ops

from keras_embcam import explain, pixels
from keras_embcam.pixels import (
    deconvnet,
    deconvnet_gradcam,
    guided_backpropagation,
    guided_gradcam,
    saliency,
)
from keras_embcam.running import compiled_functions
from keras_embcam.running.image_files import read_image

METHODS = [
    saliency,
    guided_backpropagation,
    deconvnet,
    guided_gradcam,
    deconvnet_gradcam,
]
RULES = [guided_backpropagation, deconvnet]
IMAGES = np.random.default_rng(0).normal(size=(5, 6, 6, 2)).astype("float32")


def make_model(*middle, head=()) -> keras.Model:
    """Return a small network with random weights and these layers inside."""
    ends = [Input(IMAGES.shape[1:]), layers.Flatten(), layers.Dense(3)]
    model = Sequential([ends[0], *middle, *ends[1:], *head])
    random = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(random.normal(size=weight.shape) / 2)
    return model


def convolution(**options) -> layers.Conv2D:
    """Return a convolution with four channels."""
    return layers.Conv2D(4, 3, **options)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """Return a network with two ReLUs."""
    return make_model(
        convolution(activation="relu"),
        layers.Conv2D(3, 2, activation="relu", name="last"),
    )


def assert_same(actual, expected, tolerance: float = 1e-5) -> None:
    """Compare to a fraction of the largest value, which is not zero."""
    expected = np.asarray(expected)
    assert actual.shape == expected.shape
    largest = np.abs(expected).max()
    assert largest > 0
    assert np.abs(actual - expected).max() <= tolerance * largest


def test_the_examples_run() -> None:
    results = doctest.testmod(pixels)
    assert results.attempted and not results.failed


# Maps


def one_layer(activation) -> keras.Model:
    """Return relu([x, -x]) of each pixel x, as a vector."""
    convolution = layers.Conv2D(2, 1, use_bias=False, activation=activation)
    model = Sequential([Input((1, 2, 1)), convolution, layers.Flatten()])
    convolution.set_weights([np.float32([[[[1, -1]]]])])
    return model


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        # Open are x of the first pixel and -x of the second.
        (saliency, [3, 5]),  # 3 * 1; |-5 * -1|
        (guided_backpropagation, [3, 0]),  # 3 * 1; -5 is not positive
        (deconvnet, [-1, 0]),  # 3 * 1 + 4 * -1; neither is positive
        # Grad-CAM: A = [(2, 0), (0, 1)], mean gradients (0.5, -0.5): [1, 0]
        (guided_gradcam, [3, 0]),
        (deconvnet_gradcam, [-1, 0]),
    ],
)
def test_maps_worked_by_hand(method, expected) -> None:
    images = np.float32([[[[2], [-1]]]])
    maps = method(one_layer("relu"), images, np.float32([3, 4, -2, -5]))
    assert maps.dtype == "float32"
    assert maps.shape == ((1, 1, 2) if method is saliency else (1, 1, 2, 1))
    assert maps.ravel().tolist() == expected


@pytest.mark.parametrize(
    ("method", "expected"),
    [(saliency, [0, 3]), (guided_backpropagation, [0, 3]), (deconvnet, [2, 3])],
)
def test_relu6_is_closed_above_six(method, expected) -> None:
    images = np.float32([[[[7], [5]]]])
    maps = method(one_layer("relu6"), images, np.float32([2, 0, 3, 0]))
    assert maps.ravel().tolist() == expected


def test_saliency_is_the_largest_magnitude_of_the_channels() -> None:
    convolution = layers.Conv2D(1, 1, use_bias=False)
    model = Sequential([Input((1, 2, 3)), convolution, layers.Flatten()])
    convolution.set_weights([np.float32([[[[1], [-4], [3]]]])])
    maps = saliency(model, np.ones((1, 1, 2, 3)), np.float32([1, -2]))
    assert maps.tolist() == [[[4, 8]]]


# Proxies and classes


@pytest.mark.parametrize("method", METHODS)
def test_single_point_is_the_unit_embedding(model, method) -> None:
    embeddings = model(IMAGES).numpy()
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    expected = method(model, IMAGES, unit)
    assert_same(method(model, IMAGES), expected)
    normalized = Sequential([model, layers.UnitNormalization()])
    assert_same(method(normalized, IMAGES), expected)
    conv_layer = {"conv_layer": "last"} if "gradcam" in method.__name__ else {}
    assert_same(method(model, IMAGES, unit, **conv_layer), expected)


@pytest.mark.parametrize("method", METHODS)
def test_forms_of_proxies(model, method) -> None:
    vector = np.float32([1, -2, 3])
    expected = method(model, IMAGES, np.tile(vector, (5, 1)))
    assert_same(method(model, IMAGES, vector), expected)
    assert_same(method(model, IMAGES, lambda y: ops.ones_like(y) * vector), expected)
    whole = method(model, IMAGES, np.arange(15).reshape(5, 3))
    parts = method(model, IMAGES, np.arange(15).reshape(5, 3), batch_size=2)
    assert_same(parts, whole)


@pytest.mark.parametrize("method", METHODS)
def test_classes_are_explained_on_the_logits(model, method) -> None:
    classifier = Sequential([model, layers.Activation("softmax")])
    dense = make_model(
        convolution(activation="relu"), layers.Conv2D(3, 2, activation="relu")
    )
    dense.layers[-1].activation = keras.activations.softmax
    expected = method(model, IMAGES, np.float32([0, 0, 1]))
    assert_same(method(model, IMAGES, target_class=2), expected)
    assert_same(method(classifier, IMAGES, target_class=2), expected)
    assert_same(method(dense, IMAGES, target_class=2), expected)
    rows = method(classifier, IMAGES, target_class=[2, 0, 2, 1, 2])
    assert_same(rows[[0, 2, 4]], expected[[0, 2, 4]])
    assert np.abs(rows[1] - expected[1]).max() > 0.1 * np.abs(expected).max()


def test_embedding_of_another_layer(model) -> None:
    longer = Sequential([model, layers.Dense(2, activation="relu")])
    maps = guided_backpropagation(longer, IMAGES, embedding_layer=model.layers[-1])
    assert_same(maps, guided_backpropagation(model, IMAGES))


@pytest.mark.parametrize(
    ("gradcam", "method"), [(guided_gradcam, RULES[0]), (deconvnet_gradcam, RULES[1])]
)
def test_gradcam_is_that_of_explain(model, gradcam, method) -> None:
    """Bit by bit: the rule must not reach the gradient of the heatmap."""
    first = model.layers[0].name
    heatmaps = explain(model, IMAGES, conv_layer=first)
    expected = method(model, IMAGES) * heatmaps[..., None]
    assert np.array_equal(gradcam(model, IMAGES, conv_layer=first), expected)
    heatmaps = explain(model, IMAGES)
    expected = method(model, IMAGES) * heatmaps[..., None]
    assert np.array_equal(gradcam(model, IMAGES), expected)


def test_empty_heatmap_gives_zeros() -> None:
    maps = guided_gradcam(
        one_layer("relu"), np.float32([[[[2], [-1]]]]), -np.ones(4, "float32")
    )
    assert not maps.any()


# The model


def test_several_inputs() -> None:
    images, scale = Input((6, 6, 2), name="images"), Input((3,), name="scale")
    maps = convolution(activation="relu")(images)
    vector = layers.Dense(3)(layers.Flatten()(maps)) * scale
    model = keras.Model({"images": images, "scale": scale}, vector)
    scales = np.float32([[1, 1, 1], [2, 2, 2], [3, 3, 3], [1, 1, 1], [2, 2, 2]])
    proxies = np.float32([1, 2, 3])
    maps = saliency(model, {"images": IMAGES, "scale": scales}, proxies)
    single = saliency(
        model, {"images": IMAGES, "scale": np.ones((5, 3), "float32")}, proxies
    )
    assert_same(maps, single * scales[:, :1, None])


def test_subclassed_model_and_integer_images() -> None:
    class Subclassed(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.scale = layers.Rescaling(1 / 255)
            self.convolution = convolution()
            self.embedding = layers.Dense(3)

        def call(self, images):
            maps = tf.nn.relu(self.convolution(self.scale(images)))
            return self.embedding(tf.reduce_mean(maps, axis=(1, 2)))

    images = np.random.default_rng(0).integers(0, 256, (2, 6, 6, 2), dtype="uint8")
    model = Subclassed()
    maps = guided_backpropagation(model, images)
    relu, pool = layers.ReLU(), layers.GlobalAveragePooling2D()
    same = [model.scale, model.convolution, relu, pool, model.embedding]
    same = Sequential([Input((6, 6, 2)), *same])
    assert_same(maps, guided_backpropagation(same, images))


def make_busy_model() -> keras.Model:
    """Return a model that would change if it ran in training mode."""
    return make_model(
        convolution(activation="relu"),
        layers.BatchNormalization(),
        layers.Dropout(0.5, seed=1),
        layers.Conv2D(3, 2, activation="relu"),
        head=[layers.ActivityRegularization(0.1)],
    )


@pytest.mark.parametrize("method", METHODS)
def test_model_is_not_changed(method) -> None:
    model = make_busy_model()
    model(IMAGES)

    def state():
        flat = list(model._flatten_layers())
        return (
            [variable.numpy().tolist() for variable in model.variables],
            [sorted(vars(layer)) for layer in flat],
            [layer.trainable for layer in flat],
            [len(layer._losses) for layer in flat],
            [layer.call for layer in flat],
            model.get_config(),
        )

    def plain_gradient():
        with tf.GradientTape() as tape:
            images = tf.constant(IMAGES)
            tape.watch(images)
            score = tf.reduce_sum(model(images)[:, 0])
        return tape.gradient(score, images).numpy()

    before, gradient_before = state(), plain_gradient()
    method(model, IMAGES)
    with pytest.raises(ValueError, match="must be one vector for each image"):
        method(model, IMAGES, np.ones((5, 2, 3)))
    assert state() == before
    assert np.array_equal(plain_gradient(), gradient_before)
    trained = tf.function(lambda x: tf.gradients(model(x)[:, 0], x)[0])
    assert_same(trained(IMAGES).numpy(), gradient_before)


@pytest.mark.parametrize("method", METHODS)
def test_traced_once_and_live_weights(method) -> None:
    model = make_model(convolution(activation="relu"))
    before = method(model, IMAGES)
    method(model, IMAGES[:3], batch_size=2)
    compiled = compiled_functions.list_compiled(model)
    assert [x.num_traces for x in compiled] == [1]
    model.layers[0].kernel.assign(2 * model.layers[0].kernel)
    model.layers[0].bias.assign(2 * model.layers[0].bias)
    vector = -np.float32([1, 2, 3])
    after = method(model, IMAGES, vector)
    # Twice the gradient at the images, and the same scaled heatmap.
    model.layers[0].kernel.assign(model.layers[0].kernel / 2)
    model.layers[0].bias.assign(model.layers[0].bias / 2)
    assert_same(after, 2 * method(model, IMAGES, vector))
    assert np.array_equal(method(model, IMAGES), before)


def test_discarded_model_is_freed() -> None:
    model = make_busy_model()
    for method in METHODS:
        method(model, IMAGES)
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None


def test_four_threads_do_not_disturb_each_other() -> None:
    methods = [saliency, guided_backpropagation, deconvnet, explain]
    expected = [method(make_busy_model(), IMAGES) for method in methods]
    model = make_busy_model()
    start = threading.Barrier(4)

    def work(method):
        start.wait()
        return [method(model, IMAGES) for _ in range(5)]

    with ThreadPoolExecutor(4) as executor:
        results = list(executor.map(work, methods))
    for result, wanted in zip(results, expected, strict=True):
        assert all(np.array_equal(maps, wanted) for maps in result)


def test_gradient_that_is_not_finite(model) -> None:
    with pytest.raises(ValueError, match=r"must be finite.*images \[0, 1, 2, 3, 4\]"):
        saliency(model, IMAGES, lambda embeddings: embeddings * np.inf)


# Errors


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((IMAGES, np.ones((5, 2, 3))), {}, r"one vector for each image.*2, 3\)"),
        ((IMAGES, lambda y: ops.stack([y, y], 1)), {}, r"one vector for each image"),
        ((IMAGES, np.ones(4)), {}, "`proxies` must have the shape"),
        ((IMAGES, np.ones((2, 3))), {}, "one row for each image. Received 2 for 5"),
        ((IMAGES,), {"target_class": 3}, "`target_class`"),
        ((IMAGES, np.ones(3)), {"target_class": 1}, "Pass one of"),
        ((IMAGES,), {"embedding_layer": "nobody"}, "`embedding_layer` must name"),
        ((IMAGES,), {"batch_size": 0}, "`batch_size` must be"),
        ((IMAGES[0],), {}, r"images\[None\]"),
        ((IMAGES[..., :1],), {}, "The model takes images of the shape"),
        ((IMAGES[:0],), {}, "at least one image"),
        ((IMAGES * np.nan,), {}, "NaN or infinity"),
    ],
)
def test_arguments_that_do_not_fit(model, method, arguments, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        method(model, *arguments, **options)


@pytest.mark.parametrize("method", METHODS)
def test_no_model(method) -> None:
    with pytest.raises(TypeError, match="`model` must be a keras.Model. Received: 3"):
        method(3, IMAGES)


@pytest.mark.parametrize("method", [guided_gradcam, deconvnet_gradcam])
def test_unknown_convolution(model, method) -> None:
    with pytest.raises(ValueError, match="`conv_layer` must name.*'nobody'"):
        method(model, IMAGES, conv_layer="nobody")


@pytest.mark.parametrize("method", METHODS)
def test_normalized_embedding_is_refused(method) -> None:
    # What goes in is not parallel to what comes out: it cannot be told what to take.
    norm = layers.Lambda(lambda x: ops.normalize(ops.flip(x, axis=-1)))
    model = make_model(convolution(activation="relu"), head=[norm])
    with pytest.raises(ValueError, match="has a fixed length"):
        method(model, IMAGES)


# Real photographs


def make_bird_model(policy: str) -> keras.Model:
    """Return MobileNetV2 with pooled features, trained on birds."""
    keras.config.set_dtype_policy(policy)
    try:
        return make_bird_network()
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="module")
def birds() -> tuple[np.ndarray, np.ndarray]:
    """Return four photographs in [-1, 1], and masks of the boxes of the birds."""
    names = (BIRDS / "images.txt").read_text().splitlines()[::230][:4]
    boxes = dict(
        line.split(maxsplit=1)
        for line in (BIRDS / "bounding_boxes.txt").read_text().splitlines()
    )
    images, masks = [], []
    for number, name in map(str.split, names):
        image = read_image(BIRDS / "images" / name)
        x, y, width, height = np.float64(boxes[number].split())
        rows = (np.arange(224) + 0.5) * image.shape[0] / 224
        columns = (np.arange(224) + 0.5) * image.shape[1] / 224
        inside = (rows > y) & (rows < y + height)
        masks.append(inside[:, None] & (columns > x) & (columns < x + width))
        images.append(tf.image.resize(image, (224, 224)).numpy() / 127.5 - 1)
    return np.stack(images), np.stack(masks)


@needs_birds
def test_guided_gradcam_draws_birds(birds, tmp_path) -> None:
    images, masks = birds
    maps = guided_gradcam(make_bird_model("float32"), images)
    strength = np.abs(maps).sum(axis=-1)
    shares = (strength * masks).sum(axis=(1, 2)) / strength.sum(axis=(1, 2))
    assert (shares > masks.mean(axis=(1, 2)) + 0.25).all()
    maps /= np.percentile(np.abs(maps), 99.5, axis=(1, 2, 3), keepdims=True)
    pictures = np.concatenate([images, maps.clip(-1, 1)], axis=2)
    pictures = np.concatenate(list(pictures)) * 127.5 + 127.5
    keras.utils.save_img(tmp_path / "guided_gradcam.png", pictures, scale=False)


@needs_birds
@pytest.mark.slow
def test_real_network_in_half_precision(birds) -> None:
    """Deconvnet's gradients grow a thousandfold here, beyond float16."""
    single = deconvnet(make_bird_model("float32"), birds[0][:1])
    half = deconvnet(make_bird_model("mixed_float16"), birds[0][:1])
    assert np.corrcoef(single.ravel(), half.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("method", [guided_gradcam, deconvnet_gradcam])
def test_several_layers_are_refused(method) -> None:
    model = make_model(convolution(activation="relu"))
    with pytest.raises(ValueError, match=r"`conv_layer` must be one layer: .*\['conv"):
        method(model, IMAGES, conv_layer=["conv", "other"])


def test_an_unknown_method() -> None:
    model = make_model(convolution(activation="relu"))
    with pytest.raises(ValueError, match="`method` must be one of .*'smoothgrad'"):
        pixels.pixel_maps(model, IMAGES, method="smoothgrad")
