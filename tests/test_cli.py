"""The command embcam, run as a person does."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_embcam.cli
from keras_embcam import explain
from keras_embcam.cli import main
from keras_embcam.cli.quiet_start import drop_information


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
    error = capsys.readouterr().err
    assert "`--preset` must be one of " in error and "'localize'" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.png"], "`images` must exist. Received: 'nowhere.png'"),
        (["IMAGE", "--conv-layer", "lats"], "Did you mean 'last'"),
        (["IMAGE", "--weighting", "cam"], "`--weighting` must be one of"),
        (["IMAGE", "--top-channels", "9"], "`--top-channels` must"),
        (["MODEL"], "Cannot read any of the images"),
        (["IMAGE", "--preprocessing", "resnet49"], "one of these names: ['-1,1'"),
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


def start(*arguments, cwd, **variables):
    """Run the command in a process of its own, as it is installed."""
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(
        [sys.executable, "-m", "keras_embcam", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment | variables,
    )


def test_the_installed_command_shows_no_traceback(tmp_path):
    finished = start("explain", "no.keras", "no.png", cwd=tmp_path)
    assert finished.returncode == 2
    assert finished.stderr == "embcam: error: There is no model 'no.keras'.\n"


# What is said before, and instead of, TensorFlow


def test_help_does_not_load_tensorflow(tmp_path):
    """Failed before: six seconds, and seven lines of TensorFlow."""
    code = (
        "import sys; from keras_embcam.cli import main\n"
        "try: main([*sys.argv[1:]])\n"
        "except SystemExit: pass\n"
        "heavy = {'tensorflow', 'keras', 'numpy', 'cv2', 'PIL', 'ray'}\n"
        "print(sorted(heavy & {*sys.modules}), file=sys.stderr)"
    )
    for arguments in (["--help"], ["explain", "--help"], ["inspect", "no.keras"]):
        command = [sys.executable, "-c", code, *arguments]
        finished = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert finished.stderr.splitlines()[-1] == "[]"


def test_help_names_the_commands(tmp_path):
    finished = start("--help", cwd=tmp_path)
    assert finished.returncode == 0 and not finished.stderr
    for command in ("explain", "inspect", "neighbors", "evaluate", "report", "demo"):
        assert f" {command} " in finished.stdout


def test_the_lines_of_a_start_are_not_shown(folder, tmp_path):
    """Failed before: seven lines that say nothing of the model."""
    image = folder / "images" / "a.png"
    arguments = ("explain", folder / "model.keras", image, "--out", tmp_path)
    finished = start(*arguments, cwd=tmp_path)
    assert (finished.returncode, finished.stderr) == (0, "")
    no_image = ("explain", folder / "model.keras", folder / "model.keras")
    finished = start(*no_image, cwd=tmp_path, TF_CPP_MIN_LOG_LEVEL="0")
    assert finished.returncode == 2 and "absl::InitializeLog" in finished.stderr


def test_warnings_and_errors_of_tensorflow_stay():
    start_up = (
        "WARNING: All log messages before absl::InitializeLog() is called are ...\n"
        "I0000 00:00:1795272127.685724   24856 port.cc:153] oneDNN custom ...\n"
        "I0000 00:00:1795272127.686481   24856 cpu_feature_guard.cc:227] This ...\n"
        "To enable the following instructions: AVX2 AVX512F, rebuild TensorFlow.\n"
    )
    no_drivers = "I0000 00:00:1 1 cudart_stub.cc:31] Could not find cuda drivers on\n"
    no_init = "E0000 00:00:1 1 cuda_platform.cc:52] failed call to cuInit: INTERNAL\n"
    twice = "E0000 00:00:1 1 cuda_fft.cc:477] Unable to register cuFFT factory: ...\n"
    old = "2024-10-11 12:00:00.123456: I tensorflow/core/util/port.cc:153] oneDNN\n"
    warning = "W0000 00:00:1 1 gpu_device.cc:2341] Cannot dlopen some GPU libraries.\n"
    more = "  Skipping registering GPU devices...\n"
    old_warning = "2024-10-11 12:00:00.123456: W tensorflow/stream_executor: hot\n"
    print_out = "something that a library prints\n"
    assert drop_information(start_up + old + twice) == ""
    assert drop_information(start_up + no_drivers + no_init) == ""
    assert drop_information(no_init) == no_init  # where there are drivers
    kept = warning + more + old_warning
    assert drop_information(start_up + kept + old) == kept
    assert drop_information(print_out + start_up) == print_out


# Errors


def test_an_unexpected_error_keeps_its_type(folder, tmp_path, capsys, monkeypatch):
    """Failed before: a KeyError printed 'x'."""

    def fail(*_, **__):
        raise KeyError("x")

    monkeypatch.setattr(keras.models, "load_model", fail)
    image = folder / "images" / "a.png"
    assert run(folder, image, "--out", tmp_path) == 2
    error = capsys.readouterr().err
    assert error == "embcam: error: KeyError: 'x' (--debug shows where)\n"
    assert run(folder, image, "--out", tmp_path, "--debug") == 2
    error = capsys.readouterr().err
    assert error.startswith("Traceback (most recent call last)")
    assert 'raise KeyError("x")' in error
    assert error.endswith("\nembcam: error: KeyError: 'x'\n")


def test_an_interrupted_command_says_so(folder, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(keras.models, "load_model", interrupt)
    assert run(folder, folder / "images") == 130
    assert capsys.readouterr().err == "\nembcam: interrupted.\n"


def test_an_interrupted_catalogue_says_how_to_go_on(folder, capsys, monkeypatch):
    """Failed before: a traceback."""

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    catalogue = pytest.importorskip("keras_embcam.catalogue")
    monkeypatch.setattr(catalogue, "explain_catalogue", interrupt)
    arguments = ["explain-catalogue", folder / "model.keras", folder / "images"]
    assert main([*map(str, arguments), "--out", "x"]) == 130
    assert "run the same command again to go on" in capsys.readouterr().err


# Pixels


@pytest.fixture(scope="module")
def plain(folder):
    """A model that does not scale its images itself."""
    keras.utils.set_random_seed(1)
    images = keras.Input((None, None, 3))
    x = layers.Conv2D(8, 3, activation="relu")(images)
    model = keras.Model(images, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))
    model.save(folder / "plain.keras")
    return model


@pytest.mark.parametrize(
    ("options", "function"),
    [
        (["--pixel-range", "-1,1"], lambda x: x / 127.5 - 1),
        (["--pixel-range=-1,1"], lambda x: x / 127.5 - 1),
        (["--pixel-range", "0,1"], lambda x: x / 255),
        (["--preprocessing", "resnet50"], keras.applications.resnet50.preprocess_input),
        (
            ["--preprocessing", "imagenet"],
            lambda x: (
                (x / 255 - np.float32([0.485, 0.456, 0.406]))
                / np.float32([0.229, 0.224, 0.225])
            ),
        ),
    ],
)
def test_pixels_are_brought_to_what_the_model_takes(
    folder, plain, tmp_path, monkeypatch, options, function
):
    """Failed before: argparse took -1,1 for an option; there were no names."""
    drawn = []
    overlay = keras_embcam.drawing.overlay_heatmap
    monkeypatch.setattr(
        keras_embcam.drawing,
        "overlay_heatmap",
        lambda image, heatmap: (drawn.append(heatmap), overlay(image, heatmap))[1],
    )
    image = folder / "images" / "a.png"
    arguments = ["explain", folder / "plain.keras", image, "--out", tmp_path, *options]
    assert main([*map(str, arguments)]) == 0
    expected = explain(plain, [image], preprocessing_function=function)
    np.testing.assert_allclose(drawn, expected, atol=1e-5)


def test_only_one_of_range_and_preprocessing(folder, capsys):
    with pytest.raises(SystemExit):
        run(folder, "a.png", "--pixel-range", "0,1", "--preprocessing", "vgg16")
    assert "not allowed with argument" in capsys.readouterr().err


# Folders as they are


def test_files_that_cannot_be_read_are_left_out_and_named(folder, tmp_path, capsys):
    """Failed before: ended the run."""
    source = tmp_path / "photographs"
    source.mkdir()
    for name in ("a.png", "c.png"):
        content = (folder / "images" / "a.png").read_bytes()
        (source / name).write_bytes(content)
    (source / "b.png").write_bytes(b"\x00\x05\x16\x07 Mac OS X")
    assert run(folder, source, "--out", tmp_path / "out") == 0
    written = sorted(x.name for x in (tmp_path / "out").iterdir())
    assert written == ["a_heatmap.png", "c_heatmap.png"]
    error = capsys.readouterr().err
    assert error.startswith(
        "embcam: warning: 1 of 3 images cannot be read and are left"
    )
    assert "b.png" in error and error.count("\n") == 1
    assert run(folder, source, "--out", tmp_path / "out", "--strict") == 2
    assert "Cannot read the image" in capsys.readouterr().err


def test_mixed_sizes_are_explained_by_a_model_of_any_size(folder, plain, tmp_path):
    """Failed before: files of one batch must agree."""
    for name, size in (("a", (20, 30)), ("b", (30, 20)), ("c", (30, 20))):
        pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        content = tf.io.encode_png(pixels)
        tf.io.write_file(str(tmp_path / "source" / f"{name}.png"), content)
    model, source = str(folder / "plain.keras"), str(tmp_path / "source")
    assert main(["explain", model, source, "--out", str(tmp_path / "out")]) == 0
    picture = tf.io.decode_png((tmp_path / "out" / "b_heatmap.png").read_bytes())
    assert picture.shape == (30, 20, 3)
    assert len(list((tmp_path / "out").iterdir())) == 3
    sized = ["--image-size", "16", "24", "--out", str(tmp_path / "sized")]
    assert main(["explain", model, source, *sized]) == 0
    assert len(list((tmp_path / "sized").iterdir())) == 3


# embcam inspect


def test_inspect_says_what_is_explained_and_what_could_be(folder, capsys):
    """Failed before: there was no such command."""
    assert main(["inspect", str(folder / "model.keras")]) == 0
    printed = capsys.readouterr().out
    assert "images: (None, 32, 32, 3), float32" in printed
    maps, vectors = printed.split("layers with a vector")
    assert maps.index("  last (None, 28, 28, 8)") < maps.index("  first (None, 30")
    assert vectors.index("  unit (None, 4)") < vectors.index("  raw (None, 4)")
    assert printed.endswith(
        "\n\nfor images of 32 x 32:\nlayer: last, maps of 28 x 28\n"
        "embedding: input of 'unit', width 4\n"
    )
    chosen = ["--conv-layer", "first", "--embedding-layer", "raw"]
    assert main(["inspect", str(folder / "model.keras"), *chosen]) == 0
    assert "layer: first, maps of 30 x 30" in capsys.readouterr().out


def test_inspect_names_all_parallel_branches(tmp_path, capsys):
    """Failed before: the order of the towers decided which one was named."""
    images = keras.Input((16, 16, 3))
    towers = [layers.Conv2D(3, 3, name=name)(images) for name in ("left", "right")]
    x = [layers.GlobalAveragePooling2D()(tower) for tower in towers]
    keras.Model(images, layers.Concatenate()(x)).save(tmp_path / "towers.keras")
    assert main(["inspect", str(tmp_path / "towers.keras")]) == 0
    [line] = [x for x in capsys.readouterr().out.splitlines() if "layer: " in x]
    assert line in {
        f"layer: {x}, maps of 14 x 14" for x in ("left, right", "right, left")
    }


def test_inspect_lists_all_candidates_also_where_the_choice_fails(tmp_path, capsys):
    images = keras.Input((16, 16, 3))
    x = images
    for number in range(30):
        x = layers.Conv2D(2, 1, name=f"conv{number}")(x)
    x = layers.Dense(3, name="logits")(layers.GlobalAveragePooling2D()(x))
    keras.Model(images, x).save(tmp_path / "deep.keras")
    path = str(tmp_path / "deep.keras")
    assert main(["inspect", path, "--conv-layer", "cnov3"]) == 2
    printed = capsys.readouterr()
    assert "Did you mean 'conv3'" in printed.err
    assert all(f"  conv{number} (None, 16" in printed.out for number in range(30))
    assert "more before these" not in printed.out


def test_inspect_names_the_prefix_tokens_of_a_transformer(tmp_path, capsys):
    """Two tokens in front, as a class token is; patches pooled behind the block."""
    images = keras.Input((32, 32, 3))
    x = layers.Conv2D(12, 8, strides=8, name="patches")(images)
    x = layers.Reshape((16, 12), name="tokens")(x)
    x = layers.ZeroPadding1D((2, 0), name="prefix")(x)
    normed = layers.LayerNormalization(name="norm")(x)
    mixed = layers.MultiHeadAttention(2, 6, name="attention")(normed, normed)
    x = layers.Add(name="residual")([x, mixed])
    x = layers.LayerNormalization(name="final")(x)
    x = layers.Cropping1D((2, 0), name="pooled_tokens")(x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    keras.Model(images, layers.Dense(4, name="embedding")(x)).save(tmp_path / "v.keras")
    chosen = ["inspect", str(tmp_path / "v.keras"), "--conv-layer", "norm"]
    assert main(chosen) == 0
    printed = capsys.readouterr().out
    assert "layer: norm, maps of 4 x 4" in printed
    assert printed.endswith("prefix tokens: 2, which are no part of maps\n")
    candidates = printed.split("layers with a vector")[0]
    assert "  final (None, 18, 12)" in candidates
    assert "attention/" not in candidates


def test_messages_name_the_flags_of_the_command(folder, tmp_path, capsys):
    options = ("--conv-layer", "lost", "--out", tmp_path)
    assert run(folder, folder / "images", *options) == 2
    assert "`--conv-layer` must name a layer" in capsys.readouterr().err
    signed = folder / "signed.keras"
    layers_of = [keras.Input((32, 32, 3)), layers.Rescaling(2.0), layers.Conv2D(4, 3)]
    keras.Sequential([*layers_of, layers.GlobalAveragePooling2D()]).save(signed)
    images = str(folder / "images")
    assert main(["explain", str(signed), images, "--out", str(tmp_path)]) == 0
    assert "with `--preprocessing '0,1'`" in capsys.readouterr().err
