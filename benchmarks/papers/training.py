"""The embedding network of the benchmark: built, trained and measured."""

import sys
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_embcam.losses import MarginLoss
from keras_embcam.metrics import measure_retrieval
from keras_embcam.sampling import sample_balanced_batches

EMBEDDING_WIDTH = 128  # as in the papers
CLASSES_PER_BATCH = 8
IMAGES_PER_CLASS = 4
# With given weights only what comes from this layer on learns: two cores manage it.
LAST_BLOCKS = {
    "MobileNetV2": "block_16_expand",
    **dict.fromkeys(("ResNet50", "ResNet101", "ResNet152"), "conv5_block1_1_conv"),
}
# Outputs of the frozen part are kept for all epochs where they take no more than this.
MAX_CACHE_BYTES = 2**30


@dataclass(frozen=True, eq=False)
class Network:
    """An embedding network in two parts.

    Attributes:
        model: from images (n, H, W, 3) in [0, 255] to raw embeddings (n, d).
        frozen: the part that does not learn, from images to features; None if all of
            it learns.
        learning: the rest, from features (or images) to embeddings.
        pooled: from images to the pooled activations of the backbone.
        is_pretrained: whether the backbone has weights of a file.
    """

    model: keras.Model
    frozen: keras.Model | None
    learning: keras.Model
    pooled: keras.Model
    is_pretrained: bool = False


def check_backbone(name: str) -> None:
    """Check that `keras.applications` has this backbone.

    Raises:
        ValueError: if it has not.
    """
    known = [x for x in dir(keras.applications) if x[0].isupper()]
    if name not in known:
        raise ValueError(f"`backbone` must be one of {known}. Received: {name!r}")


def build_network(backbone: str, weights: Any, image_size: int) -> Network:
    """Return pooling and a Dense embedding behind a backbone.

    Args:
        backbone: name of a function of `keras.applications`.
        weights: a file of weights without top, or None for random ones.
        image_size: height and width.

    Raises:
        ValueError: for an unknown backbone, or weights that do not fit.
    """
    check_backbone(backbone)
    make = getattr(keras.applications, backbone)
    # Each backbone has its own scaling, in the module that it is defined in.
    preprocess = sys.modules[make.__module__].preprocess_input
    images = keras.Input((image_size, image_size, 3), name="images")
    base = make(
        input_tensor=preprocess(images),
        include_top=False,
        weights=None if weights is None else str(weights),
    )
    pooled = layers.GlobalAveragePooling2D(name="pooled")(base.output)
    embeddings = layers.Dense(EMBEDDING_WIDTH, name="embedding")(pooled)
    model = keras.Model(images, embeddings)
    frozen, learning = None, model
    if weights is not None:
        for layer in base.layers:
            # Statistics of a few small batches would change more than the training.
            if isinstance(layer, layers.BatchNormalization):
                layer.trainable = False
        if backbone in LAST_BLOCKS:
            features = base.get_layer(LAST_BLOCKS[backbone]).input
            frozen = keras.Model(images, features)
            learning = keras.Model(features, embeddings)
    pooled_model = keras.Model(images, pooled)
    return Network(model, frozen, learning, pooled_model, weights is not None)


def train_network(
    network: Network,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    epochs: int,
    seed: int,
    learning_rate: float | None = None,
) -> list[float]:
    """Train with the margin loss and distance-weighted sampling (Wu et al., 2017).

    Balanced batches of up to 8 classes with up to 4 images each, flipped at random,
    Adam with a rate that falls to zero along a cosine.

    Args:
        network: is changed.
        images: (n, H, W, 3) uint8.
        labels: (n,) integers, at least two images of each of two classes.
        epochs: >= 0.
        seed: of batches, flips and sampling.
        learning_rate: of the start; None for what was chosen beforehand.

    Returns:
        The mean loss of each epoch.
    """
    if not epochs:
        return []
    if learning_rate is None:
        # The second was chosen on classes 6-10 of CUB after training on 1-5, where
        # 3e-4, 1e-4 and 3e-5 differ by no more than 0.04 of Recall@1.
        learning_rate = 1e-4 if network.is_pretrained else 1e-3
    batches = sample_balanced_batches(
        np.arange(len(labels)),
        labels,
        classes_per_batch=min(CLASSES_PER_BATCH, len(np.unique(labels))),
        images_per_class=min(
            IMAGES_PER_CLASS, np.unique(labels, return_counts=True)[1].min()
        ),
        seed=seed,
    )
    inputs = _Inputs(network, images)
    schedule = keras.optimizers.schedules.CosineDecay(
        learning_rate, epochs * len(batches)
    )
    network.learning.compile(keras.optimizers.Adam(schedule), MarginLoss(seed=seed))
    random = np.random.default_rng(seed)
    losses = []
    for epoch in range(epochs):
        of_batches = []
        for rows, classes in batches.as_numpy_iterator():
            is_flipped = random.integers(0, 2, len(rows))
            loss = network.learning.train_on_batch(
                inputs.take(rows, is_flipped), classes
            )
            of_batches.append(float(loss))
            network.learning.reset_metrics()
        losses.append(float(np.mean(of_batches)))
        print(f"epoch {epoch + 1} of {epochs}: loss {losses[-1]:.4f}", flush=True)
    return losses


class _Inputs:
    """What the learning part takes of each image: kept, or computed when asked for."""

    def __init__(self, network: Network, images: np.ndarray) -> None:
        self._frozen, self._images = network.frozen, images
        self._kept: np.ndarray | None = None
        if self._frozen is None:
            return
        size = int(np.prod(self._frozen.output_shape[1:])) * 4 * 2 * len(images)
        if size <= MAX_CACHE_BYTES:
            both = (images, images[:, :, ::-1])
            self._kept = np.stack([_predict(self._frozen, x) for x in both])

    def take(self, rows: np.ndarray, is_flipped: np.ndarray) -> np.ndarray:
        """Return the inputs (b, ...) of the images `rows`, flipped where it is 1."""
        if self._kept is not None:
            return self._kept[is_flipped, rows]
        images = self._images[rows]
        images = np.where(
            is_flipped[:, None, None, None], images[:, :, ::-1], images
        ).astype("float32")
        return images if self._frozen is None else _predict(self._frozen, images)


def measure_recall(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of images whose nearest other image is of their class."""
    found = measure_retrieval(_predict(model, images), labels)
    return float(found["recall_at_1"])


def _predict(model: keras.Model, images: np.ndarray) -> np.ndarray:
    return np.asarray(model.predict(images, batch_size=32, verbose=0))
