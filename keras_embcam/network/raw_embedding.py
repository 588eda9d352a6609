"""Find the raw embedding of a model: before a normalisation or a softmax."""

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops, tree

from keras_embcam.network.calls import Call, vectors_of
from keras_embcam.network.cosine_heads import find_cosine_head
from keras_embcam.network.embedding_source import EmbeddingSource
from keras_embcam.network.layer_norms import are_same, find_token, undo_scale
from keras_embcam.network.logits import before_softmax, move_tap, tapped_input
from keras_embcam.network.normalized_parts import find_parts
from keras_embcam.network.trial_run import TrialRun
from keras_embcam.network.vector_rows import (
    NORMS,
    find_scale,
    is_fixed,
    is_log_probabilities,
    is_parallel,
    is_probabilities,
    is_unit,
    row_lengths,
)

Tensor = Any


def find_embedding(trial: TrialRun, embedding_layer: Any = None) -> EmbeddingSource:
    """Find the raw embedding of a tried model.

    The embedding is the model's output or what ``embedding_layer`` names. Where a
    last step scales it to a fixed length, another fixed norm or range, or makes
    probabilities or their logarithms of it, the raw embedding is what goes into that
    step; of a layer normalisation, what it scales; and where the model's output is its
    cosine with one vector for each class, what goes into that layer. Working on
    values and not on the graph finds a layer, a Lambda, an operation of a Functional
    graph and the code of a subclassed model alike, nested or not, also with a cast, a
    dropout or a scale factor behind it.

    Args:
        trial: of the model.
        embedding_layer: the name, path or object of a layer, the key of an output,
            or None for the model's only output.

    Raises:
        ValueError: for several outputs of which none is named, an output that is
            not (n, d), or an output that is scaled or holds probabilities whose raw
            vectors cannot be found, unless ``embedding_layer`` names it.

    Example:

    >>> import keras
    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 3)),
    ...     keras.layers.GlobalAveragePooling2D(),
    ...     keras.layers.Dense(4, activation="softmax", name="classes"),
    ... ])
    >>> find_embedding(TrialRun(model)).description
    "logits of 'classes'"
    """
    source, values = _named_embedding(trial, embedding_layer)
    # The noise may overflow in float16 where images do not.
    usable = np.isfinite(values).all(axis=1) & (values != 0).any(axis=1)
    if not usable.any():
        return source
    is_named = embedding_layer is not None
    is_log = is_log_probabilities(values[usable])
    is_softmax = is_log or is_probabilities(values[usable])
    if is_softmax:
        source = before_softmax(trial, values, usable, source, is_named, is_log)
    if not is_named:
        returned = tapped_input(trial, source) if is_softmax else values
        head = None if returned is None else find_cosine_head(trial, returned, usable)
        if head is not None:
            return _before_head(trial, *head, usable, source)
    if is_softmax:
        return source
    found = _before_norms(trial, values, usable, source)
    rows = values[usable]
    if len(tree.flatten(trial.probe)) > 1:  # other inputs are the same for all images
        rows = rows[:, np.ptp(rows, axis=0) > 0]
    scale = None if is_named or found is not source else find_scale(rows)
    if scale is not None:
        raise ValueError(
            f"The embedding ({source.description}) is scaled: its {scale} is the same "
            "for every image, so its map would show what changes that scale, and the "
            "vector before it is not found. Pass `embedding_layer`, the layer whose "
            "output goes into that step, or the layer of the scaled vector itself "
            "where that is what you want explained. Candidates:\n"
            + trial.list_candidates(2)
        )
    return found


def _named_embedding(trial: TrialRun, name: Any) -> tuple[EmbeddingSource, np.ndarray]:
    operation, position = None, 0
    outputs = trial.outputs
    flat = tree.flatten(outputs)
    if isinstance(name, str) and isinstance(outputs, dict) and name in outputs:
        position = next(i for i, x in enumerate(flat) if x is outputs[name])
        description = f"output {name!r}"
    elif name is not None:
        operation = trial.find_operation(name, "embedding_layer", 2)
        description = f"output of {trial.path(operation)!r}"
    elif len(flat) > 1:
        keys = f" {list(outputs)}" if isinstance(outputs, dict) else ""
        wrappers = [x for x in trial.operations.values() if hasattr(x, "as_model")]
        if wrappers:
            raise ValueError(
                "This model returns heatmaps already: it was made by "
                "`EmbeddingCAM.as_model()`. Pass the model that was wrapped, "
                f"`model.get_layer({wrappers[0].name!r}).layer`."
            )
        raise ValueError(
            f"The model has {len(flat)} outputs{keys}. Pass `embedding_layer`, the "
            "name of the layer that makes the embedding. Candidates:\n"
            + trial.list_candidates(2)
        )
    else:
        description = "model's output"
    shape: Any
    if operation is None:
        vectors, shape = vectors_of(flat[position]), tuple(flat[position].shape)
        values = None if vectors is None else ops.convert_to_numpy(vectors)
    else:
        call = trial.first_call(operation)
        values, shape = call.output, call.shape or "not one tensor"
    if values is None:
        raise ValueError(
            "The embedding must be one floating-point tensor of the shape (n, d). The "
            f"{description} is {shape}. Pass `embedding_layer`, the name of the layer "
            f"that makes one vector of each image{_how_to_pool(shape, operation)}. "
            "Candidates:\n" + trial.list_candidates(2)
        )
    width = values.shape[1]
    return EmbeddingSource(operation, "output", position, width, description), values


def _how_to_pool(shape: Any, operation: Any) -> str:
    """Return how a model whose output is a map, or tokens, gets one vector."""
    if operation is not None or len(shape) not in (3, 4):
        return ""
    pool = f"keras.layers.GlobalAveragePooling{len(shape) - 2}D()(model.output)"
    token = ", or `model.output[:, 0]` for a class token" if len(shape) == 3 else ""
    return (
        f", or pass `keras.Model(model.inputs, vectors)` with `vectors = {pool}`{token}"
    )


def _before_normalization(
    trial: TrialRun,
    values: np.ndarray,
    usable: np.ndarray,
    source: EmbeddingSource,
    measure: Callable[[np.ndarray], np.ndarray] = row_lengths,
) -> tuple[EmbeddingSource, np.ndarray]:
    """Return what goes into a normalisation to one length, and its values."""

    def along(tensor: np.ndarray | None) -> np.ndarray | None:
        """Return the lengths of vectors that are parallel to the embedding."""
        if tensor is None or tensor.shape != values.shape:
            return None
        rows = tensor[usable]
        return measure(rows) if is_parallel(rows, values[usable]) else None

    if not is_fixed(measure(values[usable])):
        return source, values
    # A factor behind the normalisation makes the lengths equal and not one.
    normalized = is_unit(measure(values[usable]))
    for call in reversed(trial.calls):
        made = along(call.output)
        if made is not None and is_unit(made):
            normalized = True
            for index, tensor in enumerate(call.inputs):
                lengths = along(tensor)
                if tensor is not None and lengths is not None and not is_unit(lengths):
                    return move_tap(source, trial, call, "input", index), tensor
        elif made is not None and normalized and not is_fixed(made):
            # The code between this call and the next one normalises.
            return move_tap(source, trial, call, "output", 0), call.output
    return source, values


def _before_norms(
    trial: TrialRun,
    values: np.ndarray,
    usable: np.ndarray,
    source: EmbeddingSource,
) -> EmbeddingSource:
    # Also where an L2 normalisation follows it, which leaves the direction.
    found = _before_layer_norm(trial, values, usable, source)
    if found is not source:
        return found
    found, rows = _before_normalization(trial, values, usable, source)
    if is_fixed(row_lengths(rows[usable])):
        parts = find_parts(trial, rows, usable)
        if parts:
            paths = dict.fromkeys(
                f"{part.tap} of {trial.path(part.operation)!r}" for part in parts
            )
            return found._replace(
                parts=parts,
                description="normalised parts joined, each explained before it is "
                f"normalised, its length held constant: {', '.join(paths)}",
            )
    for measure in NORMS.values():
        if found is source:
            found, _ = _before_normalization(trial, values, usable, source, measure)
    return found


def _before_layer_norm(
    trial: TrialRun,
    values: np.ndarray,
    usable: np.ndarray,
    source: EmbeddingSource,
) -> EmbeddingSource:
    """Return what a layer normalisation scales, where it makes the embedding."""
    for operation, inputs, outputs in reversed(trial.layer_norms):
        token = None
        if len(outputs.shape) == 3:
            token = find_token(ops.convert_to_numpy(outputs)[usable], values[usable])
            if token is None:
                continue
            inputs, outputs = inputs[:, token], outputs[:, token]
        vectors = [vectors_of(x) for x in (undo_scale(operation, inputs), outputs)]
        rows = [ops.convert_to_numpy(x) for x in vectors if x is not None]
        if len(rows) < 2 or rows[1].shape != values.shape:
            continue
        # Both: what a subclass computes may differ.
        if all(are_same(x[usable], values[usable]) for x in rows):
            of_token = "" if token is None else f", token {token}"
            path = trial.path(operation)
            description = f"what the layer normalisation {path!r} scales{of_token}"
            return EmbeddingSource(
                operation, "scaled", 0, source.width, description, token
            )
    return source


def _before_head(
    trial: TrialRun,
    call: Call,
    index: int,
    values: np.ndarray,
    usable: np.ndarray,
    source: EmbeddingSource,
) -> EmbeddingSource:
    """Return what a layer compares with its classes, before it is normalised."""
    source = move_tap(source, trial, call, "input", index)
    source = source._replace(width=values.shape[1])
    source = _before_norms(trial, values, usable, source)
    path = trial.path(call.operation)
    return source._replace(
        description=f"{source.description}; what {path!r} makes of it, similarities to "
        "the classes, is stepped over",
        head=path,
    )
