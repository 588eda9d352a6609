"""The command embcam evaluate, run as a person does."""

import json
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_embcam import context_ratio
from keras_embcam.cli import main
from keras_embcam.datasets import cub200
from keras_embcam.evaluation import evaluate

SIZE = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a model and twelve pictures of four classes, as CUB's."""
    folder = tmp_path_factory.mktemp("evaluate")
    keras.utils.set_random_seed(0)
    keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(8, 3, activation="relu", name="first"),
            layers.Conv2D(8, 3, activation="relu", name="last"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, name="raw"),
        ]
    ).save(folder / "model.keras")
    random = np.random.default_rng(0)
    tables: dict[str, list[str]] = {
        "images.txt": [],
        "image_class_labels.txt": [],
        "bounding_boxes.txt": [],
        "train_test_split.txt": [],
    }
    for number in range(12):
        path = f"{number % 4}/{number}.png"
        picture = random.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        tf.io.write_file(str(folder / "birds/images" / path), tf.io.encode_png(picture))
        tables["images.txt"].append(f"{number} {path}")
        tables["image_class_labels.txt"].append(f"{number} {number % 4}")
        tables["bounding_boxes.txt"].append(f"{number} 5.0 {number} 10.0 8.0")
        tables["train_test_split.txt"].append(f"{number} 1")
    tables["classes.txt"] = [f"{number} bird{number}" for number in range(4)]
    for name, lines in tables.items():
        (folder / "birds" / name).write_text("\n".join(lines))
    return folder


def run(folder, *arguments) -> int:
    return main(["evaluate", str(folder / "model.keras"), *map(str, arguments)])


def test_a_table_of_a_cub_folder(folder, tmp_path, capsys) -> None:
    arguments = ["--cub", folder / "birds", "--methods", "uniform, class_mean"]
    options = ["--framing", "centre_crop", "--calibration-split", "first_half"]
    out = tmp_path / "out"
    assert run(folder, *arguments, *options, "--sensitivity", "--out", out) == 0
    printed = capsys.readouterr().out
    assert "model: model.keras" in printed
    assert "images: 6\nframing: resize and centre crop" in printed
    assert "thresholds of MaxBoxAcc: chosen on 6 other images" in printed
    assert "images from: birds, split second_half" in printed
    assert "| class_mean | class_mean | gradcam | last | 12 x 12 x 8 |" in printed
    content = json.loads((out / "table.json").read_text())
    expected = evaluate(
        keras.models.load_model(folder / "model.keras"),
        cub200(
            folder / "birds",
            split="second_half",
            image_size=SIZE,
            framing="centre_crop",
        ),
        ["uniform", "class_mean"],
        num_timings=0,
    )
    for row, other in zip(content["rows"], expected.rows, strict=True):
        assert row["heatmap_ratio_bbox"] == pytest.approx(
            other["heatmap_ratio_bbox"], abs=1e-6
        )
        assert row["localization_accuracy_0.2"] == other["localization_accuracy_0.2"]
    assert set(content["curves"]) == {
        "Localisation accuracy by threshold",
        "Heatmap ratio by top channels",
    }
    assert (out / "heatmap_ratio_by_top_channels.png").exists()


def test_faithfulness_of_plain_images(folder, capsys) -> None:
    """Folders are classes, and what needs a box is not in the table."""
    images = [folder / "birds/images" / name for name in "0123"]
    arguments = ["--images", *images, "--methods", "edges,class_mean"]
    assert run(folder, *arguments, "--faithfulness", 4, "--conv-layer", "first") == 0
    printed = capsys.readouterr().out
    assert "own cell of 4" in printed and "ratio bbox" not in printed
    assert "| class_mean | class_mean | gradcam | first | 14 x 14 x 8 |" in printed
    assert "images: 12" in printed and "images from: 0, 1, 2, 3" in printed


def test_an_unreadable_file_is_left_out_unless_strict(folder, tmp_path, capsys) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    arguments = [folder / "birds/images/0", tmp_path, "--methods", "uniform"]
    arguments = ["--images", *arguments, "--faithfulness", 2]
    assert run(folder, *arguments) == 0
    printed = capsys.readouterr().out
    assert "images: 3\n" in printed
    assert "cannot be read: 1 examples: Cannot read the image" in printed
    assert "bad.png" in printed
    assert run(folder, *arguments, "--strict") == 2
    assert "bad.png" in capsys.readouterr().err


def test_several_models_are_rows_unless_their_average_is_asked_for(
    folder, tmp_path, capsys
) -> None:
    keras.utils.set_random_seed(9)
    model = keras.models.clone_model(keras.models.load_model(folder / "model.keras"))
    model.save(tmp_path / "other.keras")
    arguments = ["--cub", folder / "birds", "--methods", "single_point"]
    several = [tmp_path / "other.keras", *arguments]

    def rows(models) -> list[dict]:
        assert run(folder, *models, "--out", tmp_path / "out") == 0
        return json.loads((tmp_path / "out/table.json").read_text())["rows"]

    first, second = rows(several)
    assert (first["model"], second["model"]) == ("model.keras", "other.keras")
    assert "| other.keras | single_point |" in capsys.readouterr().out
    (alone,) = rows(arguments)
    assert first["heatmap_ratio_bbox"] == alone["heatmap_ratio_bbox"]
    assert first["heatmap_ratio_bbox"] != second["heatmap_ratio_bbox"]
    (mean,) = rows([*several, "--average"])
    expected = (first["heatmap_ratio_bbox"] + second["heatmap_ratio_bbox"]) / 2
    assert mean["heatmap_ratio_bbox"] == pytest.approx(expected)
    assert "std models" in capsys.readouterr().out


def test_the_context_ratio_stands_among_the_settings(folder, capsys) -> None:
    arguments = ["--cub", folder / "birds", "--split", "all", "--methods", "uniform"]
    assert run(folder, *arguments) == 0
    assert "context ratio" not in capsys.readouterr().out
    assert run(folder, *arguments, "--context-ratio") == 0
    printed = capsys.readouterr().out
    examples = cub200(
        folder / "birds", split="all", image_size=SIZE, framing="full_frame"
    )
    # As `evaluate` gives them to the model; covers of integers would be rounded.
    examples = examples.map(lambda x: {**x, "image": tf.cast(x["image"], "float32")})
    model = keras.models.load_model(folder / "model.keras")
    for row in context_ratio(model, examples).rows:
        expected = (
            f"context ratio ({row.cover} cover, {row.sides}): {row.ratio:.3f} = "
            f"Recall@1 {row.object_covered:.3f} without the object"
        )
        assert expected in printed


def test_models_of_one_file_name_are_told_apart(folder, tmp_path, capsys) -> None:
    keras.models.load_model(folder / "model.keras").save(tmp_path / "model.keras")
    arguments = ["--cub", folder / "birds", "--methods", "uniform"]
    assert run(folder, tmp_path / "model.keras", *arguments) == 0
    printed = capsys.readouterr().out
    assert f"| {folder / 'model.keras'} | uniform |" in printed
    assert f"| {tmp_path / 'model.keras'} | uniform |" in printed


def test_different_architectures_are_not_averaged(folder, tmp_path, capsys) -> None:
    wide = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            layers.Conv2D(5, 3),
            layers.GlobalAveragePooling2D(),
        ]
    )
    wide.save(tmp_path / "wide.keras")
    # The folder is missing: architectures are compared before images are looked at.
    arguments = ["--cub", "nowhere", "--methods", "uniform", "--average"]
    assert run(folder, tmp_path / "wide.keras", *arguments) == 2
    assert "trainings of one architecture" in capsys.readouterr().err
    assert run(folder, folder / "model.keras", *arguments) == 2
    assert "Each model must be named once" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("missing", "options"),
    [("scipy.stats", ["--faithfulness", 2]), ("matplotlib.figure", ["--out", "x"])],
)
def test_what_is_missing_is_said_before_a_model_is_loaded(
    folder, capsys, monkeypatch, missing, options
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr(keras.models, "load_model", None)
    arguments = ["--cub", folder / "birds", "--methods", "uniform", *options]
    assert run(folder, *arguments) == 2
    assert "keras-embcam[evaluation]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--cub", "BIRDS", "--calibration-split", "all"],
            "must have no images of --split",
        ),
        (
            ["--images", "IMAGES", "--sensitivity"],
            "are for --cub, which has boxes. Received --images together with "
            "--sensitivity",
        ),
        (
            ["--images", "IMAGES", "--context-ratio"],
            "are for --cub, which has boxes. Received --images together with "
            "--context-ratio",
        ),
        (
            ["--cub", "BIRDS", "--methods", "activation_sum", "--sensitivity"],
            "needs a method that weighs channels",
        ),
        (
            ["--cub", "BIRDS", "--methods", "cam"],
            "`--methods` must be among ['uniform'",
        ),
        (["--cub", "nowhere"], "classes.txt is missing"),
        (["--images", "IMAGES"], '"bbox" or a "segmentation_mask" to measure on'),
        (
            ["--images", "IMAGES", "--calibration-split", "all"],
            "Received --images together with --calibration-split",
        ),
        (["--cub", "BIRDS", "--conv-layer", "lats"], "Did you mean 'last'"),
    ],
)
def test_errors_are_one_line_and_status_2(folder, capsys, arguments, message) -> None:
    places = {"BIRDS": folder / "birds", "IMAGES": folder / "birds/images"}
    assert run(folder, *[places.get(x, x) for x in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("embcam: error: ") and error.count("\n") == 1
    assert message in error


def test_a_missing_model(tmp_path, capsys) -> None:
    assert run(tmp_path, "--cub", tmp_path) == 2
    assert "There is no model" in capsys.readouterr().err
