"""The attention that is recorded, and its presets, against explicit matrices."""

import doctest
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_embcam import EmbeddingCAM, explain
from keras_embcam.network.feature_maps import AttentionLayers
from keras_embcam.network.recorded import Recording
from keras_embcam.network.view import ModelView
from keras_embcam.presets import PRESETS
from keras_embcam.running.one_batch import compute_heatmaps
from keras_embcam.weightings import by_attention

HEADS, WIDTH, BLOCKS, PATCHES = 2, 8, 2, 16
KINDS = ["attention_gradient", "rollout", "last_attention"]
ALL_KINDS = [*KINDS, "legrad"]
IMAGES = np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3)).astype("float32")
PROXIES = np.random.default_rng(1).normal(size=(3, 5)).astype("float32")


@keras.saving.register_keras_serializable("tests_attention")
class ClassToken(layers.Layer):
    """Puts a class token in front."""

    def build(self, shape: Any) -> None:
        self.token = self.add_weight(
            shape=(1, 1, shape[-1]), initializer="random_normal"
        )

    def call(self, x: Any) -> Any:
        token = ops.cast(ops.tile(self.token, (ops.shape(x)[0], 1, 1)), x.dtype)
        return ops.concatenate([token, x], axis=1)


def attend(x: Any, name: str, **options: Any) -> Any:
    """Attend with Keras's layer."""
    return layers.MultiHeadAttention(HEADS, WIDTH, name=name)(x, x, **options)


def transformer(pool: str = "token", attend: Callable = attend) -> keras.Model:
    """Return a ViT on 4 x 4 patches."""
    images = keras.Input((32, 32, 3))
    x = layers.Conv2D(16, 8, 8, name="patches")(layers.Rescaling(1 / 64, -2)(images))
    x = ClassToken(name="tokens")(layers.Reshape((PATCHES, 16))(x))
    for number in range(BLOCKS):
        y = layers.LayerNormalization(name=f"norm_{number}")(x)
        x = x + attend(y, f"attention_{number}")
        x = x + layers.Dense(16, activation="gelu", name=f"mlp_{number}")(x)
    x = layers.LayerNormalization(name="final")(x)
    if pool == "attention":
        query = layers.Dense(16)(ops.ones_like(x[:, :1]))
        pooler = layers.MultiHeadAttention(HEADS, WIDTH, name="attention_pool")
        pooled = layers.Flatten()(pooler(query, x))
    else:
        pooled = x[:, 0] if pool == "token" else ops.mean(x[:, 1:], axis=1)
    return keras.Model(images, layers.Dense(5, name="embedding")(pooled))


def make(*arguments: Any) -> keras.Model:
    """Return a transformer whose attention is far from even."""
    keras.utils.set_random_seed(0)
    model = transformer(*arguments)
    for weight in model.weights:
        if "attention" in weight.path and "kernel" in weight.path:
            weight.assign(weight * 2)
    return model


@functools.lru_cache(maxsize=2)
def record(model: keras.Model, layers: AttentionLayers) -> Recording:
    return ModelView(model, layers).record(IMAGES)


def raw_maps(
    model: keras.Model, kinds: list[str] = KINDS, proxies: np.ndarray = PROXIES
) -> dict[str, np.ndarray]:
    """Return the maps (3, 4, 4) of several presets from one run, not scaled."""
    found = {}
    for kind in kinds:
        recording = record(model, PRESETS[kind].conv_layer)
        heatmaps = compute_heatmaps(recording, proxies, PRESETS[kind].weighting)
        found[kind] = np.asarray(heatmaps)
    return found


# The same by explicit matrices and loops


def explicit_attention(model: keras.Model, pool: str) -> tuple[list, list, list]:
    """Return attentions as Keras returns them, and their gradients by a tape.

    Of the score, and of what it is when it is read out behind their own block.
    """
    layer = model.get_layer
    x = keras.Model(model.input, layer("tokens").output)(IMAGES)
    attentions = []

    def attend(name: str, query: Any, tokens: Any) -> Any:
        attention = layer(name)(query, tokens, return_attention_scores=True)[1]
        attentions.append(attention)
        tape.watch(attention)
        value, project = layer(name).value_dense(tokens), layer(name).output_dense
        return project(tf.einsum("nhqk,nkhd->nqhd", attention, value))

    def score(x: Any) -> Any:
        pooled = x[:, 0] if pool == "token" else tf.reduce_mean(x[:, 1:], axis=1)
        return tf.reduce_sum(layer("embedding")(pooled) * PROXIES)

    with tf.GradientTape(persistent=True) as tape:
        scores = []
        for number in range(BLOCKS):
            y = layer(f"norm_{number}")(x)
            x = x + attend(f"attention_{number}", y, y)
            x = x + layer(f"mlp_{number}")(x)
            if pool != "attention":
                scores.append(score(layer("final")(x)))
        if pool == "attention":
            x = layer("final")(x)
            [question] = [y for y in model.layers if y.name.startswith("dense")]
            pooled = attend("attention_pool", question(tf.ones_like(x[:, :1])), x)[:, 0]
            scores.append(tf.reduce_sum(layer("embedding")(pooled) * PROXIES))
    slopes = tape.gradient(scores[-1], attentions)
    own = [tape.gradient(*x) for x in zip(scores, attentions, strict=False)]
    return tuple([x.numpy() for x in each] for each in (attentions, slopes, own))


def loop_attention_gradient(attentions: list, slopes: list) -> np.ndarray:
    """Return R - 1 of one image, or what is pooled with it, number by number."""
    relevance = np.eye(PATCHES + 1)
    for attention, slope in zip(attentions, slopes, strict=True):
        _, rows, columns = attention.shape
        gained = np.zeros((rows, columns))
        for i in range(rows):
            for j in range(columns):
                for k in range(columns):
                    products = attention[:, i, k] * slope[:, i, k]
                    taken = sum(max(x, 0) for x in products) / HEADS
                    gained[i, j] += taken * relevance[k, j]
        relevance = relevance + gained if rows == columns else gained
    return relevance - np.eye(PATCHES + 1) if rows == columns else relevance


def loop_rollout(attentions: list, slopes: list) -> np.ndarray:
    rolled = np.eye(PATCHES + 1)
    for attention in attentions:
        mean = attention.mean(axis=0)
        if len(mean) == PATCHES + 1:
            mean = mean / 2 + np.eye(PATCHES + 1) / 2
        rolled = mean @ rolled
    return rolled


def loop_last_attention(attentions: list, slopes: list) -> np.ndarray:
    return attentions[-1].mean(axis=0)


def loop_legrad(attentions: list, slopes: list) -> np.ndarray:
    """Return what each token takes from each, of slopes behind their own block."""
    relevance = np.zeros((PATCHES + 1, PATCHES + 1))
    for slope in slopes:
        for head in range(HEADS):
            for i in range(PATCHES + 1):
                for j in range(PATCHES + 1):
                    relevance[i, j] += max(slope[head, i, j], 0) / HEADS
    return relevance


@pytest.mark.parametrize("pool", ["token", "mean", "attention"])
def test_presets_against_loops_over_explicit_attention(pool: str) -> None:
    model = make(pool)
    attentions, slopes, own_slopes = explicit_attention(model, pool)
    rows = slice(1, None) if pool == "mean" else slice(0, 1)
    kinds = KINDS if pool == "attention" else ALL_KINDS
    for kind, found in raw_maps(model, kinds).items():
        loop = globals()[f"loop_{kind}"]
        taken = own_slopes if kind == "legrad" else slopes
        for image in range(len(IMAGES)):
            one = loop([x[image] for x in attentions], [x[image] for x in taken])
            read = slice(None) if kind == "legrad" else rows
            expected = one[read].mean(axis=0)[1:].reshape(4, 4)
            np.testing.assert_allclose(
                found[image], expected, rtol=1e-3, atol=1e-5 * expected.max()
            )
    if pool == "token":
        maps = explain(model, IMAGES, proxies=PROXIES, preset=KINDS[0], resize=False)
        expected = raw_maps(model)[KINDS[0]]
        expected = expected / expected.max(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(maps, expected, rtol=1e-3, atol=1e-5)


# What attention is recorded


def recorded_attention(model: keras.Model) -> tuple[list[str], np.ndarray]:
    view = ModelView(model, AttentionLayers())
    return view.conv_layer, np.asarray(view.record(IMAGES).activations[0])


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """Return a ViT whose embedding is made of the class token."""
    return make()


def test_the_attention_of_each_block(model: keras.Model) -> None:
    paths, found = recorded_attention(model)
    assert paths == ["attention_0", "attention_1"]
    np.testing.assert_allclose(
        found, explicit_attention(model, "token")[0][0], atol=1e-5
    )


def attend_grouped(x: Any, name: str) -> Any:
    """Attend with four heads of which two share keys and values."""
    return layers.GroupQueryAttention(8, 4, 2, name=name)(x, x)


def test_grouped_queries() -> None:
    model = make("token", attend_grouped)
    y = keras.Model(model.input, model.get_layer("norm_0").output)(IMAGES)
    _, expected = model.get_layer("attention_0")(y, y, return_attention_scores=True)
    np.testing.assert_allclose(recorded_attention(model)[1], expected, atol=1e-5)


class Mixer(layers.Layer):
    """Attention of one's own, with normalised queries and keys, and rotary at will."""

    def __init__(self, angle: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.angle = angle
        self.to_q, self.to_k, self.to_v = (layers.Dense(16) for _ in range(3))
        self.query_norm = layers.LayerNormalization()
        self.key_norm = layers.LayerNormalization()
        self.out = layers.Dense(16)

    def rotate(self, x: Any) -> Any:
        angles = self.angle * ops.arange(PATCHES + 1, dtype="float32")[:, None]
        a, b = x[..., :8], x[..., 8:]
        return ops.concatenate(
            [
                a * ops.cos(angles) - b * ops.sin(angles),
                a * ops.sin(angles) + b * ops.cos(angles),
            ],
            axis=-1,
        )

    def call(self, x: Any) -> Any:
        query = self.rotate(self.query_norm(self.to_q(x)))
        key = self.rotate(self.key_norm(self.to_k(x)))
        weights = ops.softmax(query @ ops.transpose(key, (0, 2, 1)) / 4)
        return self.out(weights @ self.to_v(x))


def mix(x: Any, name: str, angle: float = 0.0) -> Any:
    """Attend with a layer of one's own."""
    return Mixer(angle, name=f"attention_of_mine_{name}")(x)


def test_attention_of_ones_own() -> None:
    model = make("token", mix)
    paths, found = recorded_attention(model)
    layer = model.get_layer(paths[0])
    y = keras.Model(model.input, model.get_layer("norm_0").output)(IMAGES)
    query, key = layer.query_norm(layer.to_q(y)), layer.key_norm(layer.to_k(y))
    expected = ops.softmax(query @ ops.transpose(key, (0, 2, 1)) / 4)
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-5)


class Fused(layers.Layer):
    """Attention of one Dense layer for all three."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.all = layers.Dense(48)

    def call(self, x: Any) -> Any:
        query, key, value = ops.split(self.all(x), 3, axis=-1)
        return ops.softmax(query @ ops.transpose(key, (0, 2, 1)) / 4) @ value


NOT_MADE_BY_IT = "the softmax of queries times keys, times values, is not what it makes"
MASK = np.tril(np.ones((1, PATCHES + 1, PATCHES + 1), bool), 12)
REFUSED = {
    "mask": (lambda x, name: attend(x, name, attention_mask=MASK), NOT_MADE_BY_IT),
    "causal": (lambda x, name: attend(x, name, use_causal_mask=True), NOT_MADE_BY_IT),
    "fewer keys": (
        lambda x, name: layers.MultiHeadAttention(HEADS, WIDTH, name=name)(
            x, x[:, ::2]
        ),
        NOT_MADE_BY_IT,
    ),
    "rotary": (lambda x, name: mix(x, name, 0.1), NOT_MADE_BY_IT),
    "fused": (
        lambda x, name: Fused(name=f"attention_{name}")(x),
        "makes the query and",
    ),
    "twice": (
        lambda x, name: _twice(layers.MultiHeadAttention(HEADS, WIDTH, name=name), x),
        "the layer is called 2 times",
    ),
}


def _twice(layer: Any, x: Any) -> Any:
    return layer(x, x) + layer(2 * x, x)


@pytest.mark.parametrize("kind", REFUSED)
def test_other_attention_is_refused_by_name(kind: str) -> None:
    attend, message = REFUSED[kind]
    model = make("mean", attend)
    with pytest.raises(ValueError, match=f'attention_0.*{message}.*weighting="auto"'):
        ModelView(model, AttentionLayers())


def test_a_model_without_attention_is_refused() -> None:
    network = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(4, 3, 4, activation="relu", name="conv"),
            layers.GlobalAveragePooling2D(),
        ]
    )
    with pytest.raises(ValueError, match="'conv', makes no tokens: pass another `pr"):
        ModelView(network, AttentionLayers())
    mixed = make("mean", lambda x, name: layers.Dense(16, name=name)(x))
    with pytest.raises(ValueError, match="no attention layer that the embedding depe"):
        ModelView(mixed, AttentionLayers())


def test_where_the_score_cannot_be_read_out_behind_each_block() -> None:
    with pytest.raises(ValueError, match="'attention_pool', pools .*preset=\"atten"):
        ModelView(make("attention"), AttentionLayers(read_out=True))

    earlier: list[Any] = []

    def skip(x: Any, name: str) -> Any:  # from one block into the next one
        earlier.append(attend(x, name))
        return sum(earlier)

    with pytest.raises(ValueError, match="'attention_1'.* no layer was seen that all"):
        ModelView(make("mean", skip), AttentionLayers(read_out=True))


# Everywhere else


@pytest.mark.parametrize("preset", ["attention_gradient", "legrad"])
def test_a_compiled_layer_differentiates_no_patch_embedding(
    model: keras.Model, preset: str
) -> None:
    cam = EmbeddingCAM(model, preset=preset, resize=False)
    signature = [tf.TensorSpec([None, 32, 32, 3]), tf.TensorSpec([None, 5])]
    compiled = tf.function(lambda x, p: cam(x, p)[1], input_signature=signature)
    np.testing.assert_allclose(
        compiled(IMAGES, PROXIES), cam(IMAGES, PROXIES)[1], rtol=1e-3, atol=1e-5
    )
    kinds = {x.type for x in compiled.get_concrete_function().graph.get_operations()}
    assert "Conv2D" in kinds and not {x for x in kinds if "Conv2DBackprop" in x}


def test_half_precision(model: keras.Model) -> None:
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_float16")
        half = make()
    finally:
        keras.config.set_dtype_policy(before)
    half.set_weights(model.get_weights())
    kinds = ["attention_gradient", "legrad"]
    found, expected = (raw_maps(x, kinds, 1e-3 * PROXIES) for x in (half, model))
    for kind in kinds:
        assert np.corrcoef(found[kind].ravel(), expected[kind].ravel())[0, 1] > 0.99


def test_several_proxies_of_which_baselines_see_none(model: keras.Model) -> None:
    several = np.stack([PROXIES, -PROXIES], axis=1)
    both, plus, minus = (
        raw_maps(model, ALL_KINDS, x) for x in (several, PROXIES, -PROXIES)
    )
    for kind in ALL_KINDS:
        for number, one in enumerate((plus, minus)):
            expected = one[kind]
            np.testing.assert_allclose(both[kind][:, number], expected, rtol=1e-3)
        is_blind = np.allclose(plus[kind], minus[kind], rtol=1e-4)
        assert is_blind != PRESETS[kind].follows_proxy


def test_the_examples_run() -> None:
    results = doctest.testmod(by_attention)
    assert results.attempted and not results.failed
