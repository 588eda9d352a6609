"""The first layer with a kernel: what reaches it of an image."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops, tree

from keras_embcam.keras_private import flatten_layers
from keras_embcam.network.hooks import Stop, leave_unchanged, observe
from keras_embcam.network.noise_images import make_inputs
from keras_embcam.network.trial_run import list_operations


def input_of_first_convolution(
    model: keras.Model, images: Any, pixels: np.ndarray, skipped: Sequence[Any] = ()
) -> tuple[np.ndarray, Any] | None:
    """Return the (h, w, c) float32 that the first layer with a kernel is given, and it.

    None where that is no picture, as of a network that takes patches apart itself.
    """
    found: list[tuple[Any, Any]] = []

    def see(operation: Any, arguments: Any, outputs: Any) -> None:
        given = next((x for x in tree.flatten(arguments) if ops.is_tensor(x)), None)
        if given is None or tf.is_symbolic_tensor(given) or len(given.shape) < 3:
            return
        found.append((given, operation))
        raise Stop

    kernels = [
        operation
        for operation in list_operations(model).values()
        if has_kernel(operation)
        if not any(operation is x for x in skipped)
    ]
    inputs = make_inputs(model, images, pixels)
    try:
        with observe(kernels, see), leave_unchanged(model):
            model(inputs, training=False)
    except Stop:
        pass
    if not found:
        return None
    given, operation = found[0]
    if len(given.shape) != 4 or given.shape[0] != 1:
        return None
    return ops.convert_to_numpy(ops.cast(given[0], "float32")), operation


def has_kernel(layer: Any) -> bool:
    """Tell whether a layer itself has a weight that is more than a vector."""
    is_layer = isinstance(layer, keras.layers.Layer)
    if not is_layer or isinstance(layer, keras.layers.Normalization):
        return False
    inner = flatten_layers(layer, include_self=False, recursive=False)
    theirs = {id(weight) for x in inner for weight in x.weights}
    own = [weight.shape for weight in layer.weights if id(weight) not in theirs]
    return any(math.prod(shape) > max(shape) for shape in own if len(shape) > 1)
