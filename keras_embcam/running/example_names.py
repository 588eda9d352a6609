"""What labelled examples are called, where their owner has names for them."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_embcam.running.example_entries import is_array

# The first of these that is there; some are those of TensorFlow Datasets.
NAME_KEYS = (
    "name",
    "filename",
    "file_name",
    "image/filename",
    "image/file_name",
    "image/name",
    "path",
    "id",
    "image/id",
)


def find_name_key(entries: Mapping[str, Any], num_axes: int) -> str | None:
    """Return the entry that names the examples, None without one.

    Args:
        entries: as `name_entries` returns them.
        num_axes: of names: 1 in a batch, 0 in a single example.

    Example:

    >>> find_name_key({"image": np.zeros((2, 8, 8, 3)), "id": ["a", "b"]}, num_axes=1)
    'id'
    """
    for key in NAME_KEYS:
        if key in entries:
            names = entries[key]
            shape = (names if is_array(names) else np.asarray(names)).shape
            if getattr(shape, "rank", 0) is not None and len(shape) == num_axes:
                return key
    return None


def shorten_paths(paths: Sequence[str]) -> list[str]:
    """Return paths without the folder that all of them lie in.

    Example:

    >>> shorten_paths(["/birds/wren/1.jpg", "/birds/finch/1.jpg"])
    ['wren/1.jpg', 'finch/1.jpg']
    """
    folder = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [os.path.relpath(path, folder) for path in paths]
