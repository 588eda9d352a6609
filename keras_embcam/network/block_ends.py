"""Find where the blocks of a transformer end, to read the embedding out behind each."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_embcam.network.attention import is_inside
from keras_embcam.network.call_kinds import makes_tokens
from keras_embcam.network.embedding_source import EmbeddingSource
from keras_embcam.network.gradient_checks import random_directions
from keras_embcam.network.noise_images import find_images
from keras_embcam.network.recording import run_and_read_out, run_and_trace
from keras_embcam.network.trial_run import TrialRun

_INSTEAD = 'Pass `preset="attention_gradient"` or "tokens", which need no such place.'


def find_block_ends(
    model: keras.Model,
    trial: TrialRun,
    source: EmbeddingSource,
    attention: dict[str, Any],
    num_tokens: int,
) -> list[Any]:
    """Return the layer whose output is that of each block, such as a residual sum.

    Of the layers that make tokens between two attentions it is the last one that
    reaches the embedding past the attention; behind the last attention, the last one
    of the same kind. Nothing may go around it.

    Args:
        model: that was tried.
        trial: of the model.
        source: of its embedding.
        attention: the attention layer of each block by path, in order of their calls.
        num_tokens: t.

    Raises:
        ValueError: where there is no such layer, as with pooling by attention.
    """
    layers = list(attention.values())
    position = {id(call.operation): i for i, call in enumerate(trial.calls)}
    limits = [position[id(layer)] for layer in layers]
    shape = trial.first_call(layers[-1]).shape or ()
    if len(shape) != 3 or shape[1] != num_tokens:
        raise ValueError(
            f"Another attention, {list(attention)[-1]!r}, pools the tokens of the "
            "blocks: the score cannot be read out behind each of them. " + _INSTEAD
        )
    calls = [
        call
        for call in trial.calls[limits[0] :]
        if makes_tokens(call)
        and call.shape == shape
        and trial.num_calls(call.operation) == 1
        and not is_inside(trial.path(call.operation), attention)
    ]
    operations = [call.operation for call in calls]

    def trace(stopped: list[Any], watched: list[Any]) -> Any:
        def stop(operation: Any, outputs: Any) -> Any:
            is_stopped = any(operation is x for x in stopped)
            return ops.stop_gradient(outputs) if is_stopped else outputs

        paths = [trial.path(x) for x in watched]
        return run_and_trace(model, trial.probe, watched, paths, source, stop)

    directions = random_directions((len(find_images(trial.probe)), source.width))
    gradients = trace(layers, operations).gradients_of_embedding(directions)
    reach = [x for x, y in zip(operations, gradients, strict=True) if y is not None]
    reach = [x for x in reach if not any(x is layer for layer in layers)]
    ends: list[Any] = []
    for start, stop in zip(limits, [*limits[1:], len(trial.calls)], strict=True):
        inside = [x for x in reach if start < position[id(x)] < stop]
        if stop == len(trial.calls) and ends:
            inside = [x for x in inside if type(x) is type(ends[-1])]
        ends += inside[-1:]
    if len(ends) == len(layers):
        goes_around = False
        for odd in (0, 1):
            # With the end of every other block held, the next one does not see it.
            held = trace(ends[odd::2], [*layers, *ends])
            for i in range(odd, len(layers), 2):
                if i + 1 < len(layers):
                    goes_around |= held.depends_on(len(layers) + i + 1)[i]
                else:
                    last = held.gradients_of_embedding(directions)[i]
                    goes_around |= last is not None
        if not goes_around and _can_be_read_out(model, trial, source, layers, ends):
            return ends
    raise ValueError(
        "The score cannot be read out behind each block of this model: between its "
        f"attentions {list(attention)} no layer was seen that all goes through, such "
        "as a residual sum or a layer for the whole block, or what follows the last "
        "block does not run on the tokens of the others. " + _INSTEAD
    )


def _can_be_read_out(
    model: keras.Model,
    trial: TrialRun,
    source: EmbeddingSource,
    layers: list[Any],
    ends: list[Any],
) -> bool:
    """Tell whether what follows the last block takes the tokens of all blocks."""
    paths = [trial.path(x) for x in layers]
    try:
        run = run_and_read_out(model, trial.probe, layers, paths, source, ends)
    except (ValueError, tf.errors.InvalidArgumentError):
        return False
    return run.embeddings.shape[0] == len(find_images(trial.probe))
