"""What one update of a logger found."""

import warnings
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from keras_embcam.running.example_values import join_examples
from keras_embcam.running.labelled_examples import Examples
from keras_embcam.tab_format import to_bytes


class Shown(NamedTuple):
    """Examples to show, with their heatmaps.

    Attributes:
        examples: their labels are those that the user gave.
        heatmaps: (n, H, W) float32 in [0, 1].
        ratios: (n,), NaN for none.
    """

    examples: Examples
    heatmaps: np.ndarray
    ratios: np.ndarray


class Update(NamedTuple):
    """What one run over all examples found, in the order of the examples.

    Attributes:
        values: means over the examples by name, such as "heatmap_ratio_bbox".
        uniform: those of the uniform map, for the ratios.
        per_image: every figure of each image (n,), NaN where it has none.
        worst: the examples with the lowest ratios, None without boxes and masks.
        embeddings: (n, d) float32, raw.
        labels: (n,) as the user gave them, or None.
        heatmaps: (n, h, w) uint8, 255 for the maximum of each, reduced in size; None
            where nothing asked for them.
        found_boxes: (n, 4) float32 as shares of the image in xyxy, NaN for none; None
            together with the heatmaps.
    """

    values: dict[str, float]
    uniform: dict[str, float]
    per_image: dict[str, np.ndarray]
    worst: Shown | None
    embeddings: np.ndarray
    labels: np.ndarray | None
    heatmaps: np.ndarray | None = None
    found_boxes: np.ndarray | None = None


def warn_of_missing(update: Update, known: set[str]) -> set[str]:
    """Warn of values that are NaN, once each, since other callbacks compare them.

    Args:
        update: what was found.
        known: names that were warned of before.

    Returns:
        The names that are NaN.
    """
    missing = {name for name, value in update.values.items() if np.isnan(value)}
    if missing - known:
        warnings.warn(
            f"EmbeddingCAMLogger: {sorted(missing - known)} are NaN, which "
            "ModelCheckpoint and EarlyStopping cannot compare. Ratios are NaN where "
            "all heatmaps are empty, retrieval where no class has two examples or "
            "the embeddings are NaN, context ratios also where nothing is found with "
            "the background covered.",
            stacklevel=2,
        )
    return missing


def warn_of_rare_updates(update_freq: int | str, num_steps: int | None) -> None:
    """Warn that the first epoch ended before the first update."""
    warnings.warn(
        "EmbeddingCAMLogger: `update_freq` must be at most the steps of an epoch for "
        "an update in each; `logs` hold no figures of epochs without one, the first "
        f"aside. Received: update_freq={update_freq}, which is more than the steps of "
        f'an epoch ({num_steps or "fewer"}). Pass fewer, or update_freq="epoch".',
        stacklevel=2,
    )


def shrink_heatmaps(
    heatmaps: np.ndarray, map_size: tuple[int, int], longest_side: int
) -> np.ndarray:
    """Return image-sized heatmaps at the feature map's size, to keep many of them.

    Resizing is linear, so the map that a heatmap was resized from is found by least
    squares, exactly. Finer maps than `longest_side` are averaged to it.

    Args:
        heatmaps: (n, H, W) float32 >= 0.
        map_size: (h, w) of the feature map.
        longest_side: of the result.

    Returns:
        (n, h, w) uint8, 255 for the maximum of each.

    Example:

    >>> shrink_heatmaps(np.ones((2, 8, 4), "float32"), (4, 2), longest_side=28).shape
    (2, 4, 2)
    """
    factor = longest_side / max(map_size)
    if factor >= 1:
        rows, columns = map(_undo_resizing, map_size, heatmaps.shape[1:])
        return to_bytes(rows @ heatmaps @ columns.T)
    height, width = (max(1, round(side * factor)) for side in map_size)
    size = width, height
    small = [cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in heatmaps]
    return to_bytes(np.stack(small))


@lru_cache
def _undo_resizing(num_cells: int, num_pixels: int) -> np.ndarray:
    """Return (cells, pixels), the inverse of resizing one side bilinearly."""
    cells = np.eye(num_cells, dtype="float32")
    resized = cv2.resize(cells, (num_cells, num_pixels), interpolation=cv2.INTER_LINEAR)
    return np.linalg.pinv(resized)


def gather(parts: dict[str, list[np.ndarray]], values: dict[str, np.ndarray]) -> None:
    """Append the arrays of a batch to those before it, by name."""
    for name, array in values.items():
        parts.setdefault(name, []).append(array)


def keep_worst(worst: Shown | None, shown: Shown, num_worst: int) -> Shown:
    """Return the examples with the lowest ratios among those kept and new ones."""
    if worst is not None:
        shown = Shown(
            join_examples([worst.examples, shown.examples]),
            np.concatenate([worst.heatmaps, shown.heatmaps]),
            np.concatenate([worst.ratios, shown.ratios]),
        )
    # An image without a ratio, for an empty map or no object, is not the worst.
    order = np.argsort(shown.ratios, kind="stable")[:num_worst]
    return Shown(
        {key: values[order] for key, values in shown.examples.items()},
        shown.heatmaps[order],
        shown.ratios[order],
    )
