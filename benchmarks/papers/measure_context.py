"""Does the heatmap ratio predict the context ratio? On the demo's scenes of digits.

    python -m benchmarks.papers.measure_context --out docs/context_ratio.md

Networks that learn from scenes whose background tells the class with a probability
from 0 to 1 are measured after every epoch: how much of the heat is on the digit, and
Recall@1 with the digit covered over Recall@1 with everything else covered.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
from scipy.stats import spearmanr

from keras_embcam import context_ratio, explain
from keras_embcam.datasets import digit_scenes
from keras_embcam.demo.digits import TRAIN_CLASSES, make_embeddings
from keras_embcam.losses import TripletSemiHardLoss
from keras_embcam.metrics import heatmap_ratio_in_masks
from keras_embcam.retrieval.context import SIDES
from keras_embcam.retrieval.covering import COVERS
from keras_embcam.sampling import sample_balanced_batches

SHORTCUTS = (0.0, 0.25, 0.5, 0.75, 1.0)
NUM_TRAIN, NUM_TEST, IMAGES_PER_CLASS = 1800, 300, 10
RATIOS = tuple(f"{cover}_{sides}" for cover in COVERS for sides in SIDES)
NUM_RESAMPLES = 1000

NOTES = (
    "`context_ratio(...).ratio` is the first row: one colour for all images, on the "
    "queries alone. The other covers are made of the image itself and keep its hue. "
    "With the mean colour or a blur, a network that knows nothing but the hue still "
    "finds its class when the background is covered, so its ratio stays near 1, like "
    "that of a network that needs both. One colour for all images keeps nothing. Only "
    "the queries are covered, because covers on both sides have outlines that a "
    "network may compare."
)

Row = dict[str, Any]


class Experiment:
    """Trains one network again and again; it is compiled once.

    Args:
        epochs: of each training.
    """

    def __init__(self, epochs: int) -> None:
        images = keras.Input((64, 64, 3))
        self._model = keras.Model(images, make_embeddings(images))
        self._epochs = epochs
        steps = epochs * NUM_TRAIN // (len(TRAIN_CLASSES) * IMAGES_PER_CLASS)
        schedule = keras.optimizers.schedules.CosineDecay(3e-3, steps)
        self._optimizer = keras.optimizers.Adam(schedule)
        self._model.compile(self._optimizer, TripletSemiHardLoss())

    def run(self, shortcut: float, seed: int) -> list[Row]:
        """Train from scratch and measure both ratios after every epoch."""
        train = digit_scenes(
            NUM_TRAIN, classes=TRAIN_CLASSES, shortcut=shortcut, seed=seed
        )
        # Both a digit and a hue tell the class of these scenes: the network chooses.
        test = digit_scenes(
            NUM_TEST, split="evaluation", classes=range(6, 10), shortcut=1.0, seed=seed
        )
        keras.utils.set_random_seed(seed)
        images = keras.Input((64, 64, 3))
        fresh = keras.Model(images, make_embeddings(images))
        self._model.set_weights(fresh.get_weights())
        for variable in self._optimizer.variables:
            variable.assign(np.zeros(variable.shape, variable.dtype))
        batches = sample_balanced_batches(
            train["image"],
            train["label"],
            classes_per_batch=len(TRAIN_CLASSES),
            images_per_class=IMAGES_PER_CLASS,
            seed=seed,
        )
        rows = []
        for epoch in range(self._epochs):
            self._model.fit(batches, shuffle=False, verbose=0)
            rows.append(
                {"shortcut": shortcut, "seed": seed, "epoch": epoch + 1}
                | measure(self._model, test)
            )
            print(rows[-1], file=sys.stderr, flush=True)
        return rows


def measure(model: keras.Model, examples: dict[str, np.ndarray]) -> Row:
    """Return the share of the heat on the object, Recall@1 and the context ratios."""
    heatmaps = explain(model, examples["image"])
    masks = examples["segmentation_mask"]
    ratios = np.asarray(heatmap_ratio_in_masks(heatmaps, masks))
    found = context_ratio(model, examples, batch_size=100)
    row = {"heatmap_ratio": float(np.nanmean(ratios)), "recall": found.recall}
    return row | {f"{x.cover}_{x.sides}": x.ratio for x in found.rows}


def correlate(rows: list[Row], first: str, second: str) -> float:
    """Return Spearman's rank correlation of two columns."""
    columns = [[row[name] for row in rows] for name in (first, second)]
    return float(spearmanr(*columns, nan_policy="omit").statistic)


def describe(rows: list[Row], first: str, second: str) -> str:
    """Return the correlation with a 95 % interval, over networks drawn again."""
    networks = sorted({(row["shortcut"], row["seed"]) for row in rows})
    of_network = [
        [row for row in rows if (row["shortcut"], row["seed"]) == network]
        for network in networks
    ]
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(NUM_RESAMPLES):
        some = random.integers(0, len(networks), len(networks))
        drawn.append(correlate(sum((of_network[i] for i in some), []), first, second))
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return f"{correlate(rows, first, second):.2f} ({low:.2f} to {high:.2f})"


def write_table(head: list[str], body: list[list[str]]) -> str:
    """Return a table as Markdown."""
    return "\n".join(f"| {' | '.join(x)} |" for x in [head, ["---"] * len(head), *body])


def main() -> None:
    """Train, measure and write the file."""
    parser = argparse.ArgumentParser(description="Compare two ratios on digits.")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.md")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    experiment = Experiment(options.epochs)
    rows: list[Row] = []
    for seed in range(options.seeds):
        for shortcut in SHORTCUTS:
            rows += experiment.run(shortcut, seed)
    ends = [row for row in rows if row["epoch"] == options.epochs]
    predicted = [
        [
            name.replace("_", ", "),
            describe(rows, "heatmap_ratio", name),
            describe(ends, "heatmap_ratio", name),
            describe(ends, "shortcut", name),
        ]
        for name in RATIOS
    ]
    names = ["heatmap_ratio", "recall", *RATIOS]
    means = [
        [f"{shortcut:.2f}"]
        + [
            f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"
            for values in (
                [row[name] for row in ends if row["shortcut"] == shortcut]
                for name in names
            )
        ]
        for shortcut in SHORTCUTS
    ]
    sections = [
        "# Does the heatmap ratio predict the context ratio?",
        "Made by `python -m benchmarks.papers.measure_context --epochs "
        f"{options.epochs} --seeds {options.seeds} --out docs/context_ratio.md`; not "
        "typed by hand. Networks learned digits on backgrounds whose hue gave the "
        "class away with the probability `shortcut`. They are measured on other digits "
        "with the hue of their class, so a network can find the class by either. The "
        "context ratio is Recall@1 with the digit covered, divided by Recall@1 with "
        "everything else covered.",
        "The first table holds rank correlations (Spearman) of the context ratio with "
        "the heatmap ratio and with `shortcut`, for each way to cover. They are over "
        f"all {len(rows)} epochs of {len(ends)} networks, and over these networks at "
        "the end of their training, with 95 % intervals from drawing networks again. "
        "If the heatmap ratio predicted the context ratio perfectly, the correlation "
        "would be -1; if the context ratio said how strong the shortcut was, 1.",
        write_table(
            [
                "cover and covered sides",
                "heatmap ratio, all epochs",
                "heatmap ratio, at the end",
                "shortcut, at the end",
            ],
            predicted,
        ),
        "The second table: the ratios at the end of the trainings, as the mean over "
        "the seeds, with the lowest and the highest.",
        write_table(["shortcut", *(x.replace("_", " ") for x in names)], means),
        NOTES,
    ]
    options.out.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    main()
