"""One pass over a training set: the averaged weights of each image's triplets."""

import warnings
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_embcam import weightings
from keras_embcam.method import Method
from keras_embcam.network.view import ModelView
from keras_embcam.proxies.triplet_draws import TripletDraws
from keras_embcam.running.chosen_proxies import ProxyChooser
from keras_embcam.running.compiled_functions import run_batches
from keras_embcam.running.image_batches import Batch, ImageSource
from keras_embcam.running.one_batch import embed_images
from keras_embcam.whole_numbers import check_integer

Tensor = Any

# Weightings of single positions. Another image shows something else there.
SPATIAL_WEIGHTINGS = (weightings.hirescam, weightings.layercam)
# Linear in the gradient: the mean over triplets may be taken before the weighting.
LINEAR_WEIGHTINGS = (weightings.gradcam, weightings.xgradcam)

# Tolerance between given and recomputed embeddings, relative to their spread around
# their mean: more than rounding in half precision, less than another image.
MAX_DIFFERENCE = 0.1


class FittedWeights(NamedTuple):
    """What a pass over a training set finds.

    Attributes:
        embeddings: (N, d) float32 of length 1, of the images that have a triplet.
        channels: (N, M) int32.
        values: (N, M) float32, descending.
        num_channels: k.
        conv_layer: its path in the model.
        left_out: numbers of the images without an active triplet.
    """

    embeddings: np.ndarray
    channels: np.ndarray
    values: np.ndarray
    num_channels: int
    conv_layer: str
    left_out: np.ndarray


def check_arguments(
    method: Method, num_triplets: Any, margin: Any, sign: Any, seed: Any
) -> None:
    """Check the arguments of `GradWeightDatabase.fit`, before any image is read.

    Raises:
        ValueError: for one that is out of range, several convolutions, or a weighting
            of single positions.
    """
    check_integer("num_triplets", num_triplets, 1)
    check_integer("seed", seed, 0)
    if not 0 <= margin < np.inf:
        raise ValueError(f"`margin` must be >= 0. Received: {margin!r}")
    if sign not in (-1, 1):
        raise ValueError(f"`sign` must be -1 or +1. Received: {sign!r}")
    if isinstance(method.conv_layer, tuple):
        raise ValueError(
            "A database holds the weights of one convolution: pass a single "
            f"`conv_layer`. Received: {list(method.conv_layer)!r}"
        )
    if weightings.get_weighting(method.weighting) in SPATIAL_WEIGHTINGS:  # not "auto"
        raise ValueError(_spatial_message(method.weighting))


def collect_embeddings(
    model: keras.Model,
    source: ImageSource,
    method: Method,
    embeddings: Any,
    labels: Any,
) -> tuple[np.ndarray, Any]:
    """Return the raw embeddings (n, d) and the labels, as given or from the source.

    The model runs once over the images where embeddings are not given.

    Raises:
        ValueError: for embeddings of another shape, or no labels.
    """
    found: list[Any] = []

    def keep(batch: Batch) -> None:
        if labels is None and batch.labels is None:
            raise ValueError(
                "Triplets need `labels`, one for each image: pass them, or a "
                "tf.data.Dataset of (image, label)."
            )
        found.append(batch.labels)

    if embeddings is None:
        rows = []
        for batch, (embedded,) in run_batches(model, source, method, embed_images):
            keep(batch)
            rows.append(embedded)
        embeddings = np.concatenate(rows)
    elif labels is None:
        for batch in source:
            keep(batch)
    if labels is None:
        labels = np.concatenate(found)
    embeddings = np.asarray(embeddings, dtype="float32")
    if embeddings.ndim != 2 or source.num_images not in (None, len(embeddings)):
        raise ValueError(
            "`embeddings` must have the shape (n, d), one row for each of "
            f"{source.num_images or 'n'} images. Received the shape {embeddings.shape}"
        )
    return embeddings, labels


def fit_weights(
    model: keras.Model,
    source: ImageSource,
    draws: TripletDraws,
    method: Method,
) -> FittedWeights:
    """Run the model over a training set and average the weights of the triplets.

    Args:
        model: of the images.
        source: of the images.
        draws: of their triplets.
        method: how weights are made, and how many of them are kept.

    Raises:
        ValueError: for a spatial weighting, images that are not those of the
            embeddings, or where no image has an active triplet.
    """
    chooser = _TripletChooser(draws, method.weigh in LINEAR_WEIGHTINGS)
    spread = float(np.sqrt(draws.embeddings.var(axis=0).sum()))
    channels, values, num_seen = [], [], 0
    for _, found in run_batches(model, source, method, weigh_images, chooser=chooser):
        embeddings, *sparse, num_channels, path = found
        _check_order(embeddings, draws.embeddings, num_seen, spread)
        num_seen += len(embeddings)
        channels.append(sparse[0])
        values.append(sparse[1])
    kept = np.array(chooser.num_active) > 0
    left_out = np.flatnonzero(~kept)
    if not kept.any():
        raise ValueError(
            f"None of {len(kept)} images has an active triplet: the loss is zero "
            "everywhere. Raise `margin`, or pass another `loss`."
        )
    if len(left_out):
        warnings.warn(
            f"{len(left_out)} of {len(kept)} images have no active triplet and are "
            f"left out of the database: {left_out[:20].tolist()}. Raise `margin`; an "
            "image that is alone in its class never has one.",
            stacklevel=3,
        )
    return FittedWeights(
        draws.unit_embeddings[kept],
        np.concatenate(channels)[kept],
        np.concatenate(values)[kept],
        int(num_channels[0]),
        path[0].decode(),
        left_out,
    )


def weigh_images(
    view: ModelView,
    images: Any,
    proxies: Tensor,
    method: Method,
) -> tuple[Tensor, ...]:
    """Return the highest weights, averaged over the proxies of each image.

    Args:
        view: of the model.
        images: as the model takes them.
        proxies: (n, m, d) float32, NaN where an image has fewer than m.
        method: with a weighting that returns channel weights.

    Returns:
        ``(embeddings (n, d), channels (n, M) int32, values (n, M), k (n,), path (n,))``
        with the path of the convolution as strings; a row for each image, since
        replicas may share a batch. The values of an image without a proxy are zero.

    Raises:
        ValueError: where the weights are not one number for each channel.
    """
    weighting = weightings.get_weighting(method.weighting)
    recording = view.record(images)
    activations = recording.activations
    num_channels = activations.shape[-1]

    def weigh(one: Tensor) -> Tensor:
        active = ops.logical_not(ops.isnan(one[:, :1]))
        gradients = recording.pull_back(ops.where(active, one, 0.0))
        # Inside the loop, a graph may have lost the static shape.
        gradients = ops.reshape(gradients, ops.shape(activations))
        weights = weighting(activations, gradients)
        return ops.where(active, weights[:, 0, 0, :], 0.0)

    # Check the shape of the weights before the loop, with the activations in place of
    # gradients: after an error inside `tf.map_fn`, TensorFlow cannot enter a
    # `MirroredStrategy` in this process any more.
    shape = tuple(weighting(activations, activations).shape)
    if shape[1:] != (1, 1, num_channels):
        raise ValueError(_spatial_message(shape))

    # Not `ops.map`: to learn the shape, it traces one more backward pass.
    several = tf.map_fn(
        weigh, ops.swapaxes(proxies, 0, 1), fn_output_signature="float32"
    )
    total = ops.sum(several, axis=0)
    num_active = ops.sum(ops.cast(~ops.isnan(proxies[..., 0]), "float32"), axis=1)
    weights = total / ops.maximum(num_active, 1.0)[:, None]
    values, channels = ops.top_k(
        weights, min(method.top_channels or num_channels, num_channels)
    )
    return (
        recording.embeddings,
        ops.cast(channels, "int32"),
        values,
        tf.fill(tf.shape(channels)[:1], num_channels),
        tf.fill(tf.shape(channels)[:1], view.conv_layer),
    )


class _TripletChooser(ProxyChooser):
    """Draws the triplets of a batch when it comes, so that few are in memory."""

    def __init__(self, draws: TripletDraws, is_linear: bool) -> None:
        super().__init__()
        self._draws = draws
        self._is_linear = is_linear
        self.num_active: list[int] = []

    def choose(
        self, start: int, num_images: int, labels: np.ndarray | None, width: int
    ) -> np.ndarray:
        """Return (num_images, m, d), NaN where there are fewer than m triplets."""
        expected = self._draws.embeddings.shape
        if width != expected[1]:
            raise ValueError(
                f"`embeddings` must be as wide as those of the model, {width}. "
                f"Received the shape {expected}"
            )
        if start + num_images > expected[0]:
            self._refuse_count(f"{start + num_images} or more")
        num_proxies = 1 if self._is_linear else self._draws.num_triplets
        chosen = np.full((num_images, num_proxies, width), np.nan, "float32")
        for index in range(num_images):
            drawn = self._draws.draw(start + index)
            self.num_active.append(len(drawn))
            if len(drawn) and self._is_linear:
                drawn = drawn.mean(axis=0, keepdims=True)
            chosen[index, : len(drawn)] = drawn
        return chosen

    def check_end(self, num_images: int) -> None:
        """Check that there were as many images as embeddings."""
        if num_images != len(self._draws.embeddings):
            self._refuse_count(num_images)

    def _refuse_count(self, num_images: Any) -> None:
        raise ValueError(
            "There must be one embedding for each image, and a data set must give the "
            f"same images each time. Received {len(self._draws.embeddings)} "
            f"embeddings for {num_images} images."
        )


def _check_order(
    embeddings: np.ndarray, expected: np.ndarray, start: int, spread: float
) -> None:
    """Check that these are the images that the triplets were drawn for."""
    expected = expected[start : start + len(embeddings)]
    differences = np.linalg.norm(embeddings - expected, axis=1)
    rounding = 1e-5 * np.linalg.norm(expected, axis=1)
    wrong = differences > MAX_DIFFERENCE * spread + rounding
    if wrong.any():
        raise ValueError(
            "The images must come in the order of their embeddings, which must be raw "
            "ones of the same model and layers (from `keras_embcam.embed`). A data set "
            "that is shuffled needs `reshuffle_each_iteration=False`. Other "
            f"embeddings: images {(np.flatnonzero(wrong)[:20] + start).tolist()}"
        )


def _spatial_message(received: Any) -> str:
    return (
        "Only weights of channels can be lent to another image: `weighting` must be "
        "'gradcam', 'gradcam++', 'xgradcam' or a function that returns (n, 1, 1, k). "
        "Weights of single positions (layercam, hirescam) belong to the places where "
        f"things are in the image that they come from. Received: {received!r}"
    )
