"""From a recorded run of a model and its proxies to heatmaps and scores."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops, tree

from keras_embcam.heatmaps import (
    add_heatmaps,
    combine_channels,
    fuse_heatmaps,
    resize_heatmaps,
    scale_heatmaps,
)
from keras_embcam.method import Method
from keras_embcam.network.noise_images import find_images
from keras_embcam.network.places import WHOLE
from keras_embcam.network.recorded import Recording
from keras_embcam.network.view import ModelView
from keras_embcam.presets import LayerFusion
from keras_embcam.proxies import check_proxies_shape, single_point
from keras_embcam.weightings import Weighting, gradcam, keep_top_channels
from keras_embcam.weightings.by_gradient import hirescam, xgradcam

Tensor = Any

# Their weights are linear in the gradient.
LINEAR_WEIGHTINGS = (gradcam, hirescam, xgradcam)


def explain_images(
    view: ModelView,
    images: Any,
    proxies: Any,
    method: Method,
    compute: Callable[..., Tensor] | None = None,
    activations: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``(embeddings, heatmaps, scores)``, in eager and in graph code.

    Args:
        view: of the model.
        images: as the model takes them.
        proxies: None, an array, or a function of the embeddings; see `EmbeddingCAM`.
        method: how heatmaps are made.
        compute: in place of `compute_heatmaps`.
        activations: (n, h, w, k) of the chosen layer, kept from another run of these
            images: only what is behind the layer is run. None to run the model.

    Returns:
        Raw embeddings (n, d), heatmaps (n, H, W) or (n, m, H, W), and the scores
        ``y . p`` (n,) or (n, m), all float32.

    Raises:
        ValueError: for no images, or proxies or weights of the wrong shape.
    """
    if find_images(images).shape[0] == 0:
        raise ValueError("`images` must hold at least one image. Received none.")
    recording = view.record(images, activations)
    embeddings = recording.embeddings
    proxies = resolve_proxies(view, recording, proxies)
    heatmaps = (compute or compute_heatmaps)(
        recording, proxies, method.weigh_for(view.makes_tokens), method.top_channels
    )
    if method.resize:
        heatmaps = resize_to_images(view, heatmaps, images)
    if method.normalize:
        heatmaps = scale_heatmaps(heatmaps)
    rows = embeddings[:, None] if len(proxies.shape) == 3 else embeddings
    return embeddings, heatmaps, ops.sum(rows * proxies, axis=-1)


def embed_images(
    view: ModelView, images: Any, proxies: None, method: Method
) -> tuple[Tensor]:
    """Return the raw embeddings (n, d) float32 alone; nothing is differentiated."""
    return (view.record(images).embeddings,)


def embed_and_keep(
    view: ModelView, images: Any, proxies: None, method: Method
) -> list[Tensor]:
    """Return ``[embeddings, activations]``, to explain them once proxies are known.

    Without the activations where these do not make the whole embedding: those of
    several layers, of attention, or beside class tokens.
    """
    recording = view.record(images)
    kept = [recording.activations] if view.can_go_on else []
    return [recording.embeddings, *kept]


def resize_to_images(view: ModelView, heatmaps: Tensor, images: Any) -> Tensor:
    """Return maps at the size of the images, where the network saw them.

    Args:
        view: of the model.
        heatmaps: (n, h, w) or (n, m, h, w), at the size of the activations.
        images: as the model takes them.

    Raises:
        ValueError: where it is not known which part of the images the network saw.
    """
    pixels = view.images_of(images)
    field = view.places.field(tuple(pixels.shape[1:3]))
    return resize_heatmaps(heatmaps, ops.shape(pixels)[1:3], field)


def fields_of(view: ModelView, images: Any) -> Tensor:
    """Return what each map shows of its image, (n, 8), to resize it outside a graph.

    As `resize_heatmaps` takes it, with (0, 0, 1, 1) twice for the whole image.

    Raises:
        ValueError: as in `resize_to_images`, or where the heat lies on other images
            than the first among the inputs.
    """
    if not view.image_input.is_first:
        raise ValueError(
            f"Heat lies on the images {view.image_input.name!r}, which only `explain` "
            "and `EmbeddingCAM` know here. Make them the first input of a model: "
            "`keras.Model([b, a], model([a, b]))`."
        )
    pixels = find_images(images)
    field = view.places.field(tuple(pixels.shape[1:3])) or WHOLE
    if len(field) == 4:
        field = (*field, *field)
    return ops.broadcast_to(ops.convert_to_tensor(field), (ops.shape(pixels)[0], 8))


def read_field(fields: np.ndarray) -> tuple | None:
    """Return what `fields_of` found as `resize_heatmaps` takes it."""
    field = tuple(fields[0].tolist())
    if field[:4] == field[4:]:
        field = field[:4]
    return None if field == WHOLE else field


def resolve_proxies(view: ModelView, recording: Recording, proxies: Any) -> Tensor:
    """Return one proxy for each image (n, d), or several (n, m, d), as float32.

    Args:
        view: of the model.
        recording: of the images.
        proxies: None, an array, or a function of the embeddings; see `EmbeddingCAM`.

    Raises:
        ValueError: for another width than the embedding's, another number than one
            vector for all images or one for each, or the single point of an
            embedding of fixed length.
    """
    embeddings = recording.embeddings
    if proxies is None or proxies is single_point:
        if not view.length_has_gradient:
            raise ValueError(view.normalized_message())
        return single_point(embeddings)
    if callable(proxies):
        proxies = proxies(embeddings)
        if getattr(proxies, "shape", None) is None:
            raise ValueError(
                "`proxies` as a function must return a tensor (n, d), or (n, m, d) for "
                f"m maps of each image. Received what it returned: {proxies!r}"
            )
    proxies = ops.cast(ops.convert_to_tensor(proxies), "float32")
    check_proxies_shape(tuple(proxies.shape), *embeddings.shape)
    if len(proxies.shape) == 1:
        return ops.broadcast_to(proxies, ops.shape(embeddings))
    if None in (proxies.shape[0], embeddings.shape[0]):
        same = tf.debugging.assert_equal(
            tf.shape(proxies)[0],
            tf.shape(embeddings)[0],
            "`proxies` must have one row for each image.",
        )
        with tf.control_dependencies([same]):
            proxies = tf.identity(proxies)
    return proxies


def compute_heatmaps(
    recording: Recording,
    proxies: Tensor,
    weighting: Weighting | LayerFusion,
    top_channels: int | None = None,
) -> Tensor:
    """Return the raw heatmaps at the size of the activations.

    Args:
        recording: of the images.
        proxies: (n, d) or (n, m, d) float32.
        weighting: ``(activations, gradients) -> weights``, of each layer where
            several were recorded; or a `LayerFusion`.
        top_channels: how many channels of a layer to keep, or None for all.

    Returns:
        (n, h, w) or (n, m, h, w) float32, >= 0. Several layers: of the largest
        size, in [0, 1] but for parallel branches.

    Raises:
        ValueError: where the weights cannot be broadcast to the activations.
    """
    activations = tree.flatten(recording.activations)

    def explain_one(one: Tensor) -> Tensor:
        gradients = [
            # Inside the loop below a graph may not know the shape any more.
            ops.reshape(gradient, ops.shape(activation))
            for gradient, activation in zip(
                tree.flatten(recording.pull_back(one)), activations, strict=True
            )
        ]
        if isinstance(weighting, LayerFusion):
            frames = {"frames": recording.frames} if weighting.uses_frames else {}
            combined = weighting.combine(activations, gradients, **frames)
            return combined if recording.place is None else recording.place(combined)
        maps = [
            _explain_layer(*layer, weighting, top_channels)
            for layer in zip(activations, gradients, strict=True)
        ]
        if len(maps) == 1:
            return maps[0]
        join = add_heatmaps if recording.adds_up else fuse_heatmaps
        return join(maps, recording.frames)

    if len(proxies.shape) == 2:
        return explain_one(proxies)
    is_linear = len(activations) == 1 and top_channels is None
    is_linear = is_linear and any(weighting is x for x in LINEAR_WEIGHTINGS)
    if is_linear and (proxies.shape[1] or 0) > proxies.shape[2]:
        return _multiply_unit_maps(recording, proxies, weighting)
    return ops.swapaxes(ops.map(explain_one, ops.swapaxes(proxies, 0, 1)), 0, 1)


def _multiply_unit_maps(
    recording: Recording, proxies: Tensor, weighting: Any
) -> Tensor:
    """Return the maps of more proxies (n, m, d) than the embedding has numbers.

    Before the ReLU they are linear in the proxy, so the d maps of the unit vectors
    make all of them in one product.
    """
    (activations,) = tree.flatten(recording.activations)
    num_images, _, width = ops.shape(proxies)

    def explain_unit(unit: Tensor) -> Tensor:
        gradients = tree.flatten(recording.pull_back(ops.tile(unit, (num_images, 1))))
        gradients = ops.reshape(gradients[0], ops.shape(activations))
        weights = weighting(activations, gradients)
        positive = combine_channels(activations, weights)
        return positive - combine_channels(activations, -weights)

    unit_maps = ops.map(explain_unit, ops.eye(width)[:, None])
    return ops.relu(ops.einsum("dnhw,nmd->nmhw", unit_maps, proxies))


def _explain_layer(
    activations: Tensor,
    gradients: Tensor,
    weighting: Weighting,
    top_channels: int | None,
) -> Tensor:
    weights = weighting(activations, gradients)
    _check_weights(weights, activations)
    if top_channels is not None:
        weights = keep_top_channels(weights, top_channels)
    return combine_channels(activations, weights)


def _check_weights(weights: Tensor, activations: Tensor) -> None:
    shape = getattr(weights, "shape", ())
    fits = len(shape) == 4 and all(
        None in (have, want) or have in (1, want)
        for have, want in zip(shape, activations.shape, strict=True)
    )
    if not fits:
        raise ValueError(
            "`weighting` must return weights that broadcast to the activations "
            f"{tuple(activations.shape)}, such as (n, 1, 1, k). Received "
            + (f"the shape {tuple(shape)}" if shape else repr(weights))
        )
