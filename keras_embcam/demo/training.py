"""What both demos share: losses, the training with the logger, the table."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_embcam import losses
from keras_embcam.layers import Proxies

EMBEDDING = "embedding"  # name of its layer, which `Proxies` may follow

# Name of a loss: how it is made, and whether it takes similarities to proxies.
LOSSES: dict[str, tuple[Callable[[], keras.losses.Loss], bool]] = {
    "triplet": (losses.TripletSemiHardLoss, False),
    "margin": (losses.MarginLoss, False),
    "proxy_anchor": (losses.ProxyAnchorLoss, True),
    "proxy_nca": (losses.ProxyNCALoss, True),
}


class Row(NamedTuple):
    """A line of the table; all values are shares between 0 and 1."""

    network: str
    recalls: list[float]
    heatmap_ratio: float
    uniform: float
    localization: float


def train(
    images: Any,
    embeddings: Any,
    batches: tf.data.Dataset,
    validation: Any,
    *,
    num_classes: int,
    log_dir: Path,
    loss: str,
    epochs: int,
    learning_rate: float,
    warmup_share: float = 0.0,
) -> keras.Model:
    """Train a network of metric learning with the logger on.

    Args:
        images: symbolic input of the network.
        embeddings: symbolic raw embeddings (n, d), of the layer `EMBEDDING`.
        batches: of images and labels.
        validation: examples for the logger.
        num_classes: of the training, for losses with proxies.
        log_dir: where TensorBoard finds the run.
        loss: a key of `LOSSES`.
        epochs: to train.
        learning_rate: of Adam, falling to zero along a cosine.
        warmup_share: of the training in which the rate rises from zero first.

    Returns:
        The trained model.
    """
    # Callbacks stand on top of the package: nothing imports them when it is imported.
    from keras_embcam.callbacks import EmbeddingCAMLogger

    make_loss, takes_similarities = LOSSES[loss]
    outputs = embeddings
    if takes_similarities:
        outputs = Proxies(num_classes, name="proxies")(embeddings)
    model = keras.Model(images, outputs)
    schedule = make_schedule(learning_rate, epochs * len(batches), warmup_share)
    model.compile(keras.optimizers.Adam(schedule), make_loss())
    model.fit(
        batches.prefetch(tf.data.AUTOTUNE),
        epochs=epochs,
        shuffle=False,  # the batches are drawn anew for each epoch
        verbose=2,
        callbacks=[
            EmbeddingCAMLogger(log_dir, validation, embedding_layer=EMBEDDING),
            keras.callbacks.TensorBoard(log_dir),
        ],
    )
    return model


def make_schedule(learning_rate: float, num_steps: int, warmup_share: float) -> Any:
    """Return a rate that rises from zero, if asked for, and falls along a cosine."""
    num_rising = int(warmup_share * num_steps)
    return keras.optimizers.schedules.CosineDecay(
        0.0 if num_rising else learning_rate,
        num_steps - num_rising,
        warmup_target=learning_rate if num_rising else None,
        warmup_steps=num_rising,
    )


def print_table(rows: list[Row], recall_names: list[str]) -> None:
    """Print the rows under a header."""
    names = "".join(f"{name:<22}" for name in recall_names)
    print(f"\n{'network':<12}{names}{'heatmap ratio (uniform)':<26}localisation")
    for row in rows:
        recalls = "".join(f"{recall:<22.3f}" for recall in row.recalls)
        ratio = f"{row.heatmap_ratio:.3f} ({row.uniform:.3f})"
        print(f"{row.network:<12}{recalls}{ratio:<26}{row.localization:.3f}")


def mean(values: Any) -> float:
    """Return the mean of the values (n,) that are defined."""
    return float(np.nanmean(np.asarray(values)))
