"""Tests of keras_embcam.network.front: maps lie where the network saw the image."""

import doctest
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_embcam import EmbeddingCAM, explain
from keras_embcam.network import front as module
from keras_embcam.network.front import Front, look_at_front
from keras_embcam.network.view import ModelView


def put_before(*parts: Any, shape: tuple, dtype: str | None = None) -> keras.Model:
    """Return an embedding network of a convolution that keeps the size of its input."""
    kernel = keras.initializers.GlorotUniform(1)
    return keras.Sequential(
        [
            keras.Input(shape, dtype=dtype),
            *parts,
            layers.Conv2D(
                6, 3, padding="same", activation="relu", kernel_initializer=kernel
            ),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, kernel_initializer=kernel),
        ]
    )


def random_images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, dtype="float32")


def test_the_examples_run() -> None:
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


TALL = (100, 150, 3)


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ([layers.CenterCrop(64, 64)], (18 / 100, 43 / 150, 82 / 100, 107 / 150)),
        ([layers.Cropping2D(((10, 20), (5, 0)))], (0.1, 5 / 150, 0.8, 1)),
        # Of 100 x 150 the middle 100 x 100.
        ([layers.Resizing(64, 64, crop_to_aspect_ratio=True)], (0, 1 / 6, 1, 5 / 6)),
        # All of it in the middle of 150 x 150, of which zeros are above and below.
        ([layers.ZeroPadding2D(30)], (-0.3, -0.2, 1.3, 1.2)),
        ([layers.ZeroPadding2D(((40, 0), (0, 15)))], (-0.4, 0, 1, 1.1)),
        # One behind the other, and values changed in between.
        (
            [
                layers.Resizing(50, 75),
                layers.Rescaling(1 / 127.5, -1),
                layers.CenterCrop(30, 30),
                layers.BatchNormalization(),
            ],
            (0.2, 22 / 75, 0.8, 52 / 75),
        ),
        # No layer of a known kind, as in the code of a subclassed model.
        ([layers.Lambda(lambda x: x[:, 10:-30, 20:] ** 1)], (0.1, 20 / 150, 0.7, 1)),
        ([layers.Lambda(lambda x: x[:, :, ::-1])], (0, 1, 1, 0)),
    ],
)
def test_the_field_of_what_stands_before_the_first_convolution(
    parts: list, field: tuple
) -> None:
    found = look_at_front(put_before(*parts, shape=TALL), TALL[:2]).field
    assert found is not None
    np.testing.assert_allclose(found, field, atol=0.003)


def test_padding_to_the_aspect_ratio() -> None:
    resizing = layers.Resizing(60, 60, pad_to_aspect_ratio=True)
    found = look_at_front(put_before(resizing, shape=TALL), TALL[:2]).field
    np.testing.assert_allclose(found, (-0.25, 0, 1.25, 1), atol=0.003)


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [layers.Resizing(64, 64)],
        [layers.Resizing(300, 333)],
        [layers.Resizing(64, 64, interpolation="nearest")],
        [layers.Rescaling(1 / 255), layers.Normalization(mean=[0.5], variance=[0.1])],
        [layers.RandomFlip(), layers.Dropout(0.5)],
        [layers.AveragePooling2D(2)],
        # Of which nothing is known: no linear function of the image.
        [layers.Lambda(lambda x: ops.sin(x))],
        [layers.LayerNormalization(axis=(1, 2, 3))],
    ],
)
def test_the_whole_image(parts: list) -> None:
    assert look_at_front(put_before(*parts, shape=TALL), TALL[:2]).field is None


def test_padding_that_the_first_convolution_takes_away_is_none() -> None:
    model = keras.Sequential(
        [
            keras.Input((64, 64, 3)),
            layers.ZeroPadding2D(3),
            layers.Conv2D(4, 7, strides=2),
            layers.GlobalAveragePooling2D(),
        ]
    )
    assert look_at_front(model, (64, 64)).field is None


@pytest.mark.parametrize(
    ("name", "rescaled"),
    [
        ("MobileNetV2", False),
        ("ResNet50", False),
        ("DenseNet121", False),
        ("EfficientNetB0", True),
        ("ConvNeXtTiny", True),
    ],
)
def test_networks_of_keras_see_the_whole_image(name: str, rescaled: bool) -> None:
    """So that their maps stay what they were, to the last bit."""
    build = getattr(keras.applications, name)
    model = build(include_top=False, weights=None, input_shape=(None, None, 3))
    for size in ((224, 224), (97, 131)):
        front = look_at_front(model, size)
        assert front.field is None and front.scale is not None
        assert (front.scale < 0.1) == rescaled


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision(policy: str) -> None:
    crop = layers.CenterCrop(192, 192, dtype=policy)
    norm = layers.Normalization(mean=[120.0], variance=[3600.0], dtype=policy)
    found = look_at_front(put_before(crop, norm, shape=(224, 224, 3)), (224, 224))
    np.testing.assert_allclose(
        found.field, (1 / 14, 1 / 14, 13 / 14, 13 / 14), atol=0.01
    )


def test_images_of_bytes() -> None:
    model = put_before(
        layers.CenterCrop(64, 64), layers.Rescaling(1 / 255), shape=TALL, dtype="uint8"
    )
    front = look_at_front(model, TALL[:2])
    np.testing.assert_allclose(
        front.field, (18 / 100, 43 / 150, 82 / 100, 107 / 150), atol=0.005
    )
    assert front.scale == pytest.approx(1 / 255)


def test_scale_and_offset() -> None:
    model = put_before(layers.Rescaling(1 / 127.5, offset=-1), shape=(32, 32, 3))
    found = look_at_front(model, (32, 32))
    assert found[:3] == (None, pytest.approx(1 / 127.5), pytest.approx(-1))
    assert found.input_size == (32, 32)


def test_the_backbone_is_run_no_further_than_the_first_convolution() -> None:
    runs = []

    class Late(layers.Layer):
        def call(self, x: Any) -> Any:
            runs.append(1)
            return x

    model = keras.Sequential(
        [keras.Input((16, 16, 3)), layers.Conv2D(2, 3), Late(), layers.Flatten()]
    )
    runs.clear()
    look_at_front(model, (16, 16))
    assert not runs


# Heatmaps


def test_a_blob_is_where_it_is_and_not_where_the_crop_has_it() -> None:
    """Measured before: a blob at (60, 50) gave heat at (61, 15)."""
    model = put_before(layers.CenterCrop(64, 64), shape=TALL)
    images = np.zeros((1, *TALL), "float32")
    images[:, 58:63, 48:53] = 1
    (heatmap,) = explain(model, images, weighting="hirescam")
    row, column = np.unravel_index(heatmap.argmax(), heatmap.shape)
    assert abs(row - 60) <= 3 and abs(column - 50) <= 3


def test_maps_of_a_crop_are_those_of_the_cropped_image() -> None:
    """The same network without the layer, given what the layer leaves, is witness."""
    backbone = put_before(shape=(64, 64, 3))
    model = keras.Sequential([keras.Input(TALL), layers.CenterCrop(64, 64), backbone])
    images = random_images(3, *TALL)
    expected = np.zeros((3, *TALL[:2]), "float32")
    expected[:, 18:82, 43:107] = explain(backbone, images[:, 18:82, 43:107])
    np.testing.assert_allclose(explain(model, images), expected, atol=1e-5)
    proxies = random_images(3, 2, 4)
    several = explain(model, images, proxies=proxies)
    assert several.shape == (3, 2, *TALL[:2])
    assert not several[:, :, :18].any() and several[:, :, 18:82, 43:107].any()


def test_maps_of_a_padded_image_lose_what_lies_in_the_padding() -> None:
    backbone = put_before(shape=(48, 60, 3))
    model = keras.Sequential(
        [keras.Input((32, 40, 3)), layers.ZeroPadding2D((8, 10)), backbone]
    )
    images = random_images(2, 32, 40, 3)
    padded = np.pad(images, ((0, 0), (8, 8), (10, 10), (0, 0)))
    whole = explain(backbone, padded, normalize=False)
    cut = explain(model, images, normalize=False)
    np.testing.assert_allclose(cut, whole[:, 8:40, 10:50], atol=1e-6)


def test_the_layer_saved_and_exported(tmp_path: Any) -> None:
    model = put_before(layers.CenterCrop(64, 64), shape=TALL)
    images = random_images(2, *TALL)
    expected = explain(model, images)
    cam = EmbeddingCAM(model)
    np.testing.assert_allclose(cam(images)[1], expected, atol=1e-6)
    wrapped = cam.as_model()
    wrapped.save(tmp_path / "cam.keras")
    loaded = keras.models.load_model(tmp_path / "cam.keras")
    np.testing.assert_allclose(
        loaded.predict(images, verbose=0)[1], expected, atol=1e-5
    )
    wrapped.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(served.serve(images)[1], expected, atol=1e-5)


def test_a_view_serves_images_of_several_sizes() -> None:
    model = put_before(layers.CenterCrop(32, 32), shape=(None, None, 3))
    cam = EmbeddingCAM(model)
    for height, width in ((40, 50), (64, 32)):
        heatmap = np.array(cam(random_images(1, height, width, 3))[1])[0]
        top, left = (height - 32) // 2, (width - 32) // 2
        assert heatmap[top : top + 32, left : left + 32].any()
        heatmap[top : top + 32, left : left + 32] = 0
        assert not heatmap.any()


def test_an_open_size_whose_field_depends_on_it_is_refused() -> None:
    model = put_before(layers.CenterCrop(32, 32), shape=(None, None, 3))
    any_size = tf.TensorSpec((None, None, None, 3))

    def trace(cam: EmbeddingCAM) -> Any:
        return tf.function(cam, autograph=False).get_concrete_function(any_size)

    with pytest.raises(ValueError, match=r"crops or pads.*State the size"):
        trace(EmbeddingCAM(model))
    assert trace(EmbeddingCAM(model, resize=False)) is not None
    # Ordinary networks of any size are served as before.
    assert trace(EmbeddingCAM(put_before(shape=(None, None, 3)))) is not None


def test_a_turned_image_is_refused_with_what_to_pass() -> None:
    model = put_before(layers.Permute((2, 1, 3)), shape=TALL)
    assert look_at_front(model, TALL[:2]).is_distorted
    images = random_images(1, *TALL)
    with pytest.raises(ValueError, match=r"turns or bends.*resize=False"):
        explain(model, images)
    assert explain(model, images, resize=False).shape == (1, 150, 100)


def test_the_front_is_looked_at_once_for_a_size(monkeypatch: Any) -> None:
    sizes = []

    def count(model: Any, size: Any, like: Any) -> Front:
        sizes.append(size)
        return look_at_front(model, size, like)

    monkeypatch.setattr(module, "look_at_front", count)
    model = put_before(shape=(None, None, 3))
    view = ModelView(model, images=random_images(2, 20, 30, 3))
    for _ in range(3):
        view.fronts.field((20, 30))
    assert sizes == [(20, 30)]


def test_other_inputs_stand_beside_the_images() -> None:
    photo, age = keras.Input((40, 40, 3), name="photo"), keras.Input((2,), name="age")
    x = layers.Conv2D(3, 3)(layers.CenterCrop(20, 20)(photo))
    hidden = layers.Dense(3)(age)
    model = keras.Model(
        {"photo": photo, "age": age},
        layers.Add()([hidden, layers.GlobalAveragePooling2D()(x)]),
    )
    np.testing.assert_allclose(
        look_at_front(model, (40, 40)).field, (0.25, 0.25, 0.75, 0.75), atol=1e-3
    )
