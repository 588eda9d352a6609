"""Record the calls of the operations of a model while it runs on noise."""

import math
import weakref
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import ops, tree

from keras_embcam.network.hooks import leave_unchanged, observe
from keras_embcam.network.layer_norms import is_layer_norm
from keras_embcam.network.noise_images import NUM_PROBES
from keras_embcam.network.noise_runs import current_graph, is_in_graph, run_on_noise

Tensor = Any

# Of the last layer normalisations what goes in and comes out is kept.
NUM_LAYER_NORMS = 3


class Call(NamedTuple):
    """One call of one operation during the trial.

    Attributes:
        operation: that was called.
        inputs: what `vectors_of` makes of each of its flattened arguments.
        output: what `vectors_of` makes of its output.
        shape: of the output, None where that is not one tensor.
        repeats: whether the output is what went in or what an operation inside made.
        keeps_shape: whether the output has the shape of one of the arguments.
        input_ranks: the rank of each argument that is a tensor.
        maps: of each argument that is 4-D, the number of the call that made it, and
            its size (h, w). -1 stands for an input of the model, None for what was
            made by no known call. Of an output that was made before, itself alone.
        key: of an operation that takes a part of a tensor, which part.
    """

    operation: Any
    inputs: list[np.ndarray | None]
    output: np.ndarray | None
    shape: tuple[int, ...] | None
    repeats: bool
    keeps_shape: bool
    input_ranks: list[int]
    maps: list[tuple[int | None, tuple[int, int]]]
    key: Any


class Recorded(NamedTuple):
    """What one run of a model shows.

    Attributes:
        outputs: what the model returned.
        calls: every call, in order of completion.
        layer_norms: the last layer normalisations, with what went in and came out.
    """

    outputs: Any
    calls: list[Call]
    layer_norms: list[tuple[Any, Tensor, Tensor]]


def record_calls(model: keras.Model, operations: Iterable[Any], probe: Any) -> Recorded:
    """Run a model and record the calls of its operations.

    What runs inside a call that is compiled with ``tf.function`` is left out.

    Args:
        model: a built Keras model.
        operations: of the model, at any depth.
        probe: see `make_noise_images`.
    """
    drafts: list[tuple[Any, list[_Draft], _Draft, bool, list, Any]] = []
    norms: deque[tuple[Any, Tensor, Tensor]] = deque(maxlen=NUM_LAYER_NORMS)

    def run(images: Any) -> Any:
        graph = current_graph()
        latest: dict[int, Tensor] = {}  # by rank
        fetched: list[Tensor] = []
        makers = _Makers()
        for x in tree.flatten(images):
            makers.add(x, -1)

        def see(operation: Any, arguments: Any, outputs: Any) -> None:
            inputs = tree.flatten(arguments)
            if not all(is_in_graph(x, graph) for x in tree.flatten(outputs)):
                return
            repeats = any(outputs is x for x in (*inputs, *latest.values()))
            given = [_Draft(x, fetched) for x in inputs]
            output = _Draft(outputs, fetched)
            maker = makers.find(outputs)
            maps = [(makers.find(x), y) for x, y in zip(inputs, given, strict=True)]
            if maker is not None:
                maps = [(maker, output)]
            makers.add(outputs, len(drafts))
            key = _find_key(operation, arguments)
            drafts.append((operation, given, output, repeats, maps, key))
            if is_layer_norm(operation):
                norms.append((operation, inputs[0], outputs))
            if ops.is_tensor(outputs) and len(outputs.shape) in (3, 4):
                latest[len(outputs.shape)] = outputs

        with observe(operations, see), leave_unchanged(model):
            outputs = model(images, training=False)
        return outputs, fetched, [tensors for _, *tensors in norms]

    outputs, fetched, of_norms = run_on_noise(run, probe)
    arrays = [ops.convert_to_numpy(x) for x in fetched]
    calls = []
    for operation, inputs, output, repeats, maps, key in drafts:
        shape = output.shape(arrays)
        shapes = [x.shape(arrays) for x in inputs if x.static is not None]
        calls.append(
            Call(
                operation,
                [x.vectors(arrays) for x in inputs],
                output.vectors(arrays),
                shape,
                repeats,
                shape is not None and shape in shapes,
                [len(x) for x in shapes if x is not None],
                [(maker, size) for maker, x in maps if (size := x.map_size(arrays))],
                key,
            )
        )
    layer_norms = [
        (operation, *tensors)
        for (operation, *_), tensors in zip(norms, of_norms, strict=True)
    ]
    return Recorded(outputs, calls, layer_norms)


class _Makers:
    """Which call made a tensor; keeps none of them alive."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[Any, int]] = {}

    def add(self, x: Any, number: int) -> None:
        """Note who made a tensor, unless that is known."""
        if ops.is_tensor(x) and self.find(x) is None:
            self._found[id(x)] = weakref.ref(x), number

    def find(self, x: Any) -> int | None:
        """Return the number of what made a tensor, None where it is not known."""
        tensor, number = self._found.get(id(x), (lambda: None, None))
        return number if tensor() is x else None


def _find_key(operation: Any, arguments: Any) -> Any:
    if type(operation).__name__ != "GetItem":
        return None
    args, kwargs = arguments
    return [*args, *kwargs.values()][1]


class _Draft:
    """What is kept of a tensor while the model runs: tensors to be fetched after it."""

    def __init__(self, x: Any, fetched: list[Tensor]) -> None:
        self.static = tuple(x.shape) if ops.is_tensor(x) else None
        self._vectors = self._shape = None
        vectors = vectors_of(x)
        if vectors is not None:
            self._vectors = len(fetched)
            fetched.append(vectors)
        # Of tokens also the first number: windows of an image have it too.
        elif self.static and None in self.static and _is_unknown(self.static):
            self._shape = len(fetched)
            fetched.append(tf.shape(x)[None])

    def vectors(self, arrays: list[np.ndarray]) -> np.ndarray | None:
        """Return what `vectors_of` made of it."""
        return None if self._vectors is None else arrays[self._vectors]

    def shape(self, arrays: list[np.ndarray]) -> tuple[int, ...] | None:
        """Return its shape for all noise images together."""
        if self.static is None or None not in self.static:
            return self.static
        if self._vectors is not None and len(self.static) == 2:
            return arrays[self._vectors].shape
        shape = self.static if self._shape is None else arrays[self._shape][0].tolist()
        first = NUM_PROBES * (shape[0] or 1) if self.static[0] is None else shape[0]
        return first, *shape[1:]

    def map_size(self, arrays: list[np.ndarray]) -> tuple[int, int] | None:
        """Return (h, w) of a 4-D tensor."""
        shape = self.shape(arrays)
        return None if shape is None or len(shape) != 4 else (shape[1], shape[2])


def _is_unknown(shape: tuple) -> bool:
    return len(shape) == 3 or None in shape[1:]


def vectors_of(x: Any) -> Tensor | None:
    """Return the float32 values of a tensor that holds one vector for each image.

    Of the shape (n, d); axes of size 1 beside the vector's are dropped. None for
    anything else.

    Example:

    >>> vectors_of(ops.ones((2, 1, 1, 8))).shape
    TensorShape([2, 8])
    """
    if not ops.is_tensor(x) or not keras.backend.is_float_dtype(x.dtype):
        return None
    sizes = tuple(x.shape[1:])
    if len(sizes) == 1:  # a graph may not know how wide they are
        return ops.cast(x, "float32")
    if not sizes or None in sizes or math.prod(sizes) != max(sizes):
        return None
    return ops.reshape(ops.cast(x, "float32"), (-1, max(sizes)))
