"""How much is measured, and on which networks."""

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers

EMBEDDING_SIZE = 128


class Plan(NamedTuple):
    """Sizes of the measurements; the defaults are those of the table.

    Attributes:
        num_pairs: how often the runs alternate.
        image_size: of the square images, in pixels.
        networks: names for `make_network`, the main one first.
        batch_sizes: of the main rows; the last one is that of the proxies.
        medium_batch: images at a time where many variants are compared.
        num_proxies: m of the (n, m, d) proxies.
        num_examples: of the logger's two sets.
        small_network: that the logger and the database are measured with.
        small_size: of its images, in pixels.
        few_pairs: as `num_pairs`, where a run goes over very many images.
        num_streamed: images of the two streams whose memory is compared.
        stream_network: that explains them.
        stream_size: of these images, in pixels.
        num_entries: of the databases of grad-weights.
    """

    num_pairs: int = 15
    image_size: int = 224
    networks: tuple[str, ...] = ("ResNet-50", "MobileNetV2")
    batch_sizes: tuple[int, ...] = (1, 32)
    medium_batch: int = 8
    num_proxies: tuple[int, ...] = (1, 5, 50)
    num_examples: tuple[int, int] = (16, 1000)
    small_network: str = "MobileNetV2"
    small_size: int = 96
    few_pairs: int = 6
    num_streamed: tuple[int, int] = (2000, 20000)
    stream_network: str = "MobileNetV2 0.35"
    stream_size: int = 64
    num_entries: tuple[int, ...] = (1000, 10000, 100000)


# To see that everything runs. Its figures mean little.
QUICK = Plan(
    num_pairs=3,
    batch_sizes=(1, 4),
    medium_batch=2,
    num_examples=(16, 64),
    few_pairs=3,
    num_streamed=(200, 1000),
    num_entries=(1000, 10000),
)

# The last layer of the blocks conv5, conv4 and conv3, and the one before the last
# block, behind which the head holds convolutions.
LAYERS = {
    "ResNet-50": (
        ("conv5_block3_out", "conv4_block6_out", "conv3_block4_out"),
        "conv5_block2_out",
    ),
    "toy": (("last", "middle", "first"), "middle"),
}


def make_network(name: str, image_size: int) -> keras.Model:
    """Return an embedding network: backbone, pooling, Dense(128).

    The weights are random: how long it runs does not depend on them.

    Args:
        name: "ResNet-50", "MobileNetV2", "MobileNetV2 0.35" or "toy".
        image_size: of the square images, in pixels.
    """
    keras.utils.set_random_seed(0)
    shape = (image_size, image_size, 3)
    if name == "toy":
        images = keras.Input(shape)
        maps = images
        for layer in ("first", "middle", "last"):
            maps = layers.Conv2D(
                8, 3, strides=2, padding="same", activation="relu", name=layer
            )(maps)
        pooled = layers.GlobalAveragePooling2D()(maps)
    else:
        common = {"include_top": False, "weights": None, "pooling": "avg"}
        if name == "ResNet-50":
            backbone = keras.applications.ResNet50(input_shape=shape, **common)
        else:
            backbone = keras.applications.MobileNetV2(
                input_shape=shape, alpha=0.35 if "0.35" in name else 1.0, **common
            )
        images, pooled = backbone.input, backbone.output
    embeddings = layers.Dense(EMBEDDING_SIZE, name="embedding", dtype="float32")(pooled)
    return keras.Model(images, embeddings)


def make_images(num_images: int, image_size: int) -> np.ndarray:
    """Return noise (n, size, size, 3) float32 in [0, 1)."""
    shape = (num_images, image_size, image_size, 3)
    return np.random.default_rng(0).random(shape, dtype="float32")


def make_vectors(*shape: int) -> np.ndarray:
    """Return random directions (..., 128) float32 of length 1."""
    vectors = np.random.default_rng(1).normal(size=(*shape, EMBEDDING_SIZE))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors.astype("float32")


def compile_forward(model: keras.Model) -> tf.types.experimental.PolymorphicFunction:
    """Return the plain embedding of a tensor of images, compiled."""
    return tf.function(lambda images: model(images, training=False), autograph=False)
