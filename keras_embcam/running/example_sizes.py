"""All entries of a set are equally long, all its images and masks of one size."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf


def check_lengths(entries: Mapping[str, Any], keys: Iterable[str], name: str) -> None:
    """Check that some entries have one value for each image.

    Raises:
        ValueError: where there are not.
    """
    lengths = {key: _length(entries[key]) for key in sorted(keys)}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"`{name}` must have as many of each as there are images. "
            f"Received: {lengths}"
        )


def _length(values: Any) -> int:
    if isinstance(values, tf.RaggedTensor):
        return int(values.nrows())
    return len(values) if isinstance(values, Sequence) or len(values.shape) else 0


def check_sizes(
    images: Iterable[Any], size: tuple | None, keys: Iterable[str], name: str
) -> None:
    """Check that images have one shape.

    Args:
        images: (H, W, c) each.
        size: (H, W) that the model takes, if it is known.
        keys: what the examples have.
        name: of the argument that holds them.

    Raises:
        ValueError: where they have not, with the code that resizes them.
    """
    different = sorted({_shape(image) for image in images})
    if len(different) > 1:
        code = _resizing_code(size or different[0][:2], keys)
        raise ValueError(
            f"The images of `{name}` must have one size. Received the shapes "
            f"{different[:3]}. Bring them to one in a data set, before it is batched: "
            f"{code}"
        )


def _shape(image: Any) -> tuple:
    if isinstance(image, tf.RaggedTensor):
        return tuple(image.bounding_shape().numpy().tolist())
    return tuple(np.shape(image))


def check_masks(masks: np.ndarray, images: np.ndarray, name: str) -> None:
    """Check that masks have the size of their images.

    Raises:
        ValueError: where they have not.
    """
    if masks.ndim not in (3, 4) or masks.shape[1:3] != images.shape[1:3]:
        code = _resizing_code(images.shape[1:3], ["segmentation_mask"])
        raise ValueError(
            f"The masks of `{name}` must have the shape (n, H, W) or (n, H, W, 1) and "
            f"the size of its images. Received: images of the shape {images.shape} and "
            f"masks of the shape {masks.shape}. Resize them along: {code}"
        )


def _resizing_code(size: tuple, keys: Iterable[str]) -> str:
    """Return code that brings a data set to one size, for people to copy."""
    keys = set(keys)
    changes = [f'"image": tf.image.resize(x["image"], {tuple(size)})']
    if "segmentation_mask" in keys:
        changes.append(
            '"segmentation_mask": tf.cast(tf.image.resize(tf.cast('
            f'x["segmentation_mask"][..., None], tf.uint8), {tuple(size)}, "nearest"), '
            'x["segmentation_mask"].dtype)'
        )
    boxes = " Relative boxes stay as they are." if "bbox" in keys else ""
    return f"dataset.map(lambda x: {{**x, {', '.join(changes)}}}).{boxes}"
