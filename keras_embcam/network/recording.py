"""Run any Keras model once and differentiate only what follows a layer.

The tape lives here and nowhere else.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras import ops

from keras_embcam.network.embedding_source import EmbeddingSource
from keras_embcam.network.gradient_scale import cotangent_scale
from keras_embcam.network.hooks import leave_unchanged, observe
from keras_embcam.network.noise_runs import current_graph, is_in_graph
from keras_embcam.network.normalized_parts import Part

Tensor = Any


class Run(NamedTuple):
    """What one run of a model shows.

    Attributes:
        outputs: of the recorded layers, as they came out of them.
        embeddings: (n, d), raw.
        pull_back: maps a float32 cotangent (n, d) on the embeddings to its gradient
            at each of the outputs, of their shapes, float32. Differentiates only the
            part of the model behind the layers; may be called many times.
    """

    outputs: list[Tensor]
    embeddings: Tensor
    pull_back: Callable[[Tensor], list[Tensor]]


class Trace(NamedTuple):
    """What depends on what in one run of a model.

    Attributes:
        outputs: of the recorded layers.
        gradients_of_embedding: returns the gradient of directions (n, d) of the
            embeddings at each output; None where the embedding does not use it.
        depends_on: tells of each output whether the one of this number is made of it.
    """

    outputs: list[Tensor]
    gradients_of_embedding: Callable[[Tensor], list[Tensor | None]]
    depends_on: Callable[[int], list[bool]]


class NoGradientError(ValueError):
    """No gradient connects the embedding with a layer."""


def run_and_record(
    model: keras.Model,
    images: Any,
    operations: Sequence[Any],
    paths: Sequence[str],
    source: EmbeddingSource,
    replace: Callable[[Tensor], Tensor] | None = None,
    inputs_of: Sequence[Any] = (),
) -> Run:
    """Run the model once in inference mode; works in eager and in graph code.

    Nothing of the model changes: no weight, no statistics, no random state.

    Args:
        model: a Keras model.
        images: (n, H, W, c), or the structure that the model takes.
        operations: the layers to record.
        paths: of the layers, for messages.
        source: of the embedding.
        replace: returns what takes the place of a layer's output; None to keep the
            outputs. In a compiled graph, what nothing needs any more is not computed.
        inputs_of: those of the layers whose first argument is recorded in place of
            their output. It must be made of what another one puts out.

    Raises:
        ValueError: where a layer or the embedding was not computed exactly once, or
            not in reach of the tape.
    """
    change = None if replace is None else lambda operation, y: replace(y)
    outputs, embedding, tape = _run(
        model, images, operations, paths, source, change, inputs_of
    )

    def pull_back(cotangents: Tensor) -> list[Tensor]:
        scale = _scale(cotangents, embedding, outputs)
        cotangents = ops.cast(cotangents * scale, embedding.dtype)
        gradients = tape.gradient(embedding, outputs, cotangents)
        for path, gradient in zip(paths, gradients, strict=True):
            if gradient is None:
                raise NoGradientError(
                    f"No gradient reaches {path!r} from the embedding."
                )
        return _undo_scale(gradients, outputs, scale)

    return Run(outputs, embedding, pull_back)


def run_and_read_out(
    model: keras.Model,
    images: Any,
    operations: Sequence[Any],
    paths: Sequence[str],
    source: EmbeddingSource,
    ends: Sequence[Any],
    inputs_of: Sequence[Any] = (),
) -> Run:
    """Run the model once, and read the embedding out behind each of its blocks.

    What follows the last block runs on the outputs of all of them, side by side.

    Args:
        model: see `run_and_record`.
        images: see `run_and_record`.
        operations: the layers to record, as many of each block, in order.
        paths: of the layers.
        source: of the embedding.
        ends: the layers whose outputs are those of the blocks, in order. Nothing goes
            around one of them. None for the embedding itself, as `run_and_record`.
        inputs_of: see `run_and_record`.

    Returns:
        As `run_and_record`, but `pull_back` differentiates what is read out behind the
        block of each layer, and no earlier block.
    """
    if not ends:
        return run_and_record(model, images, operations, paths, source, None, inputs_of)
    passed: list[Tensor] = []

    def join(operation: Any, outputs: Tensor) -> Tensor:
        if not any(operation is x for x in ends):
            return outputs
        passed.append(outputs)
        return ops.concatenate(passed) if operation is ends[-1] else outputs

    names = [*paths, *(x.name for x in ends)]
    recorded, read_out, tape = _run(
        model, images, [*operations, *ends], names, source, join, inputs_of
    )
    outputs, joined = recorded[: len(operations)], recorded[-1]
    embedding = ops.split(read_out, len(ends))[-1]
    number = len(operations) // len(ends)
    blocks = [range(i, i + number) for i in range(0, len(operations), number)]

    def pull_back(cotangents: Tensor) -> list[Tensor]:
        scale = _scale(cotangents, embedding, outputs)
        cotangents = ops.cast(cotangents * scale, embedding.dtype)
        rows = ops.tile(cotangents, (len(ends), 1))
        behind = ops.split(tape.gradient(read_out, joined, rows), len(ends))
        gradients: list[Tensor] = []
        for block, end, cotangent in zip(blocks, passed, behind, strict=True):
            gradients += tape.gradient(end, [outputs[i] for i in block], cotangent)
        return _undo_scale(gradients, outputs, scale)

    return Run(outputs, embedding, pull_back)


def run_and_trace(
    model: keras.Model,
    images: Any,
    operations: Sequence[Any],
    paths: Sequence[str],
    source: EmbeddingSource,
    replace: Callable[[Any, Tensor], Tensor],
) -> Trace:
    """Run the model once and see what depends on which of its layers.

    Args:
        model: see `run_and_record`.
        images: see `run_and_record`.
        operations: the layers, in the order of their calls.
        paths: of the layers.
        source: of the embedding.
        replace: returns what takes the place of a layer's output.
    """
    outputs, embedding, tape = _run(model, images, operations, paths, source, replace)

    def gradients_of_embedding(directions: Tensor) -> list[Tensor | None]:
        cotangents = ops.cast(directions, embedding.dtype)
        return tape.gradient(embedding, outputs, cotangents)

    def depends_on(number: int) -> list[bool]:
        gradients = tape.gradient(outputs[number], outputs)
        return [x is not None for x in gradients]

    return Trace(outputs, gradients_of_embedding, depends_on)


def pull_back_between(
    model: keras.Model,
    images: Any,
    operations: Sequence[Any],
    paths: Sequence[str],
    source: EmbeddingSource,
    cotangents: Tensor,
) -> Tensor:
    """Return the gradient of the second layer's output at that of the first, or None.

    Args:
        model: see `run_and_record`.
        images: see `run_and_record`.
        operations: two layers.
        paths: of the two layers.
        source: of the embedding.
        cotangents: of the shape of the second one's output.
    """
    (first, second), _, tape = _run(model, images, operations, paths, source)
    return tape.gradient(second, first, ops.cast(cotangents, second.dtype))


def _scale(cotangents: Tensor, embedding: Tensor, outputs: list[Tensor]) -> Tensor:
    """Return by what to multiply the cotangent of each image in half precision."""
    # TensorFlow would broadcast a wrong number of rows, or leave zeros.
    check = tf.debugging.assert_equal(
        tf.shape(cotangents),
        tf.shape(embedding),
        "There must be one proxy for each image.",
    )
    finest = max(math.prod(x or 1 for x in y.shape[1:-1]) for y in outputs)
    with tf.control_dependencies([] if check is None else [check]):
        return cotangent_scale(cotangents, (finest,))


def _undo_scale(
    gradients: list[Tensor], outputs: list[Tensor], scale: Tensor
) -> list[Tensor]:
    # Inside a loop a graph may not know the shape of a gradient any more.
    return [
        ops.cast(ops.reshape(x, ops.shape(y)), "float32")
        / ops.reshape(scale, (-1, *[1] * (len(y.shape) - 1)))
        for x, y in zip(gradients, outputs, strict=True)
    ]


def _run(
    model: keras.Model,
    images: Any,
    operations: Sequence[Any],
    paths: Sequence[str],
    source: EmbeddingSource,
    replace: Callable[[Any, Tensor], Tensor] | None = None,
    inputs_of: Sequence[Any] = (),
) -> tuple[list[Tensor], Tensor, tf.GradientTape]:
    graph = current_graph()
    seen: dict[int, list[Tensor]] = {id(x): [] for x in operations}
    taps: tuple[EmbeddingSource | Part, ...] = source.parts or (source,)
    tapped: list[list[Tensor]] = [[] for _ in taps]
    takers = {id(x) for x in inputs_of}

    def see(operation: Any, arguments: Any, outputs: Any) -> Any:
        if id(operation) in takers:
            args, kwargs = arguments
            taken = next(iter((*args, *kwargs.values())))
            if is_in_graph(taken, graph):  # watched by what made it
                seen[id(operation)].append(taken)
        elif id(operation) in seen and is_in_graph(outputs, graph):
            if replace is not None:
                outputs = replace(operation, outputs)
            tape.watch(outputs)
            seen[id(operation)].append(outputs)
        for tap, values in zip(taps, tapped, strict=True):
            if operation is tap.operation:
                vectors = tap.value(arguments, outputs)
                if is_in_graph(vectors, graph):  # else out of reach of the tape
                    values.append(vectors)
        return outputs

    watched = {id(x): x for x in (*operations, *(tap.operation for tap in taps))}
    watched.pop(id(None), None)
    with (
        tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape,
        observe(watched.values(), see),
        leave_unchanged(model),
    ):
        outputs = model(images, training=False)
        if not source.parts and source.operation is None:
            tapped[0].append(source.value((), outputs))
        for name, values in zip(paths, seen.values(), strict=True):
            _check_count(name, values, 1)
        for tap, values in zip(taps, tapped, strict=True):
            _check_count("embedding", values, tap.num_calls)
        vectors = [x[tap.number] for tap, x in zip(taps, tapped, strict=True)]
        embedding = vectors[0] if len(taps) == 1 else ops.concatenate(vectors, axis=1)
    return [values[0] for values in seen.values()], embedding, tape


def _check_count(name: str, values: list[Tensor], num_calls: int) -> None:
    if len(values) != num_calls:
        times = "once" if num_calls == 1 else f"{num_calls} times"
        raise ValueError(
            f"{name!r} must be computed exactly {times} in a run of the model, "
            "outside of any inner `tf.function` or control flow. "
            f"Seen: {len(values)} times."
        )
