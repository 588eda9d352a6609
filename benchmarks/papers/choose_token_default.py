"""How the default for tokens was chosen: candidates on two hybrid transformers.

    python -m benchmarks.papers.choose_token_default --data CUB_FOLDER
        --weights MOBILENET_V2 --work FOLDER [--part choose | report]

Trains the transformers of `hybrids` on the classes 1-10 of CUB-200-2011 where FOLDER
has none yet. Candidates are compared on every fifth bird of the classes 1-10, which is
held apart from training ("choose"), and on some of the classes 11-20 ("report"), which
chose nothing. Each is judged by its heat inside the bounding box for single points, by
insertion minus deletion of the cosine, and by the heat on the asked one of two
photographs side by side, for class means.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from benchmarks.papers import hybrids
from keras_embcam.datasets import cub200
from keras_embcam.evaluation.deletion import area_under, deletion_curve, insertion_curve
from keras_embcam.evaluation.montages import heat_by_cell, make_montages
from keras_embcam.heatmaps import reconstruct_heatmaps, resize_heatmaps
from keras_embcam.metrics import heatmap_ratio_in_boxes, localization_accuracy
from keras_embcam.network.raw_embedding import find_embedding
from keras_embcam.network.recording import run_and_record
from keras_embcam.network.trial_run import TrialRun
from keras_embcam.presets import GATE_POWER, HALF_OPEN, MARKED
from keras_embcam.proxies import class_mean

NUM_BIRDS = 160
NUM_CURVES = 30
APART = 5
NUM_STEPS = 5
NUM_MONTAGES = 100
BATCH = 40
PARTS = {"choose": "first_half", "report": "second_half"}

Maps = dict[str, np.ndarray]  # (n, h, w) each, >= 0


def collect(model: keras.Model, images: np.ndarray, proxies: np.ndarray | None) -> Maps:
    """Return the maps that candidates are made of.

    Args:
        model: the transformer.
        images: (n, 14, 14, 96), what the first layers make of images.
        proxies: (n, d), or None for single points.
    """
    trial = TrialRun(model)
    source = find_embedding(trial)
    names = []
    for number in range(hybrids.NUM_BLOCKS):
        names.append(f"block_{number}_norm1")
        attention = f"block_{number}_attention"
        names += [f"{attention}/{x}" for x in ("query", "key", "attention_output")]
        names.append(f"{attention}/value")
    names.append("final_norm")
    operations = [trial.find_operation(x, "conv_layer", 3) for x in names]
    found: list[Maps] = []
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH].astype("float32")
        run = run_and_record(model, batch, operations, names, source)
        chosen = None if proxies is None else proxies[start : start + BATCH]
        if chosen is None:
            chosen = ops.convert_to_numpy(run.embeddings)
            chosen = chosen / np.linalg.norm(chosen, axis=1, keepdims=True)
        gradients = run.pull_back(ops.cast(chosen, "float32"))
        outputs = {
            name: (ops.convert_to_numpy(x), ops.convert_to_numpy(g), operation)
            for name, x, g, operation in zip(
                names, run.outputs, gradients, operations, strict=True
            )
        }
        found.append(make_parts(outputs))
    return {key: np.concatenate([x[key] for x in found]) for key in found[0]}


def make_parts(outputs: dict[str, tuple]) -> Maps:
    """Return maps of each block: element-wise, gradient length, attention."""
    maps: Maps = {}
    relevance: Any = 0.0
    rolled: Any = None
    pooled = np.abs(outputs["final_norm"][1][:, 1:]).max() > 0
    for number in range(hybrids.NUM_BLOCKS):
        norm, gradient, _ = outputs[f"block_{number}_norm1"]
        maps[f"element {number}"] = to_map(np.maximum((norm * gradient).sum(2), 0))
        maps[f"length {number}"] = to_map(np.linalg.norm(gradient, axis=2))
        weights = gradient[:, 1:].mean(axis=1, keepdims=True)
        maps[f"gradcam {number}"] = to_map(np.maximum((norm * weights).sum(2), 0))
        path = f"block_{number}_attention"
        query, key, value = (
            outputs[f"{path}/{x}"][0] for x in ("query", "key", "value")
        )
        logits = np.einsum("bqhd,bkhd->bhqk", query, key, optimize=True)
        logits /= np.sqrt(query.shape[-1])
        attention = np.exp(logits - logits.max(axis=-1, keepdims=True))
        attention /= attention.sum(axis=-1, keepdims=True)
        _, behind, projection = outputs[f"{path}/attention_output"]
        mixed = np.einsum(
            "btk,hdk->bthd", behind, np.asarray(projection.kernel), optimize=True
        )
        slope = np.einsum("bqhd,bkhd->bhqk", mixed, value, optimize=True)
        product = np.maximum(attention * slope, 0).mean(axis=1)
        maps[f"attention x gradient {number}"] = read(product, pooled)
        maps[f"attention {number}"] = read(attention.mean(axis=1), pooled)
        maps[f"legrad {number}"] = to_map(np.maximum(slope, 0).mean(axis=(1, 2)))
        identity = np.eye(product.shape[1], dtype="float32")
        state = identity + relevance
        relevance = relevance + product @ state
        half = (attention.mean(axis=1) + identity) / 2
        rolled = half if rolled is None else half @ rolled
    units = [x.reshape(*x.shape[:2], -1) for x in (query, key)]
    units = [x / np.linalg.norm(x, axis=2, keepdims=True) for x in units]
    cosines = np.einsum("bqd,bkd->bqk", *units, optimize=True)
    least, most = (f(cosines[..., 1:], 2, keepdims=True) for f in (np.min, np.max))
    loosened = (cosines - least) / (most - least)
    maps["grad_eclip"] = np.maximum(read(slope.sum(axis=1) * loosened, pooled), 0)
    maps["accumulated"] = read(relevance, pooled)
    maps["rollout"] = read(rolled, pooled)
    return maps


def to_map(tokens: np.ndarray) -> np.ndarray:
    """Return the patches of (n, t) behind the class token as (n, h, w)."""
    return tokens[:, 1:].reshape(-1, *hybrids.GRID)


def read(attention: np.ndarray, pooled: bool) -> np.ndarray:
    """Return what the class token, or the mean patch, takes from each patch."""
    rows = attention[:, 1:].mean(axis=1) if pooled else attention[:, 0]
    return to_map(rows)


def scale(maps: np.ndarray) -> np.ndarray:
    """Divide each map by its maximum."""
    return maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), 1e-30)


def blur(maps: np.ndarray) -> np.ndarray:
    """Average each value with its neighbours, 3 x 3."""
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1)))
    count = np.pad(np.ones_like(maps), ((0, 0), (1, 1), (1, 1)))
    height, width = maps.shape[1:]
    windows = [(i, j) for i in range(3) for j in range(3)]
    total, number = (
        sum(x[:, i : i + height, j : j + width] for i, j in windows)
        for x in (padded, count)
    )
    return total / number


def mean_of(kind: str, blocks: Any, change: Callable = lambda x: x) -> Callable:
    """Return a candidate: the mean of the scaled maps of some blocks."""
    return lambda maps: np.mean(
        [scale(change(maps[f"{kind} {x}"])) for x in blocks], axis=0
    )


def times(*factors: Callable) -> Callable:
    """Return a candidate: the product of several."""
    return lambda maps: np.prod([x(maps) for x in factors], axis=0)


def agreed(power: int) -> Callable:
    """Return a candidate: the geometric mean of the blocks' averaged element maps."""

    def agree(maps: Maps) -> np.ndarray:
        blocks = [scale(blur(maps[f"element {x}"])) + 0.01 for x in ALL]
        mean = np.exp(np.mean(np.log(blocks), axis=0))
        return np.maximum(mean - 0.01, 0) ** power

    return agree


def spread(maps: Maps) -> np.ndarray:
    """Return "localize": L as far as it is connected with where the blocks agree."""
    coarse, masks = (
        scale(make(maps)).astype("float32") for make in (agreed(1), LENGTHS)
    )
    marked = np.where(scale(masks * coarse) >= MARKED, masks, 0)
    reached = np.asarray(reconstruct_heatmaps(marked, masks))
    return reached**2 * (coarse**2 / (coarse**2 + HALF_OPEN**2)) ** GATE_POWER


def accumulated(maps: Maps) -> np.ndarray:
    """Return the accumulated attention x gradient, divided by its maximum."""
    return scale(maps["accumulated"])


ALL = range(hybrids.NUM_BLOCKS)
LAST = hybrids.NUM_BLOCKS - 1
ELEMENTS = mean_of("element", ALL, blur)
LENGTHS = mean_of("length", ALL)
CANDIDATES: dict[str, Callable[[Maps], np.ndarray]] = {
    "uniform": lambda maps: 1.0 + 0.0 * maps["rollout"],
    "Grad-CAM, last block (other packages)": mean_of("gradcam", [LAST]),
    "element-wise, last block": mean_of("element", [LAST]),
    "element-wise, first block": mean_of("element", [0]),
    "element-wise, mean of all, 3 x 3 (E)": ELEMENTS,
    "length of the gradient, mean of all (L)": LENGTHS,
    "attention, last block": mean_of("attention", [LAST]),
    "rollout": lambda maps: maps["rollout"],
    "ReLU of the attention's gradient": lambda maps: sum(
        maps[f"legrad {x}"] for x in ALL
    ),
    "Grad-ECLIP, last block": lambda maps: maps["grad_eclip"],
    "attention x gradient, accumulated (C)": accumulated,
    "element-wise, mean of all, x C": times(mean_of("element", ALL), accumulated),
    "E of the first two x L of the first": times(
        mean_of("element", [0, 1], blur), mean_of("length", [0])
    ),
    "E x L (the default before)": times(ELEMENTS, LENGTHS),
    "E^2 x L^2": times(ELEMENTS, ELEMENTS, LENGTHS, LENGTHS),
    "E^2 x C^2": times(ELEMENTS, ELEMENTS, accumulated, accumulated),
    "geometric mean of E^2 x L": times(agreed(2), LENGTHS),
    "geometric mean of E^3 x L (the default)": times(agreed(3), LENGTHS),
    "geometric mean of E^3 x C": times(agreed(3), accumulated),
    "localize": spread,
}


class Judged(NamedTuple):
    """Figures of one candidate: of each bird, and of each montage and asked half."""

    inside: np.ndarray
    faithful: np.ndarray
    asked: np.ndarray
    boxes: np.ndarray

    def __str__(self) -> str:
        """Return the means of the first three."""
        return ", ".join(f"{np.nanmean(x):.2f}" for x in self[:3])


def explain_with_candidates(
    head: keras.Model, maps: np.ndarray, proxies: np.ndarray | None
) -> Maps:
    """Return the map of each candidate."""
    parts = collect(head, maps, proxies)
    return {name: make(parts) for name, make in CANDIDATES.items()}


def judge(
    backbone: keras.Model,
    head: keras.Model,
    birds: dict[str, np.ndarray],
    part: str,
    num_curves: int,
    explain_with_all: Callable[..., Maps] = explain_with_candidates,
) -> dict[str, Judged]:
    """Return for each candidate: ratio, insertion - deletion, asked half, boxes.

    Args:
        backbone: makes what the transformer takes of images.
        head: the transformer.
        birds: see `load`.
        part: of the choice.
        num_curves: of how many birds pixels are deleted and inserted.
        explain_with_all: of a transformer, what goes into it, and proxies or None for
            single points, returns maps by the name of the candidate.
    """
    classes, labels = np.unique(birds["label"], return_inverse=True)
    means = np.asarray(class_mean(head.predict(birds["maps"], verbose=0), labels))
    some = choose_birds(len(labels), part)
    images, labels, maps = birds["image"][some], labels[some], birds["maps"][some]
    montages = make_montages(images, labels, 2, NUM_MONTAGES, seed=1)
    sides = backbone.predict(montages.images, verbose=0)
    own = explain_with_all(head, maps, None)
    halves = [
        explain_with_all(head, sides, means[montages.cell_labels[:, cell]])
        for cell in (0, 1)
    ]
    every = np.arange(0, len(images), max(1, len(images) // num_curves))[:num_curves]
    few = images[every].astype("float32")
    model = hybrids.join(backbone, head)

    def run(batch: np.ndarray) -> np.ndarray:
        return model.predict(batch, batch_size=BATCH, verbose=0)

    found = {}
    for name in own:
        heatmaps = np.asarray(
            resize_heatmaps(own[name].astype("float32"), images.shape[1:3])
        )
        inside = heatmap_ratio_in_boxes(heatmaps, birds["bbox"][some], "rel_yxyx")
        ordered = heatmaps[every]
        if name == "uniform":  # it has no order: any
            noise = np.random.default_rng(0).random((len(few), *hybrids.GRID))
            ordered = np.asarray(
                resize_heatmaps(noise.astype("float32"), images.shape[1:3])
            )
        faithful = insertion_minus_deletion(run, few, ordered)
        asked = [
            heat_by_cell(maps[name].astype("float32"), 2)[:, cell]
            for cell, maps in enumerate(halves)
        ]
        boxes = localization_accuracy(
            heatmaps, birds["bbox"][some], "rel_yxyx", "otsu_4th_root"
        )
        found[name] = Judged(inside, faithful, np.concatenate(asked), boxes)
        print(f"{name}: {found[name]}; boxes {np.mean(boxes):.3f}", flush=True)
    return found


def insertion_minus_deletion(
    run: Callable[[np.ndarray], np.ndarray], images: np.ndarray, heatmaps: np.ndarray
) -> np.ndarray:
    """Return the areas under both curves, of the cosine with the image itself, (n,)."""
    targets = run(images)
    inserted, deleted = (
        area_under(curve(run, images, heatmaps, targets, NUM_STEPS))
        for curve in (insertion_curve, deletion_curve)
    )
    return inserted - deleted


def choose_birds(number: int, part: str) -> np.ndarray:
    """Return which birds of a half are looked at."""
    if part == "choose":
        return np.flatnonzero(is_apart(number))
    return np.sort(np.random.default_rng(0).permutation(number)[:NUM_BIRDS])


def is_apart(number: int) -> np.ndarray:
    """Tell of each bird of the classes 1-10 whether it is held apart from training."""
    return np.arange(number) % APART == APART - 1


def load(
    options: argparse.Namespace, backbone: keras.Model, split: str
) -> dict[str, np.ndarray]:
    """Return the birds of half of the classes, with what the first layers make."""
    path = options.work / f"{split}.npz"
    if not path.exists():
        birds = cub200(options.data, split=split, image_size=224).batch(10_000)
        found = next(iter(birds.as_numpy_iterator()))
        found["maps"] = backbone.predict(found["image"], verbose=0)
        mirrored = found["image"][:, :, ::-1]
        found["mirrored_maps"] = backbone.predict(mirrored, verbose=0)
        options.work.mkdir(parents=True, exist_ok=True)
        np.savez(path, **found)
    return dict(np.load(path))


def make_heads(
    options: argparse.Namespace, backbone: keras.Model
) -> dict[str, keras.Model]:
    """Return the transformers, trained now unless they were before."""
    heads = {}
    for pooling in hybrids.POOLINGS:
        path = options.work / f"head_{pooling}.weights.h5"
        if path.exists():
            heads[pooling] = hybrids.make_head(pooling)
            heads[pooling].load_weights(path)
            continue
        birds = load(options, backbone, PARTS["choose"])
        seen = ~is_apart(len(birds["label"]))
        _, labels = np.unique(birds["label"], return_inverse=True)
        maps = np.concatenate([birds[x][seen] for x in ("maps", "mirrored_maps")])
        labels = np.concatenate([labels[seen]] * 2)
        heads[pooling] = hybrids.train_head(pooling, maps, labels, options.epochs, 0)
        heads[pooling].save_weights(path)
    return heads


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return what reads where birds, weights and trained transformers are."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, metavar="CUB_FOLDER")
    parser.add_argument("--weights", type=Path, required=True, metavar="MOBILENET_V2")
    parser.add_argument("--work", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--part", choices=PARTS, default="choose")
    parser.add_argument("--epochs", type=int, default=hybrids.EPOCHS)
    parser.add_argument("--curves", type=int, default=NUM_CURVES, metavar="BIRDS")
    return parser


def main() -> None:
    """Print a table as Markdown."""
    options = make_parser(__doc__).parse_args()
    backbone = hybrids.make_backbone(options.weights)
    birds = load(options, backbone, PARTS[options.part])
    columns = {
        pooling: judge(backbone, head, birds, options.part, options.curves)
        for pooling, head in make_heads(options, backbone).items()
    }
    print(f"| candidate ({options.part}) | {' | '.join(columns)} |")
    print(f"| --- |{' --- |' * len(columns)}")
    for name in CANDIDATES:
        cells = [str(column[name]) for column in columns.values()]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
