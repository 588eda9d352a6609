"""Montages of several classes: does the heat go to the class that was asked for."""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_embcam.evaluation.measure import FAITHFULNESS, Column, Measured, fills
from keras_embcam.evaluation.measure_input import Context
from keras_embcam.evaluation.shared_runs import split
from keras_embcam.metrics import heatmap_ratio_in_boxes
from keras_embcam.metrics.statistics import mean_of

Tensor = Any

# How many montages of each number of cells.
NUM_MONTAGES = 100

# Rows and columns by the number of cells; cells are counted in reading order.
GRIDS = {2: (1, 2), 4: (2, 2)}


@fills(
    FAITHFULNESS,
    Column("own_cell_2", "own cell of 2"),
    Column("own_cell_4", "own cell of 4"),
)
def measure_montages(context: Context) -> Measured:
    """Measure the share of heat on the cell whose class mean is the proxy.

    On `NUM_MONTAGES` montages of the sampled images. Class means are those of all
    other images of the set, and serve every method in place of its own proxy.
    """
    sample, methods = context.sample, context.methods
    measured = Measured([{} for _ in methods])
    if sample.labels is None:
        return measured
    proxies = sample.other_class_means
    usable = np.isfinite(proxies[sample.labels]).all(axis=1)
    images, labels = sample.examples["image"][usable], sample.labels[usable]
    for num_cells in GRIDS:
        if len(np.unique(labels)) < num_cells:
            measured.notes.append(
                f"No montages of {num_cells} cells: fewer classes than that among the "
                "images, or no other image of them to take the class mean of"
            )
            continue
        montages = make_montages(images, labels, num_cells, NUM_MONTAGES, context.seed)
        shares: list[list[np.ndarray]] = [[] for _ in methods]
        for rows in split(NUM_MONTAGES):
            for cell in range(num_cells):
                asked = proxies[montages.cell_labels[rows, cell]]
                for number, heatmaps in context.explain(
                    montages.images[rows], [asked] * len(methods)
                ):
                    shares[number].append(_heat_in_cell(heatmaps, num_cells, cell))
        for row, several in zip(measured.columns, shares, strict=True):
            row[f"own_cell_{num_cells}"] = mean_of(np.concatenate(several))
    return measured


class Montages(NamedTuple):
    """Images put together from images of different classes.

    Attributes:
        images: (n, H, W, c), of the size and dtype of the given ones.
        cell_labels: (n, num_cells) the class in each cell, in reading order.
        cell_indices: (n, num_cells) which of the given images it is.
    """

    images: np.ndarray
    cell_labels: np.ndarray
    cell_indices: np.ndarray


def make_montages(
    images: np.ndarray, labels: Any, num_cells: int, num_montages: int, seed: int = 0
) -> Montages:
    """Put images of different classes side by side (2) or in a square (4).

    For the grid pointing game (Böhle et al., "Convolutional Dynamic Alignment Networks
    for Interpretable Classifications", CVPR 2021, their localisation metric): a map
    that explains one of the classes should lie on its cell. Classes are drawn without
    repetition for each montage, then an image of each.

    Of each image the largest centred window with the proportions of the cell is
    resized to the cell, so that nothing is distorted: with 4 cells that is the whole
    image at half the size, with 2 cells its middle half at full size.

    Args:
        images: (n, H, W, c), each side at least 2.
        labels: (n,) classes.
        num_cells: 2 or 4.
        num_montages: >= 1.
        seed: of the choice.

    Returns:
        The montages.

    Raises:
        ValueError: for shapes that do not fit, another number of cells or montages,
            or fewer classes than cells.

    Example:

    >>> images = np.arange(3.0).reshape(3, 1, 1, 1) * np.ones((1, 2, 4, 1))
    >>> montages = make_montages(images, ["a", "b", "c"], 2, 1, seed=3)
    >>> montages.cell_labels.tolist()
    [['a', 'b']]
    >>> montages.images[0, :, :, 0].tolist()
    [[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]]
    """
    images, labels = np.asarray(images), np.asarray(labels)
    is_large = images.ndim == 4 and min(images.shape[1:3]) >= 2
    if not is_large or labels.shape != images.shape[:1]:
        raise ValueError(
            "`images` must have the shape (n, H, W, c), each side at least 2, and "
            f"`labels` (n,). Received: images.shape={images.shape}, "
            f"labels.shape={labels.shape}"
        )
    rows, columns = _find_grid(num_cells)
    if num_montages < 1:
        raise ValueError(f"`num_montages` must be >= 1. Received: {num_montages!r}")
    classes = np.unique(labels)
    if len(classes) < num_cells:
        raise ValueError(
            "A montage shows another class in each cell: `labels` must hold at least "
            f"{num_cells} classes. Received: {classes.tolist()}"
        )
    random = np.random.default_rng(seed)
    chosen = np.empty((num_montages, num_cells), int)
    for montage in chosen:
        drawn = random.choice(classes, num_cells, replace=False)
        montage[:] = [random.choice(np.flatnonzero(labels == x)) for x in drawn]
    height, width = images.shape[1:3]
    montages = np.empty((num_montages, *images.shape[1:]), images.dtype)
    for cell in range(num_cells):
        row, column = divmod(cell, columns)
        # Of an odd side the second half has the odd pixel.
        top, bottom = row * height // rows, (row + 1) * height // rows
        left, right = column * width // columns, (column + 1) * width // columns
        montages[:, top:bottom, left:right] = _fill_cell(
            images[chosen[:, cell]], bottom - top, right - left
        )
    return Montages(montages, labels[chosen], chosen)


def _fill_cell(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cut out the largest centred window of these proportions and resize it."""
    scale = min(images.shape[1] / height, images.shape[2] / width)
    tall, wide = round(height * scale), round(width * scale)
    top, left = (images.shape[1] - tall) // 2, (images.shape[2] - wide) // 2
    window = images[:, top : top + tall, left : left + wide]
    if window.shape[1:3] == (height, width):
        return window
    resized = ops.convert_to_numpy(
        ops.image.resize(
            window.astype("float32"),
            (height, width),
            antialias=True,
            data_format="channels_last",
        )
    )
    if np.issubdtype(images.dtype, np.integer):
        limits = np.iinfo(images.dtype)
        resized = np.clip(np.round(resized), limits.min, limits.max)
    return resized.astype(images.dtype)


def heat_by_cell(heatmaps: Tensor, num_cells: int) -> np.ndarray:
    """Return the share of each map's heat in each cell of a montage.

    The heatmap ratio with the cell as the box; each row sums to 1. Chance is
    ``1 / num_cells``, which the uniform map scores exactly: the middle pixel of an
    odd side counts for both halves by half.

    Args:
        heatmaps: (n, H, W) float, >= 0, at the size of the montages.
        num_cells: 2 or 4.

    Returns:
        (n, num_cells) float32 in [0, 1], in reading order; NaN for an empty map.

    Raises:
        ValueError: for another shape or number of cells.

    Example:

    >>> heat_by_cell(np.float32([[[1, 2, 0, 1]]]), 2).tolist()
    [[0.75, 0.25]]
    """
    _find_grid(num_cells)  # for its check
    cells = range(num_cells)
    return np.stack([_heat_in_cell(heatmaps, num_cells, x) for x in cells], axis=1)


def _heat_in_cell(heatmaps: Tensor, num_cells: int, cell: int) -> np.ndarray:
    """Return the share of each map's heat in one cell, (n,)."""
    rows, columns = _find_grid(num_cells)
    row, column = divmod(cell, columns)
    box = np.array([column, row, column + 1, row + 1], "float32")
    boxes = np.tile(box / [columns, rows, columns, rows], (len(heatmaps), 1))
    shares = heatmap_ratio_in_boxes(heatmaps, boxes.astype("float32"), "rel_xyxy")
    return ops.convert_to_numpy(shares)


def _find_grid(num_cells: int) -> tuple[int, int]:
    if num_cells not in GRIDS:
        raise ValueError(
            "`num_cells` must be 2, side by side, or 4, in a square. Received: "
            f"{num_cells!r}"
        )
    return GRIDS[num_cells]
