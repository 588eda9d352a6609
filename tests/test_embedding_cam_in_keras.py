"""EmbeddingCAM as a layer among others: shapes, weights, configuration, models."""

import json

import keras
import numpy as np
import pytest
from keras import layers, ops
from one_convolution import MAP_SIZE, SIZE, WIDTH, make_images, make_model, make_proxies

from keras_embcam import EmbeddingCAM


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return make_model()


@pytest.fixture(scope="module")
def cam(model) -> EmbeddingCAM:
    return EmbeddingCAM(model)


@pytest.mark.parametrize("shape", [None, (), (3,), (3, 2)])
@pytest.mark.parametrize("resize", [True, False])
def test_shapes_are_known_beforehand(model, shape, resize) -> None:
    cam = EmbeddingCAM(model, resize=resize)
    proxies = None if shape is None else make_proxies(*shape)
    results = cam(make_images(), proxies)
    for unknown in (3, None):
        batch = (unknown, SIZE, SIZE, 3)
        of_proxies = None
        if shape is not None:
            of_proxies = (unknown, *proxies.shape[1:]) if shape else (WIDTH,)
        shapes = cam.compute_output_shape(batch, of_proxies)
        expected = tuple((unknown, *x.shape[1:]) for x in results)
        assert shapes == expected
        symbol = None if of_proxies is None else keras.KerasTensor(of_proxies)
        specs = cam.compute_output_spec(keras.KerasTensor(batch), symbol)
        assert tuple(x.shape for x in specs) == expected
        assert {x.dtype for x in specs} == {"float32"}


def test_shapes_of_what_a_function_makes_are_known(cam, model) -> None:
    symbols = cam(model.input, proxies=lambda y: ops.stack([y, -y], axis=1))
    assert [x.shape for x in symbols] == [(None, WIDTH), (None, 2, SIZE, SIZE)]


def test_coarse_maps_of_another_size_are_open() -> None:
    cam = EmbeddingCAM(make_model(size=None), resize=False)
    cam(make_images())
    assert cam.compute_output_shape((2, SIZE, SIZE, 3))[1] == (2, MAP_SIZE, MAP_SIZE)
    assert cam.compute_output_shape((2, 20, 20, 3))[1] == (2, None, None)


def test_inside_a_functional_model(model) -> None:
    images = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    proxies = keras.Input((2, WIDTH))
    cam = EmbeddingCAM(model, "conv", weighting="layercam")
    embeddings, heatmaps = cam(layers.Rescaling(1 / 255)(images), proxies)
    whole = keras.Model([images, proxies], [embeddings, ops.max(heatmaps, axis=1)])
    pixels = (255 * make_images()).astype("uint8")
    given = make_proxies(3, 2)
    actual = whole.predict([pixels, given], verbose=0, batch_size=2)
    expected = cam(pixels.astype("float32") / 255, given)
    np.testing.assert_allclose(actual[0], expected[0], atol=1e-6)
    np.testing.assert_allclose(actual[1], np.max(expected[1], axis=1), atol=1e-5)


def test_the_weights_are_those_of_the_model_once(model) -> None:
    cam = EmbeddingCAM(model, model.get_layer("conv"), model.get_layer("embedding"))
    cam(make_images())
    assert [x.path for x in cam.weights] == [x.path for x in model.weights]
    assert cam.as_model().count_params() == model.count_params()


def test_configuration_round_trip(model) -> None:
    options = {
        "weighting": "xgradcam",
        "top_channels": 3,
        "resize": False,
        "normalize": False,
        "name": "where",
    }
    conv, embedding = model.get_layer("conv"), model.get_layer("embedding")
    cam = EmbeddingCAM(model, conv, embedding, **options)
    config = json.loads(json.dumps(cam.get_config()))
    assert (config["conv_layer"], config["embedding_layer"]) == ("conv", "embedding")
    copy = EmbeddingCAM.from_config(config)
    inner = {"layer": None}  # Keras numbers the layers of a copy anew
    assert {**copy.get_config(), **inner} == {**cam.get_config(), **inner}
    copy.layer.set_weights(model.get_weights())
    np.testing.assert_array_equal(copy(make_images())[1], cam(make_images())[1])


def test_a_layer_of_a_nested_model_is_kept_by_its_path() -> None:
    backbone = keras.Sequential(make_model().layers[:2], name="backbone")
    pooled = layers.GlobalAveragePooling2D()(backbone.outputs[0])
    nested = keras.Model(backbone.inputs, pooled, name="inner")
    images = keras.Input((SIZE, SIZE, 3))
    outer = keras.Model(images, layers.Dense(WIDTH)(nested(images)))
    cam = EmbeddingCAM(outer, nested.get_layer("conv"))
    assert cam.get_config()["conv_layer"] == "inner/conv"


def test_as_model_of_a_sequential_model() -> None:
    stack = [layers.Conv2D(6, 3), layers.GlobalAveragePooling2D(), layers.Dense(WIDTH)]
    cam = EmbeddingCAM(keras.Sequential([keras.Input((SIZE, SIZE, 3)), *stack]))
    embeddings, heatmaps = cam.as_model().predict(make_images(), verbose=0)
    assert embeddings.shape == (3, WIDTH) and heatmaps.shape == (3, SIZE, SIZE)


def test_as_model_of_several_inputs() -> None:
    images, numbers = (
        keras.Input((SIZE, SIZE, 3), name="x"),
        keras.Input((2,), name="z"),
    )
    features = layers.GlobalAveragePooling2D()(layers.Conv2D(6, 3)(images))
    features = layers.Concatenate()([features, numbers])
    model = keras.Model({"x": images, "z": numbers}, layers.Dense(WIDTH)(features))
    cam = EmbeddingCAM(model)
    inputs = {"x": make_images(), "z": np.ones((3, 2), "float32")}
    for actual, expected in zip(
        cam.as_model().predict(inputs, verbose=0), cam(inputs), strict=True
    ):
        np.testing.assert_allclose(actual, expected, atol=1e-5)


class Subclassed(keras.Model):
    """States no shape of its images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = layers.Conv2D(6, 3)
        self.dense = layers.Dense(WIDTH)

    def call(self, images):
        return self.dense(ops.mean(self.conv(images), axis=(1, 2)))


def test_as_model_of_a_subclassed_model_needs_the_shape() -> None:
    cam = EmbeddingCAM(Subclassed())
    with pytest.raises(ValueError, match=r"does not state the shape .* `input_shape`"):
        cam.as_model()
    as_model = cam.as_model((SIZE, SIZE, 3))
    for actual, expected in zip(
        as_model.predict(make_images(), verbose=0), cam(make_images()), strict=True
    ):
        np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_an_unbuilt_model_is_built_by_its_first_images() -> None:
    stack = [layers.Conv2D(6, 3), layers.GlobalAveragePooling2D(), layers.Dense(WIDTH)]
    cam = EmbeddingCAM(keras.Sequential(stack))
    embeddings, heatmaps = cam(make_images())
    assert embeddings.shape == (3, WIDTH) and heatmaps.shape == (3, SIZE, SIZE)


def test_the_weights_count_that_a_model_gets_after_it_is_in_a_graph() -> None:
    """As in loading: with a kernel of zeros the normalisation cannot be found."""
    images = keras.Input((SIZE, SIZE, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(6, 3, name="conv")(images))
    raw = layers.Dense(WIDTH, kernel_initializer="zeros", name="dense")(x)
    model = keras.Model(images, layers.UnitNormalization()(raw))
    as_model = EmbeddingCAM(model).as_model()
    model.set_weights(make_model().get_weights())
    embeddings, heatmaps = as_model.predict(make_images(), verbose=0)
    assert np.ptp(np.linalg.norm(embeddings, axis=-1)) > 1e-3
    expected = EmbeddingCAM(keras.Model(images, raw))(make_images())[1]
    np.testing.assert_allclose(heatmaps, expected, atol=1e-5)
