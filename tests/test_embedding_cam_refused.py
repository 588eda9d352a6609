"""What EmbeddingCAM refuses, and with which words."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from one_convolution import SIZE, WIDTH, make_images, make_model

from keras_embcam import EmbeddingCAM


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return make_model()


@pytest.fixture(scope="module")
def cam(model) -> EmbeddingCAM:
    return EmbeddingCAM(model)


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
