"""Embeddings that are joined from normalised parts, as of people's body parts."""

import math
from typing import Any, NamedTuple

import numpy as np
from keras import ops, tree

from keras_embcam.network.hooks import leave_unchanged, observe
from keras_embcam.network.noise_runs import current_graph, is_in_graph, run_on_noise
from keras_embcam.network.trial_run import TrialRun
from keras_embcam.network.vector_rows import is_fixed, is_parallel, row_lengths

Tensor = Any


class Part(NamedTuple):
    """Where one or several parts of an embedding can be tapped before they are scaled.

    Attributes:
        operation: the operation to watch.
        tap: "output" or "input" of the operation.
        position: among the flattened inputs or outputs.
        number: which call of the operation, from 0.
        num_calls: how often a run calls it.
        shape: of the tensor for one image, axes of size 1 left out.
        axis: along which each part lies in it, the images being axis 0.
    """

    operation: Any
    tap: str
    position: int
    number: int
    num_calls: int
    shape: tuple[int, ...]
    axis: int

    def value(self, arguments: Any, outputs: Any) -> Tensor:
        """Return the parts, each divided by its length, which is held constant."""
        tensors = tree.flatten(outputs if self.tap == "output" else arguments)
        x = ops.cast(tensors[self.position], "float32")
        x = ops.reshape(x, (-1, *self.shape))
        lengths = ops.sqrt(ops.sum(ops.square(x), axis=self.axis, keepdims=True))
        x = x / ops.stop_gradient(ops.maximum(lengths, 1e-12))
        return ops.reshape(x, (-1, math.prod(self.shape)))


def find_parts(
    trial: TrialRun, values: np.ndarray, usable: np.ndarray
) -> tuple[Part, ...] | None:
    """Return the parts of an embedding in their order, None where they do not show.

    Args:
        trial: of the model.
        values: (n, d), the embedding of the noise images.
        usable: (n,) bool, the images whose embeddings are finite and not zero.
    """
    return _find_joined(trial, values[usable], usable) or _find_stacked(
        trial, values, usable
    )


def _find_joined(
    trial: TrialRun, values: np.ndarray, usable: np.ndarray
) -> tuple[Part, ...] | None:
    """Find parts that are vectors of their own, joined one behind the other."""
    vectors: list[tuple[Part, np.ndarray]] = []
    numbers: dict[int, int] = {}
    for call in reversed(trial.calls):
        num_calls = trial.num_calls(call.operation)
        left = numbers.setdefault(id(call.operation), num_calls) - 1
        numbers[id(call.operation)] = left
        for tap, tensors in (("output", [call.output]), ("input", call.inputs)):
            for position, tensor in enumerate(tensors):
                if tensor is None or len(tensor) != len(usable):
                    continue
                rows = tensor[usable]
                # One number is parallel to any other.
                if 1 < rows.shape[1] < values.shape[1]:
                    if not is_fixed(row_lengths(rows)):
                        shape = (rows.shape[1],)
                        part = Part(
                            call.operation, tap, position, left, num_calls, shape, 1
                        )
                        vectors.append((part, rows))
    parts: list[Part] = []
    start = 0
    while start < values.shape[1]:
        for part, rows in vectors:
            piece = values[:, start : start + part.shape[0]]
            fits = piece.shape == rows.shape and is_fixed(row_lengths(piece))
            if fits and is_parallel(rows, piece):
                parts.append(part)
                start += part.shape[0]
                break
        else:
            return None
    return tuple(parts)


def _find_stacked(
    trial: TrialRun, values: np.ndarray, usable: np.ndarray
) -> tuple[Part, ...] | None:
    """Find parts that are the rows or columns of one tensor, as of NetVLAD."""
    model = trial.layers[""]
    drafts: list[Part] = []

    def run(images: Any) -> list[Tensor]:
        graph = current_graph()
        fetched: list[Tensor] = []

        def see(operation: Any, arguments: Any, outputs: Any) -> None:
            if trial.num_calls(operation) != 1 or not is_in_graph(outputs, graph):
                return
            for tap, given in (("input", arguments), ("output", outputs)):
                for position, x in enumerate(tree.flatten(given)):
                    if not ops.is_tensor(x) or None in x.shape[1:]:
                        continue
                    shape = tuple(size for size in x.shape[1:] if size > 1)
                    if len(shape) == 2 and math.prod(shape) == values.shape[1]:
                        drafts.append(Part(operation, tap, position, 0, 1, shape, 0))
                        fetched.append(ops.cast(x, "float32"))

        with observe(trial.operations.values(), see), leave_unchanged(model):
            model(images, training=False)
        return fetched

    fetched = run_on_noise(run, trial.probe)
    for part, tensor in reversed(list(zip(drafts, fetched, strict=True))):
        stack = ops.convert_to_numpy(tensor).reshape(len(usable), *part.shape)[usable]
        for axis in (2, 1):
            rows, pieces = (
                np.moveaxis(x.reshape(stack.shape), axis, 2).swapaxes(0, 1)
                for x in (stack, values[usable])
            )
            # One number is parallel to any other.
            if rows.shape[2] < 2 or not all(is_fixed(row_lengths(x)) for x in pieces):
                continue
            if all(is_parallel(x, y) for x, y in zip(rows, pieces, strict=True)):
                if not all(is_fixed(row_lengths(x)) for x in rows):
                    return (part._replace(axis=axis),)
    return None
