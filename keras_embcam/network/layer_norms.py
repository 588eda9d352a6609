"""Step back over a layer normalisation that makes the embedding."""

from typing import Any

import keras
import numpy as np
from keras import ops

Tensor = Any

# Above this cosine two vectors are the same, up to a factor and rounding to 8 bits.
# Different tokens of an untrained network, and their mean, reach 0.999.
MIN_COSINE = 1 - 1e-5


def is_layer_norm(operation: Any) -> bool:
    """Tell whether a layer normalises vectors along their last axis, as Keras does."""
    if isinstance(operation, getattr(keras.layers, "RMSNormalization", ())):
        return _is_last(operation)
    if not isinstance(operation, keras.layers.LayerNormalization):
        return False
    return not getattr(operation, "rms_scaling", False) and _is_last(operation)


def _is_last(operation: Any) -> bool:
    axes = operation.axis if isinstance(operation.axis, list) else [operation.axis]
    weight = getattr(operation, "gamma", getattr(operation, "scale", None))
    return len(axes) == 1 and (weight is None or len(weight.shape) == 1)


def find_token(outputs: Tensor, values: np.ndarray) -> int | None:
    """Return the position among tokens (n, t, k) of vectors (n, k), None if absent.

    The vectors may be scaled, by a factor for each image.

    Example:

    >>> find_token(np.float32([[[1, 2], [3, 4]]]), np.float32([[6, 8]]))
    1
    """
    tokens = ops.convert_to_numpy(ops.cast(outputs, "float32"))
    if tokens.shape[::2] != values.shape:
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = np.einsum("ntk,nk->nt", tokens, values) / (
            np.linalg.norm(tokens, axis=2)
            * np.linalg.norm(values, axis=1, keepdims=True)
        )
    worst = np.nan_to_num(cosines, nan=-1.0).min(axis=0)
    best = int(np.argmax(worst))
    return best if worst[best] > MIN_COSINE else None


def are_same(rows: np.ndarray, values: np.ndarray) -> bool:
    """Tell whether vectors (n, k) are the same up to a factor for each image."""
    return find_token(rows[:, None], values) == 0


def undo_scale(operation: Any, inputs: Tensor) -> Tensor:
    """Return what a layer normalisation divides by its deviation (n, k), float32.

    The normalisation makes ``y = gamma (x - mean) / deviation + beta``. This is
    ``y * deviation``, parallel to it, with a length that has a gradient: that of
    ``gamma (x - mean)``. What beta adds is held constant.

    Args:
        operation: a layer that `is_layer_norm` accepts.
        inputs: (n, k), what went into the layer.

    Example:

    >>> norm = keras.layers.LayerNormalization(epsilon=0)
    >>> x = np.float32([[1, 5]])
    >>> norm(x).numpy().round(3).tolist(), undo_scale(norm, x).numpy().tolist()
    ([[-1.0, 1.0]], [[-2.0, 2.0]])
    """
    inputs = ops.cast(inputs, "float32")
    if not isinstance(operation, keras.layers.LayerNormalization):
        return inputs * ops.cast(operation.scale, "float32")
    mean = ops.mean(inputs, axis=-1, keepdims=True)
    centred = inputs - mean
    raw = centred
    if operation.gamma is not None:
        raw = raw * ops.cast(operation.gamma, "float32")
    if operation.beta is not None:
        variance = ops.mean(ops.square(centred), axis=-1, keepdims=True)
        deviation = ops.stop_gradient(ops.sqrt(variance + operation.epsilon))
        raw = raw + ops.cast(operation.beta, "float32") * deviation
    return raw
