"""Tests of keras_embcam.weightings.by_attention against loops and a tape."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_embcam.weightings.by_attention import (
    attention_gradient,
    attention_matrix,
    attention_slope,
    legrad,
    rollout,
)

TOKENS, HEADS, WIDTH, BLOCKS = 5, 2, 3, 3


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def test_attention_and_its_gradient_are_those_of_keras() -> None:
    layer = keras.layers.MultiHeadAttention(HEADS, WIDTH)
    x, proxy = draw(2, TOKENS, 4), draw(4, seed=1)
    _, expected = layer(x, x, return_attention_scores=True)
    parts = {}
    for name in ("query", "key", "value"):
        [dense] = [y for y in layer._flatten_layers() if y.name == name]
        parts[name] = dense(x)
    attention = attention_matrix(parts["query"], parts["key"])
    np.testing.assert_allclose(attention, expected, atol=1e-6)
    [projection] = [y for y in layer._flatten_layers() if y.name == "attention_output"]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(attention)
        outputs = projection(ops.einsum("nhqk,nkhd->nqhd", attention, parts["value"]))
        tape.watch(outputs)
        score = ops.sum(ops.tanh(outputs) * proxy)
    slope = attention_slope(
        parts["value"], tape.gradient(score, outputs), projection.kernel
    )
    np.testing.assert_allclose(slope, tape.gradient(score, attention), atol=1e-5)


@pytest.fixture
def blocks() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return attentions and slopes of each block."""
    shape = (2, HEADS, TOKENS, TOKENS)
    attentions = [np.asarray(ops.softmax(draw(*shape, seed=i))) for i in range(BLOCKS)]
    return attentions, [draw(*shape, seed=10 + i) for i in range(BLOCKS)]


def test_attention_gradient_against_a_loop(blocks: tuple) -> None:
    attentions, slopes = blocks
    found = np.asarray(attention_gradient(attentions, slopes))
    for image in range(2):
        relevance = np.eye(TOKENS)
        for attention, slope in zip(attentions, slopes, strict=True):
            taken = np.zeros((TOKENS, TOKENS))
            for i in range(TOKENS):
                for j in range(TOKENS):
                    for head in range(HEADS):
                        product = (
                            attention[image, head, i, j] * slope[image, head, i, j]
                        )
                        taken[i, j] += max(product, 0) / HEADS
            before = relevance.copy()
            for i in range(TOKENS):
                for j in range(TOKENS):
                    relevance[i, j] += sum(
                        taken[i, k] * before[k, j] for k in range(TOKENS)
                    )
        np.testing.assert_allclose(found[image], relevance - np.eye(TOKENS), rtol=1e-4)


def test_legrad_against_a_loop(blocks: tuple) -> None:
    _, slopes = blocks
    found = np.asarray(legrad(slopes))
    for image in range(2):
        for j in range(TOKENS):
            total = 0.0
            for slope in slopes:
                for head in range(HEADS):
                    for i in range(TOKENS):
                        total += max(slope[image, head, i, j], 0) / (HEADS * TOKENS)
            np.testing.assert_allclose(found[image, j], total, rtol=1e-5)


def test_rollout_keeps_the_sum_of_each_row(blocks: tuple) -> None:
    rolled = np.asarray(rollout(blocks[0]))
    np.testing.assert_allclose(rolled.sum(axis=-1), 1, rtol=1e-5)
    first, second, third = (x.mean(axis=1) / 2 + np.eye(TOKENS) / 2 for x in blocks[0])
    np.testing.assert_allclose(rolled, third @ second @ first, rtol=1e-5)
