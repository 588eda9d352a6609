"""The small network that the tests of explain() explain, and what it is given."""

import keras
import numpy as np
from keras import layers

SIZE, WIDTH = 10, 4


def make_images(num_images: int = 5) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.uniform(size=(num_images, SIZE, SIZE, 3)).astype("float32")


def make_vectors(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(*shape, WIDTH)).astype("float32")


def make_model(activation: str | None = None) -> keras.Model:
    images = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(6, 3, activation="relu", name="first")(images)
    x = layers.Conv2D(6, 3, activation="relu", name="second")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, layers.Dense(WIDTH, activation=activation)(x))
