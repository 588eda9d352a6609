"""Tests of keras_embcam.explain_at_once and .explain_in_batches."""

import doctest
import importlib

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from two_convolutions import SIZE, WIDTH, make_images, make_model, make_vectors

from keras_embcam import (
    EmbeddingCAM,
    Explanation,
    embed,
    explain,
    explain_batches,
)
from keras_embcam.proxies import from_score, single_point
from keras_embcam.running import compiled_functions as compiled


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    return make_model()


def count_traces(model: keras.Model) -> int:
    return sum(x.num_traces for x in compiled.list_compiled(model))


@pytest.mark.parametrize("name", ["explain_at_once", "explain_in_batches"])
def test_the_examples_run(name) -> None:
    module = importlib.import_module(f"keras_embcam.{name}")
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


# The same as EmbeddingCAM


@pytest.mark.parametrize("shape", [None, (), (5,), (5, 2)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {
            "weighting": "gradcam++",
            "top_channels": 2,
            "resize": False,
            "normalize": False,
        },
        {"conv_layer": "first", "embedding_layer": "global_average_pooling2d"},
    ],
    ids=["default", "raw", "layers"],
)
def test_maps_are_those_of_embedding_cam(model, shape, options) -> None:
    if "embedding_layer" in options:
        options = {**options, "embedding_layer": model.layers[-2].name}
    vectors = None
    if shape is not None:
        vectors = make_vectors(*shape)
        if "embedding_layer" in options:
            vectors = np.concatenate([vectors, vectors[..., :2]], axis=-1)  # 6 wide
    heatmaps = explain(model, make_images(), proxies=vectors, batch_size=2, **options)
    _, expected = EmbeddingCAM(model, **options)(make_images(), vectors)
    assert isinstance(heatmaps, np.ndarray) and heatmaps.dtype == "float32"
    np.testing.assert_allclose(heatmaps, expected, atol=1e-6)


def test_layers_are_taken_as_objects(model) -> None:
    first = model.get_layer("first")
    expected = explain(model, make_images(), conv_layer="first")
    np.testing.assert_allclose(
        explain(model, make_images(), conv_layer=first), expected, atol=1e-6
    )


def test_details(model) -> None:
    vectors = make_vectors(5, 2)
    details = explain(model, make_images(), proxies=vectors, details=True, batch_size=2)
    assert isinstance(details, Explanation)
    embeddings = model.predict(make_images(), verbose=0)
    np.testing.assert_allclose(details.embeddings, embeddings, atol=1e-6)
    expected = np.einsum("nd,nmd->nm", embeddings, vectors)
    np.testing.assert_allclose(details.scores, expected, atol=1e-5)
    np.testing.assert_array_equal(details.images, make_images())
    single = explain(model, make_images(), details=True)
    lengths = np.linalg.norm(embeddings, axis=-1)
    np.testing.assert_allclose(single.scores, lengths, rtol=1e-5)


def test_class_proxies_are_chosen_by_label(model) -> None:
    class_proxies, labels = make_vectors(3), np.array([2, 0, 1, 1, 0])
    expected = explain(model, make_images(), proxies=class_proxies[labels])
    options = {"class_proxies": class_proxies, "batch_size": 2}
    heatmaps = explain(model, make_images(), labels=labels, **options)
    np.testing.assert_allclose(heatmaps, expected, atol=1e-6)
    heatmaps = explain(model, make_images(), labels=tf.constant(labels), **options)
    np.testing.assert_allclose(heatmaps, expected, atol=1e-6)
    # Those of a data set, and others instead.
    dataset = tf.data.Dataset.from_tensor_slices((make_images(), labels))
    heatmaps = explain(model, dataset, **options)
    np.testing.assert_allclose(heatmaps, expected, atol=1e-6)
    heatmaps = explain(model, dataset, labels=labels[::-1].copy(), **options)
    expected = explain(model, make_images(), proxies=class_proxies[labels[::-1]])
    np.testing.assert_allclose(heatmaps, expected, atol=1e-6)


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_target_class_explains_the_logit(activation) -> None:
    keras.utils.set_random_seed(1)
    model = make_model(activation)
    for target in (1, np.array([0, 3, 1, 1, 2])):
        vectors = np.eye(WIDTH, dtype="float32")[np.broadcast_to(target, 5)]
        heatmaps = explain(model, make_images(), target_class=target, batch_size=2)
        expected = explain(model, make_images(), proxies=vectors)
        assert expected.max() > 0
        np.testing.assert_allclose(heatmaps, expected, atol=1e-6)


def test_a_function_of_the_embeddings(model) -> None:
    expected = explain(model, make_images())
    for function in (single_point, from_score(lambda y: ops.sum(y**2, axis=-1) / 2)):
        heatmaps = explain(model, make_images(), proxies=function, batch_size=2)
        np.testing.assert_allclose(heatmaps, expected, atol=1e-5)


def test_a_function_as_weighting(model) -> None:
    def mean(activations, gradients):
        return ops.mean(gradients, axis=(1, 2), keepdims=True)

    heatmaps = explain(model, make_images(), weighting=mean)
    np.testing.assert_allclose(heatmaps, explain(model, make_images()), atol=1e-6)


# Sources


@pytest.mark.parametrize("kind", ["tensor", "batched", "unbatched", "dicts", "folder"])
def test_every_source_is_the_same(model, tmp_path, kind) -> None:
    pixels = (255 * make_images()).astype("uint8")
    expected = explain(model, pixels)
    dataset = tf.data.Dataset.from_tensor_slices(pixels)
    sources = {
        "tensor": tf.constant(pixels),
        "batched": dataset.batch(3),
        "unbatched": dataset,
        "dicts": dataset.map(lambda x: {"image": x, "label": 0}),
        "folder": tmp_path,
    }
    for index, image in enumerate(pixels):
        assert cv2.imwrite(str(tmp_path / f"{index}.png"), image[..., ::-1])
    details = explain(model, sources[kind], batch_size=2, details=True)
    np.testing.assert_allclose(details.heatmaps, expected, atol=1e-6)
    np.testing.assert_array_equal(details.images, pixels)


def test_a_model_of_several_inputs() -> None:
    images, numbers = keras.Input((SIZE, SIZE, 3)), keras.Input((2,))
    features = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(images))
    features = layers.Concatenate()([features, numbers])
    model = keras.Model([images, numbers], layers.Dense(WIDTH)(features))
    given = [make_images(), np.arange(10.0).reshape(5, 2)]
    heatmaps = explain(model, given, batch_size=2)
    expected = EmbeddingCAM(model)(given)[1]
    np.testing.assert_allclose(heatmaps, expected, atol=1e-6)
    dataset = tf.data.Dataset.from_tensor_slices((tuple(given), np.zeros(5)))
    heatmaps = explain(model, dataset, batch_size=2)
    np.testing.assert_allclose(heatmaps, expected, atol=1e-6)


def test_preprocessing_comes_before_the_model(model) -> None:
    preprocess = keras.applications.mobilenet_v2.preprocess_input
    details = explain(
        model, 255 * make_images(), preprocessing_function=preprocess, details=True
    )
    expected = explain(model, 2 * make_images() - 1)
    np.testing.assert_allclose(details.heatmaps, expected, atol=1e-4)
    np.testing.assert_array_equal(details.images, 255 * make_images())


def test_grey_images_and_a_batch_of_one() -> None:
    stack = [layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()]
    model = keras.Sequential([keras.Input((SIZE, SIZE, 1)), *stack])
    heatmaps = explain(model, make_images(1)[..., :1])
    assert heatmaps.shape == (1, SIZE, SIZE)


def test_batches_come_one_by_one(model) -> None:
    batches = explain_batches(model, make_images(), batch_size=2)
    assert [len(batch.heatmaps) for batch in batches] == [2, 2, 1]


def test_a_progress_bar(model, capsys) -> None:
    dataset = tf.data.Dataset.from_tensor_slices(make_images())
    explain(model, make_images(), batch_size=2)
    assert capsys.readouterr().out == ""
    explain(model, make_images(), batch_size=2, verbose=1)
    printed = capsys.readouterr().out
    assert "5/5" in printed and printed.rstrip(" \n").endswith("/image")
    explain(model, dataset, batch_size=2, verbose=1)
    printed = capsys.readouterr().out
    assert "5/Unknown" in printed and printed.rstrip(" \n").endswith("/image")


def test_embed_gives_the_embeddings_of_explain() -> None:
    """Raw, also where the model normalises them at its end."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu")(inputs)
    raw = keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, keras.layers.UnitNormalization()(raw))
    images = np.random.default_rng(0).random((5, 8, 8, 3), "float32")
    expected = keras.Model(inputs, raw)(images)
    embeddings = embed(model, images, batch_size=2)
    np.testing.assert_allclose(embeddings, expected, atol=1e-6)


# Files


def write_png(path, seed: int, size: tuple[int, int] = (16, 12)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    tf.io.write_file(str(path), tf.io.encode_png(pixels))
    return path


def make_free_model() -> keras.Model:
    keras.utils.set_random_seed(0)
    images = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu")(images)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, keras.layers.Dense(3)(x))


def test_rows_stay_with_their_files_when_others_cannot_be_read(tmp_path) -> None:
    """Failed before: the first unreadable file ended the run."""
    free = make_free_model()
    paths = [write_png(tmp_path / f"{x}.png", x) for x in range(5)]
    proxies = np.random.default_rng(1).normal(size=(5, 3)).astype("float32")
    expected = explain(free, paths, proxies=proxies, details=True, batch_size=2)
    assert expected.files == paths
    paths[2].write_bytes(b"no image")
    kept = [0, 1, 3, 4]
    with pytest.warns(UserWarning, match="1 of 5 images cannot be read .*2.png"):
        found = explain(free, paths, proxies=proxies, details=True, batch_size=2)
    assert found.files == [paths[x] for x in kept]
    np.testing.assert_allclose(found.heatmaps, expected.heatmaps[kept], atol=1e-6)
    np.testing.assert_allclose(found.scores, expected.scores[kept], rtol=1e-5)
    with pytest.raises(ValueError, match="Cannot read the image '.*2.png'"):
        explain(free, paths, proxies=proxies, strict=True)


def test_files_of_several_sizes_give_a_list_of_maps(tmp_path) -> None:
    """Failed before: refused, `batch_size=1`."""
    free = make_free_model()
    sizes = [(16, 12), (12, 16), (12, 16)]
    for number, size in enumerate(sizes):
        write_png(tmp_path / f"{number}.png", number, size)
    found = explain(free, tmp_path, details=True)
    assert [x.shape for x in found.heatmaps] == sizes
    assert [x.shape for x in found.images] == [(*x, 3) for x in sizes]
    assert found.embeddings.shape == (3, 3) and len(found.files) == 3
    for heatmap, path in zip(found.heatmaps, found.files, strict=True):
        np.testing.assert_allclose(heatmap, explain(free, path)[0], atol=1e-6)
    assert explain(free, tmp_path, image_size=(10, 8)).shape == (3, 10, 8)


def test_arrays_have_no_files() -> None:
    images = np.ones((2, 8, 8, 3), "float32")
    assert explain(make_free_model(), images, details=True).files is None
