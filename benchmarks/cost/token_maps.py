"""Explaining a transformer by processor time, beside what counting says.

python -m benchmarks.cost.token_maps

A ViT of twelve blocks for 224 x 224 images, patches of 16, 192 channels, three heads, a
class token, random weights. In multiplications of one block with t = 197 and k = 192:
forward 12 t k^2 + 2 t^2 k, back 12 t k^2 + 4 t^2 k. The attention takes 2 t^2 k more to
make A and its gradient and t^3 to accumulate. See `finer_layers` for processor time.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import tensorflow as tf
from keras import layers, ops

from benchmarks.cost.finer_layers import time_processor
from benchmarks.cost.plan import compile_forward, make_images
from benchmarks.cost.timing import alternate, compare
from keras_embcam import explain

NUM_BLOCKS, TOKENS, WIDTH, HEADS, BATCH_SIZE, NUM_ROUNDS = 12, 197, 192, 3, 4, 15
LINEAR, MIXING = 12 * TOKENS * WIDTH**2, TOKENS**2 * WIDTH
FORWARD = NUM_BLOCKS * (LINEAR + 2 * MIXING) + 196 * 768 * WIDTH
BACK = LINEAR + 4 * MIXING
# Arguments of `explain`, and how much more it counts.
METHODS: dict[str, tuple[dict[str, str], int]] = {
    "element-wise, last block": ({"weighting": "hirescam"}, BACK),
    "Grad-CAM, last block": ({"weighting": "gradcam"}, BACK),
    "tokens": ({"preset": "tokens"}, NUM_BLOCKS * BACK),
    # Back from the end of each block to its attention: nine of the twelve products.
    "legrad": (
        {"preset": "legrad"},
        NUM_BLOCKS * (LINEAR * 9 // 12 + 2 * MIXING),
    ),
    "attention_gradient": (
        {"preset": "attention_gradient"},
        NUM_BLOCKS * (BACK + 2 * MIXING + TOKENS**3),
    ),
}


class ClassToken(layers.Layer):
    """Puts a class token in front of patches with learned positions."""

    def build(self, shape: Any) -> None:
        """Make the weights."""
        self.token = self.add_weight(shape=(1, 1, WIDTH), initializer="random_normal")
        self.positions = self.add_weight(
            shape=(1, shape[1], WIDTH), initializer="random_normal"
        )

    def call(self, x: Any) -> Any:
        """Return one token more."""
        token = ops.tile(self.token, (ops.shape(x)[0], 1, 1))
        return ops.concatenate([token, x + self.positions], axis=1)


def make_transformer() -> keras.Model:
    """Return the network."""
    images = keras.Input((224, 224, 3))
    x = layers.Conv2D(WIDTH, 16, 16)(layers.Rescaling(1 / 127.5, -1)(images))
    x = ClassToken()(layers.Reshape((TOKENS - 1, WIDTH))(x))
    for _ in range(NUM_BLOCKS):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(HEADS, WIDTH // HEADS)(y, y)
        y = layers.Dense(4 * WIDTH, activation="gelu")(layers.LayerNormalization()(x))
        x = x + layers.Dense(WIDTH)(y)
    return keras.Model(images, layers.Dense(128)(layers.LayerNormalization()(x)[:, 0]))


def main() -> None:
    """Print explain / forward pass: counted, the median measured and its interval."""
    model, images = make_transformer(), make_images(BATCH_SIZE, 224)
    forward, tensor = compile_forward(model), tf.constant(images)
    runs: dict[str, Callable[[], Any]] = {"forward": lambda: forward(tensor).numpy()}
    for name, (options, _) in METHODS.items():
        runs[name] = partial(explain, model, images, **options)
    seconds = alternate(
        {x: partial(time_processor, run) for x, run in runs.items()}, NUM_ROUNDS
    )
    for name, (_, more) in METHODS.items():
        median, low, high = compare(seconds[name], seconds["forward"])
        counted = 1 + more / FORWARD
        print(f"{name}: {counted:.2f} counted, {median:.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
