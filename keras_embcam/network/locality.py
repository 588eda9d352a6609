"""Change parts of the images, and see which positions of each layer change."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_embcam.network.hooks import Stop, leave_unchanged, observe
from keras_embcam.network.noise_images import NUM_PROBES, find_images
from keras_embcam.network.noise_runs import current_graph, is_in_graph, run_on_noise
from keras_embcam.network.trial_run import TrialRun

# The share of positions that must move most where their own quarter of the image is
# changed. Maps reach 0.9 to 1; positions in a wrong order, or attention heads taken for
# columns, 0.5. Of maps of few positions that all look near the middle, 0.8.
MIN_AGREEMENT = 0.8
MIN_MAP_AGREEMENT = 0.7
MIN_SIDE = 3
NUM_QUARTERS = 4
_ROUNDING = 1e-6  # of the largest change


class Locality:
    """More runs of a tried model, on noise of which a part is changed.

    Args:
        model: a built Keras model.
        trial: of the model.
        last: the operation where the model may stop; None to run all of it.

    Attributes:
        image_size: (H, W) of the noise.
    """

    def __init__(self, model: keras.Model, trial: TrialRun, last: Any = None) -> None:
        self._model, self._probe = model, trial.probe
        images = find_images(trial.probe)
        self.image_size: tuple[int, int] = tuple(images.shape[1:3])
        operations = {id(call.operation): call.operation for call in trial.calls}
        quarters = np.arange(NUM_QUARTERS)
        self._moved = self._run(operations.values(), _turn, quarters, last)

    def _run(
        self,
        operations: Iterable[Any],
        change: Callable,
        parts: np.ndarray,
        last: Any = None,
    ) -> dict[int, np.ndarray]:
        """Return how far each position moves, (images, parts, *positions).

        Args:
            operations: to look at.
            change: ``(images, parts) -> images``, changes a part of each image.
            parts: which parts to change of each image, one after the other.
            last: the operation where the model may stop; None to run all of it.
        """
        seen: dict[int, int] = {}

        def move(images: Any, parts: Any) -> list[Any]:
            pixels = find_images(images)
            pairs = tree.map_structure(
                lambda x: ops.concatenate(
                    [x, change(x, parts) if x is pixels else x], axis=0
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
                moves.append(
                    ops.norm(outputs[num_pairs:] - outputs[:num_pairs], axis=-1)
                )
                if operation is last:
                    raise Stop

            graph = current_graph()
            with suppress(Stop), observe(operations, see), leave_unchanged(self._model):
                self._model(pairs, training=False)
            return moves

        rows = np.repeat(np.arange(NUM_PROBES), len(parts))
        probe = tree.map_structure(lambda x: ops.take(x, rows, axis=0), self._probe)
        chosen = np.tile(parts, (NUM_PROBES, *[1] * (parts.ndim - 1)))
        moved = [ops.convert_to_numpy(x) for x in run_on_noise(move, probe, chosen)]
        # In a graph windows have an unknown number of rows too.
        return {
            key: moved[i].reshape(NUM_PROBES, len(parts), *moved[i].shape[1:])
            for key, i in seen.items()
            if len(moved[i]) == len(rows)
        }

    def confirms(self, operation: Any, grid: tuple[int, int], tokens: slice) -> bool:
        """Tell whether tokens are the patches of a grid row by row.

        Changes one patch at a time, at places that tell other orders apart: that patch
        must move most, or one beside it where several patches see it.

        Args:
            operation: that makes the tokens, the earlier the better.
            grid: (h, w).
            tokens: that are the patches.
        """
        places = _choose_places(*grid)
        sizes = np.array(self.image_size)
        corners = [places * sizes // grid, (places + 1) * sizes // grid]
        boxes = np.concatenate(corners, axis=1)
        moved = self._run([operation], _swap, boxes, operation).get(id(operation))
        if moved is None:
            return False
        moved = moved[:, :, tokens]
        for image in moved[np.isfinite(moved).all(axis=(1, 2))]:
            own = np.ravel_multi_index(places.T, grid)
            moves = image[np.arange(len(places)), own] > 0
            found = np.stack(np.unravel_index(image.argmax(axis=1), grid), axis=1)
            if moves.all() and np.abs(found - places).max() <= 1:
                return True
        return False

    def knows(self, operation: Any) -> bool:
        """Tell whether the output of an operation was seen."""
        return id(operation) in self._moved

    def shows_places(self, operation: Any) -> bool:
        """Tell whether a map (n, h, w, k) shows the places of the images it is of.

        Of a few positions, which look at most of the image each, it cannot be told.
        """
        if not self.knows(operation):
            return False
        moved = self.moved(operation)
        if len(moved.shape) == 4:
            is_small = min(moved.shape[2:]) < MIN_SIDE
            if is_small or not np.any(moved[np.isfinite(moved)]):
                return True
        return len(moved.shape) == 4 and agreement(moved) >= MIN_MAP_AGREEMENT

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


def _choose_places(height: int, width: int) -> np.ndarray:
    """Return places (n, 2) of a grid: its corners, beside them, and within.

    Example:

    >>> _choose_places(2, 1).tolist()
    [[0, 0], [1, 0]]
    """
    down, right = height - 1, width - 1
    places = [(0, 0), (0, right), (down, 0), (down, right)]
    places += [(min(1, down), 0), (0, min(2, right)), (height // 2, right)]
    places += [(height // 3, 2 * width // 3), (2 * height // 3, width // 3)]
    return np.array(sorted(set(places)))


def _swap(images: Any, boxes: Any) -> Any:
    """Return images with a box of each filled from the opposite part of the image.

    Args:
        images: (n, H, W, c).
        boxes: (n, 4) integers, top, left, bottom and right.
    """
    top, left, bottom, right = (
        ops.reshape(boxes[:, i], (-1, 1, 1)) for i in range(boxes.shape[1])
    )
    rows = np.arange(images.shape[1])[None, :, None]
    columns = np.arange(images.shape[2])[None, None]
    is_here = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    return ops.where(is_here[..., None], ops.flip(images, (1, 2)), images)
