"""EmbeddingCAM saved, loaded in a fresh process, exported and served from there."""

import importlib.util
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_embcam import EmbeddingCAM

SIZE = 12

# What a user has in a module: a fresh process finds it there.
USER_CODE = """
import keras
from keras import layers, ops

@keras.saving.register_keras_serializable(package="user_code")
class Subclassed(keras.Model):
    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.backbone = keras.Sequential(
            [layers.Conv2D(5, 3, activation="relu"), layers.Conv2D(6, 3, name="conv")]
        )
        self.dense = layers.Dense(width)
        self.unit = layers.UnitNormalization()

    def call(self, images):
        features = ops.mean(ops.relu(self.backbone(images)), axis=(1, 2))
        return self.unit(self.dense(features))

    def get_config(self):
        return {**super().get_config(), "width": self.width}

@keras.saving.register_keras_serializable(package="user_code")
def energy(activations, gradients):
    return ops.mean(ops.square(gradients), axis=(1, 2), keepdims=True)
"""

# Runs in the fresh process: first what needs no keras_embcam, then the rest.
SCRIPT = """
import sys
from pathlib import Path
import numpy as np
import tensorflow as tf

folder = Path(sys.argv[1])
images = np.load(folder / "images.npy")
results = {}
for path in folder.glob("*.export"):
    served = tf.saved_model.load(path)  # kept while its function is called
    for name, value in zip(("y", "map"), served.serve(images)):
        results[f"export/{path.stem}/{name}"] = value.numpy()
assert "keras_embcam" not in sys.modules
sys.path.insert(0, str(folder))
import keras
import keras_embcam
import user_code
for path in folder.glob("*.keras"):
    model = keras.saving.load_model(path)
    for name, value in zip(("y", "map"), model.predict(images, verbose=0)):
        results[f"keras/{path.stem}/{name}"] = value
np.savez(folder / "results.npz", **results)
"""


def make_backbone(name: str) -> keras.Model:
    images = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(5, 3, activation="relu")(images)
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="last")(x)
    x = layers.BatchNormalization(name="norm")(x)
    return keras.Model(images, layers.ReLU(name="out")(x), name=name)


def make_nested(*, final: bool) -> keras.Model:
    images = keras.Input((SIZE, SIZE, 3))
    x = make_backbone("backbone")(layers.Rescaling(2.0)(images))
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(x))
    x = layers.Dense(4, kernel_initializer="zeros" if final else "he_normal")(x)
    return keras.Model(images, layers.UnitNormalization()(x) if final else x)


def make_models(user_code) -> dict[str, keras.Model]:
    """Return images -> (embeddings, heatmaps) of many kinds, by name."""
    subclassed = user_code.Subclassed(4)
    subclassed(np.zeros((1, SIZE, SIZE, 3), "float32"))
    sequential = keras.Sequential(
        [*make_backbone("any").layers, layers.Flatten(), layers.Dense(3)]
    )
    cams = {
        "nested": EmbeddingCAM(
            make_nested(final=False), "backbone/last", top_channels=3
        ),
        # Zeros at first, so that loading has to wait for the weights.
        "normalised": EmbeddingCAM(make_nested(final=True), weighting="layercam"),
        "sequential": EmbeddingCAM(sequential, resize=False, weighting="gradcam++"),
        "user_code": EmbeddingCAM(
            subclassed, weighting=user_code.energy, normalize=False
        ),
    }
    random = np.random.default_rng(0)
    models = {}
    for name, cam in cams.items():
        shape = (SIZE, SIZE, 3) if name == "user_code" else None
        models[name] = cam.as_model(shape)
        for weight in cam.weights:
            noise = 0.1 * random.normal(size=weight.shape)
            weight.assign(weight.value + np.abs(noise))
    return models


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> tuple[dict, dict]:
    """Return what this process and a fresh one make of the same images."""
    folder = tmp_path_factory.mktemp("saved")
    (folder / "user_code.py").write_text(textwrap.dedent(USER_CODE))
    specification = importlib.util.spec_from_file_location(
        "user_code", folder / "user_code.py"
    )
    user_code = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(user_code)
    images = np.random.default_rng(1).uniform(size=(3, SIZE, SIZE, 3))
    images = images.astype("float32")
    np.save(folder / "images.npy", images)
    expected = {}
    for name, model in make_models(user_code).items():
        expected[name] = model.predict(images, verbose=0)
        model.save(folder / f"{name}.keras")
        model.export(folder / f"{name}.export", verbose=False)
    script = Path(folder / "script.py")
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script, folder], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(folder / "results.npz") as file:
        return expected, dict(file)


@pytest.mark.parametrize("form", ["keras", "export"])
@pytest.mark.parametrize("name", ["nested", "normalised", "sequential", "user_code"])
def test_a_fresh_process_makes_the_same(results, form, name) -> None:
    expected, loaded = results
    embeddings, heatmaps = expected[name]
    assert np.all(np.isfinite(heatmaps)) and heatmaps.max() > 1e-4
    assert np.ptp(np.linalg.norm(embeddings, axis=-1)) > 1e-4  # raw, not normalised
    np.testing.assert_allclose(loaded[f"{form}/{name}/y"], embeddings, atol=1e-6)
    np.testing.assert_allclose(loaded[f"{form}/{name}/map"], heatmaps, atol=1e-6)


def test_proxies_are_served_as_a_second_input(tmp_path) -> None:
    images, proxies = keras.Input((SIZE, SIZE, 3)), keras.Input((2, 4))
    cam = EmbeddingCAM(make_nested(final=False))
    model = keras.Model([images, proxies], cam(images, proxies))
    random = np.random.default_rng(2)
    inputs = [
        random.uniform(size=(3, SIZE, SIZE, 3)).astype("float32"),
        random.normal(size=(3, 2, 4)).astype("float32"),
    ]
    expected = model.predict(inputs, verbose=0)
    assert expected[1].shape == (3, 2, SIZE, SIZE) and expected[1].max() > 0
    model.save(tmp_path / "model.keras")
    model.export(tmp_path / "export", verbose=False)
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    served = tf.saved_model.load(tmp_path / "export")
    for actual in (loaded.predict(inputs, verbose=0), served.serve(inputs)):
        np.testing.assert_allclose(actual[0], expected[0], atol=1e-6)
        np.testing.assert_allclose(actual[1], expected[1], atol=1e-6)


def test_the_layer_itself_is_saved(tmp_path) -> None:
    model = make_nested(final=False)
    cam = EmbeddingCAM(model, model.get_layer("backbone").get_layer("out"))
    images = np.random.default_rng(3).uniform(size=(2, SIZE, SIZE, 3))
    _, expected = cam(images)
    keras.saving.save_model(cam, tmp_path / "cam.keras")
    loaded = keras.saving.load_model(tmp_path / "cam.keras")
    assert loaded.method.conv_layer == "backbone/out"
    np.testing.assert_allclose(loaded(images)[1], expected, atol=1e-6)
