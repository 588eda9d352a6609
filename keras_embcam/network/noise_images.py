"""Noise images in the form that a model takes, to see what the model does."""

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import backend, ops, tree

from keras_embcam.network.inputs import declared_inputs

Tensor = Any

# Where the size of the images is left open by the model and unknown otherwise.
DEFAULT_SIZE = 224
NUM_PROBES = 3


def find_images(inputs: Any) -> Any:
    """Return the images among the inputs of a model: its first 4-D input.

    Args:
        inputs: a tensor, array or symbol, or any structure of them.

    Raises:
        ValueError: where no input is 4-D.

    Example:

    >>> find_images({"age": np.zeros((2, 1)), "photo": np.zeros((2, 8, 8, 3))}).shape
    (2, 8, 8, 3)
    """
    for tensor in tree.flatten(inputs):
        if len(getattr(tensor, "shape", ())) == 4:
            return tensor
    shapes = [getattr(x, "shape", type(x).__name__) for x in tree.flatten(inputs)]
    raise ValueError(
        "Images must have the shape (n, H, W, c); add the batch axis to a single "
        f"image with `image[None]`. Received inputs of the shapes {shapes}"
    )


def make_noise_images(model: Any, images: Any = None) -> Any:
    """Make noise in the structure of the model's inputs, the same every time.

    Args:
        model: gives the shapes where it states them.
        images: gives the shapes that the model leaves open, if known: arrays, or
            symbols with a shape and a dtype.

    Raises:
        ValueError: where the shape of the images is known from neither, or there are
            no images.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((16, 12, 3)), keras.layers.Conv2D(4, 3)])
    >>> make_noise_images(model).shape
    TensorShape([3, 16, 12, 3])
    """
    generator = np.random.default_rng(0)
    return _make_inputs(model, images, NUM_PROBES, lambda x: _make_noise(x, generator))


def make_inputs(model: Any, images: Any, pixels: np.ndarray) -> Any:
    """Put one grey picture into the structure of the model's inputs.

    Args:
        model: see `make_noise_images`.
        images: see there; tensors stay as they are.
        pixels: (H, W).

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((1, 2, 3)), keras.layers.Flatten()])
    >>> make_inputs(model, None, np.float32([[5, 6]])).numpy().tolist()
    [[[[5.0, 5.0, 5.0], [6.0, 6.0, 6.0]]]]
    """

    def make(like: Any) -> Tensor:
        if ops.is_tensor(like):
            return like
        channels = like.shape[-1] or 3
        picture = np.repeat(pixels[None, :, :, None], channels, axis=-1)
        return ops.convert_to_tensor(picture, backend.standardize_dtype(like.dtype))

    return _make_inputs(model, images, 1, make)


def _make_inputs(
    model: Any, images: Any, num_rows: int, make_images: Callable[[Any], Tensor]
) -> Any:
    specification = images if images is not None else declared_inputs(model)
    if specification is None:
        raise ValueError(
            "The model does not state the shape of its images. Pass `images`, a "
            f"batch of them. Received: {model!r}"
        )
    find_images(specification)  # raises where there are none

    def make(like: Any) -> Tensor:
        if len(like.shape) == 4:
            return make_images(like)
        # What is given with the images matters less than that it is valid.
        if ops.is_tensor(like) or isinstance(like, np.ndarray):
            return ops.convert_to_tensor(np.repeat(like[:1], num_rows, axis=0))
        shape = [DEFAULT_SIZE if size is None else size for size in like.shape[1:]]
        return ops.zeros((num_rows, *shape), backend.standardize_dtype(like.dtype))

    return tree.map_structure(make, specification)


def _make_noise(like: Any, generator: np.random.Generator) -> Tensor:
    dtype = backend.standardize_dtype(like.dtype)
    shape = [DEFAULT_SIZE if size is None else size for size in like.shape[1:]]
    height, width, channels = shape
    coarse = generator.uniform(size=(NUM_PROBES, 4, 4, channels))
    rows = np.arange(height) * 4 // height
    columns = np.arange(width) * 4 // width
    # The three ranges that models take: [0, 1], [-1, 1], [0, 255].
    scales = [(1, 0), (2, -1), (255, 0)]
    is_integer = dtype.startswith(("int", "uint"))
    probes = []
    for blocks, (scale, offset) in zip(coarse, scales, strict=True):
        # One after the other: of large images, all of them as float64 are too many.
        noise = generator.uniform(size=shape) * 0.3
        noise += 0.7 * blocks[rows][:, columns]
        noise *= 255 if is_integer else scale
        noise += 0 if is_integer else offset
        probes.append(ops.convert_to_tensor(noise, dtype))
    return ops.stack(probes)
