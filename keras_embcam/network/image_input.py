"""Which of a model's images the heat lies on, where it takes several."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops, tree

from keras_embcam.network.hooks import leave_unchanged, observe
from keras_embcam.network.inputs import name_inputs, order_inputs
from keras_embcam.network.noise_images import find_images

Tensor = Any


class ImageInput:
    """The first of a model's images that the explained layers are computed from.

    Args:
        model: a built Keras model; called eagerly where it takes several images.
        probe: noise, in the structure of its inputs.
        operations: that are explained.

    Attributes:
        name: of the input, None where the model takes one image.
        is_first: whether it is the first image among the inputs.
    """

    def __init__(
        self, model: keras.Model, probe: Any, operations: Sequence[Any]
    ) -> None:
        flat = tree.flatten(probe)
        numbers = [i for i, x in enumerate(flat) if len(x.shape) == 4]
        self.name: str | None = None
        self._number = numbers[0]
        if len(numbers) > 1:
            moving = (i for i in numbers if _is_moved(model, probe, i, operations))
            self._number = next(moving, numbers[0])
            names = name_inputs(model) or [f"input {i}" for i in range(len(flat))]
            self.name = names[self._number]
        self.is_first = self._number == numbers[0]

    def of(self, inputs: Any, model: keras.Model | None = None) -> Tensor:
        """Return this image of inputs of the model.

        Args:
            inputs: in the structure that the model takes.
            model: to put dicts in the order of its inputs; None where they are.
        """
        if self.is_first:
            return find_images(inputs)
        if model is not None:
            inputs = order_inputs(inputs, model)
        return tree.flatten(inputs)[self._number]


def _is_moved(
    model: keras.Model, probe: Any, number: int, operations: Sequence[Any]
) -> bool:
    """Tell whether another image at an input changes what operations make."""
    one = [x[:1] for x in tree.flatten(probe)]
    other = [ops.flip(x, (1, 2)) if i == number else x for i, x in enumerate(one)]
    made: list[Any] = []

    def see(operation: Any, arguments: Any, outputs: Any) -> None:
        made[-1] += [x for x in tree.flatten(outputs) if ops.is_tensor(x)]

    with observe(operations, see), leave_unchanged(model):
        for inputs in (one, other):
            made.append([])
            model(tree.pack_sequence_as(probe, inputs), training=False)
    return any(
        bool(ops.convert_to_numpy(ops.any(a != b))) for a, b in zip(*made, strict=True)
    )
