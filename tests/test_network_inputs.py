"""Tests of keras_embcam.network.inputs."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_embcam import EmbeddingCAM, embed, explain, explain_pair
from keras_embcam.network.inputs import check_model, declared_inputs, fit_images

SIZE = 8


def make_model(*shape: int | None, dtype: str = "float32") -> keras.Model:
    images = keras.Input(shape or (SIZE, SIZE, 3), dtype=dtype)
    x = layers.Conv2D(4, 3)(layers.Rescaling(1.0)(images))
    return keras.Model(images, layers.GlobalAveragePooling2D()(x))


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return make_model()


def make_images(num_images: int = 5) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.integers(0, 256, (num_images, SIZE, SIZE, 3)).astype("float32")


@pytest.mark.parametrize(
    ("images", "shape", "hint"),
    [
        (make_images()[0], (SIZE, SIZE, 3), "Add the batch axis to a single image"),
        (make_images()[..., 0], (5, SIZE, SIZE), "Add the channel axis to grey images"),
        (make_images()[..., :1], (5, SIZE, SIZE, 1), "Make grey images RGB"),
        (make_images()[:, :5], (5, 5, SIZE, 3), "Resize them first"),
        (np.zeros((2, 16, 16, 3)), (2, 16, 16, 3), "Resize them first"),
        (np.zeros((2, SIZE, SIZE, 4)), (2, SIZE, SIZE, 4), "Pass images as the"),
        (np.zeros((2, 2, SIZE, SIZE, 3)), (2, 2, SIZE, SIZE, 3), "Pass images as the"),
    ],
)
def test_images_of_another_shape_are_refused(model, images, shape, hint) -> None:
    numbers = ", ".join(map(str, shape))
    message = (
        rf"of the shape \(None, 8, 8, 3\). Received the shape \({numbers}\). {hint}"
    )
    with pytest.raises(ValueError, match=message):
        fit_images(images, model)


def test_a_sequential_model_is_held_to_its_channels() -> None:
    """Keras itself runs it at any size."""
    stack = [layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()]
    model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), *stack])
    larger = np.ones((2, 16, 12, 3), "float32")
    assert explain(model, larger).shape == (2, 16, 12)
    message = r"of the shape \(None, None, None, 3\). Received the shape \(2, 16, 12, 1"
    with pytest.raises(ValueError, match=message):
        fit_images(larger[..., :1], model)


def test_images_of_a_model_that_states_no_shape() -> None:
    model = keras.Sequential([layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()])
    assert declared_inputs(model) is None
    assert fit_images(make_images().astype("uint8"), model).dtype == "float32"
    with pytest.raises(
        ValueError, match=r"\(n, H, W, channels\). Received .*\(8, 8, 3"
    ):
        fit_images(make_images()[0], model)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_images_that_are_not_finite_are_named(model, value) -> None:
    images = make_images()
    images[[1, 3], 2, 2, 1] = value
    with pytest.raises(ValueError, match=r"NaN or infinity. Those that do: \[1, 3\]"):
        fit_images(images, model)
    images[1] = 0
    with pytest.raises(ValueError, match=r"NaN or infinity. Those that do: \[3\]"):
        explain(model, images, batch_size=2)


@pytest.mark.parametrize("images", [make_images() / 255, make_images() + 1])
def test_fractions_are_no_integers(images) -> None:
    model = make_model(SIZE, SIZE, 3, dtype="uint8")
    with pytest.raises(
        ValueError, match="images of uint8.* whole numbers .*float32 fr"
    ):
        fit_images(images, model)


@pytest.mark.parametrize("model", [None, "model.keras", layers.Dense(2)])
def test_only_keras_models_are_explained(model) -> None:
    with pytest.raises(TypeError, match="`model` must be a keras.Model. Received: "):
        check_model(model)
    with pytest.raises(TypeError, match="`model` must be a keras.Model. Received: "):
        explain(model, make_images())


def make_model_with_age() -> keras.Model:
    photo, age = keras.Input((SIZE, SIZE, 3), name="image"), keras.Input((1,), name="a")
    pooled = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(photo))
    return keras.Model([photo, age], layers.Concatenate()([pooled, age]))


def test_a_dict_goes_by_the_names_of_the_inputs_as_in_keras() -> None:
    """Sorted, "a" comes first, and was taken for the images."""
    model, images, ages = make_model_with_age(), make_images(), np.ones((5, 1))
    named = {"image": images, "a": ages}
    dataset = tf.data.Dataset.from_tensor_slices(named).batch(2)
    expected = explain(model, [images, ages])
    for given in (named, dataset, dataset.map(lambda x: (x, 0))):
        np.testing.assert_allclose(explain(model, given), expected, atol=1e-6)


def test_another_number_of_inputs_is_refused_by_their_names(model) -> None:
    message = r"takes 2 inputs, \['image', 'a'\]. Received 1 arrays. Pass one array"
    with pytest.raises(ValueError, match=message):
        explain(make_model_with_age(), make_images())
    message = r"Received 2 arrays, \['image', 'label'\].*Labels go into `labels`"
    with pytest.raises(ValueError, match=message):
        explain(model, {"image": make_images(), "label": np.arange(5)})


def test_the_branch_of_a_siamese_network_is_named(model) -> None:
    pair = [keras.Input(model.input_shape[1:]) for _ in range(2)]
    distance = keras.layers.Subtract()([model(x) for x in pair])
    message = rf"of a siamese network, .*`model.get_layer\({model.name!r}\)`"
    with pytest.raises(ValueError, match=f"(?i){message}"):
        explain_pair(keras.Model(pair, distance), make_images(), make_images())


@pytest.fixture(scope="module")
def two_images() -> keras.Model:
    """Photographs, of which the middle is taken, and smaller maps of depth."""
    photo = keras.Input((16, 20, 3), name="photo")
    depth = keras.Input((8, 8, 1), name="depth")
    a = layers.Conv2D(4, 3, name="a")(layers.CenterCrop(8, 10)(photo))
    b = layers.Conv2D(4, 3, name="b")(depth)
    pooled = [layers.GlobalAveragePooling2D()(x) for x in (b, a)]
    return keras.Model([photo, depth], layers.Dense(4)(layers.Concatenate()(pooled)))


@pytest.mark.parametrize(
    ("layer", "name", "size"),
    [("a", "photo", (16, 20)), ("b", "depth", (8, 8)), (["a", "b"], "photo", (16, 20))],
)
def test_two_images_of_several_sizes(two_images, layer, name, size) -> None:
    random = np.random.default_rng(0)
    inputs = [random.random((2, *x.shape[1:]), "float32") for x in two_images.inputs]
    found = explain(two_images, inputs, conv_layer=layer, details=True)
    assert found.heatmaps.shape == (2, *size)
    expected = two_images.predict(inputs, verbose=0)
    np.testing.assert_allclose(found.embeddings, expected, atol=1e-5)
    weighting = "layercam" if isinstance(layer, list) else "gradcam"
    cam = EmbeddingCAM(two_images, layer, weighting=weighting)
    by_name = dict(zip(("photo", "depth"), inputs, strict=True))
    again = explain(two_images, by_name, conv_layer=layer)
    np.testing.assert_allclose(again, found.heatmaps, atol=1e-5)
    assert cam(inputs)[1].shape == found.heatmaps.shape
    assert f"images {name!r} of {size[0]} x" in repr(cam.view())
    if layer == "a":  # heat in the middle, which the network sees
        assert not found.heatmaps[:, :4].any() and found.heatmaps.any()
    if layer == "b":
        with pytest.raises(ValueError, match="images 'depth', which only `explain`"):
            explain_pair(two_images, inputs, inputs, conv_layer="b")
    else:
        assert found._pictures([0])[0][0].shape[1] > found._pictures([0])[0][0].shape[0]


def test_two_images_are_embedded(two_images) -> None:
    inputs = [np.ones((2, *x.shape[1:]), "float32") for x in two_images.inputs]
    expected = two_images.predict(inputs, verbose=0)
    np.testing.assert_allclose(embed(two_images, inputs), expected, atol=1e-5)
    assert explain(two_images, inputs).shape == (2, 16, 20)  # both layers
