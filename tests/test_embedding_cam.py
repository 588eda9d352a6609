"""Tests of keras_embcam.embedding_cam."""

import doctest
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_embcam import EmbeddingCAM
from keras_embcam import embedding_cam as module
from keras_embcam.proxies import single_point

SIZE, WIDTH = 9, 4
MAP_SIZE = 7


def make_images(num_images: int = 3, size: int = SIZE) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.uniform(size=(num_images, size, size, 3)).astype("float32")


def make_proxies(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(*shape, WIDTH)).astype("float32")


def make_model(size: int | None = SIZE, seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    images = keras.Input((size, size, 3))
    x = layers.Conv2D(6, 3, activation="relu", name="conv")(images)
    x = layers.GlobalMaxPooling2D()(x)
    return keras.Model(images, layers.Dense(WIDTH, name="embedding")(x))


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return make_model()


@pytest.fixture(scope="module")
def cam(model) -> EmbeddingCAM:
    return EmbeddingCAM(model)


def test_the_examples_run() -> None:
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


# What comes out


def test_embeddings_are_those_of_the_model(model, cam) -> None:
    embeddings, heatmaps = cam(make_images())
    np.testing.assert_allclose(embeddings, model(make_images()), atol=1e-6)
    assert embeddings.dtype == heatmaps.dtype == tf.float32
    assert heatmaps.shape == (3, SIZE, SIZE)


def test_the_default_is_the_single_point(cam) -> None:
    embeddings, heatmaps = cam(make_images())
    _, expected = cam(make_images(), single_point(embeddings))
    np.testing.assert_allclose(heatmaps, expected, atol=1e-6)


def test_one_vector_serves_all_images(cam) -> None:
    vector = make_proxies()
    _, heatmaps = cam(make_images(), vector)
    _, expected = cam(make_images(), np.stack([vector] * 3))
    np.testing.assert_array_equal(heatmaps, expected)


@pytest.mark.parametrize("options", [{}, {"resize": False}, {"top_channels": 2}])
def test_several_explanations_are_those_of_each_proxy(model, options) -> None:
    proxies = make_proxies(3, 5)
    cam = EmbeddingCAM(model, weighting="gradcam++", **options)
    heatmaps = np.asarray(cam(make_images(), proxies)[1])
    for explanation in range(5):
        _, expected = cam(make_images(), proxies[:, explanation])
        np.testing.assert_allclose(heatmaps[:, explanation], expected, atol=1e-6)


def test_one_explanation_of_several_keeps_its_axis(cam) -> None:
    assert cam(make_images(), make_proxies(3, 1))[1].shape == (3, 1, SIZE, SIZE)


def test_a_function_makes_the_proxies(cam) -> None:
    embeddings, expected = cam(make_images())
    _, heatmaps = cam(make_images(), proxies=lambda y: 2 * single_point(y))
    np.testing.assert_allclose(heatmaps, expected, atol=1e-6)
    several = cam(make_images(), proxies=lambda y: ops.stack([y, -y], axis=1))[1]
    assert several.shape == (3, 2, SIZE, SIZE)
    np.testing.assert_allclose(several[:, 0], expected, atol=1e-6)


def test_a_function_by_position_is_refused_by_keras(cam) -> None:
    with pytest.raises(ValueError, match="should be passed as a keyword argument"):
        cam(make_images(), lambda y: y)


def test_resize_and_normalize(model) -> None:
    def run(**options):
        cam = EmbeddingCAM(model, weighting="layercam", **options)
        return np.asarray(cam(make_images(), make_proxies(3))[1])

    raw = run(resize=False, normalize=False)
    assert raw.shape == (3, MAP_SIZE, MAP_SIZE)
    assert np.all(raw.max(axis=(1, 2)) > 0) and not np.allclose(raw.max(), 1)
    resized = tf.image.resize(raw[..., None], (SIZE, SIZE))[..., 0].numpy()
    np.testing.assert_allclose(run(normalize=False), resized, atol=1e-6)
    scaled = raw / raw.max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(run(resize=False), scaled, atol=1e-6)
    # Divided by the maximum after the resize, so that it is 1.
    expected = resized / resized.max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(run(), expected, atol=1e-6)
    np.testing.assert_allclose(run().max(axis=(1, 2)), 1)


def test_a_map_without_heat_is_zero_and_no_nan(cam) -> None:
    heatmaps = np.asarray(cam(make_images(), np.zeros((3, WIDTH)))[1])
    assert heatmaps.shape == (3, SIZE, SIZE) and not heatmaps.any()


def test_images_of_integers_are_those_numbers(cam) -> None:
    numbers = np.random.default_rng(2).integers(0, 256, (2, SIZE, SIZE, 3))
    _, expected = cam(numbers.astype("float32"))
    for dtype in ("uint8", "int32", "int64", "float64"):
        _, heatmaps = cam(numbers.astype(dtype))
        np.testing.assert_allclose(heatmaps, expected, atol=1e-6)


def test_grey_images_and_a_batch_of_one() -> None:
    model = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 1)),
            layers.Conv2D(6, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(WIDTH),
        ]
    )
    embeddings, heatmaps = EmbeddingCAM(model)(make_images(1)[..., :1])
    assert embeddings.shape == (1, WIDTH) and heatmaps.shape == (1, SIZE, SIZE)


def test_a_model_of_any_size_takes_any_size() -> None:
    model = make_model(size=None)
    cam = EmbeddingCAM(model)
    compiled = tf.function(
        lambda x: cam(x)[1], input_signature=[tf.TensorSpec((None, None, None, 3))]
    )
    for size in (9, 14, 24):
        images = make_images(2, size)
        heatmaps = cam(images)[1]
        assert heatmaps.shape == (2, size, size)
        expected = EmbeddingCAM(make_model(size))(images)[1]  # the same seed
        np.testing.assert_allclose(heatmaps, expected, atol=1e-6)
        np.testing.assert_allclose(compiled(images), expected, atol=1e-6)


# Compiled


@pytest.mark.parametrize("jit_compile", [False, True])
def test_compiled_maps_are_those_of_eager_mode(cam, jit_compile) -> None:
    for shape in [(), (3,), (3, 2)]:
        proxies = make_proxies(*shape)
        unknown = tf.TensorSpec((None, *proxies.shape[1:]) if shape else (WIDTH,))
        compiled = tf.function(
            lambda x, p: cam(x, p),
            input_signature=[tf.TensorSpec((None, SIZE, SIZE, 3)), unknown],
            jit_compile=jit_compile,
        )
        for actual, expected in zip(
            compiled(make_images(), proxies), cam(make_images(), proxies), strict=True
        ):
            np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_an_empty_share_of_a_batch_gives_no_maps(cam) -> None:
    """As the last replica of a MirroredStrategy may see it."""
    compiled = tf.function(
        lambda x: cam(x), input_signature=[tf.TensorSpec((None, SIZE, SIZE, 3))]
    )
    embeddings, heatmaps = compiled(make_images()[:0])
    assert embeddings.shape == (0, WIDTH) and heatmaps.shape == (0, SIZE, SIZE)


# Precision


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_proxies_stay_float32_under_any_policy(policy) -> None:
    keras.config.set_dtype_policy(policy)
    try:
        model = make_model()
        seen = []

        def spy(*tensors):
            seen.extend(tensor.dtype for tensor in tensors)
            return ops.mean(tensors[-1], axis=(1, 2), keepdims=True)

        cam = EmbeddingCAM(model, weighting=spy, dtype=policy)
        assert cam.dtype_policy.name == "float32"

        def proxies(embeddings):
            seen.append(embeddings.dtype)
            return fine

        # The two differ by less than float16 and bfloat16 can tell.
        fine = np.float32([1 + 2.0**-13, 1, 1, 1])
        cam(make_images(), proxies=proxies)
        assert set(seen) == {tf.float32}
        as_model = cam.as_model()
        images, given = as_model.input, keras.Input((WIDTH,))
        assert given.dtype == "float32"
        embeddings, heatmaps = keras.Model([images, given], cam(images, given)).predict(
            [make_images(), make_proxies(3)], verbose=0
        )
        assert embeddings.dtype == heatmaps.dtype == "float32"
        np.testing.assert_allclose(
            heatmaps, cam(make_images(), make_proxies(3))[1], atol=1e-2
        )
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("norm", [1e-3, 1, 1e3])
def test_half_precision_neither_underflows_nor_overflows(policy, norm, model) -> None:
    proxies = make_proxies(3)
    proxies *= norm / np.linalg.norm(proxies, axis=-1, keepdims=True)
    _, expected = EmbeddingCAM(model, normalize=False)(make_images(), proxies)
    keras.config.set_dtype_policy(policy)
    try:
        half = make_model()
    finally:
        keras.config.set_dtype_policy("float32")
    half.set_weights(model.get_weights())
    _, heatmaps = EmbeddingCAM(half, normalize=False)(make_images(), proxies)
    tolerance = {"mixed_float16": 0.01, "mixed_bfloat16": 0.05}[policy]
    np.testing.assert_allclose(
        heatmaps, expected, atol=tolerance * np.max(expected), rtol=0
    )


# In Keras


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


# What is refused


@pytest.mark.parametrize("value", ["model", None, layers.Dense(3)])
def test_only_keras_models_are_wrapped(value) -> None:
    with pytest.raises(TypeError, match="`model` must be a keras.Model. Received: "):
        EmbeddingCAM(value)


@pytest.mark.parametrize("argument", ["conv_layer", "embedding_layer"])
def test_a_layer_of_another_model_is_refused(model, argument) -> None:
    with pytest.raises(ValueError, match=f"`{argument}` must be the name, the path or"):
        EmbeddingCAM(model, **{argument: layers.Dense(3)})


@pytest.mark.parametrize("argument", ["conv_layer", "embedding_layer"])
def test_an_unknown_name_is_refused(model, argument) -> None:
    cam = EmbeddingCAM(model, **{argument: "cov"})
    with pytest.raises(ValueError, match=f"`{argument}` must name a layer.*'cov'"):
        cam(make_images())


@pytest.mark.parametrize("shape", [(WIDTH + 1,), (3, WIDTH + 1), (3, 2, WIDTH - 1)])
def test_proxies_of_another_width_are_refused(cam, model, shape) -> None:
    message = (
        rf"`proxies` must have the shape \({WIDTH},\).*Received the shape \({shape[0]},"
    )
    with pytest.raises(ValueError, match=message):
        cam(make_images(), np.ones(shape))
    # A model that is put together is told at once.
    with pytest.raises(ValueError, match="`proxies` must have the shape"):
        cam(model.input, keras.KerasTensor((None, *shape[1:]) if shape[1:] else shape))
    signature = [tf.TensorSpec((None, *shape[1:]) if shape[1:] else shape)]
    compiled = tf.function(lambda p: cam(make_images(), p), input_signature=signature)
    with pytest.raises(ValueError, match="`proxies` must have the shape"):
        compiled(np.ones(shape, "float32"))


@pytest.mark.parametrize(
    "shape", [(), (1, WIDTH), (2, WIDTH), (4, WIDTH), (1, 2, WIDTH), (3, 0, WIDTH)]
)
def test_another_number_of_proxies_is_refused(cam, shape) -> None:
    with pytest.raises(ValueError, match=r"for n = 3 images.*Received the shape \("):
        cam(make_images(), np.ones(shape, "float32"))


@pytest.mark.parametrize("shape", [(1, WIDTH), (2, WIDTH), (4, WIDTH), (1, 2, WIDTH)])
def test_another_number_is_refused_where_it_is_known_late(cam, shape) -> None:
    compiled = tf.function(
        lambda x, p: cam(x, p),
        input_signature=[
            tf.TensorSpec((None, SIZE, SIZE, 3)),
            tf.TensorSpec((None, *shape[1:])),
        ],
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="one row for each image"):
        compiled(make_images(), np.ones(shape, "float32"))


def test_images_of_another_rank_are_refused(cam) -> None:
    with pytest.raises(ValueError, match=r"\(n, H, W, c\); add the batch axis"):
        EmbeddingCAM(make_model())(make_images()[0])
    with pytest.raises(ValueError, match=r"\(n, H, W, c\); add the batch axis"):
        cam(make_images()[..., 0])


def test_images_of_other_channels_are_refused(model) -> None:
    # Keras's own message.
    with pytest.raises(ValueError, match=r"expected.*shape.*3.*1\)"):
        EmbeddingCAM(model)(make_images()[..., :1])


def test_images_of_another_size_than_the_model_is_for_are_refused(cam) -> None:
    # Keras's own message.
    with pytest.raises(ValueError, match=r"expected shape=.* found shape=\(2, 12, 12"):
        cam(make_images(2, size=12))


def test_no_images_are_refused(cam) -> None:
    with pytest.raises(ValueError, match="at least one image. Received none"):
        cam(make_images()[:0])
