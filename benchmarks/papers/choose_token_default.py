"""How the default for tokens was chosen: candidates on two hybrid transformers.

    python -m benchmarks.papers.choose_token_default --data CUB_FOLDER
        --weights MOBILENET_V2 --work FOLDER [--part choose | report]

Trains the transformers of `hybrids` on the classes 1-10 of CUB-200-2011 where FOLDER
has none yet. Candidates are compared on birds of the classes 1-10 ("choose"), and on
those of 11-20 ("report"), which chose nothing. Each is judged by its heat inside the
bounding box for single points, by insertion minus deletion of the cosine, and by the
heat on the asked one of two photographs side by side, for class means.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from benchmarks.papers import hybrids
from keras_embcam import embed
from keras_embcam.datasets import cub200
from keras_embcam.evaluation.deletion import area_under, deletion_curve, insertion_curve
from keras_embcam.evaluation.montages import heat_by_cell, make_montages
from keras_embcam.heatmaps import resize_heatmaps
from keras_embcam.metrics import heatmap_ratio_in_boxes
from keras_embcam.network.raw_embedding import find_embedding
from keras_embcam.network.recording import run_and_record
from keras_embcam.network.trial_run import TrialRun
from keras_embcam.proxies import class_mean

NUM_BIRDS = 120
NUM_CURVES = 20
NUM_STEPS = 5
NUM_MONTAGES = 100
BATCH = 40
PARTS = {"choose": "first_half", "report": "second_half"}

Maps = dict[str, np.ndarray]  # (n, h, w) each, >= 0


def collect(model: keras.Model, images: np.ndarray, proxies: np.ndarray | None) -> Maps:
    """Return the maps that candidates are made of."""
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
        logits = np.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(query.shape[-1])
        attention = np.exp(logits - logits.max(axis=-1, keepdims=True))
        attention /= attention.sum(axis=-1, keepdims=True)
        _, behind, projection = outputs[f"{path}/attention_output"]
        mixed = np.einsum("btk,hdk->bthd", behind, np.asarray(projection.kernel))
        slope = np.einsum("bqhd,bkhd->bhqk", mixed, value)
        product = np.maximum(attention * slope, 0).mean(axis=1)
        maps[f"attention x gradient {number}"] = read(product, pooled)
        maps[f"attention {number}"] = read(attention.mean(axis=1), pooled)
        maps[f"legrad {number}"] = to_map(np.maximum(slope, 0).mean(axis=(1, 2)))
        identity = np.eye(product.shape[1])
        state = identity + relevance
        relevance = relevance + product @ state
        half = (attention.mean(axis=1) + identity) / 2
        rolled = half if rolled is None else half @ rolled
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


ALL = range(hybrids.NUM_BLOCKS)
LAST = hybrids.NUM_BLOCKS - 1
CANDIDATES: dict[str, Callable[[Maps], np.ndarray]] = {
    "uniform": lambda maps: 1.0 + 0.0 * maps["rollout"],
    "Grad-CAM, last block (other packages)": mean_of("gradcam", [LAST]),
    "element-wise, last block": mean_of("element", [LAST]),
    "element-wise, middle block": mean_of("element", [1]),
    "element-wise, first block": mean_of("element", [0]),
    "element-wise, mean of all": mean_of("element", ALL),
    "element-wise, mean of all, 3 x 3": mean_of("element", ALL, blur),
    "length of the gradient, first block": mean_of("length", [0]),
    "length of the gradient, mean of all": mean_of("length", ALL),
    "attention, first block": mean_of("attention", [0]),
    "rollout": lambda maps: maps["rollout"],
    "LeGrad": lambda maps: sum(maps[f"legrad {x}"] for x in ALL),
    "attention x gradient, first block": mean_of("attention x gradient", [0]),
    "attention x gradient, accumulated": lambda maps: maps["accumulated"],
    "element-wise, mean of all, times accumulated": times(
        mean_of("element", ALL), lambda maps: scale(maps["accumulated"])
    ),
    "element-wise, mean of all, 3 x 3, times accumulated": times(
        mean_of("element", ALL, blur), lambda maps: scale(maps["accumulated"])
    ),
    "element-wise of two, 3 x 3, times length of the first": times(
        mean_of("element", [0, 1], blur), mean_of("length", [0])
    ),
    "element-wise of two, 3 x 3, times length of two": times(
        mean_of("element", [0, 1], blur), mean_of("length", [0, 1])
    ),
    "element-wise of all, 3 x 3, times length of the first": times(
        mean_of("element", ALL, blur), mean_of("length", [0])
    ),
    "element-wise of all, 3 x 3, times length of all": times(
        mean_of("element", ALL, blur), mean_of("length", ALL)
    ),
}


def judge(
    model: keras.Model, examples: dict[str, np.ndarray], names: list[str]
) -> dict[str, tuple]:
    """Return for each candidate: ratio, insertion - deletion, asked half."""
    images, labels = examples["image"], examples["label"]
    classes, labels = np.unique(labels, return_inverse=True)
    means = np.asarray(class_mean(embed(model, images), labels))
    montages = make_montages(images, labels, 2, NUM_MONTAGES, seed=1)
    some = np.random.default_rng(0).permutation(len(images))[:NUM_BIRDS]
    own = collect(model, images[some], None)
    halves = [
        collect(model, montages.images, means[montages.cell_labels[:, cell]])
        for cell in (0, 1)
    ]
    few = images[some[:NUM_CURVES]].astype("float32")
    units = embed(model, few)
    units = units / np.linalg.norm(units, axis=1, keepdims=True)

    def run(batch: np.ndarray) -> np.ndarray:
        return model.predict(batch, batch_size=NUM_CURVES, verbose=0)

    found = {}
    for name in names:
        candidate = CANDIDATES[name]
        size = images.shape[1:3]
        heatmaps = np.asarray(resize_heatmaps(candidate(own), size))
        ratio = np.nanmean(
            heatmap_ratio_in_boxes(heatmaps, examples["bbox"][some], "rel_yxyx")
        )
        ordered = heatmaps[:NUM_CURVES]
        if name == "uniform":  # it has no order: any
            rng = np.random.default_rng(0)
            noise = rng.random((NUM_CURVES, *hybrids.GRID), "float32")
            ordered = np.asarray(resize_heatmaps(noise, size))
        curves = [
            area_under(curve(run, few, ordered, units, NUM_STEPS))
            for curve in (insertion_curve, deletion_curve)
        ]
        asked = np.nanmean(
            [
                heat_by_cell(candidate(maps).astype("float32"), 2)[:, cell]
                for cell, maps in enumerate(halves)
            ]
        )
        faithful = np.nanmean(curves[0]) - np.nanmean(curves[1])
        found[name] = (float(ratio), float(faithful), float(asked))
        print(f"{name}: {found[name]}", flush=True)
    return found


def load(folder: Path, split: str) -> dict[str, np.ndarray]:
    """Return the birds of half of the classes."""
    birds = cub200(folder, split=split, image_size=224).batch(10_000)
    return next(iter(birds.as_numpy_iterator()))


def make_models(options: argparse.Namespace) -> dict[str, keras.Model]:
    """Return the hybrids, trained now unless they were before."""
    backbone = hybrids.make_backbone(options.weights)
    models, maps = {}, None
    for pooling in hybrids.POOLINGS:
        path = options.work / f"head_{pooling}.weights.h5"
        if not path.exists():
            birds = load(options.data, PARTS["choose"])
            if maps is None:
                both = birds["image"], birds["image"][:, :, ::-1]
                maps = np.concatenate([backbone.predict(x, verbose=0) for x in both])
            labels = np.concatenate([birds["label"]] * 2)
            head = hybrids.train_head(pooling, maps, labels, options.epochs, seed=0)
            head.save_weights(path)
        head = hybrids.make_head(pooling)
        head.load_weights(path)
        models[pooling] = hybrids.join(backbone, head)
    return models


def main() -> None:
    """Print a table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="CUB_FOLDER")
    parser.add_argument("--weights", type=Path, required=True, metavar="MOBILENET_V2")
    parser.add_argument("--work", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--part", choices=PARTS, default="choose")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--only", nargs="*", default=list(CANDIDATES), metavar="NAME")
    options = parser.parse_args()
    examples = load(options.data, PARTS[options.part])
    columns = {
        pooling: judge(model, examples, options.only)
        for pooling, model in make_models(options).items()
    }
    print(f"| candidate ({options.part}) | {' | '.join(columns)} |")
    print(f"| --- |{' --- |' * len(columns)}")
    for name in options.only:
        cells = [
            ", ".join(f"{x:.2f}" for x in column[name]) for column in columns.values()
        ]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
