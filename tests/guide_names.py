"""The names that the code blocks of README and guide start from, and their files."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_embcam.losses import TripletSemiHardLoss

SIDE = 32


def make_names() -> dict[str, Any]:
    """Return images, labels, boxes and small models, by the names that pages use."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    images = rng.random((12, SIDE, SIDE, 3), "float32")
    labels = np.arange(12) % 3
    model = make_branch("embedder")
    model.compile("adam", TripletSemiHardLoss())
    return {
        "np": np,
        "keras": keras,
        "model": model,
        "classifier": make_classifier(),
        "siamese": make_siamese(),
        "vit": make_vit(),
        "backbone": make_tokens(),
        "proxy": np.float32([1, 0, -1, 2]),
        "images": images,
        "labels": labels,
        "val_images": images,
        "val_labels": labels,
        "val_boxes": np.tile(np.float32([0.1, 0.2, 0.7, 0.9]), (12, 1)),
    }


def make_branch(name: str) -> keras.Model:
    """Return a network from images to raw embeddings (n, 4)."""
    images = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(4, 3, strides=2, activation="relu", name="conv")(images)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, layers.Dense(4, name="embedding")(x), name=name)


def make_classifier() -> keras.Model:
    """Return a classifier of three classes that ends in a softmax."""
    images = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(4, 3, strides=2, activation="relu", name="conv")(images)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, layers.Dense(3, activation="softmax")(x))


def make_siamese() -> keras.Model:
    """Return the cosine of two images, embedded by one branch and a Dense layer."""
    branch, projection = make_branch("branch"), layers.Dense(4, name="projection")
    inputs = [keras.Input((SIDE, SIDE, 3)) for _ in range(2)]
    cosine = layers.Dot(1, normalize=True)([projection(branch(x)) for x in inputs])
    return keras.Model(inputs, cosine)


def make_vit() -> keras.Model:
    """Return a transformer of one block on 4 x 4 patches, pooled."""
    tokens = make_tokens()
    x = layers.GlobalAveragePooling1D()(tokens.output)
    return keras.Model(tokens.input, layers.Dense(4)(x))


def make_tokens() -> keras.Model:
    """Return a network from images to the 16 tokens of one block."""
    images = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(8, 8, strides=8)(images)
    x = layers.Reshape((16, 8))(x)
    normed = layers.LayerNormalization()(x)
    x = x + layers.MultiHeadAttention(2, 4)(normed, normed)
    x = x + layers.Dense(8, activation="gelu")(layers.LayerNormalization()(x))
    return keras.Model(images, layers.LayerNormalization()(x))


def write_files(folder: Path) -> None:
    """Write a photograph as `photo.jpg`."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    tf.io.write_file(str(folder / "photo.jpg"), tf.io.encode_jpeg(pixels))
