"""Change parts of the images, and see which positions of each layer change."""

from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_embcam.network.hooks import leave_unchanged, observe
from keras_embcam.network.noise_images import NUM_PROBES, find_images
from keras_embcam.network.noise_runs import current_graph, is_in_graph, run_on_noise
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
        operations = {id(call.operation): call.operation for call in trial.calls}
        seen: dict[int, int] = {}

        def move(images: Any, quarters: Any) -> list[Any]:
            pixels = find_images(images)
            pairs = tree.map_structure(
                lambda x: ops.concatenate(
                    [x, _turn(x, quarters) if x is pixels else x], axis=0
                ),
                images,
            )
            num_rows = find_images(pairs).shape[0]
            num_pairs = (num_rows or 2) // 2
            moves: list[Any] = []

            def see(operation: Any, arguments: Any, outputs: Any) -> None:
                is_known = ops.is_tensor(outputs) and is_in_graph(outputs, graph)
                if not is_known or len(outputs.shape) not in (3, 4):
                    return
                if outputs.shape[0] != num_rows:
                    return  # windows of images
                outputs = ops.cast(outputs, "float32")
                # Of several calls the last one stays; such layers are not explained
                # anyway.
                seen[id(operation)] = len(moves)
                change = outputs[num_pairs:] - outputs[:num_pairs]
                moves.append(ops.norm(change, axis=-1))

            graph = current_graph()
            with observe(operations.values(), see), leave_unchanged(model):
                model(pairs, training=False)
            return moves

        rows = np.repeat(np.arange(NUM_PROBES), NUM_QUARTERS)
        probe = tree.map_structure(lambda x: ops.take(x, rows, axis=0), trial.probe)
        quarters = np.tile(np.arange(NUM_QUARTERS), NUM_PROBES)
        moved = [ops.convert_to_numpy(x) for x in run_on_noise(move, probe, quarters)]
        # In a graph windows have an unknown number of rows too.
        self._moved = {
            key: moved[i].reshape(NUM_PROBES, NUM_QUARTERS, *moved[i].shape[1:])
            for key, i in seen.items()
            if len(moved[i]) == len(rows)
        }

    def knows(self, operation: Any) -> bool:
        """Tell whether the output of an operation was seen."""
        return id(operation) in self._moved

    def moved(self, operation: Any) -> np.ndarray:
        """Return how far each position moved: (images, quarters, *positions)."""
        return self._moved[id(operation)]

    def varies(self, operation: Any) -> np.ndarray:
        """Return which positions are not the same whatever changes: (*positions)."""
        return np.any(self.moved(operation) > 0, axis=(0, 1))


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


def _turn(images: Any, quarters: Any) -> Any:
    """Return images with a quarter of each turned round.

    Args:
        images: (n, H, W, c).
        quarters: (n,) integers, the quarter of each image, row by row.
    """
    row, column = images.shape[1] // 2, images.shape[2] // 2
    # Each half upside down, then each half of the columns the other way round.
    halves = [ops.flip(x, 1) for x in (images[:, :row], images[:, row:])]
    turned = ops.concatenate(halves, axis=1)
    halves = [ops.flip(x, 2) for x in (turned[:, :, :column], turned[:, :, column:])]
    turned = ops.concatenate(halves, axis=2)
    rows = (np.arange(images.shape[1]) >= row)[:, None]
    columns = (np.arange(images.shape[2]) >= column)[None]
    is_here = (2 * rows + columns)[None] == ops.reshape(quarters, (-1, 1, 1))
    return ops.where(is_here[..., None], turned, images)
