"""Noise images in the form that a model takes, to see what the model does."""

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
    specification = images if images is not None else declared_inputs(model)
    if specification is None:
        raise ValueError(
            "The model does not state the shape of its images. Pass `images`, a "
            f"batch of them. Received: {model!r}"
        )
    find_images(specification)  # raises where there are none
    generator = np.random.default_rng(0)
    return tree.map_structure(lambda x: _make_noise(x, generator), specification)


def _make_noise(like: Any, generator: np.random.Generator) -> Tensor:
    dtype = backend.standardize_dtype(like.dtype)
    shape = [DEFAULT_SIZE if size is None else size for size in like.shape[1:]]
    if len(shape) != 3:
        # Not the image: what is given with it matters less than that it is valid.
        if ops.is_tensor(like) or isinstance(like, np.ndarray):
            return ops.convert_to_tensor(np.repeat(like[:1], NUM_PROBES, axis=0))
        return ops.zeros((NUM_PROBES, *shape), dtype)
    height, width, channels = shape
    coarse = generator.uniform(size=(NUM_PROBES, 4, 4, channels))
    rows = np.arange(height) * 4 // height
    columns = np.arange(width) * 4 // width
    noise = 0.7 * coarse[:, rows][:, :, columns] + 0.3 * generator.uniform(
        size=(NUM_PROBES, *shape)
    )
    if dtype.startswith(("int", "uint")):
        return ops.convert_to_tensor(noise * 255, dtype)
    # The three ranges that models take: [0, 1], [-1, 1], [0, 255].
    scale = np.reshape([1.0, 2.0, 255.0], (3, 1, 1, 1))
    offset = np.reshape([0.0, -1.0, 0.0], (3, 1, 1, 1))
    return ops.convert_to_tensor(noise * scale + offset, dtype)
