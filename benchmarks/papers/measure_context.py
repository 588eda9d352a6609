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
from keras_embcam.sampling import sample_balanced_batches

SHORTCUTS = (0.0, 0.25, 0.5, 0.75, 1.0)
NUM_TRAIN, NUM_TEST, IMAGES_PER_CLASS = 1800, 300, 10
RATIOS = ("context_ratio_mean_both", "context_ratio_mean_query")
RATIOS += ("context_ratio_blur_both", "context_ratio_blur_query")


class Measure(keras.callbacks.Callback):
    """Measures both ratios after every epoch.

    Args:
        examples: with masks and boxes.
        rows: that are filled.
        settings: put in front of each row.
    """

    def __init__(
        self,
        examples: dict[str, np.ndarray],
        rows: list[dict[str, Any]],
        settings: dict[str, Any],
    ) -> None:
        super().__init__()
        self._examples, self._rows, self._settings = examples, rows, settings

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Add a row."""
        heatmaps = explain(self.model, self._examples["image"])
        masks = self._examples["segmentation_mask"]
        ratio = np.nanmean(np.asarray(heatmap_ratio_in_masks(heatmaps, masks)))
        found = context_ratio(self.model, self._examples)
        row = {**self._settings, "epoch": epoch + 1, "heatmap_ratio": float(ratio)}
        self._rows.append({**row, "recall": found.recall, **found.as_logs()})
        print(self._rows[-1], file=sys.stderr, flush=True)


def run(shortcut: float, seed: int, epochs: int, rows: list[dict[str, Any]]) -> None:
    """Train one network and add a row for each epoch."""
    train = digit_scenes(NUM_TRAIN, classes=TRAIN_CLASSES, shortcut=shortcut, seed=seed)
    # Both a digit and a hue tell the class of these scenes: the network chooses.
    test = digit_scenes(
        NUM_TEST, split="evaluation", classes=range(6, 10), shortcut=1.0, seed=seed
    )
    keras.utils.set_random_seed(seed)
    images = keras.Input(train["image"].shape[1:])
    model = keras.Model(images, make_embeddings(images))
    batches = sample_balanced_batches(
        train["image"],
        train["label"],
        classes_per_batch=len(TRAIN_CLASSES),
        images_per_class=IMAGES_PER_CLASS,
        seed=seed,
    )
    schedule = keras.optimizers.schedules.CosineDecay(3e-3, epochs * len(batches))
    model.compile(keras.optimizers.Adam(schedule), TripletSemiHardLoss())
    measure = Measure(test, rows, {"shortcut": shortcut, "seed": seed})
    model.fit(batches, epochs=epochs, shuffle=False, verbose=0, callbacks=[measure])


def main() -> None:
    """Train, measure and write the file."""
    parser = argparse.ArgumentParser(description="Compare two ratios on digits.")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.md")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        for shortcut in SHORTCUTS:
            run(shortcut, seed, options.epochs, rows)
    heat = np.array([row["heatmap_ratio"] for row in rows])
    last = np.array([row["epoch"] == options.epochs for row in rows])
    lines = [
        "# Does the heatmap ratio predict the context ratio?",
        "Made by `python -m benchmarks.papers.measure_context "
        f"--epochs {options.epochs} --seeds {options.seeds}`; not typed. Scenes of "
        "digits, on whose backgrounds a hue told the class with the probability "
        "`shortcut` while training; measured on unseen digits with the hue of their "
        "class.",
        "Rank correlation (Spearman) of the share of the heat on the digit with the "
        f"context ratio, over {len(rows)} epochs of all networks and over the "
        f"{last.sum()} networks at the end; -1 would be a perfect prediction.",
        "| cover and sides | all epochs | at the end |",
        "| --- | --- | --- |",
    ]
    table = []
    for name in RATIOS:
        values = np.array([row[name] for row in rows])
        cells = [
            spearmanr(heat[some], values[some], nan_policy="omit").statistic
            for some in (np.ones_like(last), last)
        ]
        table.append(
            f"| {name.removeprefix('context_ratio_').replace('_', ', ')} "
            f"| {cells[0]:.2f} | {cells[1]:.2f} |"
        )
    names = ("shortcut", "seed", "recall", "heatmap_ratio", *RATIOS)
    ends = [[f"{row[name]:.2f}" for name in names] for row in np.array(rows)[last]]
    titles = [name.replace("_", " ") for name in names]
    text = "\n\n".join(lines[:3]) + "\n\n" + "\n".join([*lines[3:], *table])
    body = [titles, ["---"] * len(titles), *ends]
    text += "\n\nAt the end of each training:\n\n"
    text += "\n".join(f"| {' | '.join(cells)} |" for cells in body) + "\n"
    options.out.write_text(text, encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    main()
