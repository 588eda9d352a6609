"""Find the layers of a tried model whose activations can be explained."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras

from keras_embcam.keras_private import is_rematerialized
from keras_embcam.network.trial_run import Call, TrialRun, enclosing_paths

# Layers that move, drop or scale activations rather than make them. What is off on
# inference, such as dropout, returns what it was given: `Call.repeats`.
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


@dataclass(frozen=True)
class Scales:
    """In place of the name of a layer: the default one, and finer ones.

    Attributes:
        num_scales: how many layers in all. Each further one is the last with larger
            maps than the one before: of a backbone with maps of 56, 28, 14 and 7
            positions a side and ``num_scales=3``, the last one of 7, 14 and 28.
    """

    num_scales: int


def find_convolutions(trial: TrialRun, conv_layer: Any = None) -> Iterator[Any]:
    """Yield the layers to explain, best first; the embedding may not use them.

    Args:
        trial: of the model.
        conv_layer: name, path or object of a layer with a 4-D output; None for all
            that make activations of more than one position, the last one first.

    Raises:
        ValueError: where a layer is not found, ambiguous, called more than once,
            hidden inside a call compiled with ``tf.function``, or not 4-D.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 3)),
    ...     keras.layers.Conv2D(4, 3, name="first"),
    ...     keras.layers.Conv2D(4, 3, name="second"),
    ...     keras.layers.MaxPooling2D(),
    ... ])
    >>> [layer.name for layer in find_convolutions(TrialRun(model))]
    ['second', 'first']
    """
    if conv_layer is not None:
        operation = trial.find_operation(conv_layer, "conv_layer", rank=4)
        shape = trial.first_call(operation).shape
        if shape is None or len(shape) != 4:
            raise ValueError(
                "`conv_layer` must name a layer with a 4-D output (n, h, w, k). The "
                f"output of {trial.path(operation)!r} is {shape or 'not one tensor'}. "
                f"Candidates:\n{trial.list_candidates(rank=4)}"
            )
        yield operation
        return
    _refuse_hidden_convolution(trial, "")
    for call in reversed(trial.calls):
        if not _makes_features(call):
            _refuse_hidden_convolution(trial, trial.path(call.operation))
        # One ReLU may serve many places; with weights it is a siamese network.
        elif trial.num_calls(call.operation) == 1 or _weights(call.operation):
            yield trial.find_operation(call.operation, "conv_layer", rank=4)


def find_finer_convolutions(trial: TrialRun, operation: Any) -> Iterator[Any]:
    """Yield the layers of `find_convolutions` with larger maps than one of them."""
    is_before = False
    for candidate in find_convolutions(trial):
        is_before = is_before or candidate is operation
        if is_before and num_positions(trial, candidate) > num_positions(
            trial, operation
        ):
            yield candidate


def num_positions(trial: TrialRun, operation: Any) -> int:
    """Return ``h w`` of a layer with a 4-D output."""
    _, height, width, _ = trial.first_call(operation).shape or (0, 0, 0, 0)
    return height * width


def check_layers(names: Any) -> list[Any]:
    """Check a list of layers to explain, and return it.

    Raises:
        ValueError: where it is empty or names a layer twice.
    """
    if not names or any(x in names[:i] for i, x in enumerate(names)):
        raise ValueError(
            "A list as `conv_layer` must name at least one layer, and none twice. "
            f"Received: {names!r}"
        )
    return list(names)


def check_gradient(trial: TrialRun, operation: Any, conv_layer: Any) -> None:
    """Say why no gradient reaches this layer, where that should be an error.

    Args:
        trial: of the model.
        operation: the layer that was tried.
        conv_layer: what the user named, None for a layer found by default.

    Raises:
        ValueError: for a layer that the user named or that is rematerialised.
    """
    path = trial.path(operation)
    around = (path, *enclosing_paths(path))
    if any(is_rematerialized(trial.layers[x]) for x in around):
        raise ValueError(
            f"The layer {path!r} was built inside a `keras.RematScope` and computes "
            "its output again on the way back, where it cannot be recorded. Build the "
            "model again without the scope: its weights fit unchanged."
        )
    if conv_layer is not None:
        raise ValueError(
            f"No gradient reaches {path!r} from the embedding: the embedding does not "
            "use this layer, or `stop_gradient` lies between them. Pass another "
            f"`conv_layer`. Candidates:\n{trial.list_candidates(rank=4)}"
        )


def _makes_features(call: Call) -> bool:
    return (
        call.shape is not None
        and len(call.shape) == 4
        and call.shape[1] * call.shape[2] > 1
        and not call.repeats
        # An operation of a graph: a sum or an activation, not a pooling or a slice.
        and (isinstance(call.operation, keras.layers.Layer) or call.keeps_shape)
        and not isinstance(call.operation, _NOT_FEATURES)
    )


def _weights(operation: Any) -> list[Any]:
    return getattr(operation, "weights", [])  # not every operation is a layer


def _refuse_hidden_convolution(trial: TrialRun, path: str) -> None:
    """Refuse a compiled layer that holds a convolution, seen by its 4-D weight."""
    if path not in trial.compiled:
        return
    for inner, operation in trial.operations.items():
        is_inside = path in enclosing_paths(inner)
        if is_inside and any(len(x.shape) == 4 for x in _weights(operation)):
            trial.find_operation(operation, "conv_layer", rank=4)  # raises
