"""pytorch-grad-cam and torchcam as witnesses for a transformer: the same maps.

tests/witnesses/record_vit.py recorded what they say about a small vision transformer
in PyTorch; here its twin in Keras is explained and compared.
"""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_embcam import EmbeddingCAM
from keras_embcam.network.view import ModelView

TOLERANCE = 1e-5  # of the largest value of the witness
LAST_NORM = "block_1_norm1"
Witness = dict[str, np.ndarray]


class Tokens(layers.Layer):
    """Adds positions to patches, and a class token in front."""

    def __init__(self, witness: Witness) -> None:
        super().__init__()
        self.positions, self.token = witness["positions"], witness["class_token"]

    def call(self, x: Any) -> Any:
        x = ops.reshape(x, (-1, self.positions.shape[1], x.shape[-1])) + self.positions
        return ops.concatenate([ops.tile(self.token, (ops.shape(x)[0], 1, 1)), x], 1)


@pytest.fixture(scope="module")
def witness() -> Witness:
    """Return the recorded arrays."""
    with np.load(Path(__file__).parent / "witnesses" / "vit.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def twin(witness: Witness) -> keras.Model:
    """Return the Keras twin."""
    images = keras.Input(witness["images"].shape[1:])
    patch, _, _, width = witness["patches/kernel"].shape
    x = layers.Conv2D(width, patch, patch, name="patches")(images)
    x = Tokens(witness)(x)
    for number in range(2):
        name = f"block_{number}"
        _, heads, size = witness[f"{name}/query/kernel"].shape
        y = layers.LayerNormalization(name=f"{name}_norm1")(x)
        x = x + layers.MultiHeadAttention(heads, size, name=f"{name}_attention")(y, y)
        y = layers.LayerNormalization(name=f"{name}_norm2")(x)
        num_hidden = witness[f"{name}/hidden/kernel"].shape[1]
        y = layers.Dense(num_hidden, activation="gelu", name=f"{name}_hidden")(y)
        x = x + layers.Dense(width, name=f"{name}_last")(y)
    x = layers.LayerNormalization(name="final_norm")(x)[:, 0]
    num_embedding = witness["embedding/kernel"].shape[1]
    model = keras.Model(images, layers.Dense(num_embedding, name="embedding")(x))
    for weight in model.weights:
        path = weight.path.replace("_attention/", "/").replace("attention_", "")
        weight.assign(witness["/".join(split_block(path))])
    return model


def split_block(path: str) -> list[str]:
    """Return the parts of a name of the witness: block_0_norm1/gamma has three."""
    if not path.startswith("block_"):
        return path.split("/")
    return [path[:7], *path[8:].split("/")]


def assert_agrees(actual: Any, expected: np.ndarray) -> None:
    """Compare to a fraction of the largest value expected, which is not zero."""
    actual = np.asarray(actual)
    assert actual.shape == expected.shape
    largest = np.abs(expected).max()
    assert largest > 0
    assert np.abs(actual - expected).max() / largest < TOLERANCE


def test_twin_has_the_same_activations_and_gradients(twin, witness) -> None:
    """By a plain split of the graph, so that a fault of the twin shows as one."""
    split = keras.Model(twin.input, [twin.get_layer(LAST_NORM).output, twin.output])
    with tf.GradientTape() as tape:
        tokens, embeddings = split(witness["images"])
        score = tf.reduce_sum(embeddings * witness["proxies"])
    gradients = tape.gradient(score, tokens)
    assert_agrees(embeddings, witness["embeddings"])
    assert ModelView(twin).conv_layer == LAST_NORM  # which the others have to be told
    shape = witness["activations"].shape
    assert_agrees(tf.reshape(tokens[:, 1:], shape), witness["activations"])
    assert_agrees(tf.reshape(gradients[:, 1:], shape), witness["gradients"])


METHODS = {
    "grad_cam/GradCAM": {"weighting": "gradcam"},
    "grad_cam/LayerCAM": {"weighting": "layercam"},
    "grad_cam/HiResCAM": {"weighting": "hirescam"},
    "torchcam/LeGrad": {"preset": "legrad"},
}


@pytest.mark.parametrize("name", METHODS)
def test_heatmaps_are_those_of_the_witness(twin, witness, name: str) -> None:
    cam = EmbeddingCAM(twin, resize=False, normalize=False, **METHODS[name])
    embeddings, heatmaps = cam(witness["images"], witness["proxies"])
    assert_agrees(embeddings, witness["embeddings"])
    assert_agrees(heatmaps, np.maximum(witness[name], 0))
