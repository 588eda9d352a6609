"""Set-up of the test process, and one small network that many tests share."""

from types import ModuleType
from typing import Any

import keras
import numpy as np
import pytest
import tab_logs as tab_logs_module
import tensorflow as tf

# Two devices for tf.distribute; TensorFlow takes this only before it is first used.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)

layers = keras.layers


class Parts:
    """Layers of one embedding network, to be put together in different ways.

    What they compute is known without keras_embcam: `expect` runs them one after the
    other under a plain tape.
    """

    def __init__(self, dtype: Any = None) -> None:
        seeds = iter(range(4))

        def conv(channels: int, size: int, **options: Any) -> Any:
            kernel = keras.initializers.GlorotUniform(next(seeds))
            return layers.Conv2D(
                channels, size, kernel_initializer=kernel, dtype=dtype, **options
            )

        self.stem = conv(4, 3, name="stem")
        self.norm = layers.BatchNormalization(name="norm", dtype=dtype)
        self.target = conv(5, 3, name="target", activation="relu")
        self.drop = layers.Dropout(0.5, name="drop", dtype=dtype)
        self.late = conv(6, 2, name="late", activation="relu")
        self.pool = layers.GlobalAveragePooling2D(name="pool", dtype=dtype)
        kernel = keras.initializers.GlorotUniform(next(seeds))
        self.dense = layers.Dense(
            3, kernel_initializer=kernel, name="dense", dtype=dtype
        )
        self.body = [self.stem, self.norm, self.target]
        self.head = [self.drop, self.late, self.pool, self.dense]
        self.all = self.body + self.head
        self.images = np.random.default_rng(1).random((2, 9, 8, 3), "float32")
        self.proxies = np.random.default_rng(2).normal(size=(2, 3)).astype("float32")
        run(self.all, self.images)
        # As after a training: the statistics are not those that layers start with.
        self.norm.moving_mean.assign([0.1, -0.2, 0.0, 0.3])
        self.norm.moving_variance.assign([0.5, 1.5, 0.1, 0.2])

    def expect(self, images: Any = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (activations, embeddings, gradients) by a plain tape."""
        activations = run(self.body, self.images if images is None else images)
        with tf.GradientTape() as tape:
            tape.watch(activations)
            embeddings = run(self.head, activations)
        proxies = tf.cast(self.proxies[: len(embeddings)], embeddings.dtype)
        gradients = tape.gradient(embeddings, activations, proxies)
        return tuple(
            keras.ops.convert_to_numpy(keras.ops.cast(x, "float32"))
            for x in (activations, embeddings, gradients)
        )

    def functional(self) -> keras.Model:
        """Return all layers in a Functional model, which is kept: views do not."""
        inputs = keras.Input((9, 8, 3))
        self.model = keras.Model(inputs, run(self.all, inputs))
        return self.model


def run(parts: list[Any], x: Any) -> Any:
    """Apply layers one after the other in inference mode."""
    for layer in parts:
        x = layer(x, training=False) if layer.name in ("norm", "drop") else layer(x)
    return x


@pytest.fixture
def parts() -> Parts:
    """Return a fresh small network in float32."""
    return Parts()


@pytest.fixture
def make_parts() -> type[Parts]:
    """Return what makes a small network in any dtype policy."""
    return Parts


@pytest.fixture(scope="session")
def tab_logs() -> ModuleType:
    """Return what makes logs for TensorBoard's tab without a training."""
    return tab_logs_module
