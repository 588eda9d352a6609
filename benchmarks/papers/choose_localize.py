"""How the preset "localize" was chosen: candidates on the first half of CUB's classes.

    python -m benchmarks.papers.choose_localize --data CUB_FOLDER MODEL.keras ...

Nothing of the second half, which is reported, is read. Each candidate is judged by the
boxes it finds from single points (IoU >= 0.5), and by the heat that falls on the right
one of two photographs side by side for their class means, against plain EmbeddingCAM.
Maps are fused at 56 x 56 positions here, and in the preset, which is the last row, at
those of the finest layer.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_embcam import embed, explain
from keras_embcam.datasets import cub200
from keras_embcam.evaluation.markdown import draw_table
from keras_embcam.evaluation.montages import heat_by_cell, make_montages
from keras_embcam.heatmaps import combine_channels, resize_heatmaps, scale_heatmaps
from keras_embcam.metrics import localization_accuracy
from keras_embcam.network.feature_maps import Scales
from keras_embcam.presets import PRESETS, LayerFusion, Preset
from keras_embcam.proxies import class_mean
from keras_embcam.weightings import layercam

NUM_MONTAGES = 100
EVERY = 2  # boxes are counted on every second image
SIZE = 56  # of the maps that are compared
# The map of the last layer is number 0, those of finer ones are 1, 2 and 3.
FINER = (1, 2, 3)
SHIPPED = 4

Maps = dict[int, np.ndarray]


class Candidate(NamedTuple):
    """A way to make one map of several, and a threshold for boxes."""

    name: str
    fuse: Callable[[Maps], np.ndarray]
    threshold: float | str = "otsu"


def list_candidates() -> list[Candidate]:
    """Return what is compared, plain EmbeddingCAM first."""
    found = [
        Candidate(f"C alone, boxes at {x}", lambda maps: scale(maps[0]), x)
        for x in (0.15, 0.2, "otsu")
    ]
    for layers in ((1,), (2,), (1, 2), (1, 2, 3)):
        found.append(Candidate(f"F of {layers}", partial(fuse, layers, None)))
    found.append(Candidate("F of (1, 2) times C", partial(fuse, (1, 2), scale)))
    for exponent, is_averaged in ((1, False), (2, False), (1, True), (2, True)):
        for half_open in (0.1, 0.2, 0.25, 0.3, 0.35, 0.4, 0.6):
            kind = "mean of 3 x 3" if is_averaged else "C"
            name = f"F of (1, 2), g({kind}), exponent {exponent}, half open {half_open}"
            gate = partial(make_gate, exponent, half_open, is_averaged)
            found.append(Candidate(name, partial(fuse, (1, 2), gate)))
    for layers in ((1,), (2,), (1, 2, 3)):
        name = f"F of {layers}, g(mean of 3 x 3), exponent 2, half open 0.3"
        gate = partial(make_gate, 2, 0.3, True)
        found.append(Candidate(name, partial(fuse, layers, gate)))
    for threshold in (0.1, 0.15, 0.2):
        name = f"F of (1, 2), g(mean of 3 x 3), exponent 2, half open 0.3, {threshold}"
        gate = partial(make_gate, 2, 0.3, True)
        found.append(Candidate(name, partial(fuse, (1, 2), gate), threshold))
    found.append(Candidate("preset localize", lambda maps: maps[SHIPPED]))
    return found


def scale(heatmaps: np.ndarray) -> np.ndarray:
    """Resize to `SIZE` and divide each map by its maximum."""
    return ops.convert_to_numpy(scale_heatmaps(resize_heatmaps(heatmaps, (SIZE, SIZE))))


def make_gate(
    exponent: int, half_open: float, is_averaged: bool, coarse: np.ndarray
) -> np.ndarray:
    """Return ``C**e / (C**e + h**e)``, of values or of the means around them."""
    if is_averaged:
        coarse = ops.average_pool(
            coarse[..., None], 3, 1, "same", data_format="channels_last"
        )[..., 0]
    raised = scale(coarse) ** exponent
    return raised / (raised + half_open**exponent)


def fuse(layers: tuple[int, ...], gate: Callable | None, maps: Maps) -> np.ndarray:
    """Return the mean of the scaled maps of layers, times a gate of the last one."""
    fused = np.mean([scale(maps[x]) for x in layers], axis=0)
    return scale(fused if gate is None else fused * gate(maps[0]))


def collect(model: keras.Model, images: np.ndarray, proxies: Any = None) -> Maps:
    """Return the Grad-CAM maps of the last layer, and LayerCAM maps of finer ones."""
    options = {"proxies": proxies, "resize": False}
    maps = {0: explain(model, images, **options)}
    for number in FINER:
        maps[number] = explain(model, images, preset=f"layer {number}", **options)
    maps[SHIPPED] = explain(model, images, preset="localize", **options)
    return maps


def _pick(number: int, activations: Any, gradients: Any) -> Any:
    weights = layercam(activations[number], gradients[number])
    return combine_channels(activations[number], weights)


# A preset is how `explain` takes several layers with a weighting of ours.
for _number in FINER:
    PRESETS[f"layer {_number}"] = Preset(
        LayerFusion(partial(_pick, _number)), Scales(_number + 1), "otsu"
    )


def judge(model: keras.Model, examples: dict[str, np.ndarray]) -> list[tuple]:
    """Return each candidate's share of boxes found, and of heat on the right half."""
    images, labels = examples["image"], examples["label"]
    means = np.asarray(class_mean(embed(model, images), labels))
    montages = make_montages(images, labels, 2, NUM_MONTAGES, seed=1)
    some, boxes = images[::EVERY], examples["bbox"][::EVERY]
    own = collect(model, some)
    halves = [
        collect(model, montages.images, means[montages.cell_labels[:, cell]])
        for cell in (0, 1)
    ]
    found = []
    for candidate in list_candidates():
        # Boxes at the size of the images, as they are measured elsewhere.
        heatmaps = resize_heatmaps(candidate.fuse(own), images.shape[1:3])
        hits = localization_accuracy(heatmaps, boxes, "rel_yxyx", candidate.threshold)
        shares = [
            heat_by_cell(candidate.fuse(maps), 2)[:, cell]
            for cell, maps in enumerate(halves)
        ]
        found.append((float(np.nanmean(hits)), float(np.nanmean(shares))))
    return found


def main() -> None:
    """Print a table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL.keras")
    parser.add_argument("--data", type=Path, required=True, metavar="CUB_FOLDER")
    options = parser.parse_args()
    columns = []
    for path in options.models:
        model = keras.models.load_model(path, compile=False)
        size = model.input_shape[1:3]
        examples = list(
            cub200(options.data, split="first_half", image_size=size)
            .batch(10_000)
            .as_numpy_iterator()
        )[0]
        columns.append(judge(model, examples))
    names = [
        f"{path.stem}: boxes found, heat on its own half" for path in options.models
    ]
    lines = []
    for number, candidate in enumerate(list_candidates()):
        cells = []
        for column in columns:
            hits, share = column[number]
            cells.append(f"{hits:.3f}, {share:.3f} ({share - column[0][1]:+.3f})")
        lines.append([candidate.name, *cells])
    print(draw_table(["candidate", *names], lines))


if __name__ == "__main__":
    main()
