"""Tests of evaluation/shared_runs.py: shared runs give the maps of explain."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_embcam import explain
from keras_embcam.evaluation import Method, evaluate

SIZE, NUM_IMAGES, BATCH_SIZE = 6, 9, 4


@pytest.fixture(scope="module")
def examples() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "image": random.normal(size=(NUM_IMAGES, SIZE, SIZE, 2)).astype("float32"),
        "label": np.arange(NUM_IMAGES) % 3,
        "bbox": np.tile(np.float32([0.1, 0.2, 0.7, 0.8]), (NUM_IMAGES, 1)),
        "segmentation_mask": random.random((NUM_IMAGES, SIZE, SIZE)) < 0.3,
    }


def count_images(seen: list[float]) -> keras.layers.Layer:
    """Return a layer that passes images on and notes the first pixel of each."""

    def note(pixels):
        seen.extend(pixels[:, 0, 0, 0].tolist())
        return pixels

    def call(x):
        return tf.ensure_shape(tf.numpy_function(note, [x], tf.float32), x.shape)

    return layers.Lambda(call)


@pytest.mark.parametrize(
    ("methods", "num_passes"),
    [
        (["uniform", "edges", "centred_gaussian"], 0),
        (["activation_sum", "single_point", "gradcam++", "layercam"], 1),
        ([Method("a"), Method("b", conv_layer="after")], 2),  # two layers
        (["single_point", "class_mean", "triplet"], 2),  # the embeddings first
        ([Method(str(m), "class_mean", top_channels=m) for m in range(1, 5)], 2),
    ],
)
def test_methods_share_the_runs_of_the_model(examples, methods, num_passes) -> None:
    seen: list[float] = []
    images = keras.Input((SIZE, SIZE, 2))
    x = count_images(seen)(images)
    x = layers.Conv2D(4, 1, activation="relu", name="conv")(x)
    x = layers.Conv2D(4, 1, name="after")(x) if "b" in map(name_of, methods) else x
    model = keras.Model(images, layers.GlobalAveragePooling2D()(x))
    marked = examples["image"].copy()
    marked[:, 0, 0, 0] = 1000 + np.arange(NUM_IMAGES)
    seen.clear()
    evaluate(
        model,
        {**examples, "image": marked},
        methods,
        batch_size=BATCH_SIZE,
        num_timings=0,
    )
    # With the first batch the layers and the range of the pixels are looked at too.
    counts = [seen.count(1000 + i) for i in range(BATCH_SIZE, NUM_IMAGES)]
    assert counts == [num_passes] * (NUM_IMAGES - BATCH_SIZE)


def name_of(method) -> str:
    return method if isinstance(method, str) else method.name


def test_maps_are_those_of_explain_at_the_size_of_the_images() -> None:
    """Coarse maps are resized, layer by layer, and options are passed on."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(6, 3, strides=2, activation="relu", name="first"),
            layers.Conv2D(5, 3, activation="relu", name="last"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4),
        ]
    )
    random = np.random.default_rng(0)
    images = random.random((5, 16, 16, 3)).astype("float32")
    class_proxies = random.normal(size=(2, 4)).astype("float32")
    labels = np.array([0, 1, 1, 0, 1])
    arguments = {
        "fine": {"conv_layer": "first", "weighting": "hirescam"},
        "given": {"proxies": class_proxies[labels], "top_channels": 3},
        "function": {"proxies": negate, "weighting": "layercam"},
        "several": {"conv_layer": ["last", "first"], "weighting": "layercam"},
        "preset": {"preset": "localize"},
    }
    methods = [
        Method("fine", **arguments["fine"]),
        Method("given", class_proxies, top_channels=3),
        Method("function", negate, weighting="layercam"),
        Method("several", **arguments["several"]),
        Method("preset", preset="localize"),
    ]
    masks = random.random((5, 16, 16)) < 0.5
    report = evaluate(
        model,
        {"image": images, "label": labels, "segmentation_mask": masks},
        methods,
        num_timings=0,
    )
    for row in report.rows:
        heat = explain(model, images, **arguments[row["method"]])
        told = heat.sum(axis=(1, 2)) > 0
        ratios = (heat * masks).sum(axis=(1, 2))[told] / heat.sum(axis=(1, 2))[told]
        assert row["heatmap_ratio_mask"] == pytest.approx(ratios.mean(), abs=1e-6)
        assert row["empty_heatmaps"] == pytest.approx(1 - told.mean())
    sizes = {row["method"]: row.get("map_size") for row in report.rows}
    assert sizes["fine"] == "7 x 7 x 6" and sizes["given"] == "5 x 5 x 5"
    assert sizes["several"] == "5 x 5 x 5, 7 x 7 x 6"


def negate(embeddings):
    return -embeddings


def test_maps_of_a_model_that_crops_lie_where_it_saw_the_image() -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((24, 36, 3)),
            layers.CenterCrop(16, 16),
            layers.Conv2D(4, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4),
        ]
    )
    images = np.random.default_rng(0).random((3, 24, 36, 3), "float32")
    boxes = np.tile(np.float32([4 / 24, 10 / 36, 20 / 24, 26 / 36]), (3, 1))
    report = evaluate(model, {"image": images, "bbox": boxes}, ["single_point"])
    # The box is what the network sees: all of the heat is in it.
    assert report.rows[0]["heatmap_ratio_bbox"] == pytest.approx(1, abs=1e-5)
