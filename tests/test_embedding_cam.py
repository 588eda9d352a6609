"""Tests of keras_embcam.embedding_cam."""

import doctest

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from one_convolution import MAP_SIZE, SIZE, WIDTH, make_images, make_model, make_proxies

from keras_embcam import EmbeddingCAM
from keras_embcam import embedding_cam as module
from keras_embcam.proxies import single_point


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


def test_the_model_gets_its_images_as_they_are() -> None:
    """It casts them as its own policy says; here they stay float64."""
    seen = []

    class Spy(keras.Model):
        def __init__(self) -> None:
            super().__init__(dtype="float64", autocast=False)
            self.conv = layers.Conv2D(3, 3, dtype="float64")

        def call(self, images):
            seen.append(images.dtype)
            return ops.max(self.conv(images), axis=(1, 2))

    EmbeddingCAM(Spy())(make_images().astype("float64"))
    assert set(seen) == {tf.float64}


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
