"""What several test files build: arrays, files, photographs and real weights."""

import os
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

# Photographs and weights that are no part of the project: CUB-200-2011 (Wah et al.
# 2011) and MobileNetV2.
ROOT = Path(__file__).parents[1]
DATA = ROOT / (os.environ.get("KERAS_EMBCAM_TEST_DATA") or "../shared/data")
BIRDS = DATA / "CUB_mini"
BIRD_WEIGHTS = DATA / "weights" / "mnv2_inat_bird_dequant_notop.weights.h5"
needs_birds = pytest.mark.skipif(
    not (BIRDS.is_dir() and BIRD_WEIGHTS.is_file()),
    reason=f"no birds and weights in {DATA}: set KERAS_EMBCAM_TEST_DATA",
)


def make_bird_network(height: int = 224, width: int = 224) -> keras.Model:
    """Return MobileNetV2 of birds with its pooled features as the embedding."""
    backbone = keras.applications.MobileNetV2(
        input_shape=(height, width, 3), include_top=False, weights=str(BIRD_WEIGHTS)
    )
    pooled = keras.layers.GlobalAveragePooling2D()(backbone.output)
    return keras.Model(backbone.input, pooled)


def make_units(
    num_entries: int, width: int = 16, num_classes: int = 40, seed: int = 0
) -> np.ndarray:
    """Return unit vectors in clusters, as those of a trained network are."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(num_classes, width))
    vectors = centres[random.integers(num_classes, size=num_entries)]
    vectors = vectors + 0.5 * random.normal(size=vectors.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype("float32")


def hide_module(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """Let imports of a library fail, as where it is not installed."""
    for name in [module, *sys.modules]:
        if name.split(".")[0] == module:
            monkeypatch.setitem(sys.modules, name, None)


def encode_image(seed: int) -> bytes:
    """Return a PNG file of random pixels; every seed has its own size."""
    rng = np.random.default_rng(seed)
    shape = (20 + seed, 30, 3)
    return tf.io.encode_png(rng.integers(0, 256, shape, dtype=np.uint8)).numpy()
