"""Tests of keras_embcam.transfer: fit and explain."""

import doctest
import importlib
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_embcam import embed, explain
from keras_embcam.proxies.triplet_draws import TripletDraws
from keras_embcam.running import compiled_functions as compiled
from keras_embcam.transfer import GradWeightDatabase, TransferExplanation

SIZE, CHANNELS, WIDTH = 8, 6, 4
LABELS = np.array([0, 0, 0, 1, 1, 2, 2, 2])
ALL = {"top_channels": None}


def make_images(num_images: int = 8, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.uniform(size=(num_images, SIZE, SIZE, 3)).astype("float32")


def make_model(*extra: layers.Layer) -> keras.Model:
    """Return a convolution, pooling and a Dense layer without a bias."""
    keras.utils.set_random_seed(1)
    images = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(CHANNELS, 3, activation="relu", name="conv")(images - 0.5)
    x = layers.GlobalAveragePooling2D()(x)
    kernel = keras.initializers.RandomNormal(stddev=1.0, seed=2)
    x = layers.Dense(WIDTH, use_bias=False, kernel_initializer=kernel, name="dense")(x)
    for layer in extra:
        x = layer(x)
    return keras.Model(images, x)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return make_model()


def list_proxies(model, **options) -> list[np.ndarray]:
    """Return the gradients of the active triplets of each image."""
    options = {"num_triplets": 50, "margin": 0.2, "sign": -1, **options}
    draws = TripletDraws(
        embed(model, make_images()), LABELS, loss=None, seed=0, **options
    )
    return [draws.draw(anchor) for anchor in range(8)]


def densify(database) -> np.ndarray:
    dense = np.zeros((len(database), database.num_channels))
    for row, (channels, values) in enumerate(
        zip(database.channels, database.values, strict=True)
    ):
        for channel, value in zip(channels, values, strict=True):
            dense[row, channel] += value
    return dense


@pytest.mark.parametrize("name", ["database", "fitted_model", "weight_table"])
def test_the_examples_run(name) -> None:
    module = importlib.import_module(f"keras_embcam.transfer.{name}")
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


# The weights


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("weighting", ["gradcam", "xgradcam", "gradcam++"])
def test_weights_are_those_of_a_slow_loop_over_single_triplets(
    model, weighting, sign
) -> None:
    """In closed form: the gradient of pooling and Dense is W p / (h w) everywhere."""
    database = GradWeightDatabase.fit(
        model, make_images(), LABELS, weighting=weighting, sign=sign, margin=1.0, **ALL
    )
    kernel = model.get_layer("dense").kernel.numpy()
    inner = keras.Model(model.input, model.get_layer("conv").output)
    activations = inner.predict(make_images(), verbose=0)
    positions = (SIZE - 2) ** 2
    expected = []
    for image, proxies in enumerate(list_proxies(model, sign=sign, margin=1.0)):
        assert 1 < len(proxies) < 50  # all of them, so that no chance is left
        total = activations[image].sum(axis=(0, 1))
        weights = []
        for proxy in proxies:
            gradient = kernel @ proxy / positions
            if weighting == "gradcam++":
                up = np.maximum(gradient, 0)
                gradient = positions * up / (2 + up * total)
            weights.append(gradient)
        expected.append(np.mean(weights, axis=0))
    assert len(database) == 8 and not len(database.left_out)
    np.testing.assert_allclose(densify(database), expected, atol=1e-6)
    assert np.abs(expected).max() > 1e-3


def make_deep_model() -> keras.Model:
    """Return a network whose gradient differs from place to place."""
    keras.utils.set_random_seed(3)
    images = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(CHANNELS, 3, activation="relu", name="conv")(images - 0.5)
    x = layers.Conv2D(5, 3, activation="relu", name="late")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, layers.Dense(WIDTH)(x))


@pytest.mark.parametrize("name", ["gradcam", "xgradcam", "gradcam++", "own"])
def test_the_shortcut_equals_the_slow_loop_over_single_triplets(name) -> None:
    """Behind a convolution, where only the tape knows the gradient."""
    model = make_deep_model()

    def own(activations, gradients):
        return ops.max(gradients, axis=(1, 2), keepdims=True)

    weighting = own if name == "own" else name
    options = {"conv_layer": "conv", "weighting": weighting}
    database = GradWeightDatabase.fit(
        model, make_images(), LABELS, margin=1.0, num_triplets=12, **options, **ALL
    )
    images = make_images()
    all_proxies = list_proxies(model, margin=1.0, num_triplets=12)
    # Several proxies an image, at least one image with fewer than the others.
    assert len({len(proxies) for proxies in all_proxies}) > 1
    conv = keras.Model(model.input, model.get_layer("conv").output)
    head_input = keras.Input(conv.output.shape[1:])
    head = head_input
    for layer in model.layers[model.layers.index(model.get_layer("late")) :]:
        head = layer(head)
    head = keras.Model(head_input, head)
    weigh = (
        own
        if name == "own"
        else importlib.import_module("keras_embcam.weightings").get_weighting(name)
    )
    expected = []
    for image, proxies in zip(images, all_proxies, strict=True):
        activations = conv(image[None])
        weights = []
        for proxy in proxies:
            with tf.GradientTape() as tape:
                tape.watch(activations)
                score = tf.reduce_sum(head(activations) * proxy)
            gradients = tape.gradient(score, activations)
            weights.append(np.asarray(weigh(activations, gradients))[0, 0, 0])
        expected.append(np.mean(weights, axis=0))
    np.testing.assert_allclose(densify(database), expected, atol=1e-6)
    assert database.weighting == name


def test_the_highest_weights_are_kept_by_value(model) -> None:
    every = GradWeightDatabase.fit(model, make_images(), LABELS, **ALL)
    some = GradWeightDatabase.fit(model, make_images(), LABELS, top_channels=2)
    assert some.channels.shape == some.values.shape == (8, 2)
    for dense, channels, values in zip(
        densify(every), some.channels, some.values, strict=True
    ):
        best = sorted(range(CHANNELS), key=lambda k: -dense[k])[:2]
        assert channels.tolist() == best
        np.testing.assert_allclose(values, dense[best], atol=1e-6)
    # A layer with fewer channels than the default 50 keeps them all.
    default = GradWeightDatabase.fit(model, make_images(), LABELS)
    np.testing.assert_array_equal(default.channels, every.channels)


def test_embeddings_have_length_one(model) -> None:
    database = GradWeightDatabase.fit(model, make_images(), LABELS)
    raw = model.predict(make_images(), verbose=0)
    expected = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    np.testing.assert_allclose(database.embeddings, expected, atol=1e-6)
    assert database.embeddings.dtype == database.values.dtype == "float32"


@pytest.mark.parametrize("weighting", ["gradcam", "gradcam++"])
def test_the_result_does_not_depend_on_the_batch_size(model, weighting) -> None:
    databases = [
        GradWeightDatabase.fit(
            model,
            make_images(),
            LABELS,
            num_triplets=3,
            margin=1.0,
            weighting=weighting,
            batch_size=batch_size,
            seed=seed,
        )
        for batch_size, seed in [(3, 5), (8, 5), (8, 6)]
    ]
    first, second, other = (densify(database) for database in databases)
    np.testing.assert_allclose(first, second, atol=1e-6)
    assert np.abs(first - other).max() > 1e-4


def test_data_sets_give_images_and_labels(model) -> None:
    expected = densify(GradWeightDatabase.fit(model, make_images(), LABELS))
    pairs = tf.data.Dataset.from_tensor_slices((make_images(), LABELS))
    examples = pairs.map(lambda image, label: {"image": image, "label": label})
    embeddings = embed(model, make_images())
    for dataset in (pairs.batch(3), examples):
        for given in (None, embeddings):
            database = GradWeightDatabase.fit(model, dataset, embeddings=given)
            np.testing.assert_allclose(densify(database), expected, atol=1e-6)


def test_images_without_an_active_triplet_are_left_out(model) -> None:
    labels = [0, 0, 0, 1, 1, 2, 2, 3]  # the last one is alone
    with pytest.warns(
        UserWarning, match=r"1 of 8 images have .*database: \[7\]"
    ) as seen:
        database = GradWeightDatabase.fit(model, make_images(), labels, margin=3.9)
    assert seen[0].filename == __file__
    assert len(database) == 7 and len(database.left_out) == 1
    assert database.left_out.tolist() == [7]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GradWeightDatabase.fit(model, make_images(), LABELS, margin=3.9)


def test_a_normalised_output_and_layers_by_object() -> None:
    model = make_model(layers.UnitNormalization())
    database = GradWeightDatabase.fit(
        model,
        make_images(),
        LABELS,
        conv_layer=model.get_layer("conv"),
        embedding_layer=model.get_layer("dense"),
    )
    assert (database.conv_layer, database.embedding_layer) == ("conv", "dense")
    expected = GradWeightDatabase.fit(make_model(), make_images(), LABELS)
    np.testing.assert_allclose(densify(database), densify(expected), atol=1e-6)
    found = database.explain(model, make_images(), details=True)
    np.testing.assert_allclose(
        found.embeddings, embed(make_model(), make_images()), atol=1e-6
    )


def test_a_loss_of_the_user(model) -> None:
    """The distance to the only other image of the class, in closed form."""

    def loss(anchors, positives, negatives):
        return ops.sum((anchors - positives) ** 2, axis=-1)

    labels = [0, 0, 1, 1, 2, 2, 3, 3]
    database = GradWeightDatabase.fit(
        model, make_images(), labels, loss=loss, num_triplets=3, **ALL
    )
    y = model.predict(make_images(), verbose=0)
    others = y[[1, 0, 3, 2, 5, 4, 7, 6]]
    kernel = model.get_layer("dense").kernel.numpy()
    expected = -2 * (y - others) @ kernel.T / (SIZE - 2) ** 2
    np.testing.assert_allclose(densify(database), expected, atol=1e-6)
    assert database.margin is None and "another loss" in repr(database)


# The cost


class Count(layers.Layer):
    """Counts the images that pass it, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.forward: list[int] = []
        self.backward: list[int] = []

    def call(self, x):
        def note(seen):
            def run(num_images):
                seen.append(int(num_images))

            return run

        @tf.custom_gradient
        def identity(x):
            def pull_back(gradients):
                number = tf.shape(gradients)[0]
                with tf.control_dependencies(
                    [tf.py_function(note(self.backward), [number], [])]
                ):
                    return tf.identity(gradients)

            with tf.control_dependencies(
                [tf.py_function(note(self.forward), [tf.shape(x)[0]], [])]
            ):
                return tf.identity(x), pull_back

        return identity(x)

    def compute_output_shape(self, shape):
        return shape


@pytest.mark.parametrize(
    ("weighting", "knows_embeddings", "num_forward", "num_backward"),
    [
        ("gradcam", True, 1, 1),
        ("gradcam", False, 2, 1),
        ("gradcam++", True, 1, 5),
        ("gradcam++", False, 2, 5),
    ],
)
def test_passes_for_an_image(
    weighting, knows_embeddings, num_forward, num_backward
) -> None:
    """By what eight further images cost; looking at the model costs once."""
    count = Count()
    model = make_model(count)
    images = make_images(16)
    embeddings = model.predict(images, verbose=0)

    def fit(num_images: int) -> tuple[int, int]:
        count.forward.clear()
        count.backward.clear()
        GradWeightDatabase.fit(
            model,
            images[:num_images],
            np.tile([0, 1], 8)[:num_images],
            weighting=weighting,
            num_triplets=5,
            margin=3.9,
            batch_size=4,
            embeddings=embeddings[:num_images] if knows_embeddings else None,
        )
        return sum(count.forward), sum(count.backward)

    fit(8)  # looks at the model
    assert fit(8) == (8 * num_forward, 8 * num_backward)
    assert fit(16) == (16 * num_forward, 16 * num_backward)


def test_explaining_is_one_forward_pass_and_no_backward_pass() -> None:
    count = Count()
    model = make_model(count)
    database = GradWeightDatabase.fit(model, make_images(), LABELS)
    database.explain(model, make_images(2))
    count.forward.clear()
    count.backward.clear()
    database.explain(model, make_images(8), batch_size=3)
    assert (sum(count.forward), count.backward) == (8, [])


def test_what_is_compiled_to_explain_has_no_gradient() -> None:
    model = make_model()
    database = GradWeightDatabase.fit(model, make_images(), LABELS)

    def list_operations() -> set[str]:
        found = set()
        for explainer in compiled.list_compiled(model):
            for concrete in explainer._run._list_all_concrete_functions():
                for operation in concrete.graph.get_operations():
                    found |= {operation.name, operation.type}
        return found

    compiled._kept.pop(model)
    explain(model, make_images())
    assert any("gradient_tape" in name for name in list_operations())
    compiled._kept.pop(model)
    database.explain(model, make_images())
    names = list_operations()
    assert "Conv2D" in names
    assert not any("grad" in x.lower() or "Backprop" in x for x in names)


# The maps


@pytest.mark.parametrize("weighting", ["gradcam", "gradcam++"])
def test_a_training_image_borrows_from_itself(model, weighting) -> None:
    database = GradWeightDatabase.fit(
        model, make_images(), LABELS, weighting=weighting, num_triplets=1, **ALL
    )
    proxies = np.stack([x[0] for x in list_proxies(model, num_triplets=1)])
    for options in ({}, {"normalize": False}, {"resize": False}):
        found = database.explain(model, make_images(), details=True, **options)
        expected = explain(
            model, make_images(), proxies=proxies, weighting=weighting, **options
        )
        assert found.neighbors[:, 0].tolist() == list(range(8))
        np.testing.assert_allclose(found.similarities, 1, atol=1e-6)
        np.testing.assert_allclose(found.heatmaps, expected, atol=1e-5)
        assert expected.max() > 0


@pytest.mark.parametrize("num_neighbors", [1, 3, 8])
def test_maps_are_those_of_a_slow_loop(model, num_neighbors) -> None:
    database = GradWeightDatabase.fit(model, make_images(), LABELS, top_channels=3)
    images = make_images(5, seed=9)
    found = database.explain(
        model,
        images,
        details=True,
        num_neighbors=num_neighbors,
        resize=False,
        normalize=False,
        batch_size=2,
    )
    assert isinstance(found, TransferExplanation)
    raw = model.predict(images, verbose=0)
    np.testing.assert_allclose(found.embeddings, raw, atol=1e-6)
    np.testing.assert_array_equal(found.images, images)
    inner = keras.Model(model.input, model.get_layer("conv").output)
    activations = inner.predict(images, verbose=0)
    dense = densify(database)
    for image in range(5):
        unit = raw[image] / np.linalg.norm(raw[image])
        similarities = [float(unit @ entry) for entry in database.embeddings]
        nearest = sorted(range(8), key=lambda row: -similarities[row])[:num_neighbors]
        assert found.neighbors[image].tolist() == nearest
        np.testing.assert_allclose(
            found.similarities[image],
            np.sort(similarities)[::-1][:num_neighbors],
            atol=1e-6,
        )
        weights = sum(dense[row] for row in nearest) / num_neighbors
        signed = sum(weights[k] * activations[image, ..., k] for k in range(CHANNELS))
        expected = np.maximum(signed, 0)
        np.testing.assert_allclose(found.heatmaps[image], expected, atol=1e-6)
    np.testing.assert_allclose(
        database.query(7 * raw, num_neighbors),
        dense[found.neighbors].mean(axis=1),
        atol=1e-6,
    )


def test_maps_are_resized_and_scaled(model) -> None:
    database = GradWeightDatabase.fit(model, make_images(), LABELS)
    heatmaps = database.explain(model, make_images(3, seed=9))
    assert heatmaps.shape == (3, SIZE, SIZE) and heatmaps.dtype == "float32"
    for heatmap in heatmaps:
        assert heatmap.min() >= 0 and heatmap.max() in (0, 1)


def test_images_of_any_source_are_explained(model, tmp_path) -> None:
    database = GradWeightDatabase.fit(model, make_images(), LABELS)
    images = np.rint(255 * make_images(3, seed=9))
    for index, image in enumerate(images):
        keras.utils.save_img(tmp_path / f"{index}.png", image, scale=False)
    options = {"preprocessing_function": lambda x: x / 255}
    expected = database.explain(model, images, **options)
    dataset = tf.data.Dataset.from_tensor_slices((images, [0, 1, 2])).batch(2)
    for source in (dataset, tmp_path):
        heatmaps = database.explain(model, source, **options)
        np.testing.assert_allclose(heatmaps, expected, atol=1e-6)
    found = database.explain(model, tmp_path, details=True, **options)
    assert [path.name for path in found.files] == ["0.png", "1.png", "2.png"]
    assert database.explain(model, dataset, details=True, **options).files is None
    named = database.explain(model, tmp_path, preprocessing_function="0,1")
    np.testing.assert_allclose(named, expected, atol=1e-6)
    batches = list(database.explain_batches(model, dataset, **options))
    assert [len(batch.heatmaps) for batch in batches] == [2, 1]


def test_replicas_share_the_images(model) -> None:
    expected = GradWeightDatabase.fit(model, make_images(), LABELS)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        mirrored = make_model()
    database = GradWeightDatabase.fit(mirrored, make_images(), LABELS, batch_size=3)
    np.testing.assert_allclose(densify(database), densify(expected), atol=1e-6)
    np.testing.assert_allclose(
        database.explain(mirrored, make_images(5)),
        expected.explain(model, make_images(5)),
        atol=1e-5,
    )


def test_the_size_is_printed(model) -> None:
    database = GradWeightDatabase.fit(
        model, make_images(), LABELS, top_channels=2, weighting="gradcam++", sign=1
    )
    text = str(database)
    for part in (
        "8 entries of width 4, each with 2 of 6 channels of 'conv'",
        "(gradcam++, up to 50 triplets, margin 0.2, sign +1)",
        "O(N (D + M))",
        f"8 x (4 x 4 + 8 x 2) = {8 * 32} bytes",
    ):
        assert part in text
    arrays = (database.embeddings, database.channels, database.values)
    assert sum(x.nbytes for x in arrays) == 8 * 32
