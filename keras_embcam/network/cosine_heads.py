"""Find a layer that compares the embedding with one vector for each class."""

import keras
import numpy as np

from keras_embcam.layers import Proxies
from keras_embcam.network.calls import Call
from keras_embcam.network.trial_run import TrialRun

# Wide enough for bfloat16, which keeps 8 bits.
TOLERANCE = 0.02


def find_cosine_head(
    trial: TrialRun, values: np.ndarray, usable: np.ndarray
) -> tuple[Call, int, np.ndarray] | None:
    """Return the call that makes similarities of an embedding, its place and values.

    Its output is ``s cos(y, w_c)`` for the embedding y (n, d), a number s and a weight
    of the vectors w: `keras_embcam.layers.Proxies`, or the layer of an ArcFace-like
    loss, whose margin may change one class of each image. It is what the model returns,
    perhaps multiplied by another number.

    Args:
        trial: of the model.
        values: (n, classes), what the model returns, before a softmax.
        usable: (n,) bool, the images whose values are finite and not all zero.
    """
    for call in reversed(trial.calls):
        made = call.output
        if made is None or made.shape != values.shape:
            continue
        if not _is_multiple(values[usable], made[usable]):
            continue
        for index, tensor in enumerate(call.inputs):
            if tensor is None or len(tensor) != len(values):
                continue
            if isinstance(call.operation, Proxies):
                return call, index, tensor
            if _is_cosine(call, tensor[usable], made[usable]):
                return call, index, tensor
    return None


def _is_cosine(call: Call, vectors: np.ndarray, made: np.ndarray) -> bool:
    # The kernel of a Dense layer may have columns of one length for other reasons.
    if type(call.operation) is keras.layers.Dense or min(made.shape) < 2:
        return False
    for weight in getattr(call.operation, "weights", []):
        for shape, transpose in ((weight.shape, True), (weight.shape[::-1], False)):
            if tuple(shape) != (made.shape[1], vectors.shape[1]):
                continue
            classes = keras.ops.convert_to_numpy(keras.ops.cast(weight, "float32"))
            classes = classes if transpose else classes.T
            cosines = _unit(vectors) @ _unit(classes).T
            # A margin may change one value of each image: that of its own class.
            if vectors.shape[1] > 1 and _is_multiple(made, cosines, num_exceptions=1):
                return True
    return False


def _is_multiple(rows: np.ndarray, others: np.ndarray, num_exceptions: int = 0) -> bool:
    """Tell whether rows are others times one number > 0, but for a few values each."""
    large = np.abs(others) > 0.1 * np.abs(others).max(axis=1, keepdims=True)
    if not large.any():
        return False
    factor = np.median(rows[large] / others[large])
    scale = np.abs(factor * others).max(axis=1, keepdims=True)
    misses = np.abs(rows - factor * others) > TOLERANCE * scale
    return bool(factor > 0 and np.all(misses.sum(axis=1) <= num_exceptions))


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
