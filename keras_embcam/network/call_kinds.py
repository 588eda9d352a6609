"""What kind of activations a call of a tried model makes, by shape and class."""

from typing import Any

import keras

from keras_embcam.keras_private import flatten_layers
from keras_embcam.network.calls import Call
from keras_embcam.network.noise_images import NUM_PROBES

# Layers that move, drop or scale activations rather than make them. Layers that do
# nothing on inference, such as dropout, are found by `Call.repeats` instead.
_NOT_FEATURES = (
    keras.layers.MaxPooling2D,
    keras.layers.AveragePooling2D,
    keras.layers.Reshape,
    keras.layers.Permute,
    keras.layers.Cropping2D,
    keras.layers.ZeroPadding2D,
    keras.layers.UpSampling2D,
    keras.layers.Rescaling,
    keras.layers.Normalization,
    keras.layers.Resizing,
    keras.layers.CenterCrop,
)


def makes_tokens(call: Call) -> bool:
    """Tell whether an output is (n, t, k), more than one token of several channels."""
    shape = call.shape
    return (
        shape is not None
        and len(shape) == 3
        and min(shape[1:]) > 1
        and shape[0] == NUM_PROBES
    )


def normalizes(operation: Any) -> bool:
    """Tell by the name of its class whether an operation is a normalisation."""
    return "norm" in type(operation).__name__.lower()


def adds(operation: Any) -> bool:
    """Tell whether an operation may be a residual sum: an Add, or a whole block."""
    if type(operation).__name__ == "Add":
        return True
    is_layer = isinstance(operation, keras.layers.Layer)
    return is_layer and bool(flatten_layers(operation, include_self=False))


def makes_features(call: Call) -> bool:
    """Tell whether an output is (n, h, w, k) and made there, not moved or pooled."""
    return (
        call.shape is not None
        and len(call.shape) == 4
        and call.shape[1] * call.shape[2] > 1
        and not call.repeats
        # Operations that are no layers: a sum keeps the shape, a slice does not.
        and (isinstance(call.operation, keras.layers.Layer) or call.keeps_shape)
        and not isinstance(call.operation, _NOT_FEATURES)
    )
