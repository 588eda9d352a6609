"""The small network that the tests of EmbeddingCAM explain, and what it is given."""

import keras
import numpy as np
from keras import layers

SIZE, WIDTH = 9, 4
MAP_SIZE = 7


def make_images(num_images: int = 3, size: int = SIZE) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.uniform(size=(num_images, size, size, 3)).astype("float32")


def make_proxies(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(*shape, WIDTH)).astype("float32")


def make_model(size: int | None = SIZE, seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    images = keras.Input((size, size, 3))
    x = layers.Conv2D(6, 3, activation="relu", name="conv")(images)
    x = layers.GlobalMaxPooling2D()(x)
    return keras.Model(images, layers.Dense(WIDTH, name="embedding")(x))
