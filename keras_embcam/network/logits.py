"""Find the logits of a model that returns probabilities, or their logarithms."""

import keras
import numpy as np

from keras_embcam.network.calls import Call
from keras_embcam.network.embedding_source import EmbeddingSource
from keras_embcam.network.trial_run import TrialRun
from keras_embcam.network.vector_rows import TOLERANCE, softmax

ACTIVATIONS = (keras.activations.softmax, keras.activations.log_softmax)


def before_softmax(
    trial: TrialRun,
    values: np.ndarray,
    usable: np.ndarray,
    source: EmbeddingSource,
    is_named: bool,
    is_log: bool,
) -> EmbeddingSource:
    """Return what goes into a softmax, or a log-softmax.

    Args:
        trial: of the model.
        values: (n, classes), what comes out of it.
        usable: (n,) bool, the images whose values are finite and not all zero.
        source: of the values.
        is_named: whether the user named it.
        is_log: whether the values are logarithms.

    Raises:
        ValueError: where the logits are not found.
    """
    expected = np.exp(values[usable]) if is_log else values[usable]
    # Relative to the largest: of many classes, all probabilities are small.
    allowed = TOLERANCE * expected.max(axis=1, keepdims=True)

    def is_close(tensor: np.ndarray | None) -> bool:
        if tensor is None or tensor.shape != values.shape:
            return False
        return bool(np.all(np.abs(tensor[usable] - expected) < allowed))

    def is_output(tensor: np.ndarray | None) -> bool:
        if tensor is not None and is_log:
            tensor = np.exp(np.minimum(tensor, 1))
        return is_close(tensor)

    for call in reversed(trial.calls):
        if not is_output(call.output):
            continue
        # First, since the inputs of a Dense layer may look like logits by chance.
        logits = _logits_of_dense(call)
        if logits is not None:
            if call.operation.activation in ACTIVATIONS or is_close(softmax(logits)):
                return move_tap(source, trial, call, "logits", 0)
        for index, tensor in enumerate(call.inputs):
            if is_close(softmax(tensor)) and not is_output(tensor):
                return move_tap(source, trial, call, "input", index)
    activation = getattr(source.operation, "activation", None)
    if is_named and activation not in ACTIVATIONS:
        return source  # an embedding that sums to one, such as a histogram
    what = "logarithms of probabilities (a log-softmax)"
    raise ValueError(
        f"The {source.description} holds "
        f"{what if is_log else 'probabilities (a softmax)'}, and the logits "
        "before it cannot be found. Maps through a softmax differ from maps of the "
        "logits: pass `embedding_layer`, the layer that makes the logits or the "
        "embedding; where that is what you want explained, name its own layer. "
        "Candidates:\n" + trial.list_candidates(2)
    )


def move_tap(
    source: EmbeddingSource, trial: TrialRun, call: Call, tap: str, position: int
) -> EmbeddingSource:
    """Return the source with another tap: at this call."""
    description = f"{tap} of {trial.path(call.operation)!r}"
    return source._replace(
        operation=call.operation, tap=tap, position=position, description=description
    )


def tapped_input(trial: TrialRun, source: EmbeddingSource) -> np.ndarray | None:
    """Return what goes into the softmax, where that is something the trial recorded."""
    if source.tap != "input":
        return None
    return trial.first_call(source.operation).inputs[source.position]


def _logits_of_dense(call: Call) -> np.ndarray | None:
    """Return what a Dense layer passes to its activation, None for other layers."""
    dense, inputs = call.operation, call.inputs[0] if call.inputs else None
    if not isinstance(dense, keras.layers.Dense) or inputs is None:
        return None
    is_plain = dense.activation is keras.activations.linear
    if is_plain or getattr(dense, "quantization_mode", None) is not None:
        return None
    kernel, bias = (
        None if x is None else keras.ops.convert_to_numpy(keras.ops.cast(x, "float32"))
        for x in (dense.kernel, dense.bias)
    )
    logits = inputs @ kernel
    return logits if bias is None else logits + bias
