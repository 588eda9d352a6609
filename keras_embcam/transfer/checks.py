"""What a database refuses: arguments, weightings and arrays that do not fit."""

from typing import Any

import keras
import numpy as np

from keras_embcam.network.trial_run import list_operations
from keras_embcam.weightings import Weighting, check_top_channels, get_weighting

SPATIAL_WEIGHTINGS = ("hirescam", "layercam")


def check_integer(name: str, value: Any, least: int, most: int | None = None) -> None:
    """Check an argument that counts.

    Raises:
        ValueError: unless it is an integer between the bounds.
    """
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_integer or value < least or (most is not None and value > most):
        bound = f">= {least}" if most is None else f"between {least} and {most}"
        raise ValueError(f"`{name}` must be an integer {bound}. Received: {value!r}")


def check_triplet_arguments(
    num_triplets: Any, top_channels: Any, margin: Any, sign: Any, seed: Any
) -> None:
    """Check the arguments of `GradWeightDatabase.fit`, before any image is read.

    Raises:
        ValueError: for one that is out of range.
    """
    check_integer("num_triplets", num_triplets, 1)
    check_integer("seed", seed, 0)
    check_top_channels(top_channels)
    if not 0 <= margin < np.inf:
        raise ValueError(f"`margin` must be >= 0. Received: {margin!r}")
    if sign not in (-1, 1):
        raise ValueError(f"`sign` must be -1 or +1. Received: {sign!r}")


def check_one_layer(conv_layer: Any) -> None:
    """Check that this is not several convolutions.

    Raises:
        ValueError: for a list of them.
    """
    if isinstance(conv_layer, list | tuple):
        raise ValueError(
            "A database holds the weights of one convolution: pass a single "
            f"`conv_layer`. Received: {conv_layer!r}"
        )


def get_channel_weighting(weighting: str | Weighting) -> Weighting:
    """Return a weighting by name.

    Raises:
        ValueError: for an unknown one, or one of single positions.
    """
    found = get_weighting(weighting)
    if found in [get_weighting(name) for name in SPATIAL_WEIGHTINGS]:
        raise ValueError(spatial_message(weighting))
    return found


def spatial_message(received: Any) -> str:
    """Return why weights of positions are refused."""
    return (
        "Only weights of channels can be lent to another image: `weighting` must be "
        "'gradcam', 'gradcam++', 'xgradcam' or a function that returns (n, 1, 1, k). "
        "Weights of single positions (layercam, hirescam) belong to the places where "
        f"things are in the image that they come from. Received: {received!r}"
    )


def check_arrays(
    embeddings: np.ndarray, channels: np.ndarray, values: np.ndarray, num_channels: Any
) -> None:
    """Check the arrays of a database.

    Raises:
        ValueError: for shapes that do not belong together, embeddings that are not of
            length 1, values that are not finite, or channels that are out of range or
            listed twice.
    """
    check_integer("num_channels", num_channels, 1)
    fits = (
        embeddings.ndim == channels.ndim == 2
        and channels.shape == values.shape
        and 0 < len(embeddings) == len(channels)
        and 0 < channels.shape[1] <= num_channels
        and [x.dtype.kind for x in (embeddings, channels, values)] == ["f", "i", "f"]
    )
    if not fits:
        raise ValueError(
            "A database must have embeddings (N, D), channels (N, M) and values (N, M) "
            f"with N >= 1 and M <= {num_channels}, all float but the integer channels. "
            "Received "
            + ", ".join(f"{x.shape} {x.dtype}" for x in (embeddings, channels, values))
        )
    if not (np.isfinite(embeddings).all() and np.isfinite(values).all()):
        raise ValueError("A database must be finite. It holds NaN or infinity.")
    if not np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-3):
        raise ValueError("The embeddings of a database must have the length 1.")
    ordered = np.sort(channels, axis=1)
    in_range = ordered[:, 0].min() >= 0 and ordered[:, -1].max() < num_channels
    if not in_range or (ordered[:, 1:] == ordered[:, :-1]).any():
        raise ValueError(
            f"The channels of an entry must be different numbers of 0 to "
            f"{num_channels - 1}."
        )


def check_directions(embeddings: np.ndarray) -> None:
    """Check that raw embeddings (n, d) have a direction.

    Raises:
        ValueError: for rows that are zero, NaN or infinite.
    """
    lengths = np.linalg.norm(embeddings, axis=1)
    bad = np.flatnonzero(~((lengths > 0) & (lengths < np.inf)))
    if len(bad):
        raise ValueError(
            "Embeddings must be finite and not zero, to have a direction. Not so for "
            f"the rows {bad[:20].tolist()}"
        )


def path_of(model: keras.Model, layer: Any) -> Any:
    """Return the path of a layer of the model; names and None stay as they are."""
    if layer is None or isinstance(layer, str):
        return layer
    return next(path for path, x in list_operations(model).items() if x is layer)
