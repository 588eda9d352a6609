"""A small vision transformer for the digits: patches, a class token, two blocks."""

from typing import Any

import keras
from keras import layers, ops

WIDTH = 64
NUM_HEADS = 4
NUM_BLOCKS = 2


@keras.saving.register_keras_serializable(package="keras_embcam")
class ClassToken(layers.Layer):
    """Adds learned positions to patches (n, t, k), and a class token before them."""

    def build(self, patches_shape: tuple[int | None, ...]) -> None:
        """Make the weights."""
        _, num_patches, width = patches_shape
        small = keras.initializers.RandomNormal(stddev=0.02)
        self.positions = self.add_weight(
            shape=(1, num_patches, width), initializer=small, name="positions"
        )
        self.token = self.add_weight(
            shape=(1, 1, width), initializer=small, name="token"
        )

    def call(self, patches: Any) -> Any:
        """Return the tokens (n, 1 + t, k)."""
        token = ops.tile(self.token, (ops.shape(patches)[0], 1, 1))
        return ops.concatenate([token, patches + self.positions], axis=1)


def encode(patches: Any) -> Any:
    """Return the class token (n, k) behind all blocks, of symbolic patches (n, t, k).

    Blocks are pre-norm, as in Dosovitskiy et al., ICLR 2021.
    """
    x = ClassToken(name="tokens")(patches)
    for number in range(NUM_BLOCKS):
        y = layers.LayerNormalization(name=f"block_{number}_norm")(x)
        attention = layers.MultiHeadAttention(NUM_HEADS, WIDTH // NUM_HEADS)
        x = layers.Add()([x, attention(y, y)])
        y = layers.Dense(2 * WIDTH, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(WIDTH)(y)])
    return layers.LayerNormalization(name="last_norm")(x)[:, 0]
