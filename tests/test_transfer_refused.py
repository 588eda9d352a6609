"""What keras_embcam.transfer refuses, and what it says."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_embcam import embed
from keras_embcam.transfer import GradWeightDatabase
from keras_embcam.transfer.fitted_model import hash_weights

SIZE = 8
LABELS = np.array([0, 0, 0, 1, 1, 1])


def make_images(num_images: int = 6) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.uniform(size=(num_images, SIZE, SIZE, 3)).astype("float32")


def make_model(channels: int = 5, width: int = 3, name: str = "conv") -> keras.Model:
    keras.utils.set_random_seed(1)
    images = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(channels, 3, activation="relu", name=name)(images)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, layers.Dense(width)(x))


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return make_model()


@pytest.fixture(scope="module")
def database(model) -> GradWeightDatabase:
    return GradWeightDatabase.fit(model, make_images(), LABELS)


def test_a_model_of_other_weights(model, database, tmp_path) -> None:
    images = make_images()
    other = keras.models.clone_model(model)
    with pytest.raises(ValueError, match="the one that .* 2 of 4 weights have other"):
        database.explain(other, images)
    # Channels in another order, as the sums of the weights do not tell.
    other.set_weights([x[..., ::-1] for x in model.get_weights()])
    with pytest.raises(ValueError, match="Pass that model, or fit"):
        database.explain(other, images)
    # The same model from a file, and a part of it that is enough.
    model.save(tmp_path / "model.keras")
    expected = database.explain(model, images)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(database.explain(loaded, images), expected)
    further = keras.Model(model.inputs, layers.Dense(2)(model.output))
    part = dataclasses.replace(database, weight_hashes=hash_weights(further))
    np.testing.assert_array_equal(part.explain(model, images), expected)


def test_a_folder_that_is_missing(database, tmp_path) -> None:
    with pytest.raises(ValueError, match="in a folder that exists.*nodir' is none"):
        database.save(tmp_path / "nodir" / "file.npz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_triplets": 0}, "`num_triplets` must be an integer >= 1. Received: 0"),
        ({"num_triplets": 2.5}, "`num_triplets` must be an integer >= 1"),
        ({"num_triplets": True}, "`num_triplets` must be an integer >= 1"),
        ({"top_channels": 0}, "`top_channels` must be an integer"),
        ({"margin": -1}, "`margin` must be >= 0. Received: -1"),
        ({"margin": np.nan}, "`margin` must be >= 0. Received: nan"),
        ({"sign": 0}, r"`sign` must be -1 or \+1. Received: 0"),
        ({"seed": -1}, "`seed` must be an integer >= 0. Received: -1"),
        ({"batch_size": 0}, "`batch_size` must be an integer >= 1"),
        ({"weighting": "cam"}, "`weighting` must be one of"),
        ({"weighting": "auto"}, "`weighting` must be one of.* Received: 'auto'"),
        ({"conv_layer": ["conv"]}, r"one convolution.* Received: \['conv'\]"),
        ({"conv_layer": "cnv"}, "`conv_layer` must name a layer.* 'conv'"),
    ],
)
def test_options_out_of_range_are_refused(model, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        GradWeightDatabase.fit(model, make_images(), LABELS, **options)


@pytest.mark.parametrize(
    "weighting", ["layercam", "hirescam", lambda a, g: a * g, lambda a, g: g[0, 0, 0]]
)
def test_weights_of_positions_are_refused_with_the_reason(model, weighting) -> None:
    message = "Only weights of channels can be lent.* belong to the places where things"
    with pytest.raises(ValueError, match=message):
        GradWeightDatabase.fit(model, make_images(), LABELS, weighting=weighting)
    # An error inside TensorFlow's loop would leave this impossible.
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        pass


def test_what_is_no_model_is_refused(database) -> None:
    with pytest.raises(TypeError, match=r"`model` must be a keras.Model"):
        GradWeightDatabase.fit(None, make_images(), LABELS)
    with pytest.raises(TypeError, match=r"`model` must be a keras.Model"):
        database.explain(None, make_images())


def test_labels_are_needed(model) -> None:
    images = make_images()
    for source in (images, tf.data.Dataset.from_tensor_slices(images)):
        for embeddings in (None, embed(model, images)):
            with pytest.raises(ValueError, match="Triplets need `labels`"):
                GradWeightDatabase.fit(model, source, embeddings=embeddings)


def test_labels_are_checked_before_the_model_runs(model) -> None:
    # Images that would not fit, were they looked at.
    images = np.full((6, SIZE, SIZE, 3), np.nan)
    with pytest.raises(ValueError, match="at least two classes. Received 1 in 6"):
        GradWeightDatabase.fit(model, images, [3] * 6)
    with pytest.raises(ValueError, match="two images of one class"):
        GradWeightDatabase.fit(model, images, range(6))
    with pytest.raises(ValueError, match=r"integers of the shape \(6,\)"):
        GradWeightDatabase.fit(model, images, LABELS[:5])


def test_an_empty_set_is_refused(model, database) -> None:
    with pytest.raises(ValueError, match="at least one image"):
        GradWeightDatabase.fit(model, make_images(0), [])
    with pytest.raises(ValueError, match="at least one image"):
        database.explain(model, make_images(0))


def test_a_set_without_any_active_triplet_is_refused(model) -> None:
    # One image a thousand times as far from the other class as from its own.
    embeddings = np.float32([[1, 0, 0], [1, 1e-3, 0], [0, 1, 0], [0, 1, 1e-3]])
    images = make_images(4)
    head = keras.Model(model.input, ops.mean(model.input, axis=(1, 2)) + 0.0)
    assert head.output.shape[1:] == (3,)
    images[:] = embeddings[:, None, None]
    conv = layers.Conv2D(3, 1, use_bias=False, name="conv")
    inputs = keras.Input((SIZE, SIZE, 3))
    copies = keras.Model(inputs, layers.GlobalAveragePooling2D()(conv(inputs)))
    conv.kernel.assign(np.eye(3)[None, None])
    with pytest.raises(ValueError, match="None of 4 images has an active triplet"):
        GradWeightDatabase.fit(copies, images, [0, 0, 1, 1])


@pytest.mark.parametrize("shape", [(5, 3), (6,), (6, 3, 1)])
def test_embeddings_of_another_shape_are_refused(model, shape) -> None:
    with pytest.raises(ValueError, match=r"`embeddings` must have the shape \(n, d\)"):
        GradWeightDatabase.fit(model, make_images(), LABELS, embeddings=np.ones(shape))


def test_embeddings_of_another_model_are_refused(model) -> None:
    images = make_images()
    with pytest.raises(ValueError, match="`embeddings` must be as wide .* model, 3"):
        GradWeightDatabase.fit(
            model, images, LABELS, embeddings=embed(make_model(width=4), images)
        )
    raw = embed(model, images)
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    for wrong in (raw[[1, 0, 2, 3, 4, 5]], unit):
        with pytest.raises(ValueError, match=r"order of their embeddings.*images \[0"):
            GradWeightDatabase.fit(model, images, LABELS, embeddings=wrong)


def test_a_data_set_that_is_shuffled_anew_is_refused(model) -> None:
    pairs = tf.data.Dataset.from_tensor_slices((make_images(), LABELS))
    shuffled = pairs.shuffle(6, seed=1).batch(2)
    with pytest.raises(ValueError, match="`reshuffle_each_iteration=False`"):
        GradWeightDatabase.fit(model, shuffled)
    once = pairs.shuffle(6, seed=1, reshuffle_each_iteration=False).batch(2)
    assert len(GradWeightDatabase.fit(model, once, margin=3.9)) == 6


@pytest.mark.parametrize("num_images", [4, 8])
def test_a_data_set_of_another_length_is_refused(model, num_images) -> None:
    dataset = tf.data.Dataset.from_tensor_slices(make_images(8)[:num_images]).batch(2)
    with pytest.raises(ValueError, match="one embedding for each image.* 6 embeddings"):
        GradWeightDatabase.fit(
            model, dataset, LABELS, embeddings=embed(model, make_images(8)[:6])
        )


# Looking up


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"name": "features"}, "weights of the layer 'conv', which this model does"),
        ({"channels": 4}, "weights of 5 channels. Received 4 from this model"),
        ({"width": 4}, "embeddings of the width 3, .* Received the shape .6, 4"),
    ],
)
def test_a_model_of_another_form_is_refused(database, other, message) -> None:
    # As a file of an earlier version has it, which does not tell models by weights.
    database = dataclasses.replace(database, weight_hashes=np.empty(0))
    with pytest.raises(ValueError, match=message):
        database.explain(make_model(**other), make_images())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_neighbors": 0}, "`num_neighbors` must be an integer between 1 and 6"),
        ({"num_neighbors": 7}, "`num_neighbors` .* between 1 and 6. Received: 7"),
        ({"search": "annoy"}, r"one of \['exact', 'faiss'\]. Received: 'annoy'"),
    ],
)
def test_a_search_out_of_range_is_refused(model, database, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        database.explain_batches(model, make_images(), **options)  # before any image
    with pytest.raises(ValueError, match=message):
        database.query(np.ones((2, 3)), **options)


def test_queries_that_do_not_fit_are_refused(database) -> None:
    for shape in ((3,), (2, 4), (1, 2, 3)):
        with pytest.raises(ValueError, match="embeddings of the width 3"):
            database.query(np.ones(shape))
    for value in (0, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"finite and not zero.* rows \[1\]"):
            database.query(np.float32([[1, 0, 0], [value] * 3]))


@pytest.mark.parametrize("num_clusters", [0, 7, 2.0])
def test_a_number_of_clusters_out_of_range_is_refused(database, num_clusters) -> None:
    with pytest.raises(ValueError, match="`num_clusters` must be .* between 1 and 6"):
        database.compress(num_clusters)
