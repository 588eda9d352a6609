"""Tests of where maps belong: what positions look at, and maps drawn there."""

import doctest
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_embcam import EmbeddingCAM, explain, explain_pair, resizing
from keras_embcam.callbacks import EmbeddingCAMLogger
from keras_embcam.catalogue.actor import _explain_and_place
from keras_embcam.evaluation import evaluate
from keras_embcam.heatmaps import resize_heatmaps, scale_heatmaps
from keras_embcam.method import Method
from keras_embcam.metrics import heatmap_ratio_in_boxes
from keras_embcam.network import gradient_checks, places
from keras_embcam.network.front import look_at_front
from keras_embcam.network.positions import Positions
from keras_embcam.network.trial_run import TrialRun
from keras_embcam.network.view import ModelView
from keras_embcam.running.compiled_functions import run_once
from keras_embcam.running.one_batch import read_field

MOVED = "do not lie where they would be drawn"


def ones(filters: int, size: int, **options: Any) -> layers.Layer:
    return layers.Conv2D(filters, size, kernel_initializer="ones", **options)


def red_detector(size: int = 3, **options: Any) -> layers.Layer:
    """Return a convolution that answers to red alone."""
    options = {"activation": "relu", "name": "red", **options}
    layer = layers.Conv2D(4, size, **options)
    layer.build((None, None, None, 3))
    kernel = np.zeros((size, size, 3, 4), "float32")
    kernel[:, :, 0], kernel[:, :, 1:] = 1, -0.5
    layer.set_weights([kernel / size**2, np.zeros(4, "float32")])
    return layer


def embed_maps(inputs: Any, maps: Any) -> keras.Model:
    pooled = layers.GlobalAveragePooling2D()(maps)
    return keras.Model(inputs, layers.Dense(4, kernel_initializer="ones")(pooled))


def make_tutorial_network(
    padding: str = "valid", height: Any = 64, width: Any = 64
) -> keras.Model:
    """Return four convolutions with three poolings, a perfect detector of red."""
    inputs = keras.Input((height, width, 3))
    x = red_detector(padding=padding)(inputs)
    for number in range(3):
        x = ones(4, 3, padding=padding, name=f"conv{number}")(layers.MaxPooling2D()(x))
    return embed_maps(inputs, x)


def with_object(centres: list, height: int = 64, width: int = 64) -> tuple:
    """Return images with a red square each, and boxes around these."""
    images = np.full((len(centres), height, width, 3), 0.2, "float32")
    boxes = []
    for image, (row, column) in zip(images, centres, strict=True):
        image[row - 4 : row + 4, column - 4 : column + 4] = [1, 0, 0]
        boxes.append([row - 4, column - 4, row + 4, column + 4])
    return images, np.float32(boxes) / [height, width, height, width]


def peak(heatmap: np.ndarray) -> list[int]:
    return [int(x) for x in np.unravel_index(heatmap.argmax(), heatmap.shape)]


def look(model: keras.Model, **options: Any) -> ModelView:
    """Return the view of a model that nothing is said about."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return ModelView(model, **options)


@pytest.mark.parametrize("module", [resizing, places, gradient_checks])
def test_the_examples_run(module: Any) -> None:
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


# What positions look at


@pytest.mark.parametrize(
    "stack",
    [
        [ones(1, 3), ones(1, 3, strides=2, padding="same"), ones(1, 5)],
        [ones(1, 3, padding="same", dilation_rate=2), layers.AveragePooling2D(3, 2)],
        [ones(1, 3), layers.ZeroPadding2D(((5, 0), (2, 1))), ones(1, 3, strides=3)],
        [ones(1, 2), layers.Cropping2D(((4, 1), (0, 7))), ones(1, 3)],
        [
            layers.DepthwiseConv2D(3, strides=2, depthwise_initializer="ones"),
            layers.Conv2DTranspose(1, 2, strides=2, kernel_initializer="ones"),
        ],
        [
            ones(1, 4, strides=2, padding="same"),
            layers.AveragePooling2D(2, padding="same"),
            layers.Conv2DTranspose(
                1, 4, strides=2, padding="same", kernel_initializer="ones"
            ),
        ],
    ],
)
def test_positions_look_at_what_has_a_gradient(stack: list) -> None:
    """The gradient of each row at the pixels is the witness."""
    inputs = keras.Input((31, 40, 1))
    maps = inputs
    for layer in stack:
        maps = layer(maps)
    model = keras.Model(inputs, maps)
    found = Positions(TrialRun(model).calls)
    assert found.is_sure(stack[-1])
    number = found.find(stack[-1])
    rows, columns = found.reach(number, (31, 40))
    assert (len(rows), len(columns)) == maps.shape[1:3]
    images = tf.Variable(np.ones((1, 31, 40, 1), "float32"))
    for axis, reach in enumerate((rows, columns)):
        with tf.GradientTape() as tape:
            values = tf.reduce_sum(model(images), axis=(0, 2 - axis, 3))
        jacobian = tape.jacobian(values, images)
        seen = tf.reduce_sum(jacobian, axis=(1, 3 - axis, 4)).numpy() > 0
        for one, ends in zip(seen, reach, strict=True):
            there = np.flatnonzero(one)
            if not len(there):  # it looks at padding alone
                assert ends[1] < 0
                continue
            inside = np.clip(ends, 0, len(one) - 1)
            # Between two positions, an upsampled one looks at one of them.
            np.testing.assert_allclose(there[[0, -1]], inside, atol=2)
            if not any(isinstance(x, layers.Conv2DTranspose) for x in stack):
                np.testing.assert_array_equal(there[[0, -1]], inside)


@pytest.mark.parametrize(
    ("name", "size", "shift"),
    [("InceptionV3", 299, 0.063), ("MobileNetV2", 224, 0.069)],
)
def test_networks_of_keras_are_drawn_as_before(
    name: str, size: int, shift: float
) -> None:
    """Looked at on smaller images: the arithmetic is that of any size."""
    build = getattr(keras.applications, name)
    model = build(include_top=False, weights=None, input_shape=(None, None, 3))
    small = keras.KerasTensor((None, size // 2, size // 2, 3))
    found = Positions(TrialRun(model, small).calls)
    assert not found._unsure
    number = found.find(model.layers[-1])
    front = look_at_front(model, (size, size))
    rows, _ = found.reach(number, front.input_size)
    shares = (rows.mean(axis=1) + 0.5 - front.consumed[0][0]) / size
    drawn = (np.arange(len(rows)) + 0.5) / len(rows)
    assert np.abs(shares - drawn).max() == pytest.approx(shift, abs=2e-3)
    assert places._place(rows, front.input_size[0], front.consumed[0]) is None


# Maps


@pytest.fixture(scope="module")
def network() -> keras.Model:
    return make_tutorial_network()


def test_heat_lies_where_the_positions_look(network: keras.Model) -> None:
    """Measured before: an object at 20 gave a peak at 0, one at 44 gave 56."""
    images, boxes = with_object([(20, 44), (44, 20), (28, 36)])
    heatmaps = explain(network, images)
    for heatmap, centre in zip(heatmaps, [(18, 43), (43, 18), (27, 35)], strict=True):
        np.testing.assert_allclose(peak(heatmap), centre, atol=1)
    assert np.all(heatmap_ratio_in_boxes(heatmaps, boxes, "rel_yxyx") > 0.035)
    # The grid itself stays what it was: four positions, 8 pixels apart from 19 on.
    coarse = explain(network, images, resize=False, normalize=False)
    inner = resize_heatmaps(coarse, (32, 32))
    whole = explain(network, images, normalize=False)
    np.testing.assert_allclose(whole[:, 19:43, 19:43], inner[:, 4:28, 4:28], rtol=1e-5)


def test_images_that_are_not_square() -> None:
    model = make_tutorial_network("valid", 64, 96)
    images, _ = with_object([(44, 20), (20, 68)], 64, 96)
    for heatmap, centre in zip(
        explain(model, images), [(43, 18), (18, 67)], strict=True
    ):
        np.testing.assert_allclose(peak(heatmap), centre, atol=1)


def test_networks_with_padding_are_drawn_as_before() -> None:
    model = make_tutorial_network("same")
    images, _ = with_object([(20, 44)])
    coarse = explain(model, images, resize=False, normalize=False)
    resized = tf.image.resize(coarse[..., None], (64, 64))[..., 0]
    whole = explain(model, images, normalize=False)
    np.testing.assert_allclose(whole, resized, rtol=1e-5)


def test_all_faces_agree(network: keras.Model, tmp_path: Path) -> None:
    images, boxes = with_object([(20, 28), (28, 44), (36, 20), (43, 36)])
    expected = explain(network, images)
    ratio = heatmap_ratio_in_boxes(expected, boxes, "rel_yxyx").numpy().mean()
    # A perfect detector, all of whose objects lie where some position looks.
    examples = {"image": images, "bbox": boxes}
    (row,) = evaluate(network, examples, ["single_point"], num_timings=0).rows
    assert row["pointing_game"] == 1
    assert row["heatmap_ratio_bbox"] == pytest.approx(ratio, rel=1e-4)
    EmbeddingCAM(network).as_model().save(tmp_path / "cam.keras")
    loaded = keras.models.load_model(tmp_path / "cam.keras")
    np.testing.assert_allclose(
        loaded.predict(images, verbose=0)[1], expected, atol=1e-5
    )
    # The catalogue keeps maps that lie evenly over the image.
    method = Method(resize=False, normalize=False)
    _, coarse, fields = run_once(network, images, method, _explain_and_place)
    field = read_field(fields)
    drawn = scale_heatmaps(resize_heatmaps(coarse, (64, 64), field))
    np.testing.assert_allclose(drawn, expected, atol=1e-5)
    spread = resizing.spread_heatmaps(coarse, field)
    assert spread.shape == (4, 8, 8)
    for small, whole in zip(np.asarray(spread), expected, strict=True):
        np.testing.assert_allclose(np.multiply(peak(small), 8) + 4, peak(whole), atol=6)
    # What the logger measures, and the small maps that it keeps.
    network.compile("sgd", "mse")
    logger = EmbeddingCAMLogger(tmp_path / "logs", examples, num_images=0)
    logger.set_model(network)
    logger.set_params({"verbose": 0, "epochs": 1, "steps": 1})
    logger.on_train_begin()
    logs: dict[str, Any] = {}
    logger.on_epoch_end(0, logs)
    assert logs["val_heatmap_ratio_bbox"] == pytest.approx(ratio, rel=1e-4)


def test_correspondences_lie_where_the_positions_look(network: keras.Model) -> None:
    a, _ = with_object([(20, 44)])
    b, _ = with_object([(44, 28)])
    pair = explain_pair(network, a, b, num_correspondences=1)
    np.testing.assert_allclose(
        64 * pair.correspondences.positions_a[0, 0], (19, 43), atol=0.1
    )
    np.testing.assert_allclose(
        64 * pair.correspondences.positions_b[0, 0], (43, 27), atol=0.1
    )
    np.testing.assert_allclose(peak(pair.heatmaps_a[0]), (18, 43), atol=1)


@pytest.mark.parametrize("conv_layer", [["red", "conv1", "conv2"], ["conv1", "conv2"]])
def test_several_layers_lie_where_their_positions_look(
    network: keras.Model, conv_layer: list
) -> None:
    images, boxes = with_object([(20, 44), (44, 20)])
    heatmaps = explain(network, images, conv_layer=conv_layer, weighting="layercam")
    for heatmap, (top, left, bottom, right) in zip(heatmaps, 64 * boxes, strict=True):
        row, column = peak(heatmap)
        assert top - 2 <= row <= bottom + 2 and left - 2 <= column <= right + 2


def test_the_preset_lies_where_its_layers_look(network: keras.Model) -> None:
    images, boxes = with_object([(20, 44), (44, 20)])
    heatmaps = explain(network, images, preset="localize")
    assert np.all(heatmap_ratio_in_boxes(heatmaps, boxes, "rel_yxyx") > 0.3)


def test_an_open_size_is_refused_where_the_place_depends_on_it() -> None:
    model = make_tutorial_network("valid", None, None)
    any_size = tf.TensorSpec((None, None, None, 3))

    def trace(**options: Any) -> Any:
        cam = EmbeddingCAM(model, **options)
        return tf.function(cam, autograph=False).get_concrete_function(any_size)

    with pytest.raises(ValueError, match="look beyond the border.*State the size"):
        trace()
    assert trace(resize=False) is not None
    images, _ = with_object([(20, 44)])
    np.testing.assert_allclose(peak(explain(model, images)[0]), (18, 43), atol=1)


# Between convolutions


def put_between(change: Any) -> keras.Model:
    inputs = keras.Input((64, 64, 3))
    x = change(red_detector(4, strides=2, padding="same")(inputs))
    return embed_maps(inputs, ones(4, 1, activation="relu", name="last")(x))


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[:, :, 16:],
        lambda x: x[:, 1:20],
        lambda x: ops.pad(x, ((0, 0), (0, 16), (8, 0), (0, 0))),
        layers.Cropping2D(((0, 4), (10, 0))),
        layers.ZeroPadding2D(((0, 16), (0, 16))),
        layers.UpSampling2D(2),
        layers.Activation("relu"),
        lambda x: ops.silu(x) * 2 + x,
    ],
)
def test_crops_and_padding_between_convolutions_are_known(change: Any) -> None:
    """Measured before: heat of 0.00 in the object."""
    model = put_between(change)
    images, boxes = with_object([(10, 50)])
    assert look(model).conv_layer == "last"
    (heatmap,) = explain(model, images)
    assert heatmap_ratio_in_boxes(heatmap[None], boxes, "rel_yxyx")[0] > 0.7


@pytest.mark.parametrize(
    "change",
    [
        lambda x: ops.flip(x, 2),
        lambda x: ops.transpose(x, (0, 2, 1, 3)),
        lambda x: ops.roll(x, 8, 2),
        layers.Permute((2, 1, 3)),
        layers.Lambda(lambda x: x[:, ::-1]),
    ],
)
def test_what_moves_positions_is_told_and_an_earlier_layer_explained(
    change: Any,
) -> None:
    model = put_between(change)
    images, boxes = with_object([(10, 50)])
    with pytest.warns(UserWarning, match=f"'last' {MOVED}.* So 'red' is explained"):
        (heatmap,) = explain(model, images)
    assert heatmap_ratio_in_boxes(heatmap[None], boxes, "rel_yxyx")[0] > 0.7
    with pytest.warns(UserWarning, match=f"{MOVED}.*pass `resize=False`"):
        assert ModelView(model, "last").conv_layer == "last"


class Subclassed(keras.Model):
    """Code between its layers, as most of those who come from torch write it."""

    def __init__(self, padding: str = "same", dilation: int = 1) -> None:
        super().__init__()
        self.convs = [
            layers.Conv2D(8, 3, padding=padding, dilation_rate=dilation**i)
            for i in range(4)
        ]
        self.gate = layers.Dense(8)
        self.head = layers.Dense(4)
        self.pools = dilation == 1

    def call(self, x: Any) -> Any:
        for number, conv in enumerate(self.convs):
            y = tf.nn.relu(conv(x))
            y = y * tf.sigmoid(self.gate(tf.reduce_mean(y, (1, 2), keepdims=True)))
            x = y + x if y.shape == x.shape else y
            if self.pools and number < 3:
                x = tf.nn.max_pool2d(x, 2, 2, "VALID")
        return self.head(tf.reduce_mean(x, (1, 2)))


@pytest.mark.parametrize(
    ("padding", "dilation", "size"),
    [("same", 1, 64), ("valid", 1, 64), ("same", 2, 48), ("same", 1, 20)],
)
def test_code_between_layers_raises_no_alarm(
    padding: str, dilation: int, size: int
) -> None:
    keras.utils.set_random_seed(0)
    model = Subclassed(padding, dilation)
    images = np.random.default_rng(0).random((2, size, size, 3), "float32")
    view = look(model, images=images)
    field = view.places.field((size, size))
    if padding == "same":
        assert field is None
    else:  # as of the same network made of layers
        np.testing.assert_allclose(
            field[:4], [15 / 64, 15 / 64, 47 / 64, 47 / 64], atol=0.03
        )


# Parts that the model chooses


class Glimpse(keras.Model):
    """Cuts out the half of the image that begins at its brightest row."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = red_detector(4, strides=2), layers.Dense(4)

    def call(self, x: Any) -> Any:
        top = tf.cast(tf.argmax(tf.reduce_max(x[..., 0], 2), 1), "float32") / 64
        boxes = tf.stack([top, 0 * top, top + 0.5, 0 * top + 1], 1)
        x = tf.image.crop_and_resize(x, boxes, tf.range(tf.shape(x)[0]), (64, 64))
        return self.head(tf.reduce_mean(self.conv(x), (1, 2)))


def test_a_part_that_depends_on_the_image_is_refused_with_what_to_pass() -> None:
    images, _ = with_object([(10, 20), (40, 20)])
    model = Glimpse()
    model(images)
    with pytest.raises(ValueError, match="takes a part of each image.*resize=False"):
        explain(model, images)
    assert explain(model, images, resize=False).shape == (2, 31, 31)


@pytest.mark.parametrize(
    "change", [ops.sin, tf.image.per_image_standardization, ops.sqrt]
)
def test_values_that_are_no_linear_function_of_the_image_stay_in_place(
    change: Any,
) -> None:
    inputs = keras.Input((64, 64, 3))
    x = layers.Lambda(change)(layers.Activation("relu")(inputs))
    view = look(embed_maps(inputs, layers.Conv2D(4, 3, padding="same")(x)))
    assert view.places.field((64, 64)) is None


# Gates


@pytest.mark.parametrize("seed", [1, 4])
@pytest.mark.parametrize("before", [True, False])
def test_a_soft_assignment_is_never_explained(seed: int, before: bool) -> None:
    """NetVLAD; measured before: heat of 0.00 in the object for these seeds."""
    inputs = keras.Input((64, 64, 3))
    shared = red_detector(4, strides=2, padding="same")(inputs)
    normal = keras.initializers.RandomNormal(1, 0.3, seed=seed)
    assign = layers.Conv2D(3, 1, name="assign", kernel_initializer=normal)
    logits = assign(shared)
    features = shared
    if before:  # the map that is weighed is made behind the gate
        features = ones(4, 1, name="features")(shared)
    shares = ops.reshape(ops.softmax(logits), (-1, 1024, 3))
    joined = ops.einsum("nik,nid->nkd", shares, ops.reshape(features, (-1, 1024, 4)))
    normal = keras.initializers.RandomNormal(1, 0.3, seed=1)
    head = layers.Dense(4, kernel_initializer=normal)
    model = keras.Model(inputs, head(layers.Flatten()(joined)))
    images, boxes = with_object([(20, 44)])
    (heatmap,) = explain(model, images)
    assert heatmap_ratio_in_boxes(heatmap[None], boxes, "rel_yxyx")[0] > 0.7


def test_layer_normalisation_is_no_softmax() -> None:
    """Neither sees a number added to all channels."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(6, 3, activation="relu", name="first")(inputs)
    x = layers.Conv2D(6, 3, name="last")(x)
    pooled = layers.LayerNormalization()(layers.GlobalAveragePooling2D()(x))
    assert look(keras.Model(inputs, layers.Dense(4)(pooled))).conv_layer == "last"
    values = tf.random.stateless_normal((3, 4, 4, 6), (0, 1))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(values)
        pooled = tf.reduce_mean(values, (1, 2))
        pooled = layers.LayerNormalization()(pooled)[:, 0]
        normalised = layers.LayerNormalization()(values)[..., 0]
        shares = tf.nn.softmax(values)[..., 0]
    for sums, is_softmax in ((pooled, False), (normalised, False), (shares, True)):
        gradients = tape.gradient(sums, values).numpy()
        found = gradient_checks.goes_into_softmax(values.numpy(), gradients)
        assert found == is_softmax
