"""Warn of images in another range of pixel values than the model was trained on."""

import threading
import warnings
import weakref
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops, tree

from keras_embcam.network.front import Front
from keras_embcam.network.hooks import Stop, leave_unchanged, observe
from keras_embcam.network.noise_images import find_images
from keras_embcam.network.trial_run import list_operations
from keras_embcam.network.vector_rows import is_probabilities

# Images up to the first value are in [0, 1] or [-1, 1], those from the second one on in
# [0, 255]; between them nothing is known.
LARGEST_FRACTION = 1.5
SMALLEST_BYTE = 10.0
LARGEST_BYTE = 1020.0  # 4 x 255: what is larger has more than 8 bits
# Fractions within less than this of each other are hardly a picture: [0, 255] that was
# scaled to [-1, 1] twice is within 0.0157, scaled to [0, 1] twice within 0.0039.
MIN_CONTRAST = 0.02
# By how much activations may be larger or smaller than in training. A wrong range makes
# a factor of 127 or 255; unusual photographs and short trainings make less than 10.
MAX_FACTOR = 30.0
# Embeddings that hardly differ: mean cosine of different images.
MAX_COSINE = 0.999
NUM_IMAGES = 4

# Networks of `keras.applications` that take [-1, 1] and scale nothing themselves, with
# the layers by which they are recognised also as a part of another model.
_SIGNED = {
    "MobileNet": {"conv1_bn", "conv_dw_1_bn", "conv_pw_1_bn"},
    "MobileNetV2": {"bn_Conv1", "expanded_conv_depthwise_BN", "block_1_expand_BN"},
    "ResNetV2": {"conv1_conv", "conv2_block1_preact_bn", "conv2_block1_1_bn"},
    "Xception": {"block1_conv1_bn", "block2_sepconv1_bn", "block2_sepconv2_bn"},
}

_lock = threading.Lock()
# For each model the kinds of range that were checked.
_checked: weakref.WeakKeyDictionary[keras.Model, set[Any]] = weakref.WeakKeyDictionary()
_HINTS = {
    "fractions": "Pass them in [0, 255], without a preprocessing of their own",
    "flat": "Preprocess them once",
    "bytes": "Pass them as they were in the training, for example with "
    "`preprocessing_function{}`",
}


def warn_of_pixel_range(
    model: keras.Model, front: Front, images: Any, embeddings: Any = None
) -> None:
    """Warn where images cannot be in the range that a model takes.

    Once for a model and a kind of range: with fractions or bytes, more than 8 bits or
    hardly any contrast, around zero or not.

    What is known, in this order: by how much the model scales pixels itself; the
    statistics that its first batch normalisation has learnt; the name of the network;
    and, of images in [-1, 1], whether their embeddings hardly differ and would differ
    in [0, 255].

    Args:
        model: a Keras model; called eagerly.
        front: of the model for images of this size.
        images: a batch as the model takes it, arrays or eager tensors.
        embeddings: (n, d) of the batch, or None.
    """
    pixels = find_images(images)
    if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(pixels.dtype)):
        return
    values = np.asarray(pixels)  # of one image, faster than by TensorFlow
    low, high = float(values.min()), float(values.max())
    largest = max(-low, high)
    if high - low < 1e-3 or LARGEST_FRACTION < largest < SMALLEST_BYTE:
        return  # not a picture, or standardised in some way
    kind = "fractions" if largest <= LARGEST_FRACTION else "bytes"
    is_odd = high - low < MIN_CONTRAST or largest > LARGEST_BYTE
    with _lock:
        known = _checked.setdefault(model, set())
        key = kind, is_odd, low < -0.1 * largest
        if key in known:
            return
        known.add(key)
    scale = abs(front.scale) if front.scale is not None else 1.0
    reason = _find_odd_reason(model, scale, images, high - low, largest)
    if reason is not None:
        kind = "flat" if kind == "fractions" else kind
    else:
        reason = _find_reason(model, scale, images, kind, low, embeddings)
    if reason is None:
        return
    ranges = {"takes [0, 1]": "='0,1'", "takes [-1, 1]": "='-1,1'"}
    value = next((x for end, x in ranges.items() if reason.endswith(end)), "")
    warnings.warn(
        f"The images hold values from {low:.4g} to {high:.4g}, and the model seems to "
        f"take another range: {reason}. {_HINTS[kind].format(value)}; maps of a wrong "
        "range look like maps and are wrong.",
        stacklevel=2,
    )


def _find_reason(
    model: keras.Model,
    scale: float,
    images: Any,
    kind: str,
    low: float,
    embeddings: Any,
) -> str | None:
    # What a layer makes of the right range is about one to ten wide.
    if kind == "fractions" and 0.5 <= 255 * scale <= 25:
        return f"it scales pixels by {scale:.4g} itself, so it takes [0, 255]"
    if kind == "bytes" and 1.2 <= scale <= 25:
        return f"it scales pixels by {scale:.4g} itself, so it takes [0, 1]"
    if scale < 0.1:
        return None
    few = tree.map_structure(lambda x: x[:NUM_IMAGES], images)
    norm, factor = _compare_with_training(model, few)
    if factor is not None:
        if 1 / MAX_FACTOR < factor < MAX_FACTOR or (factor > 1) != (kind == "bytes"):
            return None
        times = f"{factor:.0f} times" if factor > 1 else f"1/{1 / factor:.0f} of"
        return f"what reaches {norm.name!r} varies {times} as much as in training"
    if kind == "bytes":
        name = _find_network(model)
        # It was trained where beta is not 0: its statistics were put into the weights.
        if name is not None and norm is not None and norm.center:
            if np.any(ops.convert_to_numpy(norm.beta)):
                return f"{name} of keras.applications takes [-1, 1]"
        return None
    return _compare_embeddings(model, few, low, embeddings)


def _find_odd_reason(
    model: keras.Model, scale: float, images: Any, contrast: float, largest: float
) -> str | None:
    """Say what is wrong with more than 8 bits, or with hardly any contrast."""
    if contrast >= MIN_CONTRAST:
        if scale >= 0.1 or largest <= LARGEST_BYTE or largest * scale < 10:
            return None
        return f"it scales pixels by {scale:.4g} itself, to {largest * scale:.3g}"
    if scale < 0.1 or contrast * scale >= MIN_CONTRAST:
        return None
    few = tree.map_structure(lambda x: x[:NUM_IMAGES], images)
    _, factor = _compare_with_training(model, few)
    if factor is not None and factor > 1 / MAX_FACTOR:
        return None  # it was trained on such images
    return (
        f"they are within {contrast:.2g} of each other, as after a preprocessing that "
        "is done twice"
    )


def _compare_with_training(model: keras.Model, images: Any) -> tuple[Any, float | None]:
    """Return the first batch normalisation, and how much more its input varies now.

    None instead of the factor where it has learnt no statistics.
    """
    norms = [
        operation
        for operation in list_operations(model).values()
        if isinstance(operation, keras.layers.BatchNormalization)
    ]
    if not norms:
        return None, None
    found: list[tuple[Any, Any]] = []

    def see(operation: Any, arguments: Any, outputs: Any) -> None:
        given = tree.flatten(arguments)[0]
        if not tf.is_symbolic_tensor(given):
            found.append((operation, given))
            raise Stop

    try:
        with observe(norms, see), leave_unchanged(model):
            model(images, training=False)
    except Stop:
        pass
    if not found:
        return None, None
    norm, given = found[0]
    learnt = ops.convert_to_numpy(ops.cast(norm.moving_variance, "float32"))
    # All channels are alike: it was not trained, or for a few steps only.
    if np.ptp(learnt) < 0.05 * learnt.max():
        return norm, None
    values = ops.convert_to_numpy(ops.cast(given, "float32"))
    variance = values.reshape(-1, values.shape[-1]).var(axis=0)
    factor = np.median(np.sqrt(variance / np.maximum(learnt, 1e-12)))
    return norm, float(factor) if np.isfinite(factor) and factor > 0 else None


def _find_network(model: keras.Model) -> str | None:
    names = {path.rsplit("/", 1)[-1] for path in list_operations(model)}
    return next((name for name, parts in _SIGNED.items() if parts <= names), None)


def _compare_embeddings(
    model: keras.Model, images: Any, low: float, embeddings: Any
) -> str | None:
    """Compare embeddings with those of the same images in [0, 255]."""
    if embeddings is None or len(embeddings) < 2:
        return None
    cosine = _mean_cosine(embeddings)
    if not cosine >= MAX_COSINE:  # or NaN, which has other reasons
        return None
    pixels = find_images(images)
    offset = 1.0 if low < 0 else 0.0
    larger = tree.map_structure(
        lambda x: (x + offset) * (255 / (1 + offset)) if x is pixels else x, images
    )
    with leave_unchanged(model):
        pairs = [(model(x, training=False)) for x in (images, larger)]
    now, then = (tree.flatten(x)[0] for x in pairs)
    if len(now.shape) != 2:
        return None
    # Probabilities of larger logits differ more, whatever the range.
    if is_probabilities(ops.convert_to_numpy(then)):
        return None
    spreads = [1 - _mean_cosine(ops.convert_to_numpy(x)) for x in (now, then)]
    if not spreads[1] >= max(10 * spreads[0], 1 - MAX_COSINE):
        return None
    return (
        "embeddings of different images hardly differ (mean cosine "
        f"{cosine:.5f}), and would differ in [0, 255] ({1 - spreads[1]:.3f})"
    )


def _mean_cosine(embeddings: np.ndarray) -> float:
    rows = np.asarray(embeddings, "float64")  # whose squares are numbers
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.maximum(lengths, 1e-30)
    return float((rows @ rows.T)[~np.eye(len(rows), dtype=bool)].mean())
