"""The command embcam, run as a person does."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_embcam.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    keras.utils.set_random_seed(0)
    keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(8, 3, activation="relu", name="first"),
            layers.Conv2D(8, 3, activation="relu", name="last"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, name="raw"),
            layers.UnitNormalization(name="unit"),
        ]
    ).save(folder / "model.keras")
    (folder / "images" / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg", "more/a.png"):
        image = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        encode = tf.io.encode_png if name.endswith("png") else tf.io.encode_jpeg
        tf.io.write_file(str(folder / "images" / name), encode(image))
    return folder


def run(folder, *arguments):
    return main(["explain", str(folder / "model.keras"), *map(str, arguments)])


def test_overlays_are_written_at_the_size_of_the_files(folder, tmp_path, capsys):
    assert run(folder, folder / "images", "--out", tmp_path / "out") == 0
    written = sorted(x.name for x in (tmp_path / "out").iterdir())
    assert written == ["a_2_heatmap.png", "a_heatmap.png", "b_heatmap.png"]
    picture = tf.io.decode_png((tmp_path / "out" / "a_heatmap.png").read_bytes())
    original = tf.io.decode_png((folder / "images" / "a.png").read_bytes())
    assert picture.shape == (40, 60, 3)
    assert np.any(picture.numpy() != original.numpy())
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "layer: last, maps of 28 x 28"
    assert printed[1] == "embedding: input of 'unit', width 4"
    assert printed[2] == "proxy: the unit embedding of each image"
    assert len(printed) == 6


def test_options_reach_the_explanation(folder, tmp_path, capsys):
    options = ["--conv-layer", "first", "--weighting", "layercam", "--pixel-range"]
    image = folder / "images" / "a.png"
    assert run(folder, image, *options, "0,1", "--out", tmp_path) == 0
    assert capsys.readouterr().out.startswith("layer: first, maps of 30 x 30")


def test_a_preset_names_its_layers(folder, tmp_path, capsys):
    image = folder / "images" / "a.png"
    assert run(folder, image, "--preset", "localize", "--out", tmp_path) == 0
    assert capsys.readouterr().out.startswith("layer: last, first, maps of 30 x 30")
    assert run(folder, image, "--preset", "localise", "--out", tmp_path) == 2
    assert "`preset` must be one of ['localize']" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.png"], "`images` must exist. Received: 'nowhere.png'"),
        (["IMAGE", "--conv-layer", "lats"], "Did you mean 'last'"),
        (["IMAGE", "--weighting", "cam"], "`weighting` must be one of"),
        (["IMAGE", "--top-channels", "9"], "`top_channels` must"),
        (["MODEL"], "Cannot read the image"),
    ],
)
def test_errors_are_one_line_and_status_2(folder, tmp_path, capsys, arguments, message):
    places = {
        "IMAGE": folder / "images" / "a.png",
        "MODEL": folder / "model.keras",
    }
    arguments = [places.get(x, x) for x in arguments]
    assert run(folder, *arguments, "--out", tmp_path) == 2
    error = capsys.readouterr().err
    assert error.startswith("embcam: error: ") and error.count("\n") == 1
    assert message in error


def test_a_missing_and_a_damaged_model(folder, tmp_path, capsys):
    image = str(folder / "images" / "a.png")
    assert main(["explain", str(tmp_path / "no.keras"), image]) == 2
    assert "There is no model" in capsys.readouterr().err
    damaged = tmp_path / "damaged.keras"
    damaged.write_bytes(b"not a zip file")
    assert main(["explain", str(damaged), image]) == 2
    error = capsys.readouterr().err
    assert error.startswith("embcam: error: ") and error.count("\n") == 1


def test_the_installed_command_shows_no_traceback(folder, tmp_path):
    finished = subprocess.run(
        [sys.executable, "-m", "keras_embcam", "explain", "no.keras", "no.png"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert finished.returncode == 2
    assert finished.stderr.splitlines()[-1] == (
        "embcam: error: There is no model 'no.keras'."
    )
    assert "Traceback" not in finished.stderr
