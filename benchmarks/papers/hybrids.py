"""Transformers behind the first layers of a bird network, trained in minutes.

The weights of MobileNetV2 up to ``block_12_add`` make 14 x 14 tokens; three pre-norm
blocks behind them learn the classes 1-10 of CUB-200-2011. The embedding is made of the
class token, or of the mean of all patches.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_embcam.layers import Proxies
from keras_embcam.losses import ProxyAnchorLoss

GRID = (14, 14)
WIDTH = 96
NUM_BLOCKS = 3
BATCH = 40
EPOCHS = 40
NUM_HEADS = 4
EMBEDDING_WIDTH = 64
LAST_LAYER = "block_12_add"
POOLINGS = ("token", "mean")


@keras.saving.register_keras_serializable("keras_embcam_benchmarks")
class Tokens(layers.Layer):
    """Adds learned positions to patches, and a class token in front.

    In training it keeps a random quarter of the patches (PatchDropout, Liu et al.,
    WACV 2023): on few images transformers else learn the backgrounds by heart.
    """

    def __init__(self, **options: Any) -> None:
        """Make the source of random orders."""
        super().__init__(**options)
        self.random = keras.random.SeedGenerator()

    def build(self, shape: Any) -> None:
        """Make the weights."""
        self.class_token = self.add_weight(
            shape=(1, 1, shape[-1]), initializer="random_normal", name="class_token"
        )
        self.positions = self.add_weight(
            shape=(1, shape[1], shape[-1]),
            initializer="random_normal",
            name="positions",
        )

    def call(self, x: Any, training: bool = False) -> Any:
        """Return one token more."""
        token = ops.tile(self.class_token, (ops.shape(x)[0], 1, 1))
        x = x + self.positions
        if training:
            order = keras.random.shuffle(ops.arange(x.shape[1]), seed=self.random)
            x = ops.take(x, order[: x.shape[1] // 4], axis=1)
        return ops.concatenate([token, x], axis=1)

    def compute_output_shape(self, shape: Any) -> Any:
        """Return the shape outside of training."""
        return shape[0], shape[1] + 1, shape[2]


def make_backbone(weights: Path | str | None) -> keras.Model:
    """Return the first layers of a MobileNetV2 for images in [0, 255]."""
    images = keras.Input((224, 224, 3))
    backbone = keras.applications.MobileNetV2(
        input_tensor=layers.Rescaling(1 / 127.5, -1)(images),
        include_top=False,
        weights=None if weights is None else str(weights),
    )
    return keras.Model(images, backbone.get_layer(LAST_LAYER).output, name="backbone")


def make_head(pooling: str) -> keras.Model:
    """Return the transformer behind it: from (n, 14, 14, 96) to embeddings."""
    maps = keras.Input((*GRID, 96))
    x = layers.Reshape((GRID[0] * GRID[1], 96))(maps)
    x = Tokens(name="tokens")(layers.Dense(WIDTH, name="projection")(x))
    for number in range(NUM_BLOCKS):
        normalized = layers.LayerNormalization(name=f"block_{number}_norm1")(x)
        attention = layers.MultiHeadAttention(
            NUM_HEADS, WIDTH // NUM_HEADS, name=f"block_{number}_attention"
        )
        x = x + attention(normalized, normalized)
        hidden = layers.LayerNormalization(name=f"block_{number}_norm2")(x)
        hidden = layers.Dense(2 * WIDTH, activation="gelu")(hidden)
        x = x + layers.Dropout(0.1)(layers.Dense(WIDTH)(hidden))
    x = layers.LayerNormalization(name="final_norm")(x)
    pooled = x[:, 0] if pooling == "token" else ops.mean(x[:, 1:], axis=1)
    embeddings = layers.Dense(EMBEDDING_WIDTH, name="embedding")(pooled)
    return keras.Model(maps, embeddings, name=f"head_{pooling}")


def train_head(
    pooling: str,
    maps: np.ndarray,
    labels: np.ndarray,
    epochs: int,
    seed: int,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> keras.Model:
    """Train the transformer on recorded maps with the loss of Proxy-Anchor.

    In bfloat16, which takes two thirds of the time; what is returned has the weights
    in float32.

    Args:
        pooling: "token" or "mean".
        maps: (n, 14, 14, 96), of images and their mirror images.
        labels: (n,) from 0 on.
        epochs: how often all maps are seen.
        seed: of weights and order.
        callbacks: of the training.
    """
    keras.utils.set_random_seed(seed)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        trained = make_head(pooling)
    finally:
        keras.config.set_dtype_policy(policy)
    proxies = Proxies(int(labels.max()) + 1, name="proxies")
    model = keras.Model(
        trained.inputs, proxies(ops.cast(trained.outputs[0], "float32"))
    )
    steps = epochs * -(-len(maps) // BATCH)
    schedule = keras.optimizers.schedules.CosineDecay(
        1e-5, steps, warmup_target=1e-3, warmup_steps=steps // 10
    )
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=1e-2), ProxyAnchorLoss()
    )
    model.fit(
        maps,
        labels,
        batch_size=BATCH,
        epochs=epochs,
        verbose=2,
        callbacks=list(callbacks),
    )
    head = make_head(pooling)
    head.set_weights(trained.get_weights())
    return head


def join(backbone: keras.Model, head: keras.Model) -> keras.Model:
    """Return the whole network of images."""
    return keras.Model(backbone.inputs, head(backbone.outputs[0]), name=head.name)
