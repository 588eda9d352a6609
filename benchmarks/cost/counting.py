"""How many multiplications and bytes an explanation needs: the floor of its cost."""

from typing import NamedTuple

import keras
import numpy as np
from keras import layers

BYTES = 4


class Count(NamedTuple):
    """Multiplications (with their additions) for one image.

    Attributes:
        forward: of the convolutions and Dense layers of the whole network.
        head: of those behind the explained layer. To pull a proxy back through one of
            them takes as many as to run it.
        channels: to average the gradients and to combine the channels.
        resize: of the map, as two matrix products.
        forward_bytes: that these layers read and write, their weights included.
        map_bytes: that the explanation reads and writes beside the head.
    """

    forward: int
    head: int
    channels: int
    resize: int
    forward_bytes: int
    map_bytes: int

    @property
    def floor(self) -> float:
        """What explain / forward pass cannot be below, by multiplications."""
        return 1 + (self.head + self.channels + self.resize) / self.forward


def count(model: keras.Model, conv_layer: str) -> Count:
    """Count what one image costs in a Functional model.

    Args:
        model: whose layers after `conv_layer`, in its order, are those behind it.
        conv_layer: name of the explained layer.
    """
    names = [layer.name for layer in model.layers]
    behind = model.layers[names.index(conv_layer) + 1 :]
    _, h, w, k = model.get_layer(conv_layer).output.shape
    _, height, width, _ = model.inputs[0].shape
    activations, pixels = h * w * k, height * width
    # Activations are read once; gradients are written, averaged, and read where the
    # weighting needs them. The map is written, searched for its maximum, divided (read
    # and written) and copied out twice (read and written).
    map_values = 4 * activations + 8 * pixels
    return Count(
        forward=sum(map(count_multiplications, model.layers)),
        head=sum(map(count_multiplications, behind)),
        channels=2 * activations,
        resize=height * h * w + height * w * width,
        forward_bytes=BYTES * sum(map(_count_values, model.layers)),
        map_bytes=BYTES * map_values,
    )


def count_multiplications(layer: keras.layers.Layer) -> int:
    """Return those of a convolution or Dense layer for one image; others need few."""
    if isinstance(layer, layers.Dense):
        return int(np.prod(layer.kernel.shape))
    if isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D):
        _, height, width, _ = layer.output.shape
        return int(height * width * np.prod(layer.kernel.shape))
    return 0


def _count_values(layer: keras.layers.Layer) -> int:
    """Return the numbers that a layer reads and writes; others are fused into it."""
    if not count_multiplications(layer):
        return 0
    tensors = [layer.input.shape[1:], layer.output.shape[1:], layer.kernel.shape]
    return sum(int(np.prod(shape)) for shape in tensors)
