"""What a model states about its inputs, and images made to fit it."""

from typing import Any

import keras
import numpy as np
from keras import tree


def check_model(model: Any) -> None:
    """Check that this is a Keras model.

    Raises:
        TypeError: for anything else.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            "`model` must be a keras.Model. Received: "
            f"{model!r} (of type {type(model).__name__})"
        )


def declared_inputs(model: keras.Model) -> Any:
    """Return the symbolic inputs of a model in their structure, None if it has none.

    Functional models state them, and Sequential ones once they are built.
    """
    inputs = getattr(model, "inputs", None)
    if inputs is None:
        return None
    # `Sequential.input` is what its first caller passed, if anybody called it.
    return inputs[0] if isinstance(model, keras.Sequential) else model.input


def declared_images(model: keras.Model) -> Any:
    """Return the symbolic images (n, H, W, c) of a model, None if it has none."""
    declared = declared_inputs(model)
    for tensor in tree.flatten(declared) if declared is not None else []:
        if len(tensor.shape) == 4:
            return tensor
    return None


def name_inputs(model: keras.Model) -> list[str]:
    """Return the names of a model's inputs in their order, empty if it states none."""
    declared = declared_inputs(model)
    if isinstance(declared, dict):
        return sorted(declared)  # the order in which `tree` flattens dicts
    return [] if declared is None else [x.name for x in tree.flatten(declared)]


def order_inputs(images: Any, model: keras.Model) -> Any:
    """Return arrays by name in the order of the model's inputs, as Keras takes them.

    `tree` flattens dicts in the order of their keys, which is another one. All but
    dicts of arrays with the names of a model whose inputs are a list stay as they are.
    """
    names = name_inputs(model)
    is_listed = names and not isinstance(declared_inputs(model), dict)
    if is_listed and isinstance(images, dict) and sorted(images) == sorted(names):
        return [images[name] for name in names]
    return images


def refuse_channels_first(operations: dict[str, Any]) -> None:
    """Check that no operation of a model, by path, has its channels first.

    Raises:
        ValueError: where one has.
    """
    for path, operation in operations.items():
        if getattr(operation, "data_format", None) == "channels_first":
            raise ValueError(
                f"The layer {path!r} has data_format='channels_first'. Only "
                "channels_last models can be explained: build the model again with "
                "data_format='channels_last'; its weights fit unchanged."
            )


def fit_images(images: Any, model: keras.Model, first: int = 0) -> Any:
    """Check a batch against the inputs of a model and give it their dtype.

    Args:
        images: (n, H, W, c) arrays, or a structure with one; a dict goes by the names
            of the inputs.
        model: whose declared inputs they must fit, where it declares them.
        first: the number of the first image, for messages.

    Raises:
        ValueError: for a wrong rank, size or channel count, NaN or infinity, or
            fractions where the model takes integers.
    """
    images = order_inputs(images, model)
    check_shapes(images, model)
    declared = declared_inputs(model)
    flat = tree.flatten(images)
    inputs = [None] * len(flat) if declared is None else tree.flatten(declared)
    fitted = [_fit_values(x, y, first) for x, y in zip(flat, inputs, strict=True)]
    return tree.pack_sequence_as(images, fitted)


def check_shapes(images: Any, model: keras.Model) -> None:
    """Check the shapes of images against the inputs of a model.

    Args:
        images: (n, H, W, c) arrays, or a structure with one.
        model: whose declared inputs they must fit, where it declares them.

    Raises:
        ValueError: for a wrong rank, size or channel count, or number of inputs.
    """
    declared = declared_inputs(model)
    flat = tree.flatten(order_inputs(images, model))
    inputs = [None] * len(flat) if declared is None else tree.flatten(declared)
    if len(inputs) != len(flat):
        names = f", {list(images)}" if isinstance(images, dict) else ""
        nested = [x.name for x in model.layers if isinstance(x, keras.Model)]
        branch = f", `model.get_layer({nested[0]!r})`" if nested else ""
        raise ValueError(
            f"The model takes {len(inputs)} inputs, {name_inputs(model)}. Received "
            f"{len(flat)} arrays{names}. Pass one array for each input. Of a siamese "
            f"network, pass the model that embeds one image{branch}. Labels go into "
            "`labels`."
        )
    for array, like in zip(flat, inputs, strict=True):
        if like is None:
            continue
        expected = (None, *like.shape[1:])
        # Keras holds a Functional model to its sizes, a Sequential one to its channels.
        if isinstance(model, keras.Sequential):
            expected = (*[None] * (len(expected) - 1), expected[-1])
        fits = len(expected) == array.ndim and all(
            want is None or have == want
            for have, want in zip(array.shape, expected, strict=True)
        )
        if not fits:
            raise ValueError(
                f"The model takes images of the shape {expected}. Received the shape "
                f"{array.shape}. {_hint(array.shape, expected)}"
            )
    if any(array.ndim == 5 for array in flat):
        raise ValueError(
            "Images must have the shape (n, H, W, channels): videos and volumes, and "
            "maps of 3-D convolutions, are not supported. Received the shapes "
            f"{[array.shape for array in flat]}. Explain a network of single frames, "
            "with the frames as images."
        )
    if not any(array.ndim == 4 for array in flat):
        raise ValueError(
            "`images` must have the shape (n, H, W, channels). Received the shape "
            f"{flat[0].shape}. Add the batch axis to a single image with "
            "`images[None]`, the channel axis to grey images with `images[..., None]`."
        )


def _fit_values(array: np.ndarray, declared: Any, first: int) -> np.ndarray:
    if declared is not None:
        array = _cast(array, keras.backend.standardize_dtype(declared.dtype))
    elif array.ndim == 4:
        array = array.astype("float32")
    if np.issubdtype(array.dtype, np.floating):
        bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
        if len(bad):
            raise ValueError(
                "Images must not hold NaN or infinity. Those that do: "
                f"{(bad[:20] + first).tolist()}"
            )
    return array


def _cast(array: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "string":
        return array
    if dtype == "bfloat16":  # unknown to numpy; Keras casts it
        dtype = "float32"
    cast = array.astype(dtype)
    if np.issubdtype(cast.dtype, np.integer) and not np.array_equal(cast, array):
        raise ValueError(
            f"The model takes images of {dtype}, so they must hold whole numbers in "
            f"its range. Received {array.dtype} from {array.min()} to {array.max()}."
        )
    return cast


def _hint(shape: tuple, expected: tuple) -> str:
    if len(shape) == 3 and len(expected) == 4:
        if shape[-1] == expected[-1]:
            return "Add the batch axis to a single image with `images[None]`."
        return "Add the channel axis to grey images with `images[..., None]`."
    if len(shape) == 2 and len(expected) == 4:
        return "Add both axes to a single grey image with `images[None, ..., None]`."
    if len(shape) == len(expected) == 4:
        if shape[-1] == 1 and expected[-1] == 3:
            return "Make grey images RGB with `np.repeat(images, 3, axis=-1)`."
        if shape[-1] == expected[-1]:
            return "Resize them first, for example with `keras.ops.image.resize`."
    return "Pass images as the model was trained on them."
