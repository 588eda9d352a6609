"""What explain() refuses, and with which words."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from two_convolutions import SIZE, WIDTH, make_images, make_model, make_vectors

from keras_embcam import EmbeddingCAM, explain, explain_batches, explain_neighbors
from keras_embcam.proxies import class_mean


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    return make_model()


@pytest.mark.parametrize("shape", [(), (5,), (5, 5), (2, 2, 2, WIDTH)])
def test_proxies_of_another_shape_are_refused(model, shape) -> None:
    images = make_images(shape[0] if len(shape) > 1 else 5)
    message = r"`proxies` must have the shape \(4,\) for all images, \(n, 4\) or .*Rec"
    with pytest.raises(ValueError, match=message):
        explain(model, images, proxies=np.ones(shape))


@pytest.mark.parametrize("shape", [(1, WIDTH), (4, WIDTH), (6, WIDTH), (1, 2, WIDTH)])
def test_another_number_of_proxies_is_refused(model, shape) -> None:
    message = rf"`proxies` must have one row for each image. Received {shape[0]} for 5"
    with pytest.raises(ValueError, match=message):
        explain_batches(model, make_images(), proxies=np.ones(shape))


@pytest.mark.parametrize("num_vectors", [4, 6])
def test_another_number_than_a_dataset_has_is_refused(model, num_vectors) -> None:
    dataset = tf.data.Dataset.from_tensor_slices(make_images())
    with pytest.raises(ValueError, match=f"one row for each .* Received {num_vectors}"):
        explain(model, dataset, proxies=make_vectors(num_vectors), batch_size=2)
    labels = np.zeros(num_vectors, int)
    with pytest.raises(ValueError, match="`labels` must have one row for each image"):
        explain(model, dataset, labels=labels, class_proxies=make_vectors(2))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_proxies_that_are_not_finite_are_refused(model, value) -> None:
    vectors = np.ones((5, WIDTH))
    vectors[3, 1] = value
    with pytest.raises(ValueError, match=r"`proxies` must be finite.*images \[3\]"):
        explain(model, make_images(), proxies=vectors, batch_size=2)


@pytest.mark.parametrize("value", ["single_point", [["a"] * 4] * 5, object()])
def test_proxies_that_are_no_numbers_are_refused(model, value) -> None:
    with pytest.raises(TypeError, match="`proxies` must be an array of numbers. Recei"):
        explain(model, make_images(), proxies=value)


def test_a_size_is_no_resize_and_tokens_need_tokens(model) -> None:
    with pytest.raises(ValueError, match=r"`resize` must be True .*\(32, 32\)"):
        explain(model, make_images(), resize=(32, 32))
    with pytest.raises(ValueError, match="`resize` must be True"):
        explain_neighbors(model, make_images(), k=1, resize=(32, 32))
    for options in ({"token_grid": (2, 2)}, {"num_prefix_tokens": 0}):
        with pytest.raises(ValueError, match="is explained, makes none. Leave them"):
            explain(model, make_images(), **options)


def test_ways_to_state_the_proxies_exclude_each_other(model) -> None:
    with pytest.raises(ValueError, match=r"Pass one of.*\['proxies', 'target_class'\]"):
        explain(model, make_images(), proxies=make_vectors(), target_class=1)
    with pytest.raises(ValueError, match="`labels` choose among `class_proxies`. Pass"):
        explain(model, make_images(), labels=np.zeros(5, int))
    with pytest.raises(ValueError, match="`class_proxies` need `labels`"):
        explain(model, make_images(), class_proxies=make_vectors(2))


@pytest.mark.parametrize("shape", [(WIDTH,), (3, WIDTH + 1), (3, 1, WIDTH)])
def test_class_proxies_of_another_shape_are_refused(model, shape) -> None:
    message = (
        r"`class_proxies` must have the shape \(classes, 4\), as wide as.*Received"
    )
    with pytest.raises(ValueError, match=message):
        explain(
            model,
            make_images(),
            labels=np.zeros(5, int),
            class_proxies=np.ones(shape),
        )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            [0, 1, 2, 3, 0],
            r"must lie between 0 and 2, one for each of 3 .*Received: \[3",
        ),
        ([0, 1, 2, -1, 0], r"must lie between 0 and 2.*Received: \[-1\]"),
        ([0.0] * 5, r"must be integers of the shape \(5,\).*float64"),
        ([[0]] * 5, r"must be integers of the shape \(5,\).*\(5, 1\)"),
        (1, r"must be integers of the shape \(5,\).*\(\)"),
        ([0, 1], "must have one row for each image. Received 2 for 5 images"),
    ],
)
def test_labels_that_do_not_fit_are_refused(model, labels, message) -> None:
    with pytest.raises(ValueError, match="`labels` " + message):
        explain(model, make_images(), labels=labels, class_proxies=make_vectors(3))


def test_a_class_without_a_mean_is_refused_where_it_is_needed(model) -> None:
    means = class_mean(make_vectors(2), [0, 2])
    options = {"class_proxies": means}
    explain(model, make_images(), labels=np.array([0, 2, 0, 2, 0]), **options)
    with pytest.raises(ValueError, match=r"`class_proxies` must be finite.*: \[1\]"):
        explain(model, make_images(), labels=np.array([0, 1, 0, 2, 0]), **options)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            WIDTH,
            r"must lie between 0 and 3, one for each of 4 classes. Received: \[4\]",
        ),
        (-1, "must lie between 0 and 3"),
        (1.0, r"must be integers of the shape \(5,\).*float64"),
        ("cat", r"must be integers of the shape \(5,\)"),
        ([0, 1], "must have one row for each image. Received 2 for 5 images"),
        (np.zeros((5, 2), int), r"must be integers of the shape \(5,\).*\(5, 2\)"),
    ],
)
def test_target_classes_that_do_not_fit_are_refused(model, target, message) -> None:
    with pytest.raises(ValueError, match="`target_class` " + message):
        explain(model, make_images(), target_class=target)


@pytest.mark.parametrize("argument", ["conv_layer", "embedding_layer"])
def test_unknown_layers_are_refused(model, argument) -> None:
    with pytest.raises(ValueError, match=f"`{argument}` must name a layer.*'secnd'"):
        explain(model, make_images(), **{argument: "secnd"})
    with pytest.raises(ValueError, match=f"`{argument}` must be the name, the path or"):
        explain(model, make_images(), **{argument: layers.Dense(2)})


def test_unknown_weightings_and_options_are_refused(model) -> None:
    with pytest.raises(ValueError, match="`weighting` must be one of.*: 'grad-cam'"):
        explain_batches(model, make_images(), weighting="grad-cam")
    with pytest.raises(ValueError, match="`top_channels` must be an integer.*: 0"):
        explain_batches(model, make_images(), top_channels=0)
    with pytest.raises(ValueError, match=r"`top_channels`.*\(6\).*: 7"):
        explain(model, make_images(), top_channels=7)
    with pytest.raises(TypeError, match="unexpected keyword argument 'layer'"):
        explain(model, make_images(), layer="first")
    with pytest.raises(TypeError, match="positional argument"):
        explain(model, make_images(), make_vectors())


def test_an_error_leaves_nothing_behind(model) -> None:
    expected = explain(model, make_images())

    def broken(activations, gradients):
        raise RuntimeError("broken")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken"):
            explain(model, make_images(), weighting=broken)
    np.testing.assert_array_equal(explain(model, make_images()), expected)
    assert "call" not in vars(model.get_layer("second"))


def test_a_gallery_for_one_query_says_what_to_pass(parts) -> None:
    model = parts.functional()
    gallery = np.ones((5, 3), "float32")
    with pytest.raises(ValueError, match=r"Received 5 for 1 images.*proxies\[None\]"):
        explain(model, parts.images[:1], proxies=gallery)
    assert explain(model, parts.images[:1], proxies=gallery[None]).shape[:2] == (1, 5)


# What would make maps that say nothing


def test_weights_of_nan_are_refused() -> None:
    broken = make_model()
    # Behind the last ReLU, which turns NaN into 0 on some processors.
    kernel, bias = broken.layers[-1].get_weights()
    broken.layers[-1].set_weights([np.full_like(kernel, np.nan), bias])
    with pytest.raises(ValueError, match=r"not finite, .* images \[0, 1, 2, 3, 4\]"):
        explain(broken, make_images())


def test_single_images_that_overflow_are_named_once() -> None:
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(6, 3, activation="relu")(inputs)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(WIDTH)(keras.ops.cast(x, "float16")))
    images = make_images()
    images[[1, 4]] *= 1e7
    with pytest.warns(UserWarning) as caught:
        heatmaps = explain(model, images, batch_size=3)
    assert np.isfinite(heatmaps[[0, 2, 3]]).all()
    messages = [str(x.message) for x in caught if "not finite" in str(x.message)]
    assert len(messages) == 1 and "[1]" in messages[0]
    # A batch of which nothing is finite ends nothing, once something was.
    with pytest.warns(UserWarning, match=r"not finite.*\[1\]"):
        explained = list(explain_batches(model, images, batch_size=1))
    assert len(explained) == len(images)


@pytest.mark.parametrize("step", [keras.ops.sign, keras.ops.round])
@pytest.mark.parametrize("conv_layer", [None, "first"])
def test_hashes_say_what_to_pass(step, conv_layer) -> None:
    keras.utils.set_random_seed(0)
    plain = make_model("tanh")
    hashing = keras.Model(plain.inputs[0], step(plain.outputs[0]))
    with pytest.raises(
        ValueError, match=r"(?s)hash, .*`embedding_layer`.*\n  dense.*\n  global"
    ):
        explain(hashing, make_images(), conv_layer=conv_layer)
    name = plain.layers[-1].name
    found = explain(hashing, make_images(), embedding_layer=name)
    np.testing.assert_allclose(found, explain(plain, make_images()), atol=1e-6)


def test_videos_are_refused_with_what_is_supported() -> None:
    video = keras.Sequential(
        [
            keras.Input((4, SIZE, SIZE, 3)),
            layers.Conv3D(4, 3),
            layers.GlobalAveragePooling3D(),
        ]
    )
    with pytest.raises(ValueError, match="videos and volumes, .* are not supported"):
        explain(video, np.zeros((2, 4, SIZE, SIZE, 3), "float32"))


def test_a_data_set_without_end_is_refused(model) -> None:
    dataset = tf.data.Dataset.from_tensor_slices(make_images()).repeat()
    with pytest.raises(ValueError, match=r"`images` must end.*`dataset.take\(n\)`"):
        explain(model, dataset)


def test_maps_that_are_all_empty_are_told_of() -> None:
    images = keras.Input((6, 6, 1))
    maps = layers.Conv2D(1, 3, activation="relu", kernel_initializer="ones")(images)
    means = layers.GlobalAveragePooling2D()(maps)
    network = keras.Model(images, layers.Dense(1, kernel_initializer="ones")(means))
    with pytest.warns(UserWarning, match="All heatmaps are empty.*`scores`"):
        found = explain(network, np.ones((3, 6, 6, 1)), proxies=[-1.0], batch_size=2)
    assert not found.any()


def test_embeddings_that_are_all_zero_are_told_of() -> None:
    model = make_model()
    model.layers[-1].set_weights([0 * x for x in model.layers[-1].get_weights()])
    with pytest.warns(UserWarning, match="are empty, since all embeddings are zero"):
        assert not explain(model, make_images()).any()


def test_functions_that_return_nothing_are_refused(model) -> None:
    with pytest.raises(ValueError, match=r"must return a tensor .* returned: None"):
        explain(model, make_images(), proxies=lambda y: None)
    with pytest.raises(ValueError, match=r"broadcast to the activat.*Received None"):
        explain(model, make_images(), weighting=lambda a, g: None)


def test_a_model_that_makes_heatmaps_already_is_refused(model) -> None:
    makes_maps = EmbeddingCAM(model).as_model()
    with pytest.raises(ValueError, match=r"Pass the model .*get_layer\('embed.*layer`"):
        explain(makes_maps, make_images())


@pytest.mark.parametrize("size", [32, 160])  # above 128 noise runs in a graph
def test_tiles_in_the_batch_are_refused(size) -> None:
    inputs = keras.Input((size, size, 3))
    tiles = ops.reshape(inputs, (-1, size // 2, size // 2, 3))
    vectors = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, strides=4)(tiles))
    model = keras.Model(inputs, ops.mean(ops.reshape(vectors, (-1, 4, 4)), axis=1))
    with pytest.raises(ValueError, match=r"makes \d+ maps of 3 images: .* into the"):
        explain(model, np.ones((2, size, size, 3), "float32"))


def test_long_and_short_embeddings_are_not_taken_for_scaled() -> None:
    """Their lengths are no numbers of float32."""
    inputs = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="relu")(inputs))
    images = np.random.default_rng(0).random((2, 8, 8, 3))
    scales = (1.0, 1e-20, 1e20, 1e21)
    maps = [explain(keras.Model(inputs, x * scale), images) for scale in scales]
    np.testing.assert_allclose(maps[1:], 3 * [maps[0]], atol=1e-5)


def test_images_of_one_column() -> None:
    """Spectra: columns of one pixel are no picture that is turned or bent."""
    model = keras.Sequential(
        [
            keras.Input((16, 1, 3)),
            layers.Conv2D(4, (3, 1), padding="same"),
            layers.GlobalAveragePooling2D(),
        ]
    )
    images = np.random.default_rng(0).random((2, 16, 1, 3))
    resized, plain = (explain(model, images, resize=x) for x in (True, False))
    np.testing.assert_allclose(resized, plain, atol=1e-6)
