"""Find attention layers, whose inner tensors look like images and are none."""

import re
from typing import Any

import keras

from keras_embcam.keras_private import flatten_layers
from keras_embcam.network.trial_run import TrialRun, enclosing_paths

_KERAS_ATTENTION = tuple(
    getattr(keras.layers, name)
    for name in (
        "MultiHeadAttention",
        "GroupQueryAttention",
        "GroupedQueryAttention",
        "Attention",
        "AdditiveAttention",
    )
    if hasattr(keras.layers, name)
)
# Attention layers that are not Keras's own, such as KerasHub's, go by their name,
# if they take tokens: the "attention" of a convolutional network only scales its maps.
_NAMES = re.compile(r"attention|attn|msa\b|mhsa", re.IGNORECASE)


def is_attention(trial: TrialRun, operation: Any) -> bool:
    """Tell whether a layer mixes tokens by attention, by its class or its name."""
    if isinstance(operation, _KERAS_ATTENTION):
        return True
    if not _is_named_attention(operation) or not trial.num_calls(operation):
        return False
    # A whole block may have such a name: only the innermost layer is the attention.
    inner = flatten_layers(operation, include_self=False)
    if any(isinstance(x, _KERAS_ATTENTION) or _is_named_attention(x) for x in inner):
        return False
    return 3 in trial.first_call(operation).input_ranks[:1]


def _is_named_attention(operation: Any) -> bool:
    """Tell whether a layer with layers inside has the name of an attention."""
    if not isinstance(operation, keras.layers.Layer):
        return False
    has_layers = bool(flatten_layers(operation, include_self=False))
    named = f"{type(operation).__name__} {operation.name}"
    return has_layers and bool(_NAMES.search(named))


def find_attention(trial: TrialRun) -> dict[str, Any]:
    """Return the attention layers of a tried model by path, in order of their calls."""
    seen = dict.fromkeys(trial.path(call.operation) for call in trial.calls)
    layers = {path: trial.operations[path] for path in seen}
    return {path: x for path, x in layers.items() if is_attention(trial, x)}


def is_inside(path: str, attention: dict[str, Any]) -> bool:
    """Tell whether a path lies inside an attention layer; the layer itself does not.

    Example:

    >>> attention = {"block/mha": object()}
    >>> is_inside("block/mha/value", attention), is_inside("block/mha", attention)
    (True, False)
    """
    return any(outer in attention for outer in enclosing_paths(path))
