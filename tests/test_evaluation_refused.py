"""What keras_embcam.evaluation refuses, and the examples of its docstrings."""

import doctest
import importlib

import keras
import numpy as np
import pytest
from keras import layers

from keras_embcam import evaluation
from keras_embcam.evaluation import Method, evaluate

SIZE, NUM_IMAGES = 6, 9


@pytest.fixture(scope="module")
def network() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 2)),
            layers.Conv2D(4, 1, activation="relu", name="conv"),
            layers.GlobalAveragePooling2D(),
        ]
    )


@pytest.fixture(scope="module")
def examples() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "image": random.normal(size=(NUM_IMAGES, SIZE, SIZE, 2)).astype("float32"),
        "label": np.arange(NUM_IMAGES) % 3,
        "bbox": np.tile(np.float32([0.1, 0.2, 0.7, 0.8]), (NUM_IMAGES, 1)),
        "segmentation_mask": random.random((NUM_IMAGES, SIZE, SIZE)) < 0.3,
    }


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"methods": ["single_pint"]}, r"`methods` must be among \['uniform'"),
        ({}, {"methods": [3]}, "must hold names and `Method` objects. Received: 3"),
        ({}, {"methods": []}, "at least one method, each name once"),
        ({}, {"methods": ["edges", "edges"]}, r"each name once. Received: \['edges'\]"),
        ({}, {"metrics": ["ratio"]}, r"`metrics` must be among .* Received: \['ratio'"),
        (
            {"bbox": None},
            {"metrics": ["heatmap_ratio_bbox"]},
            "'heatmap_ratio_bbox': 'bbox'",
        ),
        (
            {"bbox": None, "segmentation_mask": None},
            {},
            '"bbox" or a "segmentation_mask" to measure on',
        ),
        (
            {"segmentation_mask": np.ones((NUM_IMAGES, SIZE, SIZE), "uint8")},
            {"mask_foreground": 7},
            r"mask_foreground=7 and masks with the values \[1\]",
        ),
        ({"label": None}, {"methods": ["class_mean"]}, 'examples with a "label"'),
        ({"bbox": None}, {"calibration_examples": {}}, "choose thresholds for boxes"),
        (
            {"bbox": np.tile(np.float32([1, 2, 4, 5]), (NUM_IMAGES, 1))},
            {"methods": ["uniform"]},
            "No box of `examples` has an area .* Did you mean .*='yxyx'",
        ),
        ({}, {"faithfulness_images": -1}, "`faithfulness_images` must be an integer"),
        ({}, {"num_timings": 0.5}, "`num_timings` must be an integer >= 0"),
        ({}, {"methods": [Method("x", heatmaps=lambda x: x)]}, "must have the shape"),
        (
            {},
            {"methods": [Method("x", heatmaps=lambda x: -np.ones(x.shape[:3]))]},
            "be >= 0. Received .* least value -1.0",
        ),
        (
            {},
            {
                "methods": [
                    Method("x", "triplet", weighting="layercam", conv_layer=["conv"])
                ]
            },
            "averages the weights of sampled triplets, which goes with one layer",
        ),
    ],
)
def test_errors(network, examples, changes, options, message) -> None:
    changed = {**examples, **changes}
    if "calibration_examples" in options:
        options = {"calibration_examples": examples}
    with pytest.raises((ValueError, TypeError), match=message):
        evaluate(network, changed, **{"num_timings": 0, **options})


def test_methods_on_two_embeddings_are_refused(network, examples) -> None:
    methods = [Method("a", embedding_layer="one"), Method("b", embedding_layer="two")]
    with pytest.raises(ValueError, match=r"on one embedding.*\['one', 'two'\]"):
        evaluate(network, examples, methods)


def test_methods_that_differ_in_their_proxy_alone_are_not_equal() -> None:
    assert Method("x", "class_mean") != Method("x")
    assert len({Method("x"), Method("x")}) == 2
    assert Method("x", "class_mean").core == Method("y").core


def test_errors_of_a_method() -> None:
    with pytest.raises(ValueError, match=r"`proxy` must be one of \('single_point'"):
        Method("x", "mean")
    with pytest.raises(ValueError, match="`proxy` must be one of"):
        Method("x", np.zeros(3))
    with pytest.raises(ValueError, match="`weighting` must be one of"):
        Method("x", weighting="cam")
    with pytest.raises(ValueError, match="`preset` must be one of"):
        Method("x", preset="localise")
    with pytest.raises(ValueError, match="`top_channels` must"):
        Method("x", top_channels=0)
    with pytest.raises(ValueError, match="`num_triplets` must be at least 1"):
        Method("x", num_triplets=0)
    with pytest.raises(ValueError, match="one of `database` and `heatmaps`"):
        Method("x", database=object(), heatmaps=np.ones_like)
    with pytest.raises(ValueError, match="leave `resize` and `normalize` at True"):
        Method("x", resize=False)
    with pytest.raises(ValueError, match="`share` of each side"):
        evaluation.central_box(1.5)


@pytest.mark.parametrize(
    "name",
    [
        "baselines",
        "compared_method",
        "comparison",
        "correlation",
        "known_methods",
        "measure",
        "report",
        "sample",
        "set_proxies",
        "several_models",
        "shared_runs",
        "whole_set",
    ],
)
def test_doctests(name: str) -> None:
    module = importlib.import_module(f"keras_embcam.evaluation.{name}")
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


def test_models_of_several_inputs_are_refused(examples: dict) -> None:
    images, meta = keras.Input((SIZE, SIZE, 2)), keras.Input((3,), name="meta")
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 1)(images))
    model = keras.Model([images, meta], layers.Concatenate()([x, meta]))
    with pytest.raises(ValueError, match="models of one input, .*'meta'"):
        evaluate(model, {**examples, "meta": np.zeros((NUM_IMAGES, 3))})
