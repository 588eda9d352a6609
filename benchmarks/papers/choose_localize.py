"""How the preset "localize" was chosen: candidates on the first half of CUB's classes.

    python -m benchmarks.papers.choose_localize --data CUB_FOLDER MODEL.keras ...

Nothing of the second half, which is reported, is read. Each candidate is judged by the
boxes it finds from single points (IoU >= 0.5), and by the heat that falls on the right
one of two and of four photographs in one image for their class means, against plain
EmbeddingCAM. The network runs once an image; all candidates are made of its maps.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_embcam import embed, explain
from keras_embcam.datasets import cub200
from keras_embcam.evaluation.markdown import draw_table
from keras_embcam.evaluation.montages import GRIDS, heat_by_cell, make_montages
from keras_embcam.heatmaps import (
    combine_channels,
    fuse_heatmaps,
    reconstruct_heatmaps,
    resize_heatmaps,
    scale_heatmaps,
)
from keras_embcam.metrics import localization_accuracy
from keras_embcam.network.feature_maps import Scales
from keras_embcam.presets import PRESETS, LayerFusion, Preset, localize
from keras_embcam.proxies import class_mean
from keras_embcam.weightings import gradcam, layercam

NUM_MONTAGES = 100
EVERY = 2  # boxes are counted on every second image
NUM_SCALES = 4  # sizes of maps, the last layer's among them
SHIPPED = NUM_SCALES

# Of each layer, the last one first: Grad-CAM of that, LayerCAM of the finer ones, and
# what the preset makes of them.
Maps = list[np.ndarray]


class Candidate(NamedTuple):
    """A way to make one map of several, and a rule for boxes."""

    name: str
    fuse: Callable[[Maps], Any]
    threshold: float | str = "otsu"
    fuse_for_boxes: Callable[[Maps], Any] | None = None  # where it is another map


def list_candidates() -> list[Candidate]:
    """Return what is compared, plain EmbeddingCAM first."""
    before = partial(combine, None, 1, 1)
    found = [
        Candidate(f"C alone, boxes at {x}", lambda maps: maps[0], x)
        for x in (0.2, "otsu")
    ]
    found.append(Candidate("F", partial(combine, None, 0, 1)))
    found.append(Candidate("F x g, the preset before", before))
    for marked in (0.5, 0.7, 0.8, 0.9):
        flood = partial(combine, marked, 0, 1)
        found.append(Candidate(f"R({marked})", flood))
        found.append(
            Candidate(f"heat F x g, boxes of R({marked})", before, "otsu", flood)
        )
    for power in (0.15, 0.25, 0.5, 1):
        for contrast in (1, 1.5, 2):
            for letter, marked in (("F", None), ("R", 0.8)):
                name = f"({letter} x g**{power})**{contrast}"
                # Boxes of the map without contrast are those of the root of it.
                plain = partial(combine, marked, power, 1)
                fuse = partial(combine, marked, power, contrast)
                found.append(Candidate(name, fuse, "otsu", plain))
    for layers in ((1,), (2,), (1, 2, 3)):
        name = f"(R x g**0.15)**2, F of {layers}"
        fuse = partial(combine, 0.8, 0.15, 2, layers=layers)
        found.append(Candidate(name, fuse, "otsu_4th_root"))
    for marked in (0, 0.5, 0.7, 0.8, 0.9):
        marker = f"C >= {marked}" if marked else "min(F, C)"
        fuse = partial(combine, marked, 0.15, 2, at_peak_of_last=True)
        name = f"(R x g**0.15)**2, marker {marker}"
        found.append(Candidate(name, fuse, "otsu_4th_root"))
    fuse = partial(combine, 0.8, 0.15, 2)
    for rule in (0.01, 0.02, 0.05, "otsu", "otsu_4th_root"):
        found.append(Candidate(f"(R x g**0.15)**2, boxes at {rule}", fuse, rule))
    shipped = PRESETS["localize"].box_threshold
    found.append(Candidate("preset localize", lambda maps: maps[SHIPPED], shipped))
    return found


def combine(
    marked: float | None,
    power: float,
    contrast: float,
    maps: Maps,
    layers: Sequence[int] = (1, 2),
    at_peak_of_last: bool = False,
) -> Any:
    """Return F, or what is reached in it, times a power of the gate, with contrast.

    Reached from where F C, or C alone, is at least `marked` of its maximum; 0 stands
    for the marker min(F, C).
    """
    heat = fuse_heatmaps([maps[x] for x in layers])
    coarse = ops.average_pool(
        maps[0][..., None], 3, 1, "same", data_format="channels_last"
    )[..., 0]
    coarse = scale_heatmaps(resize_heatmaps(coarse, heat.shape[1:3]))
    if marked is not None:
        agreed = coarse if at_peak_of_last else scale_heatmaps(heat * coarse)
        marker = coarse if marked == 0 else ops.where(agreed >= marked, heat, 0.0)
        heat = reconstruct_heatmaps(marker, heat)
    gate = coarse**2 / (coarse**2 + 0.3**2)
    return (heat * gate**power) ** contrast


def _lay_out(activations: Any, gradients: Any) -> Any:
    """Return all maps of an image in one row."""
    layers = list(zip(activations, gradients, strict=True))
    maps = [combine_channels(a, layercam(a, g)) for a, g in layers]
    maps[0] = combine_channels(activations[0], gradcam(activations[0], gradients[0]))
    maps.append(localize(activations[:3], gradients[:3]))
    return ops.concatenate(
        [ops.reshape(x, (ops.shape(x)[0], 1, -1)) for x in maps], axis=2
    )


# A preset is how `explain` takes several layers with a weighting of ours.
PRESETS["all maps"] = Preset(LayerFusion(_lay_out), Scales(NUM_SCALES), "otsu")


def collect(model: keras.Model, images: np.ndarray, proxies: Any = None) -> Maps:
    """Return the maps that candidates are made of."""
    options = {"preset": "all maps", "resize": False, "normalize": False}
    rows = explain(model, images, proxies=proxies, **options)[:, 0]
    # Squares whose sides double from layer to layer; the preset's is as the third.
    side = math.isqrt(rows.shape[1] // (1 + 4 + 16 + 64 + 16))
    sides = [side, 2 * side, 4 * side, 8 * side, 4 * side]
    ends = np.cumsum(np.square(sides))
    return [
        x.reshape(-1, side, side)
        for x, side in zip(np.split(rows, ends[:-1], axis=1), sides, strict=True)
    ]


def judge(model: keras.Model, examples: dict[str, np.ndarray]) -> list[list[float]]:
    """Return of each candidate the boxes found, and the heat on the right cells."""
    images, labels = examples["image"], examples["label"]
    means = np.asarray(class_mean(embed(model, images), labels))
    boxes = examples["bbox"][::EVERY]
    own = collect(model, images[::EVERY])
    asked: dict[int, list[Maps]] = {}
    for num_cells in GRIDS:
        made = make_montages(images, labels, num_cells, NUM_MONTAGES, seed=1)
        asked[num_cells] = [
            collect(model, made.images, means[made.cell_labels[:, cell]])
            for cell in range(num_cells)
        ]
    found = []
    for candidate in list_candidates():
        # Boxes at the size of the images, as they are measured elsewhere.
        fuse = candidate.fuse_for_boxes or candidate.fuse
        heatmaps = resize_heatmaps(fuse(own), images.shape[1:3])
        hits = localization_accuracy(heatmaps, boxes, "rel_yxyx", candidate.threshold)
        figures = [float(np.nanmean(hits))]
        for num_cells, maps_by_cell in asked.items():
            shares = [
                heat_by_cell(candidate.fuse(maps), num_cells)[:, cell]
                for cell, maps in enumerate(maps_by_cell)
            ]
            figures.append(float(np.nanmean(shares)))
        found.append(figures)
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
    names = [f"{path.stem}: boxes, own of two, of four" for path in options.models]
    lines = []
    for number, candidate in enumerate(list_candidates()):
        cells = []
        for column in columns:
            hits, *shares = column[number]
            of_plain = column[0][1:]
            cells.append(
                ", ".join(
                    [f"{hits:.3f}"]
                    + [f"{x - y:+.3f}" for x, y in zip(shares, of_plain, strict=True)]
                )
            )
        lines.append([candidate.name, *cells])
    print(draw_table(["candidate", *names], lines))


if __name__ == "__main__":
    main()
