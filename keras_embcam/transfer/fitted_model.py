"""Whether a model is the one that a database was fitted with."""

import zlib

import keras
import numpy as np

from keras_embcam.network.trial_run import list_operations

# Numbers of each weight that are compared, spread evenly: copying all of a large model
# would take longer than explaining an image.
NUM_COMPARED = 4096


def hash_weights(model: keras.Model) -> np.ndarray:
    """Return a number for each weight of a model, sorted, (w,) uint32.

    Weights are kept and loaded to the last bit, on whatever processor.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    >>> np.array_equal(hash_weights(model), hash_weights(model))
    True
    """
    hashes = set()
    for values in model.get_weights():
        some = values.ravel()[:: max(1, values.size // NUM_COMPARED)].astype("float32")
        hashes.add(zlib.crc32(some.tobytes(), zlib.crc32(str(values.shape).encode())))
    return np.array(sorted(hashes), "uint32")


def check_same_model(model: keras.Model, conv_layer: str, hashes: np.ndarray) -> None:
    """Refuse a model that a database was not fitted with.

    Args:
        model: to explain with.
        conv_layer: path of the layer that the database holds weights of.
        hashes: of the model that it was fitted with; empty in files of versions that
            did not keep them.

    Raises:
        ValueError: where the layer is missing, or the weights are others. A part of
            the model, or a larger one around it, may stand for it.
    """
    if conv_layer not in list_operations(model):
        raise ValueError(
            f"The database holds weights of the layer {conv_layer!r}, which "
            "this model does not have. Pass the model that it was fitted with."
        )
    known, found = set(hashes.tolist()), set(hash_weights(model).tolist())
    if known and not (known <= found or found <= known):
        raise ValueError(
            "`model` must be the one that the database was fitted with: its embeddings "
            "are looked up among those. Received: a model of which "
            f"{len(found - known)} of {len(found)} weights have other values. Pass "
            "that model, or fit the database again with this one."
        )
