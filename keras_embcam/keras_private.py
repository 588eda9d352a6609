"""The names of Keras's own that it does not promise to keep, in one place.

Tried with Keras 3.8 to 3.15. Each function says what to look for where a later version
no longer has the name.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras


def flatten_layers(
    layer: keras.layers.Layer, *, include_self: bool = True, recursive: bool = True
) -> list[keras.layers.Layer]:
    """Return the layers inside a layer, at any depth or only directly below it.

    `Layer._flatten_layers`: Keras has no public walk over nested layers;
    `Model.layers` does not go into those that are no models.
    """
    return list(layer._flatten_layers(include_self=include_self, recursive=recursive))


def is_rematerialized(operation: Any) -> bool:
    """Tell whether a layer was built inside a `keras.RematScope`: `_remat_mode`."""
    return getattr(operation, "_remat_mode", None) is not None


@contextlib.contextmanager
def keep_traces_of_calls(model: keras.Model) -> Iterator[None]:
    """Keep what a call leaves in the layers of a model as it was before.

    `Layer._called`, which a model that was never called does not have set, and
    `Layer._losses`, which each call clears though they belong to the trainer.
    """
    kept = [(x, x._called, list(x._losses)) for x in flatten_layers(model)]
    try:
        yield
    finally:
        for layer, called, losses in kept:
            vars(layer)["_called"] = called
            if losses:  # none in the list may mean that another thread holds them
                layer._losses[:] = losses
