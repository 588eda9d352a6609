"""Handwritten digits on photographs: an honest network, and one that cheats."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_embcam.datasets import digit_scenes
from keras_embcam.demo.training import EMBEDDING, Row, mean, print_table, train
from keras_embcam.demo.vit import WIDTH, encode
from keras_embcam.drawing import draw_boxes, make_grid, overlay_heatmap
from keras_embcam.explain_at_once import explain
from keras_embcam.explanation import Explanation
from keras_embcam.metrics import (
    heatmap_ratio_in_boxes,
    localization_accuracy,
    measure_retrieval,
)
from keras_embcam.metrics.regions import place_boxes
from keras_embcam.sampling import sample_balanced_batches

Examples = dict[str, np.ndarray]

TRAIN_CLASSES = range(6)
EVALUATION_CLASSES = range(6, 10)
NUM_TRAIN_SCENES = 2600
NUM_EVALUATION_SCENES = 400
IMAGES_PER_CLASS = 10
# The probability that the background tells the class.
NETWORKS = {"honest": 0.0, "shortcut": 1.0}


def run_digits(
    out: Path,
    *,
    backbone: str = "cnn",
    loss: str | None = None,
    epochs: int | None = None,
    seed: int = 0,
) -> list[Row]:
    """Train an honest and a cheating network, compare them, and draw both.

    They learn the digits 0-5 and are evaluated on 6-9. For the second network each
    class has its own hue of background, so that it need not look at the digit: on
    scenes with the shortcut its retrieval is better, but the heat is elsewhere.

    Args:
        out: folder for a run of each network and the picture `demo.png`.
        backbone: a key of `RECIPES`.
        loss: a key of `LOSSES`; None for that of the recipe.
        epochs: of each training; None for those of the recipe.
        seed: of scenes, weights and batches.

    Returns:
        A row for each network: Recall@1 on clean scenes and on scenes with the
        shortcut, heat and localisation on clean scenes.
    """
    loss, epochs = loss or RECIPES[backbone].loss, epochs or RECIPES[backbone].epochs
    evaluation = {
        name: digit_scenes(
            NUM_EVALUATION_SCENES,
            split="evaluation",
            classes=EVALUATION_CLASSES,
            shortcut=shortcut,
            seed=seed,
        )
        for name, shortcut in NETWORKS.items()
    }
    rows, strips = [], []
    for name, shortcut in NETWORKS.items():
        print(f"\nTraining the network {name!r}: {epochs} epochs, {loss} loss")
        model = train_on_digits(
            shortcut, evaluation[name], out / name, loss, epochs, seed, backbone
        )
        rows.append(evaluate(name, model, evaluation["honest"], evaluation["shortcut"]))
        strips.append(draw_strip(model, evaluation[name]))
    print_table(rows, ["Recall@1 clean", "Recall@1 shortcut"])
    captions = [f"{name}: where it looks (box: the digit)" for name in NETWORKS]
    picture = make_grid(strips, captions, num_columns=1)
    tf.io.write_file(str(out / "demo.png"), tf.io.encode_png(picture))
    print(f"\nPicture: {out / 'demo.png'}")
    return rows


def train_on_digits(
    shortcut: float,
    validation: Examples,
    log_dir: Path,
    loss: str,
    epochs: int,
    seed: int,
    backbone: str = "cnn",
) -> keras.Model:
    """Train a small network on scenes with or without the shortcut."""
    scenes = digit_scenes(
        NUM_TRAIN_SCENES, classes=TRAIN_CLASSES, shortcut=shortcut, seed=seed
    )
    batches = sample_balanced_batches(
        scenes["image"],
        scenes["label"],
        classes_per_batch=len(TRAIN_CLASSES),
        images_per_class=IMAGES_PER_CLASS,
        seed=seed,
    )
    keras.utils.set_random_seed(seed)
    recipe = RECIPES[backbone]
    images = keras.Input(scenes["image"].shape[1:])
    return train(
        images,
        recipe.make_embeddings(images),
        batches,
        validation,
        num_classes=len(TRAIN_CLASSES),
        log_dir=log_dir,
        loss=loss,
        epochs=epochs,
        learning_rate=recipe.learning_rate,
        warmup_share=recipe.warmup_share,
    )


def make_embeddings(images: Any) -> Any:
    """Return raw embeddings (n, 32) of symbolic images (n, H, W, 3) in [0, 255]."""
    x = layers.Rescaling(1 / 127.5, -1)(images)
    for num_filters, stride in ((12, 2), (24, 2), (48, 1)):
        x = convolve(x, num_filters, stride)
    x = convolve(layers.MaxPooling2D()(x), 72)
    return layers.Dense(32, name=EMBEDDING)(layers.GlobalAveragePooling2D()(x))


def make_vit_embeddings(images: Any) -> Any:
    """As `make_embeddings`, by a vision transformer on 8 x 8 patches.

    Convolutions make the patches: with them a transformer learns from few images (Xiao
    et al., NeurIPS 2021).
    """
    x = layers.Rescaling(1 / 127.5, -1)(images)
    for num_filters in (12, 24):
        x = convolve(x, num_filters, stride=2)
    patches = layers.Conv2D(WIDTH, 2, 2, name="patches")(x)
    return layers.Dense(32, name=EMBEDDING)(
        encode(layers.Reshape((-1, WIDTH))(patches))
    )


def convolve(x: Any, num_filters: int, stride: int = 1) -> Any:
    """Return the rectified, normalised convolution of symbolic activations."""
    x = layers.Conv2D(num_filters, 3, stride, padding="same", use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization()(x))


class Recipe(NamedTuple):
    """How a kind of network is made and trained.

    Attributes:
        make_embeddings: of symbolic images.
        loss: a key of `LOSSES`.
        epochs: to train.
        learning_rate: of Adam.
        warmup_share: of the training in which it rises from zero.
    """

    make_embeddings: Callable[[Any], Any]
    loss: str
    epochs: int
    learning_rate: float
    warmup_share: float


# A transformer hardly learns from semi-hard triplets in so few steps.
RECIPES = {
    "cnn": Recipe(make_embeddings, "triplet", 6, 3e-3, 0.0),
    "vit": Recipe(make_vit_embeddings, "proxy_anchor", 14, 1e-3, 0.1),
}


def evaluate(name: str, model: keras.Model, clean: Examples, shortcut: Examples) -> Row:
    """Measure a network: heat on clean scenes, retrieval on both kinds."""
    explanation = look(model, clean["image"])
    retrievals = [
        measure_retrieval(explanation.embeddings, clean["label"]),
        measure_retrieval(look(model, shortcut["image"]).embeddings, shortcut["label"]),
    ]
    heatmaps, boxes = explanation.heatmaps, (clean["bbox"], "rel_yxyx")
    return Row(
        name,
        [retrieval["recall_at_1"] for retrieval in retrievals],
        mean(heatmap_ratio_in_boxes(heatmaps, *boxes)),
        mean(heatmap_ratio_in_boxes(np.ones_like(heatmaps), *boxes)),
        mean(localization_accuracy(heatmaps, *boxes)),
    )


def look(model: keras.Model, images: np.ndarray) -> Explanation:
    """Explain images by their own embeddings."""
    return explain(model, images, embedding_layer=EMBEDDING, details=True)


def draw_strip(model: keras.Model, examples: Examples, num_images: int = 8) -> Any:
    """Draw what a network looks at on the first scenes, side by side."""
    images = examples["image"][:num_images]
    heatmaps = look(model, images).heatmaps
    boxes = place_boxes(examples["bbox"][:num_images], "rel_yxyx", heatmaps)
    pictures = []
    for image, heatmap, box in zip(images, heatmaps, np.asarray(boxes), strict=True):
        large = cv2.resize(image, None, fx=2, fy=2)
        pictures.append(draw_boxes(overlay_heatmap(large, heatmap), box * 2))
    return make_grid(pictures, num_columns=num_images)
