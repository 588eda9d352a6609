"""The demo: it runs, and it teaches."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_embcam.cli import main
from keras_embcam.demo import LOSSES, birds, digits, training
from keras_embcam.network.view import ModelView

pytest.importorskip("sklearn", reason="scikit-learn is not installed (extra [demo])")


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(digits, "NUM_TRAIN_SCENES", 120)
    monkeypatch.setattr(digits, "NUM_EVALUATION_SCENES", 16)


def test_digits(small, tmp_path, capsys):
    out = tmp_path / "demo"
    assert main(["demo", "--epochs", "1", "--out", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == (
        f"tensorboard --logdir {out} --samples_per_plugin images=1000"
    )
    table = [line.split() for line in printed]
    assert [line[0] for line in table if line[:1] in (["honest"], ["shortcut"])] == [
        "honest",
        "shortcut",
    ]
    picture = tf.io.decode_png((out / "demo.png").read_bytes())
    assert picture.shape[1] == 8 * 128 + 7 * 4
    for network in ("honest", "shortcut"):
        assert list((out / network / "validation").glob("*tfevents*"))
    report = (out / "report.html").read_text()
    assert '"honest/validation"' in report and '"shortcut/validation"' in report


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_every_loss_trains(small, tmp_path, loss):
    examples = {
        "image": np.zeros((4, 64, 64, 3), "uint8"),
        "label": np.array([6, 6, 7, 7]),
    }
    model = digits.train_on_digits(0.0, examples, tmp_path, loss, 1, 0)
    assert np.isfinite(digits.look(model, examples["image"]).embeddings).all()


def test_the_transformer_is_explained_by_its_patches():
    """The slow test below trains it."""
    keras.utils.set_random_seed(0)
    images = keras.Input((64, 64, 3))
    model = keras.Model(images, digits.RECIPES["vit"].make_embeddings(images))
    view = ModelView(model, embedding_layer=digits.EMBEDDING)
    assert (view.conv_layer, view.map_size) == ("block_1_norm", (8, 8))
    assert view.num_prefix_tokens == 1


def test_the_rate_rises_first_if_asked_for():
    falling, rising = (training.make_schedule(0.5, 100, share) for share in (0, 0.1))
    rates = [float(falling(step)) for step in (0, 50, 100)]
    np.testing.assert_allclose(rates, [0.5, 0.25, 0], atol=1e-6)
    rates = [float(rising(step)) for step in (0, 5, 10, 55, 100)]
    np.testing.assert_allclose(rates, [0, 0.25, 0.5, 0.25, 0], atol=1e-6)


def write_birds(folder, num_classes=16, images_per_class=4):
    """A tiny folder in the layout of CUB-200-2011."""
    rng = np.random.default_rng(0)
    tables = {
        name: []
        for name in (
            "classes",
            "images",
            "image_class_labels",
            "bounding_boxes",
            "train_test_split",
        )
    }
    number = 0
    for label in range(1, num_classes + 1):
        name = f"{label:03d}.Bird"
        tables["classes"].append(f"{label} {name}")
        for index in range(images_per_class):
            number += 1
            tables["images"].append(f"{number} {name}/{index}.png")
            tables["image_class_labels"].append(f"{number} {label}")
            tables["bounding_boxes"].append(f"{number} 8.0 8.0 16.0 16.0")
            tables["train_test_split"].append(f"{number} 1")
            image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            path = folder / "images" / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tf.io.encode_png(image).numpy())
    for name, lines in tables.items():
        (folder / f"{name}.txt").write_text("\n".join(lines))


def make_small_backbone(*, input_tensor, include_top, weights):
    """Return two blocks in place of a MobileNetV2, of which the demo trains one."""
    assert not include_top
    x = layers.Conv2D(4, 3, strides=4, activation="relu")(input_tensor)
    x = layers.Conv2D(8, 3, strides=2, name=birds.FIRST_TRAINED_LAYER)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    backbone = keras.Model(keras.utils.get_source_inputs(input_tensor), x)
    if weights is not None:
        backbone.load_weights(weights)
    return backbone


def test_birds(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(birds, "IMAGE_SIZE", 64)
    monkeypatch.setattr(keras.applications, "MobileNetV2", make_small_backbone)
    write_birds(tmp_path / "cub")
    weights = tmp_path / "start.weights.h5"
    images = layers.RandomFlip("horizontal")(keras.Input((64, 64, 3)))
    make_small_backbone(
        input_tensor=layers.Rescaling(1 / 127.5, -1)(images),
        include_top=False,
        weights=None,
    ).save_weights(weights)
    out = tmp_path / "out"
    arguments = ["--data", str(tmp_path / "cub"), "--weights", str(weights)]
    assert main(["demo", *arguments, "--epochs", "1", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "before" in printed and "after" in printed
    assert f"tensorboard --logdir {out}" in printed
    assert list((out / "birds" / "validation").glob("*tfevents*"))


def test_only_the_last_block_learns():
    images = keras.Input((32, 32, 3))
    backbone = keras.applications.MobileNetV2(
        input_tensor=images, include_top=False, weights=None, alpha=0.35
    )
    birds.freeze_below(backbone, birds.FIRST_TRAINED_LAYER)
    trained = [layer.name for layer in backbone.layers if layer.trainable]
    assert trained[0] == "block_16_expand" and trained[-1] == "out_relu"
    assert not any("BN" in name or name.endswith("_bn") for name in trained)
    birds.freeze_below(backbone, None)
    assert all(layer.trainable for layer in backbone.layers)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "w.h5"], "--weights is for birds"),
        (["--epochs", "0"], "--epochs must be at least 1"),
        (["--data", "nowhere"], "nowhere"),
        (["--data", ".", "--backbone", "vit"], "--backbone is for digits"),
    ],
)
def test_errors(tmp_path, capsys, arguments, message):
    assert main(["demo", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_is_not_empty_is_refused(tmp_path, capsys):
    (tmp_path / "old").touch()
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("backbone", sorted(digits.RECIPES))
@pytest.mark.parametrize("seed", range(5))
def test_the_shortcut_shows_in_the_heatmap_ratio(tmp_path, seed, backbone):
    honest, shortcut = digits.run_digits(tmp_path, backbone=backbone, seed=seed)
    print(f"\nseed {seed}: {honest}\n{shortcut}")
    assert shortcut.heatmap_ratio <= honest.heatmap_ratio - 0.1
    # Retrieval on scenes with the shortcut looks better than it is.
    assert shortcut.recalls[1] > honest.recalls[1] > shortcut.recalls[0]
