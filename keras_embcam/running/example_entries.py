"""The names of the entries of labelled examples."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

KEYS = ("image", "label", "bbox", "segmentation_mask")
# What other code calls the same things.
OTHER_NAMES = {
    "images": "image",
    "labels": "label",
    "class": "label",
    "classes": "label",
    "target": "label",
    "y": "label",
    "box": "bbox",
    "boxes": "bbox",
    "bboxes": "bbox",
    "bounding_box": "bbox",
    "bounding_boxes": "bbox",
    "mask": "segmentation_mask",
    "masks": "segmentation_mask",
    "segmentation_masks": "segmentation_mask",
}


def name_entries(element: Any, name: str) -> dict[str, Any]:
    """Return the entries of examples, of a batch or of one example, by name.

    Args:
        element: arrays, tensors or their specifications: images; ``(images, labels)``
            or ``(images, labels, sample_weights)``; or a dict. What stands for the
            images may be several inputs of a model, as a dict or a tuple, and what
            stands for the labels a dict of further entries.
        name: of the argument, for messages.

    Returns:
        Those of `KEYS` that are there, and all others under their own names; the
        inputs of a tuple are called "input 0", "input 1" and so on, but for the
        images.

    Raises:
        TypeError: for anything else than the above.
        ValueError: where nothing is the image, or an entry of `KEYS` is a dict or has
            masked values.

    Example:

    >>> images, ages = np.zeros((2, 8, 8, 3)), np.zeros((2, 1))
    >>> sorted(name_entries(({"image": images, "age": ages}, [0, 1]), "examples"))
    ['age', 'image', 'label']
    """
    labels = None
    if isinstance(element, tuple | list) and not _is_list_of_images(element):
        if len(element) not in (2, 3):
            raise _unknown_form(element, name)
        element, labels = element[:2]
    if isinstance(element, tuple | list) and not _is_list_of_images(element):
        element = {f"input {i}": x for i, x in enumerate(element)}
    if isinstance(element, Mapping):
        entries = {key: x for key, x in element.items() if x is not None}
    elif is_array(element) or _is_list_of_images(element):
        entries = {"image": element}
    else:
        raise _unknown_form(element, name)
    if isinstance(labels, Mapping):
        entries = {**labels, **entries}
    elif isinstance(labels, tuple | list) and any(is_array(x) for x in labels):
        raise TypeError(
            f"`{name}` must have one label for each image. Received {len(labels)} "
            'arrays in their place. Pass {"image": images, "label": labels}.'
        )
    elif labels is not None:
        entries.setdefault("label", labels)
    if "image" not in entries:
        entries["image"] = entries.pop(_find_images(entries, name))
    for key in KEYS:
        if isinstance(entries.get(key), Mapping):
            inner = list(entries[key])
            raise ValueError(
                f"`{name}` must hold one array as {key!r}. Received a dict with "
                f"{inner}. Lift the one that is meant, for example "
                f'{key!r}: x["{key}"]["{inner[0] if inner else key}"].'
            )
        if np.ma.is_masked(entries.get(key)):
            raise ValueError(
                f"`{name}` must hold a plain array as {key!r}: of a masked one, what "
                "is masked would be read like the rest. Received a masked array. Pass "
                "x.filled(255) of it, for masks with `mask_ignored=255`."
            )
    return entries


def _unknown_form(element: Any, name: str) -> TypeError:
    return TypeError(
        f"`{name}` must be an array of images, (images, labels), a dict with "
        '"image", or a tf.data.Dataset of these. Received an object of type '
        f"{type(element).__name__}"
    )


def is_array(x: Any) -> bool:
    """Tell whether this is an array, a tensor, or the specification of one."""
    kinds = (np.ndarray, tf.TensorSpec, tf.RaggedTensor, tf.RaggedTensorSpec)
    return isinstance(x, kinds) or keras.ops.is_tensor(x)


def _is_list_of_images(x: Any) -> bool:
    return (
        isinstance(x, list)
        and bool(x)
        and all(is_array(image) and len(image.shape) == 3 for image in x)
    )


def _find_images(entries: dict[str, Any], name: str) -> str:
    """Return the only entry that can be the images, by their number of axes."""
    for rank in (4, 3):  # batches, and single examples
        found = [
            key
            for key, x in entries.items()
            if key not in KEYS and is_array(x) and len(x.shape) == rank
        ]
        if found:
            # The inputs of a siamese network show the same kind of image.
            are_inputs = all(key.startswith("input ") for key in found)
            if len(found) == 1 or are_inputs:
                return found[0]
    raise ValueError(
        f'`{name}` must have an "image". Received: {list(entries)}{_suggest(entries)}'
    )


def describe_unused(
    entries: Mapping[str, Any], used: Iterable[str | None]
) -> str | None:
    """Return a sentence that names the entries nothing is done with, None for none.

    Args:
        entries: as `name_entries` returns them.
        used: the names of the inputs of the model.

    Example:

    >>> describe_unused({"image": 0, "boxes": 0}, [])
    "['boxes'] of them are not used. Did you mean 'bbox' instead of 'boxes'?"
    """
    unused = [key for key in entries if key not in (*KEYS, *used)]
    if not unused:
        return None
    ignored = {key: entries[key] for key in unused}
    present = set(KEYS).intersection(entries)
    return f"{unused} of them are not used.{_suggest(ignored, present)}"


def _suggest(entries: Mapping[str, Any], present: Iterable[str] = ()) -> str:
    """Return what a person may have meant by entries of unknown names."""
    hints = []
    for key, value in entries.items():
        if isinstance(value, Mapping):
            hints += [
                f"Lift {f'{key}/{inner}'!r} to the top: map a function over the data "
                f'that adds {meant!r}: x["{key}"]["{inner}"].'
                for inner in value
                if (meant := _resembled(inner)) and meant not in present
            ]
        elif (meant := _resembled(key)) and meant not in present:
            hints.append(f"Did you mean {meant!r} instead of {key!r}?")
    return "".join(f" {hint}" for hint in hints)


def _resembled(key: Any) -> str | None:
    last = str(key).lower().rsplit("/", 1)[-1]
    if last in KEYS:
        return last
    known = OTHER_NAMES.get(last)
    return known or next(iter(difflib.get_close_matches(last, KEYS, 1, 0.8)), None)
