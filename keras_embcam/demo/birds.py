"""Real birds: fine-tune a network on half of the species, watch it on the others."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_embcam.datasets import cub200
from keras_embcam.demo.training import EMBEDDING, Row, mean, print_table, train
from keras_embcam.explain_in_batches import explain_batches
from keras_embcam.metrics import (
    heatmap_ratio_in_boxes,
    localization_accuracy,
    measure_retrieval,
)
from keras_embcam.sampling import sample_balanced_batches

IMAGE_SIZE = 224
CLASSES_PER_BATCH = 8
IMAGES_PER_CLASS = 4
# Only the last block learns: an epoch takes two cores a minute.
FIRST_TRAINED_LAYER = "block_16_expand"


def run_birds(
    out: Path,
    folder: Path,
    *,
    weights: Path | None = None,
    loss: str = "triplet",
    epochs: int = 4,
    seed: int = 0,
) -> list[Row]:
    """Fine-tune a MobileNetV2 on the first half of the species of a CUB folder.

    Args:
        out: folder for the logs.
        folder: in the layout of CUB-200-2011, see `cub200`.
        weights: of a MobileNetV2 without top, for images in [-1, 1]; None for random
            ones, which takes far more images and epochs.
        loss: a key of `LOSSES`.
        epochs: to train.
        seed: of weights and batches.

    Returns:
        Rows "before" and "after": Recall@1 on the unseen half of the species, the
        heat inside the boxes and localisation there.
    """
    keras.utils.set_random_seed(seed)
    images = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3))
    flipped = layers.RandomFlip("horizontal")(images)  # while training only
    backbone = keras.applications.MobileNetV2(
        input_tensor=layers.Rescaling(1 / 127.5, -1)(flipped),
        include_top=False,
        weights=None if weights is None else str(weights),
    )
    freeze_below(backbone, FIRST_TRAINED_LAYER if weights is not None else None)
    embeddings = layers.GlobalAveragePooling2D(name=EMBEDDING)(backbone.output)
    evaluation = cub200(folder, split="second_half", image_size=IMAGE_SIZE).batch(32)
    rows = [evaluate("before", keras.Model(images, embeddings), evaluation)]
    birds, labels = load(cub200(folder, split="first_half", image_size=IMAGE_SIZE))
    batches = sample_balanced_batches(
        birds,
        labels,
        classes_per_batch=CLASSES_PER_BATCH,
        images_per_class=IMAGES_PER_CLASS,
        seed=seed,
    )
    print(f"\nTraining on {len(birds)} birds: {epochs} epochs, {loss} loss")
    model = train(
        images,
        embeddings,
        batches,
        evaluation,
        num_classes=int(labels.max()) + 1,
        log_dir=out / "birds",
        loss=loss,
        epochs=epochs,
        learning_rate=3e-5,  # chosen on classes 6-10 after training on 1-5
    )
    rows.append(evaluate("after", model, evaluation))
    print_table(rows, ["Recall@1 unseen"])
    return rows


def freeze_below(backbone: keras.Model, first_trained: str | None) -> None:
    """Let only a layer and what comes behind it learn; None for all.

    Batch normalisation keeps its statistics with it: those of a few small batches
    would change the features more than the training does.
    """
    behind = first_trained is None
    for layer in backbone.layers:
        behind = behind or layer.name == first_trained
        is_norm = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = first_trained is None or (behind and not is_norm)


def load(birds: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return all images and labels of a small data set as arrays."""
    examples = list(birds.as_numpy_iterator())
    images = np.stack([example["image"] for example in examples])
    return images, np.array([example["label"] for example in examples])


def evaluate(name: str, model: keras.Model, birds: tf.data.Dataset) -> Row:
    """Measure retrieval and heat on a data set of birds with boxes."""
    embeddings, labels = [], []
    ratios: dict[str, list[Any]] = {"own": [], "uniform": [], "found": []}
    explanations = explain_batches(model, birds, embedding_layer=EMBEDDING)
    for batch, explanation in zip(birds, explanations, strict=True):
        heatmaps, boxes = explanation.heatmaps, (batch["bbox"], "rel_yxyx")
        embeddings.append(explanation.embeddings)
        labels.append(batch["label"])
        uniform = np.ones_like(heatmaps)
        ratios["own"].append(heatmap_ratio_in_boxes(heatmaps, *boxes))
        ratios["uniform"].append(heatmap_ratio_in_boxes(uniform, *boxes))
        ratios["found"].append(localization_accuracy(heatmaps, *boxes))
    retrieval = measure_retrieval(np.concatenate(embeddings), np.concatenate(labels))
    means = {key: mean(np.concatenate(values)) for key, values in ratios.items()}
    recalls = [retrieval["recall_at_1"]]
    return Row(name, recalls, means["own"], means["uniform"], means["found"])
