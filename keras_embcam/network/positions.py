"""Which pixels the positions of each map of a tried model look at, by arithmetic."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_embcam.network.calls import Call
from keras_embcam.network.first_convolution import has_kernel

# The first and the last pixel that each position of an axis depends on, (n, 2): those
# of the input of the first convolution, also beyond its border where it is padded.
Reach = np.ndarray
# Of rows and columns.
Reaches = tuple[Reach, Reach]

_POOLINGS = (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D)
_CONVOLUTIONS = (
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
)
# Layers of Keras that may move positions and keep the size of the map.
_MOVING = (keras.layers.Permute, keras.layers.Reshape, keras.layers.Lambda)
# `keras.applications` has some layers of its own.
_OF_KERAS = "keras.src.layers.", "keras.src.applications."
# Operations of `keras.ops` that change each position by itself, beside those of
# `keras.ops.nn`, of which convolutions with other sizes are found by their size.
_BY_POSITION = {
    *("Abs", "Absolute", "Add", "Cast", "Clip", "Concatenate", "Divide", "Exp", "Log"),
    *("Maximum", "Mean", "Minimum", "Multiply", "Negative", "Power", "Rsqrt", "Sqrt"),
    *("Square", "Subtract", "Sum", "Tanh", "TrueDivide", "Where"),
}


class Positions:
    """What the positions of the maps of one run look at.

    The sizes and borders of convolutions, poolings, paddings and crops say it. What is
    done between layers, or by layers of unknown kind, is taken to leave positions where
    they are, or to stretch them evenly; `is_sure` tells where that was done.

    Args:
        calls: of the trial run, in order.

    Attributes:
        first: the first layer with a kernel, None where there is none.
    """

    def __init__(self, calls: Sequence[Call]) -> None:
        self._calls = calls
        self.first: Any = None
        # Of each call that is behind a convolution: the calls that it is made of, or
        # None for the input of a first convolution.
        self._sources: dict[int, list[int | None]] = {}
        # By how much code between layers has changed the size of a source.
        self._stretches: dict[tuple[int, int | None], tuple[float, float]] = {}
        self._unsure: set[int] = set()
        self._input_sizes: set[tuple[int, int]] = set()
        for number, call in enumerate(calls):
            if _size_of(call) is not None:
                self._connect(number, call)

    def _connect(self, number: int, call: Call) -> None:
        found: list[int | None] = []
        is_sure = True
        # Of a gate with one value for each image, and the map that it weighs: the map.
        largest = max((x for _, x in call.maps), default=(0, 0))
        for source, size in call.maps:
            if size != largest:
                continue
            if source in self._sources:
                found.append(source)
            elif source is None and self._sources:
                # Made by code between layers: of the last map of this size.
                is_sure = False
                same = (x for x in self._sources if _size_of(self._calls[x]) == size)
                latest = max(same, default=max(self._sources))
                height, width = _size_of(self._calls[latest]) or size
                self._stretches[number, latest] = size[0] / height, size[1] / width
                found.append(latest)
            elif has_kernel(call.operation) and not call.repeats:
                self._input_sizes.add(size)
                self.first = self.first or call.operation
                found.append(None)
        if not found:
            return
        self._sources[number] = found
        earlier = any(x in self._unsure for x in found)
        if earlier or not (is_sure and _is_known(call)):
            self._unsure.add(number)

    def find(self, operation: Any) -> int | None:
        """Return the number of the last call of an operation, None where unknown."""
        return max(
            (x for x in self._sources if self._calls[x].operation is operation),
            default=None,
        )

    def find_before(self, operation: Any, size: tuple[int, int]) -> int | None:
        """Return the number of the last map of a size before an operation's call."""
        numbers = [x for x, y in enumerate(self._calls) if y.operation is operation]
        return max(
            (
                x
                for x in self._sources
                if x < max(numbers, default=0) and _size_of(self._calls[x]) == size
            ),
            default=None,
        )

    def is_sure(self, operation: Any) -> bool:
        """Tell whether all that an operation's map went through is of a known kind."""
        number = self.find(operation)
        return number is not None and number not in self._unsure

    def reach(self, number: int, input_size: tuple[int, int]) -> Reaches | None:
        """Return what the positions of a call's map look at.

        Args:
            number: of the call.
            input_size: (h, w) of the input of the first convolution.

        Returns:
            Of rows and of columns; None where several first convolutions have inputs
            of different sizes, or a layer makes another size than its kind.
        """
        if len(self._input_sizes) > 1:
            return None
        height, width = input_size
        found: dict[int | None, Reaches] = {
            None: (
                np.arange(height)[:, None] + [[0, 0]],
                np.arange(width)[:, None] + [[0, 0]],
            )
        }
        for other in sorted(self._ancestors(number)):
            parts = [
                _stretch(found[x], self._stretches.get((other, x), (1.0, 1.0)))
                for x in self._sources[other]
            ]
            if len({tuple(map(len, x)) for x in parts}) > 1:
                return None
            rows, columns = (
                _follow(self._calls[other], axis, _join([x[axis] for x in parts]))
                for axis in (0, 1)
            )
            found[other] = rows, columns
        reaches = found[number]
        if input_size in self._input_sizes and _size_of(self._calls[number]) != (
            len(reaches[0]),
            len(reaches[1]),
        ):
            return None
        return reaches

    def _ancestors(self, number: int) -> set[int]:
        needed: set[int] = set()
        waiting: list[int | None] = [number]
        while waiting:
            one = waiting.pop()
            if one is not None and one not in needed:
                needed.add(one)
                waiting += self._sources[one]
        return needed


def _join(parts: list[Reach]) -> Reach:
    """Return what positions look at that are made of those of several maps."""
    firsts = np.min([x[:, 0] for x in parts], axis=0)
    return np.stack([firsts, np.max([x[:, 1] for x in parts], axis=0)], axis=1)


def _size_of(call: Call) -> tuple[int, int] | None:
    """Return (h, w) of a map of more than one position."""
    shape = call.shape
    if shape is None or len(shape) != 4 or shape[1] * shape[2] < 2:
        return None
    return shape[1], shape[2]


def _is_known(call: Call) -> bool:
    """Tell whether `_follow` knows what a call does to positions."""
    operation = call.operation
    if call.repeats or _window(operation) is not None:
        return True
    if not isinstance(operation, keras.layers.Layer):
        name = type(operation).__name__
        is_activation = type(operation).__module__.endswith("ops.nn")
        by_itself = name in _BY_POSITION or is_activation
        return name in ("GetItem", "Pad") or (by_itself and call.keeps_shape)
    # Of Keras itself, or a subclass of such a layer; no model, and no layer by itself.
    of_keras = any(
        kind.__module__.startswith(_OF_KERAS) and kind is not keras.layers.Layer
        for kind in type(operation).__mro__
    )
    return of_keras and not isinstance(operation, _MOVING)


def _window(operation: Any) -> Callable[[int, int], tuple[Any, Any]] | None:
    """Return what makes of an axis and its length the ends of all windows."""
    if isinstance(operation, keras.layers.Conv2DTranspose):
        return lambda axis, n: _transposed(operation, axis, n)
    if isinstance(operation, _CONVOLUTIONS):
        widths = [
            (size - 1) * dilation + 1
            for size, dilation in zip(
                operation.kernel_size, operation.dilation_rate, strict=True
            )
        ]
        return lambda axis, n: _windows(operation, widths[axis], axis, n)
    if isinstance(operation, _POOLINGS):
        return lambda axis, n: _windows(operation, operation.pool_size[axis], axis, n)
    if isinstance(operation, keras.layers.ZeroPadding2D):
        return lambda axis, n: _single(
            np.arange(-operation.padding[axis][0], n + operation.padding[axis][1])
        )
    if isinstance(operation, keras.layers.Cropping2D):
        return lambda axis, n: _single(
            np.arange(operation.cropping[axis][0], n - operation.cropping[axis][1])
        )
    return None


def _single(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return places, places


def _windows(operation: Any, width: int, axis: int, n: int) -> tuple[Any, Any]:
    step = operation.strides[axis]
    if operation.padding == "same":
        number = math.ceil(n / step)
        padding = max((number - 1) * step + width - n, 0) // 2
    else:
        number, padding = (n - width) // step + 1, 0
    starts = np.arange(number) * step - padding
    return starts, starts + width - 1


def _transposed(operation: Any, axis: int, n: int) -> tuple[Any, Any]:
    step, width = operation.strides[axis], operation.kernel_size[axis]
    same = operation.padding == "same"
    padding = max(width - step, 0) // 2 if same else 0
    number = n * step + (0 if same else max(width - step, 0))
    places = np.arange(number) + padding
    return (places - width + 1) / step, places / step


def _follow(call: Call, axis: int, reach: Reach) -> Reach:
    """Return what the positions of a call's map look at, given those before it."""
    operation, n = call.operation, len(reach)
    window = _window(operation)
    name = type(operation).__name__
    is_padding = name == "Pad" and np.shape(operation.pad_width) == (4, 2)
    if call.repeats:
        return reach
    if window is not None:
        starts, ends = window(axis, n)
    elif name == "GetItem" and len(_keys(call)) > 1 + axis:
        starts, ends = _single(np.arange(n)[_keys(call)[1 + axis]])
    elif is_padding:
        before, behind = operation.pad_width[1 + axis]
        starts, ends = _single(np.arange(-before, n + behind))
    else:  # stretched evenly, or left as it is
        factors = [(_size_of(call) or size)[axis] / size[axis] for _, size in call.maps]
        wanted = n if 1 in factors else max(1, round(n * factors[0]))
        return _evenly(reach, wanted)
    return np.stack([_at(reach[:, 0], starts), _at(reach[:, 1], ends)], axis=1)


def _evenly(reach: Reach, number: int) -> Reach:
    width = len(reach) / number
    centres = (np.arange(number) + 0.5) * width - 0.5
    ends = centres + np.outer([-0.5, 0.5], [max(width - 1, 0)])
    return np.stack([_at(x, y) for x, y in zip(reach.T, ends, strict=True)], axis=1)


def _stretch(reaches: Reaches, factors: tuple[float, float]) -> Reaches:
    rows, columns = (
        _evenly(reach, max(1, round(len(reach) * factor)))
        for reach, factor in zip(reaches, factors, strict=True)
    )
    return rows, columns


def _keys(call: Call) -> tuple:
    keys = call.key if isinstance(call.key, tuple) else ()
    return keys if all(isinstance(x, slice) for x in keys) else ()


def _at(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return values between and beyond those of whole places, which rise evenly."""
    if len(values) == 1:
        return np.repeat(values, len(places))
    inside = np.interp(places, np.arange(len(values)), values)
    before = np.minimum(places, 0) * (values[1] - values[0])
    behind = np.maximum(places - len(values) + 1, 0) * (values[-1] - values[-2])
    return inside + before + behind
