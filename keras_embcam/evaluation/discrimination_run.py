"""Class discrimination of every method: montages, and pointing at predicted classes."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_embcam.evaluation.discrimination import heat_by_cell, make_montages
from keras_embcam.evaluation.maps import explain_with_all
from keras_embcam.evaluation.measures import Regions, mean_of
from keras_embcam.evaluation.method import Method
from keras_embcam.evaluation.set_run import SetRun
from keras_embcam.evaluation.top_pointing import (
    choose_rejection_threshold,
    rank_classes,
    top_5_pointing,
)
from keras_embcam.metrics import pointing_game_in_boxes, pointing_game_in_masks
from keras_embcam.proxies import class_mean
from keras_embcam.running.labelled_examples import Examples

NUM_CELLS = (2, 4)
# Of each number of cells.
NUM_MONTAGES = 100
NUM_PREDICTED = 5
BATCH_SIZE = 32

Found = list[dict[str, float]]


def measure_discrimination(
    found: Found,
    model: keras.Model,
    methods: Sequence[Method],
    run: SetRun,
    rows: np.ndarray,
    examples: Examples,
    embedding_layer: Any,
    *,
    seed: int = 0,
) -> list[str]:
    """Add the share of heat on the cell whose class mean is the proxy.

    Of `NUM_MONTAGES` montages of the given images; class means are those of all other
    images, and serve every method in place of its own proxy.

    Args:
        found: the columns of each method, added to.
        model: see `explain`.
        methods: m of them.
        run: over the set, with embeddings and labels.
        rows: (n,) numbers of the images in the set.
        examples: the images, with labels.
        embedding_layer: see `explain`.
        seed: of the montages.

    Returns:
        Notes.
    """
    proxies = other_class_means(run, rows)
    labels = examples["label"]
    usable = np.isfinite(proxies[labels]).all(axis=1)
    notes = []
    for num_cells in NUM_CELLS:
        if len(np.unique(labels[usable])) < num_cells:
            notes.append(
                f"No montages of {num_cells} cells: fewer classes than that among the "
                "images, or no other image of them to take the class mean of"
            )
            continue
        montages = make_montages(
            examples["image"][usable], labels[usable], num_cells, NUM_MONTAGES, seed
        )
        shares: list[list[np.ndarray]] = [[] for _ in methods]
        for start in range(0, NUM_MONTAGES, BATCH_SIZE):
            batch = slice(start, start + BATCH_SIZE)
            for cell in range(num_cells):
                asked = proxies[montages.cell_labels[batch, cell]]
                for number, heatmaps in explain_with_all(
                    model,
                    methods,
                    montages.images[batch],
                    [asked] * len(methods),
                    embedding_layer,
                ):
                    shares[number].append(heat_by_cell(heatmaps, num_cells)[:, cell])
        for values, several in zip(found, shares, strict=True):
            values[f"own_cell_{num_cells}"] = mean_of(np.concatenate(several))
    return notes


def measure_top_5_pointing(
    found: Found,
    model: keras.Model,
    methods: Sequence[Method],
    run: SetRun,
    rows: np.ndarray,
    examples: Examples,
    embedding_layer: Any,
    *,
    regions: Regions,
) -> list[str]:
    """Add the pointing game over the five classes that an image is most like.

    The threshold below which a map rejects its class is chosen on every other image
    and reported on the rest. For methods whose maps are in the units of the score.

    Args:
        found: see `measure_discrimination`, also for what is not named here.
        model: see `explain`.
        methods: m of them.
        run: over the set, with embeddings and labels.
        rows: (n,) numbers of the images in the set.
        examples: the images, with labels.
        embedding_layer: see `explain`.
        regions: how the objects are stated.

    Returns:
        Notes.
    """
    means = other_class_means(run, rows)
    classes = np.flatnonzero(np.isfinite(means).all(axis=1))
    is_placed = "bbox" in examples or "segmentation_mask" in examples
    if len(rows) < 2 or len(classes) < 2 or not is_placed or run.embeddings is None:
        return ["No top-5 pointing: it takes boxes or masks, and two classes"]
    num_predicted = min(NUM_PREDICTED, len(classes))
    ranked = classes[rank_classes(run.embeddings[rows], means[classes], num_predicted)]
    maxima = np.full((len(methods), *ranked.shape), np.nan)
    hits = np.full_like(maxima, np.nan)
    for start in range(0, len(rows), BATCH_SIZE):
        batch = slice(start, start + BATCH_SIZE)
        part = {key: values[batch] for key, values in examples.items()}
        for place in range(num_predicted):
            for number, heatmaps in explain_with_all(
                model,
                methods,
                part["image"],
                [means[ranked[batch, place]]] * len(methods),
                embedding_layer,
                normalize=False,
            ):
                maxima[number, batch, place] = heatmaps.max(axis=(1, 2))
                hits[number, batch, place] = _point(heatmaps, part, regions)
    labels = examples["label"]
    for number, method in enumerate(methods):
        if not method.has_scores:
            continue
        chosen, other = np.s_[::2], np.s_[1::2]
        placed = ~np.isnan(hits[number]).any(axis=1)
        if not placed[chosen].any():
            continue
        threshold = choose_rejection_threshold(
            maxima[number][chosen], hits[number][chosen], ranked[chosen], labels[chosen]
        )
        result = top_5_pointing(
            maxima[number][other],
            hits[number][other],
            ranked[other],
            labels[other],
            threshold,
        )
        found[number]["top_5_pointing"] = mean_of(result.accuracy)
        found[number]["top_5_pointed"] = mean_of(result.pointed)
        found[number]["top_5_rejected"] = mean_of(result.rejected)
    return [
        f"Top-{num_predicted} pointing: on every other one of these images, with the "
        "threshold of rejection chosen on the rest"
    ]


def _point(heatmaps: np.ndarray, examples: Examples, regions: Regions) -> np.ndarray:
    if "bbox" in examples:
        boxes = examples["bbox"], regions.bounding_box_format
        return np.asarray(pointing_game_in_boxes(heatmaps, *boxes, tolerance=0))
    masks = examples["segmentation_mask"], *regions[1:]
    return np.asarray(pointing_game_in_masks(heatmaps, *masks, tolerance=0))


def other_class_means(run: SetRun, rows: np.ndarray) -> np.ndarray:
    """Return class means of all images but these: (classes, d), NaN where none is."""
    others = np.setdiff1d(np.arange(run.num_images), rows)
    if run.embeddings is None or run.labels is None:
        raise ValueError("Class means need the embeddings and labels of the set.")
    num_classes = int(np.max(run.labels, initial=0)) + 1
    if not len(others):
        width = run.embeddings.shape[1]
        return np.full((num_classes, width), np.nan, "float32")
    return class_mean(
        run.embeddings[others], run.labels[others], num_classes=num_classes
    )
