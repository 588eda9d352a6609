"""Tests of what a person gets who explains a transformer: `explain(model, images)`."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_embcam import EmbeddingCAM, explain
from keras_embcam.evaluation import Method, evaluate
from keras_embcam.metrics import heatmap_ratio_in_boxes
from keras_embcam.network.feature_maps import AllBranches, TokenBlocks
from keras_embcam.network.view import ModelView
from keras_embcam.presets import explain_tokens

WIDTH = 16
IMAGES = np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3)).astype("float32")


@keras.saving.register_keras_serializable("tests_tokens")
class ClassToken(layers.Layer):
    """Puts a class token in front."""

    def build(self, shape: Any) -> None:
        self.token = self.add_weight(shape=(1, 1, WIDTH), initializer="random_normal")

    def call(self, x: Any) -> Any:
        token = ops.cast(ops.tile(self.token, (ops.shape(x)[0], 1, 1)), x.dtype)
        return ops.concatenate([token, x], axis=1)


def transformer(pooled: bool = False, dtype: Any = None) -> keras.Model:
    """Return a ViT of two blocks on 4 x 4 patches."""
    with_dtype = {"dtype": dtype}
    images = keras.Input((32, 32, 3))
    x = layers.Rescaling(1 / 64, -2, **with_dtype)(images)
    x = layers.Conv2D(WIDTH, 8, 8, name="patches", **with_dtype)(x)
    x = ClassToken(**with_dtype)(layers.Reshape((16, WIDTH), **with_dtype)(x))
    for number in range(2):
        y = layers.LayerNormalization(name=f"norm1_{number}", **with_dtype)(x)
        x = x + layers.MultiHeadAttention(2, 8, **with_dtype)(y, y)
        y = layers.LayerNormalization(**with_dtype)(x)
        x = x + layers.Dense(WIDTH, activation="gelu", **with_dtype)(y)
    x = layers.LayerNormalization(name="final", **with_dtype)(x)
    x = (
        layers.Lambda(lambda x: ops.mean(x[:, 1:], axis=1), **with_dtype)(x)
        if (pooled)
        else x[:, 0]
    )
    return keras.Model(images, layers.Dense(5, **with_dtype)(x))


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """Return a ViT whose embedding is made of the class token."""
    keras.utils.set_random_seed(0)
    return transformer()


def expected_parts(model: keras.Model) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return F and L of each image by a plain tape over a cut model, and loops."""
    names = ["norm1_0", "norm1_1"]
    parts = keras.Model(model.inputs, [model.get_layer(x).output for x in names])
    full = keras.Model(model.inputs, [*parts.outputs, model.outputs[0]])
    with tf.GradientTape() as tape:
        *tokens, embeddings = full(IMAGES)
        units = tf.stop_gradient(tf.math.l2_normalize(embeddings, axis=1))
        score = tf.reduce_sum(embeddings * units)
    gradients = tape.gradient(score, tokens)
    heatmaps = []
    for image in range(len(IMAGES)):
        followed, lengths = np.ones((4, 4)), np.zeros((4, 4))
        for a, g in zip(tokens, gradients, strict=True):
            products = np.maximum((a[image] * g[image]).numpy().sum(axis=1)[1:], 0)
            products = products.reshape(4, 4)
            blurred = np.zeros((4, 4))
            for i in range(4):
                for j in range(4):
                    near = products[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
                    blurred[i, j] = near.mean()
            followed *= (blurred / max(blurred.max(), 1e-30) + 0.01) ** (1 / 2)
            norms = np.linalg.norm(g[image].numpy()[1:], axis=1).reshape(4, 4)
            lengths += norms / norms.max() / 2
        heatmaps.append((np.maximum(followed - 0.01, 0), lengths))
    return heatmaps


def flow(followed: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return "localize" of one image, by the highest way to each patch."""
    followed = followed / followed.max()
    both = followed * lengths
    reached = np.zeros_like(lengths)
    todo = [(lengths[x], x) for x in np.ndindex(4, 4) if both[x] >= 0.8 * both.max()]
    while todo:  # the highest way first
        todo.sort()
        level, (i, j) = todo.pop()
        if reached[i, j] >= level:
            continue
        reached[i, j] = level
        near = ((a, b) for a in (i - 1, i, i + 1) for b in (j - 1, j, j + 1))
        todo += [
            (min(level, lengths[x]), x) for x in near if 0 <= min(x) and max(x) < 4
        ]
    return reached**2 * (followed**2 / (followed**2 + 0.3**2)) ** 0.3


def grid_map(model: Any, **options: Any) -> np.ndarray:
    return np.asarray(explain(model, IMAGES, resize=False, **options))


def test_no_argument_gives_the_preset(model: keras.Model) -> None:
    heatmaps = explain(model, IMAGES)
    assert heatmaps.shape == (3, 32, 32)
    np.testing.assert_array_equal(heatmaps, explain(model, IMAGES, preset="tokens"))
    found = grid_map(model)
    expected = np.array([f**3 * length for f, length in expected_parts(model)])
    expected /= expected.max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    assert not np.allclose(found, grid_map(model, weighting="gradcam"), atol=0.1)


def test_localize_spreads_what_the_blocks_agree_on(model: keras.Model) -> None:
    found = grid_map(model, preset="localize")
    expected = np.array([flow(*parts) for parts in expected_parts(model)])
    expected /= expected.max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    boxes = {"image": IMAGES, "bbox": np.float32([[0.1, 0.1, 0.8, 0.7]] * 3)}
    method = Method("localize", preset="localize")
    [row] = evaluate(model, boxes, [method], num_timings=0).rows
    whole = explain(model, IMAGES, preset="localize")
    ratios = heatmap_ratio_in_boxes(whole, boxes["bbox"], "rel_yxyx")
    assert row["heatmap_ratio_bbox"] == pytest.approx(np.mean(ratios), abs=1e-5)


def test_the_layers_of_the_preset(model: keras.Model) -> None:
    view = ModelView(model, TokenBlocks())
    assert view.conv_layer == ["norm1_0", "norm1_1"]
    assert view.makes_tokens and view.num_prefix_tokens == [1, 1]
    pooled = ModelView(transformer(pooled=True), TokenBlocks())
    assert pooled.conv_layer == ["norm1_0", "norm1_1"]


def convolutional() -> keras.Model:
    """Return a network without tokens."""
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(4, 3, 4, activation="relu", name="conv"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )


def test_networks_without_tokens_are_explained_as_before() -> None:
    network = convolutional()
    np.testing.assert_array_equal(
        explain(network, IMAGES), explain(network, IMAGES, weighting="gradcam")
    )
    assert ModelView(network, AllBranches(all_blocks=True)).conv_layer == "conv"
    with pytest.raises(ValueError, match="'conv', makes no tokens: pass another `pr"):
        explain(network, IMAGES, preset="tokens")


def test_every_weighting_takes_tokens(model: keras.Model) -> None:
    for name in ("gradcam", "gradcam++", "layercam", "hirescam", "xgradcam"):
        assert grid_map(model, weighting=name).shape == (3, 4, 4)
    assert grid_map(model, top_channels=4).shape == (3, 4, 4)


def test_several_proxies_for_each_image(model: keras.Model) -> None:
    proxies = np.random.default_rng(1).normal(size=(3, 2, 5)).astype("float32")
    both = grid_map(model, proxies=proxies)
    for number in range(2):
        one = grid_map(model, proxies=proxies[:, number])
        np.testing.assert_allclose(both[:, number], one, rtol=1e-4, atol=1e-5)


def test_several_proxies_in_a_compiled_call(model: keras.Model) -> None:
    cam = EmbeddingCAM(model, resize=False)
    proxies = np.random.default_rng(1).normal(size=(3, 2, 5)).astype("float32")
    signature = [
        tf.TensorSpec([None, 32, 32, 3]),
        tf.TensorSpec([None, 2, 5]),
    ]
    compiled = tf.function(lambda x, p: cam(x, p)[1], input_signature=signature)
    expected = cam(IMAGES, proxies)[1]
    np.testing.assert_allclose(
        compiled(IMAGES, proxies), expected, rtol=1e-3, atol=1e-4
    )


def test_a_layer_that_explains_is_saved_and_loaded(
    model: keras.Model, tmp_path: Any
) -> None:
    cam = EmbeddingCAM(model, resize=False)
    _, heatmaps = cam(IMAGES)
    np.testing.assert_allclose(heatmaps, grid_map(model), rtol=1e-4, atol=1e-5)
    whole = cam.as_model()
    whole.save(tmp_path / "cam.keras")
    loaded = keras.models.load_model(tmp_path / "cam.keras")
    again = loaded.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(again[1], heatmaps, rtol=1e-4, atol=1e-5)
    whole.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(served.serve(IMAGES)[1], heatmaps, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_compiled(model: keras.Model, jit_compile: bool) -> None:
    cam = EmbeddingCAM(model, resize=False)
    compiled = tf.function(lambda x: cam(x)[1], jit_compile=jit_compile)
    np.testing.assert_allclose(
        compiled(tf.constant(IMAGES)), grid_map(model), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision(model: keras.Model, policy: str) -> None:
    half = transformer(dtype=policy)
    half.set_weights(model.get_weights())
    found, expected = grid_map(half).ravel(), grid_map(model).ravel()
    assert np.corrcoef(found, expected)[0, 1] > 0.99
    view = ModelView(half)
    assert (view.conv_layer, view.num_prefix_tokens) == ("norm1_1", 1)


def test_two_replicas() -> None:
    strategy = tf.distribute.MirroredStrategy(["cpu:0", "cpu:1"])
    with strategy.scope():
        keras.utils.set_random_seed(0)
        shared = transformer()
    alone = transformer()
    alone.set_weights(shared.get_weights())
    np.testing.assert_allclose(grid_map(shared), grid_map(alone), rtol=1e-4, atol=1e-5)


def test_an_empty_map_stays_empty() -> None:
    zeros = np.zeros((1, 2, 2, 3), "float32")
    heatmaps = np.asarray(explain_tokens([zeros], [zeros]))
    assert np.array_equal(heatmaps, np.zeros((1, 2, 2)))
    against = -np.random.default_rng(0).random((2, 1, 2, 2, 3)).astype("float32")
    heatmaps = np.asarray(explain_tokens([-against[0]] * 3, [against[1]] * 3))
    assert np.array_equal(heatmaps, np.zeros((1, 2, 2)))


def test_one_block_alone_empties_no_patch() -> None:
    ones = np.ones((1, 1, 9, 1), "float32")
    half = ones * (np.arange(9) < 4)[:, None]  # with its neighbour's share: five
    for_proxy = [ones] * 3
    heatmaps = np.asarray(explain_tokens(for_proxy, [ones, ones, half]))
    assert (heatmaps > 0).all() and (heatmaps[0, 0, 5:] < heatmaps[0, 0, :4]).all()


def test_what_is_said_about_tokens_is_believed(model: keras.Model) -> None:
    assert grid_map(model, token_grid=(2, 8)).shape == (3, 2, 8)
    shifted = grid_map(model, token_grid=(4, 4), num_prefix_tokens=0)
    assert not np.allclose(shifted, grid_map(model))
    cam = EmbeddingCAM(model, token_grid=[2, 8], resize=False)
    assert cam(IMAGES)[1].shape == (3, 2, 8)
    config = cam.get_config()
    assert tuple(config["token_grid"]) == (2, 8)
    with pytest.raises(ValueError, match="`token_grid` must be a pair"):
        explain(model, IMAGES, token_grid=16)


@pytest.mark.parametrize("pooled", [False, True])
def test_a_table_has_the_maps_that_explain_gives(pooled: bool) -> None:
    keras.utils.set_random_seed(0)
    model = transformer(pooled)
    boxes = np.tile(np.float32([0, 0, 0.5, 0.75]), (len(IMAGES), 1))
    examples = {"image": IMAGES, "bbox": boxes}
    rows = evaluate(model, examples, ["single_point", "tokens"]).rows
    for row, options in zip(rows, ({"weighting": "gradcam"}, {}), strict=True):
        heatmaps = explain(model, IMAGES, **options)
        inside = heatmaps[:, :16, :24].sum(axis=(1, 2))
        ratios = inside / heatmaps.sum(axis=(1, 2))
        expected = np.mean(ratios[np.isfinite(ratios)])
        assert row["heatmap_ratio_bbox"] == pytest.approx(expected, abs=1e-5)


def test_a_compared_method_states_its_weighting() -> None:
    with pytest.raises(ValueError, match='`weighting="auto"` depends on the model'):
        Method("mine", weighting="auto")
