"""Contributions of positions: against loops worked by hand, and what they sum to."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_embcam import contributions, explain
from keras_embcam.method import Method
from keras_embcam.retrieval import contribution_reader
from keras_embcam.retrieval.contribution_reader import NUM_STEPS, ContributionReader
from keras_embcam.retrieval.head_functions import read_pooled_head
from keras_embcam.running.image_batches import ImageSource

RNG = np.random.default_rng(0)
IMAGES = RNG.random((3, 10, 9, 3)).astype("float32")


class GeneralizedMean(layers.Layer):
    """GeM pooling with the exponent 3."""

    def call(self, inputs):
        return ops.mean(ops.maximum(inputs, 1e-6) ** 3, axis=(1, 2)) ** (1 / 3)


def make(*head, dtype=None):
    """Return a network of one convolution (n, 8, 7, 6) and a head."""
    keras.utils.set_random_seed(1)
    conv = layers.Conv2D(6, 3, activation="relu", name="conv", dtype=dtype)
    return keras.Sequential([keras.Input((10, 9, 3)), conv, *head])


def pool():
    return layers.GlobalAveragePooling2D()


def noise(scale=1.0):
    return keras.initializers.RandomNormal(stddev=scale, seed=2)


def norm():
    return layers.BatchNormalization(
        moving_mean_initializer=noise(), beta_initializer=noise()
    )


HEADS = {
    "pooling": (lambda: [pool()], 0),
    "dense": (lambda: [pool(), layers.Dense(4, use_bias=False)], 0),
    "bias": (lambda: [pool(), layers.Dense(4, bias_initializer=noise())], 0),
    "neck": (lambda: [pool(), layers.Dense(4, bias_initializer=noise()), norm()], 0),
    "unit": (lambda: [pool(), layers.Dense(4), layers.UnitNormalization()], 0),
    "flatten": (
        lambda: [layers.Flatten(), layers.Dense(4, bias_initializer=noise())],
        1,
    ),
    "maximum": (lambda: [layers.GlobalMaxPooling2D(), layers.Dense(4)], 1),
    "gem": (lambda: [GeneralizedMean(), layers.Dense(4)], 1),
}


@pytest.mark.parametrize("name", HEADS)
def test_they_sum_to_the_embedding(name):
    make_head, num_steps = HEADS[name]
    model = make(*make_head())
    found = contributions(model, IMAGES, batch_size=2)
    assert found.num_steps == num_steps
    assert found.values.shape[:3] == (3, 8, 7) and found.values.dtype == "float32"
    last = model.layers[-1]
    raw = last.input if isinstance(last, layers.UnitNormalization) else last.output
    expected = keras.Model(model.inputs, raw).predict(IMAGES, verbose=0)
    np.testing.assert_allclose(found.embeddings, expected, atol=1e-6)
    np.testing.assert_allclose(found.values.sum(axis=(1, 2)), expected, atol=1e-5)
    assert found.errors.max() < 1e-5


def test_a_linear_head_against_a_loop():
    """``C_ij = W_ij A_ij + b / (h w)``, one position and number at a time."""
    dense = layers.Dense(4, bias_initializer=noise())
    model = make(layers.Flatten(), dense)
    maps = keras.Model(model.inputs, model.layers[0].output).predict(IMAGES, verbose=0)
    kernel, bias = (
        x.reshape(shape)
        for x, shape in zip(dense.get_weights(), ((8, 7, 6, 4), (4,)), strict=True)
    )
    expected = np.zeros((3, 8, 7, 4))
    for n, i, j, d in np.ndindex(expected.shape):
        expected[n, i, j, d] = bias[d] / 56
        for k in range(6):
            expected[n, i, j, d] += kernel[i, j, k, d] * maps[n, i, j, k]
    found = contributions(model, IMAGES).values
    np.testing.assert_allclose(found, expected, atol=1e-6)
    pooled = make(pool(), layers.Dense(4, bias_initializer=noise()))
    maps = keras.Model(pooled.inputs, pooled.layers[0].output).predict(
        IMAGES, verbose=0
    )
    kernel, bias = pooled.layers[-1].get_weights()
    found = contributions(pooled, IMAGES).values
    np.testing.assert_allclose(found, (maps @ kernel + bias) / 56, atol=1e-6)


def test_a_square_worked_by_hand():
    """Of ``y = (a_1 + a_2)^2``: ``(a_1 + a_2) a_i``, which one step gives too.

    Two positions with activations 1 and 3: contributions 4 and 12, together 16.
    """
    inputs = keras.Input((1, 2, 1))
    x = layers.Conv2D(1, 1, kernel_initializer="ones", name="conv")(inputs)
    outputs = layers.Lambda(
        lambda a: ops.concatenate(
            [ops.sum(a, (1, 2)) ** 2, ops.sum(a, (1, 2)) ** 3], -1
        )
    )(x)
    model = keras.Model(inputs, outputs)
    images = np.float32([[[[1], [3]]]])
    found = contributions(model, images)
    # The cube, 64: the integral of 3 (4 t)^2 over t is 16, times 1 and 3.
    np.testing.assert_allclose(found.values[0, 0], [[4, 16], [12, 48]], rtol=1e-5)
    with pytest.warns(UserWarning, match="is 0.24 of its length"):
        one = contributions(model, images, num_steps=1)
    np.testing.assert_allclose(one.values[0, 0], [[4, 12], [12, 36]], rtol=1e-5)
    expected = 16 / np.hypot(16, 64)  # 48 instead of 64
    np.testing.assert_allclose(one.errors, expected, rtol=1e-5)


def test_more_steps_make_a_nonlinear_head_more_complete():
    hidden = layers.Dense(64, activation="relu", bias_initializer=noise(0.5))
    model = make(pool(), hidden, layers.Dense(4))
    errors = [
        contributions(model, 10 * IMAGES, num_steps=steps).errors.mean()
        for steps in (1, 4, 64)
    ]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    found = contributions(model, 10 * IMAGES)
    assert found.num_steps == NUM_STEPS
    sums = found.values.sum(axis=(1, 2))
    relative = np.linalg.norm(sums - found.embeddings, axis=1)
    relative /= np.linalg.norm(found.embeddings, axis=1)
    np.testing.assert_allclose(found.errors, relative, rtol=1e-3)


def test_what_goes_around_the_layer_is_spread_evenly():
    inputs = keras.Input((10, 9, 3))
    first = layers.Conv2D(6, 3, padding="same", activation="relu")(inputs)
    second = layers.Conv2D(6, 3, padding="same", name="second")(first)
    outputs = pool()(layers.Add()([first, second]))
    model = keras.Model(inputs, outputs)
    found = contributions(model, IMAGES, conv_layer="second")
    maps = keras.Model(inputs, [first, second]).predict(IMAGES, verbose=0)
    around = maps[0].mean(axis=(1, 2))[:, None, None] / 90
    np.testing.assert_allclose(found.values, maps[1] / 90 + around, atol=1e-6)
    assert found.num_steps == 0


def test_signed_maps_of_many_proxies_cost_one_product():
    model = make(pool(), layers.Dense(4, use_bias=False))
    proxies = RNG.normal(size=(3, 7, 4)).astype("float32")
    found = contributions(model, IMAGES).values
    maps = np.maximum(np.einsum("nhwd,nmd->nmhw", found, proxies), 0)
    for weighting in ("gradcam", "hirescam"):
        expected = explain(
            model, IMAGES, proxies=proxies, weighting=weighting, resize=False,
            normalize=False,
        )  # fmt: skip
        np.testing.assert_allclose(maps, expected, atol=1e-6)


def test_changed_weights_show():
    model = make(pool(), layers.Dense(4))
    before = contributions(model, IMAGES).values
    model.layers[-1].kernel.assign(2 * model.layers[-1].kernel)
    np.testing.assert_allclose(
        contributions(model, IMAGES).values, 2 * before, rtol=1e-5
    )


def test_nested_models_files_and_several_batches(tmp_path):
    inner = make()
    model = keras.Sequential([keras.Input((10, 9, 3)), inner, pool(), layers.Dense(4)])
    pixels = RNG.integers(0, 256, (5, 10, 9, 3), dtype="uint8")
    for number, image in enumerate(pixels):
        tf.io.write_file(str(tmp_path / f"{number}.png"), tf.io.encode_png(image))
    found = contributions(model, tmp_path, batch_size=2)
    same = contributions(model, pixels.astype("float32"))
    np.testing.assert_allclose(found.values, same.values, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found.images, pixels)


def test_half_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = make(pool(), layers.Dense(4))
    finally:
        keras.config.set_dtype_policy("float32")
    found = contributions(model, IMAGES)
    assert found.num_steps == 0 and found.errors.max() < 5e-3


def test_heads_are_judged_by_all_images_of_a_call():
    """The first batch looks linear, the second does not."""
    inputs = keras.Input((10, 9, 3))
    x = layers.Conv2D(6, 3, kernel_initializer="ones", name="conv")(inputs)
    x = layers.Dense(4)(pool()(x))
    outputs = layers.Lambda(lambda y: ops.where(ops.abs(y) > 8, y**3, y))(x)
    model = keras.Model(inputs, outputs)
    images = np.concatenate([0.001 * IMAGES[:2], 10 * IMAGES[:2]])
    reader = ContributionReader(model, Method())
    steps = [x.num_steps for x in reader.read(ImageSource(images, model, 2))]
    assert steps[0] == 0 and steps[1] == NUM_STEPS


@pytest.mark.parametrize("num_steps", [0, -1, 1.5, "16"])
def test_a_number_of_steps_that_is_none(num_steps):
    with pytest.raises(ValueError, match="`num_steps` must be an integer >= 1"):
        contributions(make(pool()), IMAGES, num_steps=num_steps)


def test_several_layers_are_refused():
    with pytest.raises(ValueError, match="`conv_layer` must be one layer"):
        contributions(make(pool()), IMAGES, conv_layer=["conv", "conv"])


def test_images_of_several_sizes(tmp_path):
    conv = layers.Conv2D(6, 3, activation="relu")
    model = keras.Sequential([keras.Input((None, None, 3)), conv, pool()])
    sizes = [(10, 9), (12, 9)]
    data = tf.data.Dataset.from_generator(
        lambda: iter([np.ones((1, *size, 3), "float32") for size in sizes]),
        output_signature=tf.TensorSpec((None, None, None, 3)),
    )
    with pytest.raises(ValueError, match="must have one size"):
        contributions(model, data)


def test_what_is_no_model():
    with pytest.raises(TypeError, match="`model` must be a keras.Model"):
        contributions("model.keras", IMAGES)


def test_no_images_and_other_channels():
    model = make(pool())
    with pytest.raises(ValueError, match="`images` must hold at least one image"):
        contributions(model, IMAGES[:0])
    with pytest.raises(ValueError, match=r"takes images of the shape .*10, 9, 4"):
        contributions(model, np.ones((2, 10, 9, 4)))


def test_a_head_that_only_pools_takes_two_gradients(monkeypatch):
    """As many numbers as channels, and only then; one that mixes them is no such."""
    called = []

    def count(view, images, proxies, *options):
        called.append(view.embedding_width)
        return read_pooled_head(view, images, proxies, *options)

    monkeypatch.setattr(contribution_reader, "read_pooled_head", count)
    scaled = layers.BatchNormalization(gamma_initializer=noise())
    for head in ([pool()], [pool(), scaled]):
        found = contributions(make(*head), IMAGES)
        assert found.num_steps == 0 and found.errors.max() < 1e-5
    assert not called
    mixed = contributions(make(pool(), layers.Dense(6)), IMAGES)
    assert called and mixed.num_steps == 0 and mixed.errors.max() < 1e-5


def root_mean_square(x):
    return ops.sqrt(ops.mean(x**2, axis=(1, 2)))


def test_a_channel_that_is_all_zero_has_no_gradient_and_adds_nothing():
    """The length of the channel's activations a: ``a_i^2 / |a|`` at each position."""
    model = make(layers.Lambda(root_mean_square))
    kernel, bias = model.layers[0].get_weights()
    bias[2] = -100
    model.layers[0].set_weights([kernel, bias])
    maps = keras.Model(model.inputs, model.layers[0].output).predict(IMAGES, verbose=0)
    lengths = np.sqrt((maps**2).sum(axis=(1, 2), keepdims=True))
    expected = maps**2 / np.where(lengths > 0, lengths, 1) / np.sqrt(56)
    found = contributions(model, IMAGES)
    assert found.num_steps == 1 and found.errors.max() < 1e-5
    assert not found.values[..., 2].any()
    np.testing.assert_allclose(found.values, expected, atol=1e-5)


def test_a_head_without_a_value_at_zero_is_refused():
    model = make(pool(), layers.Lambda(ops.log))
    model.layers[0].bias.assign(np.ones(6))
    reader = ContributionReader(model, Method(), None)
    source = ImageSource(IMAGES, model, 3)
    for read in (
        lambda: contributions(model, IMAGES),
        lambda: reader.project(next(iter(source)), np.ones((3, 1, 6), "float32")),
    ):
        with pytest.raises(ValueError, match="for 3 of 3 images. Pass `embedding_la"):
            read()


def test_what_is_not_finite_is_never_complete():
    model = make(pool(), layers.Dense(4))
    model.layers[-1].bias.assign([np.nan, 0, 0, 0])
    assert np.isnan(contributions(model, IMAGES).errors).all()


def test_a_warning_of_sums_that_miss_the_embedding():
    model = make(pool(), layers.Lambda(lambda x: ops.log(x + 1e-6)))
    with pytest.warns(UserWarning, match=r"error \(`errors`\) is 0.*`num_steps` \(def"):
        contributions(model, IMAGES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        contributions(model, IMAGES, num_steps=256)
