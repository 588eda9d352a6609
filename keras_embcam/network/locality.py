"""Change parts of the images, and see which positions of each layer change."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops, tree

from keras_embcam.network.hooks import leave_unchanged, observe
from keras_embcam.network.noise_images import NUM_PROBES, find_images
from keras_embcam.network.trial_run import TrialRun

# The share of positions that must move most where their own quarter of the image is
# changed. Maps reach 0.9 to 1; positions in a wrong order, or attention heads taken for
# columns, 0.5.
MIN_AGREEMENT = 0.8
NUM_QUARTERS = 4
_ROUNDING = 1e-6  # of the largest change


class Locality:
    """One more run of a tried model, on noise of which a quarter is changed.

    Args:
        model: a built Keras model.
        trial: of the model.

    Attributes:
        image_size: (H, W) of the noise.
    """

    def __init__(self, model: keras.Model, trial: TrialRun) -> None:
        images = find_images(trial.probe)
        self.image_size: tuple[int, int] = tuple(images.shape[1:3])
        self._moved: dict[int, np.ndarray] = {}
        self._varies: dict[int, np.ndarray] = {}

        def see(operation: Any, arguments: Any, outputs: Any) -> None:
            known = ops.is_tensor(outputs) and not tf.is_symbolic_tensor(outputs)
            if not known or len(outputs.shape) not in (3, 4):
                return
            if outputs.shape[0] != NUM_PROBES * (1 + NUM_QUARTERS):
                return  # windows of images
            outputs = ops.reshape(
                ops.cast(outputs, "float32"),
                (NUM_PROBES, 1 + NUM_QUARTERS, *outputs.shape[1:]),
            )
            moved = ops.norm(outputs[:, 1:] - outputs[:, :1], axis=-1)
            varies = ops.any(outputs[0, 0] != outputs[1, 0], axis=-1)
            # Of several calls the last one stays; such layers are not explained anyway.
            self._moved[id(operation)] = ops.convert_to_numpy(moved)
            self._varies[id(operation)] = ops.convert_to_numpy(varies)

        operations = {id(call.operation): call.operation for call in trial.calls}
        with observe(operations.values(), see), leave_unchanged(model):
            model(
                tree.map_structure(
                    lambda x: _change(x) if x is images else _repeat(x), trial.probe
                ),
                training=False,
            )

    def knows(self, operation: Any) -> bool:
        """Tell whether the output of an operation was seen."""
        return id(operation) in self._moved

    def moved(self, operation: Any) -> np.ndarray:
        """Return how far each position moved: (images, quarters, *positions)."""
        return self._moved[id(operation)]

    def varies(self, operation: Any) -> np.ndarray:
        """Return which positions are not the same for all images: (*positions)."""
        return self._varies[id(operation)]


def agreement(moved: np.ndarray) -> float:
    """Return the share of positions that move most where their own quarter changes.

    The smaller share of two: those in the right half of the rows, and of the columns,
    each position weighted by how far it is from the middle. Moves are taken relative
    to how far the position moves on average, and how far the change moves all of them:
    behind an attention, each token moves all others a little.

    Args:
        moved: (images, quarters, h, w), the quarters row by row.

    Example: the second is a map of columns by rows.

    >>> moved = np.eye(4).reshape(1, 4, 2, 2)
    >>> agreement(moved), agreement(moved.swapaxes(2, 3))
    (1.0, 0.5)
    """
    height, width = moved.shape[2:]
    rows = moved.reshape(*moved.shape[:2], -1)
    rows = rows[np.isfinite(rows).all(axis=(1, 2)) & (rows.max(axis=(1, 2)) > 0)]
    if not len(rows):
        return 0.0
    moving = (rows.max(axis=1) > 0).any(axis=0).reshape(height, width)
    logs = np.log(rows + _ROUNDING * rows.max(axis=(1, 2), keepdims=True))
    logs -= logs.mean(axis=1, keepdims=True)
    logs -= logs.mean(axis=2, keepdims=True)
    quarters = np.argmax(logs.mean(axis=0), axis=0).reshape(height, width)
    shares = []
    for size, halves, axis in (
        (height, quarters // 2, (slice(None), None)),
        (width, quarters % 2, (None, slice(None))),
    ):
        centres = (np.arange(size) + 0.5) / size
        # What is near the middle of the image sees both halves: it counts less.
        weights = np.broadcast_to(np.abs(centres - 0.5)[axis], moving.shape)[moving]
        if size > 1:
            right = (halves == (centres > 0.5)[axis])[moving]
            shares.append(np.average(right, weights=weights) if weights.any() else 0.0)
    return float(min(shares, default=0.0))


def _change(images: Any) -> Any:
    """Return each image, and with each quarter turned round: (n * 5, H, W, c)."""
    images = ops.convert_to_numpy(images)
    row, column = images.shape[1] // 2, images.shape[2] // 2
    variants = [images]
    for rows in (slice(None, row), slice(row, None)):
        for columns in (slice(None, column), slice(column, None)):
            changed = images.copy()
            changed[:, rows, columns] = images[:, rows, columns][:, ::-1, ::-1]
            variants.append(changed)
    stacked = np.stack(variants, axis=1)
    return ops.convert_to_tensor(stacked.reshape(-1, *images.shape[1:]))


def _repeat(others: Any) -> Any:
    """Return what goes into the model beside the images, as often as those."""
    rows = np.repeat(np.arange(NUM_PROBES), 1 + NUM_QUARTERS)
    return ops.take(others, rows, axis=0)
