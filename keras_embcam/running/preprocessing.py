"""Preprocessing functions by name: those of keras.applications, and pixel ranges."""

import inspect
from collections.abc import Callable
from typing import Any

import keras


def scale_to_0_1(images: Any) -> Any:
    """Bring pixels from [0, 255] to [0, 1]."""
    return images / 255.0


def scale_to_minus_1_1(images: Any) -> Any:
    """Bring pixels from [0, 255] to [-1, 1]."""
    return images / 127.5 - 1.0


def subtract_imagenet_means(images: Any) -> Any:
    """Bring [0, 255] to [0, 1], subtract ImageNet's means, divide by its deviations."""
    return keras.applications.imagenet_utils.preprocess_input(images, mode="torch")


def get_preprocessing(function: str | Callable | None) -> Callable | None:
    """Return a preprocessing function by its name; others stay as they are.

    Args:
        function: a module of `keras.applications` for its ``preprocess_input``, such as
            "resnet50" or "mobilenet_v2"; "imagenet" for the means and deviations of
            ImageNet; "0,1" or "-1,1" for a range of pixels; a function; or None.

    Raises:
        ValueError: for an unknown name.

    Example:

    >>> get_preprocessing("-1,1")(255.0)
    1.0
    >>> get_preprocessing("vgg16") is keras.applications.vgg16.preprocess_input
    True
    """
    if not isinstance(function, str):
        return function
    known = list_preprocessings()
    if function not in known:
        raise ValueError(
            "`preprocessing_function` must be a function, or one of these names: "
            f"{sorted(known)}. Received: {function!r}"
        )
    return known[function]


def list_preprocessings() -> dict[str, Callable]:
    """Return all that have a name."""
    modules = inspect.getmembers(keras.applications, inspect.ismodule)
    found = {
        name: module.preprocess_input
        for name, module in modules
        if hasattr(module, "preprocess_input")
    }
    del found["imagenet_utils"]  # for which a mode has to be chosen
    return found | {
        "imagenet": subtract_imagenet_means,
        "0,1": scale_to_0_1,
        "-1,1": scale_to_minus_1_1,
    }
