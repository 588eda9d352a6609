"""What to tell a user where no gradient reaches a layer from the embedding."""

from typing import Any

import numpy as np

from keras_embcam.keras_private import is_rematerialized
from keras_embcam.network.calls import Call
from keras_embcam.network.embedding_source import EmbeddingSource
from keras_embcam.network.trial_run import TrialRun, enclosing_paths


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
            f"`conv_layer`. Candidates:\n{trial.list_candidates(3, 4)}\n"
            + describe_hash(trial)
        )


def describe_flat(trial: TrialRun, source: EmbeddingSource) -> str:
    """Return what to tell a user whose embedding has a gradient of zero everywhere."""
    return (
        f"The gradient of the embedding ({source.description}) is zero at every layer "
        "that was tried, so every map would be empty. " + describe_hash(trial)
    )


def _is_no_hash(call: Call) -> bool:
    """Tell whether vectors are not all whole numbers."""
    return call.output is None or not np.array_equal(call.output, np.rint(call.output))


def describe_hash(trial: TrialRun) -> str:
    """Return what to tell a user whose embedding may be a hash."""
    return (
        "Behind a sign, a rounding or a comparison, as in a hash, there is no "
        "gradient: pass `embedding_layer`, the layer whose output goes into that step."
        f" Candidates:\n{trial.list_candidates(2, keep=_is_no_hash)}"
    )
