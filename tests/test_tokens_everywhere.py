"""One tiny transformer in every room of the package; see also test_tokens_explained."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_embcam import explain, explain_batches, pixels
from keras_embcam.callbacks import EmbeddingCAMLogger, tab_pairs
from keras_embcam.catalogue import driver
from keras_embcam.catalogue.actor import PartExplainer
from keras_embcam.cli import main
from keras_embcam.evaluation import DEFAULT_METHODS, Method, Report, evaluate
from keras_embcam.evaluation.known_methods import get_methods, prepare_methods
from keras_embcam.losses import TripletSemiHardLoss
from keras_embcam.metrics import heatmap_ratio_in_boxes
from keras_embcam.retrieval.known_pairs import map_known_pairs
from keras_embcam.transfer import GradWeightDatabase

WIDTH, SIZE = 8, 32
IMAGES = np.random.default_rng(0).integers(0, 256, (6, SIZE, SIZE, 3)).astype("float32")
BOXES = np.tile(np.float32([0, 0, 0.5, 0.75]), (len(IMAGES), 1))
LABELS = np.array([0, 0, 0, 1, 1, 1])
EXAMPLES = {"image": IMAGES, "label": LABELS, "bbox": BOXES}
# Not the grid that is found, (4, 4), so that it shows whether it is used.
STATED = {"token_grid": (2, 8), "num_prefix_tokens": 2}


@keras.saving.register_keras_serializable("tests_tokens_everywhere")
class PrefixTokens(layers.Layer):
    """Puts two tokens in front."""

    def build(self, shape: Any) -> None:
        self.tokens = self.add_weight(
            shape=(1, 2, shape[-1]), initializer="random_normal"
        )

    def call(self, x: Any) -> Any:
        return ops.concatenate(
            [ops.tile(self.tokens, (ops.shape(x)[0], 1, 1)), x], axis=1
        )


def transformer() -> keras.Model:
    """Return a ViT of one block on 4 x 4 patches, its embedding the first token."""
    keras.utils.set_random_seed(0)
    images = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(WIDTH, 8, 8)(layers.Rescaling(1 / 64, -2)(images))
    x = PrefixTokens(name="prefix")(layers.Reshape((16, WIDTH))(x))
    y = layers.LayerNormalization(name="norm1")(x)
    x = x + layers.MultiHeadAttention(2, 4, name="attention")(y, y)
    y = layers.LayerNormalization(name="norm2")(x)
    x = x + layers.Dense(WIDTH, activation="relu", name="mlp")(y)
    x = layers.LayerNormalization(name="final")(x)
    return keras.Model(images, layers.Dense(5, name="embedding")(x[:, 0]))


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """Return a ViT that no test changes."""
    return transformer()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, model: keras.Model) -> Path:
    """Return a folder with the model and a folder of two images."""
    folder = tmp_path_factory.mktemp("tokens")
    model.save(folder / "model.keras")
    for name, image in zip(("a", "b"), IMAGES, strict=False):
        encoded = tf.io.encode_png(image.astype("uint8"))
        tf.io.write_file(str(folder / "images" / f"{name}.png"), encoded)
    return folder


def ratio(model: keras.Model, **options: Any) -> float:
    """Return the mean share of heat in the boxes, over maps that have heat."""
    heatmaps = explain(model, IMAGES, **options)
    return np.nanmean(heatmap_ratio_in_boxes(heatmaps, BOXES, "rel_yxyx"))


# The share of the gradient on tokens that are no patches


def expected_shares(model: keras.Model, proxies: np.ndarray, names: list) -> np.ndarray:
    """Return the shares (n,) by a plain tape over the model cut by hand, and a loop."""
    outputs = [model.get_layer(name).output for name in names]
    cut = keras.Model(model.input, [*outputs, model.output])
    with tf.GradientTape() as tape:
        *tokens, embeddings = cut(IMAGES)
        score = tf.reduce_sum(embeddings * proxies)
    shares = np.zeros((len(IMAGES), len(names)))
    for layer, gradients in enumerate(tape.gradient(score, tokens)):
        for image in range(len(IMAGES)):
            lengths = [np.sqrt(np.sum(x.numpy() ** 2)) for x in gradients[image]]
            shares[image, layer] = sum(lengths[:2]) / sum(lengths)
    return shares.mean(axis=1)


def test_the_share_on_prefix_tokens(model: keras.Model) -> None:
    options: dict = {"weighting": "hirescam", "batch_size": 4}  # two batches
    found = explain(model, IMAGES, details=True, **options)
    units = keras.ops.normalize(found.embeddings, axis=-1)
    expected = expected_shares(model, units, ["norm1"])
    assert expected.min() > 0.01 and expected.max() < 0.99
    np.testing.assert_allclose(found.prefix_shares, expected, rtol=1e-4)


def test_the_share_of_several_proxies_and_layers(model: keras.Model) -> None:
    proxies = np.random.default_rng(1).normal(size=(6, 2, 5)).astype("float32")
    names = ["prefix", "norm1"]
    options: dict = {"conv_layer": names, "weighting": "hirescam"}
    found = explain(model, IMAGES, proxies=proxies, details=True, **options)
    assert found.prefix_shares.shape == (6, 2)
    for number in range(2):
        expected = expected_shares(model, proxies[:, number], names)
        np.testing.assert_allclose(found.prefix_shares[:, number], expected, rtol=1e-4)
        one = explain(model, IMAGES, proxies=proxies[:, number], **options)
        np.testing.assert_allclose(found.heatmaps[:, number], one, atol=1e-5)


def test_maps_have_no_share() -> None:
    convolutional = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(2, 3), layers.GlobalAveragePooling2D()]
    )
    assert explain(convolutional, IMAGES[:, :8, :8], details=True).prefix_shares is None


# What the user says about tokens, everywhere


def test_a_stream_of_batches(model: keras.Model) -> None:
    stream = tf.data.Dataset.from_tensor_slices(IMAGES).batch(4)
    batches = list(explain_batches(model, stream, **STATED))
    heatmaps = np.concatenate([batch.heatmaps for batch in batches])
    expected = explain(model, IMAGES, **STATED)
    np.testing.assert_allclose(heatmaps, expected, atol=1e-5)
    assert not np.allclose(expected, explain(model, IMAGES), atol=0.1)


def test_the_logger_in_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = transformer()
    model.compile("adam", TripletSemiHardLoss())
    sizes = []

    def map_pairs(*arguments: Any) -> Any:
        maps = map_known_pairs(*arguments)
        sizes.append(maps[0].shape[1:])
        return maps

    monkeypatch.setattr(tab_pairs, "map_known_pairs", map_pairs)
    quiet: dict = {"num_images": 0, "strict": True}
    logger = EmbeddingCAMLogger(tmp_path, EXAMPLES, **quiet, **STATED)
    history = model.fit(IMAGES, LABELS, epochs=1, verbose=0, callbacks=[logger])
    [found] = history.history["val_heatmap_ratio_bbox"]
    assert found == pytest.approx(ratio(model, **STATED), abs=1e-5)
    assert abs(found - ratio(model)) > 1e-3
    assert sizes == [STATED["token_grid"]]


def test_methods_of_a_table(model: keras.Model) -> None:
    methods = ["tokens", Method("stated", preset="tokens", **STATED)]
    found, stated = evaluate(model, EXAMPLES, methods, num_timings=0).rows
    assert found["heatmap_ratio_bbox"] == pytest.approx(ratio(model), abs=1e-5)
    expected = ratio(model, **STATED)
    assert stated["heatmap_ratio_bbox"] == pytest.approx(expected, abs=1e-5)
    assert (found["map_size"], stated["map_size"]) == ("4 x 4 x 8", "2 x 8 x 8")


def test_a_catalogue(
    saved: Path, tmp_path: Path, model: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an actor does, in this process."""
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")

    def explain_parts(parts: dict, source: Any, settings: Any, *_: Any) -> None:
        for number, part in parts.items():
            row = {"number": number, **part._asdict()}
            [report] = PartExplainer(source, settings)(
                pyarrow.Table.from_pylist([row])
            ).to_pylist()
            assert report["problem"] is None

    ray = SimpleNamespace(is_initialized=lambda: True)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(driver, "import_extra", lambda *_: None)
    monkeypatch.setattr(driver, "_explain_parts", explain_parts)
    out = tmp_path / "out"
    arguments = [saved / "model.keras", saved / "images", "--out", out]
    stated = ["--token-grid", "2,8", "--num-prefix-tokens", "2"]
    command = ["explain-catalogue", *map(str, arguments)]
    assert main([*command, *stated]) == 0
    rows = parquet.read_table(out / "part-000000.parquet").to_pylist()
    expected = explain(model, IMAGES[:2], resize=False, **STATED)
    for row, heatmap in zip(rows, expected, strict=True):
        found = tf.io.decode_png(row["heatmap"])[..., 0]
        np.testing.assert_allclose(found, 255 * heatmap, atol=0.51)
    options = json.loads((out / "_manifest.json").read_text())["options"]
    assert options["token_grid"] == [2, 8] and options["num_prefix_tokens"] == 2
    assert main([*command, "--token-grid", "8,2"]) == 2  # another catalogue


# On the command line


def run(saved: Path, command: str, *arguments: Any) -> int:
    return main([command, str(saved / "model.keras"), *map(str, arguments)])


def test_commands_take_a_grid(saved: Path, tmp_path: Path, capsys: Any) -> None:
    stated = ("--token-grid", "2,8", "--num-prefix-tokens", "2")
    assert run(saved, "inspect", *stated) == 0
    printed = capsys.readouterr().out
    assert ", maps of 2 x 8" in printed
    assert "prefix tokens: 2, which are no part of maps" in printed
    assert run(saved, "explain", saved / "images/a.png", "--out", tmp_path) == 0
    assert ", maps of 4 x 4" in capsys.readouterr().out
    found = (tmp_path / "a_heatmap.png").read_bytes()
    image = saved / "images/a.png"
    assert run(saved, "explain", image, *stated, "--out", tmp_path) == 0
    assert ", maps of 2 x 8" in capsys.readouterr().out
    assert found != (tmp_path / "a_heatmap.png").read_bytes()


def test_all_methods_of_the_table_take_a_grid(
    saved: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def note(model: Any, examples: Any, methods: Any, **options: Any) -> Report:
        seen.extend(methods)
        return Report([{"method": "none"}], {})

    monkeypatch.setattr("keras_embcam.evaluation.evaluate", note)
    images = ("--images", saved / "images")
    assert run(saved, "evaluate", *images, "--token-grid", "2,8") == 0
    assert [x.name for x in seen] == list(DEFAULT_METHODS)
    assert {(x.token_grid, x.num_prefix_tokens) for x in seen} == {((2, 8), None)}
    # Without labels those of the default that need them are left out, as ever.
    kept, (text,) = prepare_methods(seen, None, None, {"image"})
    expected = [x.name for x in get_methods(DEFAULT_METHODS) if not x.needs_labels]
    assert [x.name for x in kept] == expected and "no labels" in text


@pytest.mark.parametrize("grid", ["14", "a,b", "1,2,3"])
def test_a_grid_that_is_none(saved: Path, capsys: Any, grid: str) -> None:
    with pytest.raises(SystemExit):
        run(saved, "inspect", "--token-grid", grid)
    error = capsys.readouterr().err
    assert f"must be two whole numbers such as 14,14. Received: '{grid}'" in error


# Other explanations, and changed networks


@pytest.mark.parametrize("method", ["saliency", "guided_backpropagation"])
def test_pixel_maps(model: keras.Model, method: str) -> None:
    proxies = np.random.default_rng(2).normal(size=(6, 5)).astype("float32")
    images = tf.constant(IMAGES)
    with tf.GradientTape() as tape:
        tape.watch(images)
        score = tf.reduce_sum(model(images) * proxies)
    expected = tape.gradient(score, images).numpy()
    found = pixels.pixel_maps(model, IMAGES, proxies, method=method)
    is_same = np.allclose(found, expected, rtol=1e-3, atol=1e-6)
    assert is_same == (method == "saliency")  # the MLP has a ReLU


def test_transfer_of_channel_weights(model: keras.Model) -> None:
    database = GradWeightDatabase.fit(model, IMAGES, LABELS)
    assert database.conv_layer == "norm1"
    heatmaps = database.explain(model, IMAGES[:2], resize=False)
    tokens = keras.Model(model.input, model.get_layer("norm1").output)(IMAGES[:2])
    for number, row in enumerate(tokens.numpy()[:, 2:].reshape(2, 4, 4, WIDTH)):
        # Each image is its own nearest neighbour.
        weights = np.zeros(WIDTH)
        weights[database.channels[number]] = database.values[number]
        expected = np.maximum(row @ weights, 0)
        expected /= max(expected.max(), 1e-30)
        np.testing.assert_allclose(heatmaps[number], expected, atol=1e-4)
    with pytest.raises(ValueError, match="Only weights of channels can be lent.* belo"):
        GradWeightDatabase.fit(model, IMAGES, LABELS, weighting="layercam")


def test_low_rank_updates_show() -> None:
    model, same = transformer(), transformer()
    np.testing.assert_array_equal(explain(model, IMAGES), explain(same, IMAGES))
    dense = model.get_layer("mlp")
    dense.enable_lora(2)
    update = np.random.default_rng(3).normal(size=dense.lora_kernel_b.shape)
    dense.lora_kernel_b.assign(update)
    merged = dense.kernel  # with the update
    same.get_layer("mlp").kernel.assign(merged)
    found = explain(model, IMAGES, resize=False, details=True)
    assert found.heatmaps.shape == (6, 4, 4)
    expected = explain(same, IMAGES, resize=False, details=True)
    np.testing.assert_allclose(found.embeddings, expected.embeddings, atol=1e-5)
    np.testing.assert_allclose(found.heatmaps, expected.heatmaps, atol=1e-4)
