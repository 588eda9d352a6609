"""Every code block of the README runs."""

import re
import shlex
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_embcam.cli import main

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(), re.S)


def blocks_of(language):
    return [text for name, text in BLOCKS if name == language]


def test_every_block_is_of_a_language_that_is_run_here():
    assert {name for name, _ in BLOCKS} == {"bash", "python"}


def test_python_blocks_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    images, labels = rng.random((12, 32, 32, 3), "float32"), np.arange(12) % 3
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4),
        ]
    )
    from keras_embcam.losses import TripletSemiHardLoss

    model.compile("adam", TripletSemiHardLoss())
    names = {
        "keras": keras,
        "model": model,
        "images": images,
        "labels": labels,
        "val_images": images,
        "val_labels": labels,
        "val_boxes": np.tile(np.float32([0, 0, 1, 1]), (12, 1)),
    }
    for block in blocks_of("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert (tmp_path / "best.keras").exists()
    assert (tmp_path / "logs" / "validation").is_dir()
    assert (tmp_path / "serving_dir" / "saved_model.pb").exists()
    assert names["heatmaps"].shape == (12, 32, 32)


SHELL = [
    shlex.split(line, comments=True)
    for block in blocks_of("bash")
    for line in block.splitlines()
]


def test_make_knows_the_targets():
    for command in SHELL:
        if command[0] == "make":
            subprocess.run(["make", "-n", *command[1:]], cwd=ROOT, check=True)


def test_embcam_runs_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
        ]
    ).save("model.keras")
    photo = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    tf.io.write_file("photo.jpg", tf.io.encode_jpeg(photo))
    commands = [command for command in SHELL if command[:2] == ["embcam", "explain"]]
    assert commands
    for command in commands:
        assert main(command[1:]) == 0
    assert (tmp_path / "heatmaps" / "photo_heatmap.png").exists()


def test_the_demo_takes_the_arguments_as_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # What the demo does with birds is in test_demo.py; here it finds no folder.
    commands = [command for command in SHELL if command[:2] == ["embcam", "demo"]]
    assert commands
    for command in commands:
        assert main(command[1:]) == 2
        assert "CUB_FOLDER" in capsys.readouterr().err


@pytest.mark.parametrize("command", [x for x in SHELL if x[0] == "embcam"], ids=str)
def test_embcam_knows_the_arguments(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # An unknown argument would end the process; here only the files are missing.
    assert main(command[1:]) == 2


def test_tensorboard_takes_the_arguments_as_written(tmp_path):
    from tensorboard import default
    from tensorboard.program import TensorBoard

    for command in SHELL:
        if command[0] == "tensorboard":
            TensorBoard(default.get_plugins()).configure(command)


def test_no_other_command_is_left():
    assert {command[0] for command in SHELL} == {"make", "embcam", "tensorboard"}


@pytest.mark.parametrize(
    "link", re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text())
)
def test_links_lead_somewhere(link):
    assert (ROOT / link).exists()
