"""Record what pytorch-metric-learning says about the retrieval of small embeddings.

tests/test_metrics_retrieval.py compares Recall@1 (its precision_at_1) and MAP@R. The
neighbours come from an exact search by cosine, the query itself left out. Embeddings
are float32; everything is computed in float64.

Run with ``make witnesses``.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN

# Neighbours of different classes that are nearer than this to each other could
# change places by rounding alone: such embeddings are drawn again.
MARGIN = 2e-6
WITNESSES = {
    "recall_at_1": "precision_at_1",
    "map_at_r": "mean_average_precision_at_r",
}


def draw_clusters(sizes: list[int], spread: float, seed: int) -> list[np.ndarray]:
    """Return embeddings (n, 6) of different lengths around one centre a class."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centres = random.normal(size=(len(sizes), 6))
    embeddings = centres[labels] + spread * random.normal(size=(len(labels), 6))
    embeddings *= random.uniform(0.01, 100, size=(len(labels), 1))
    return [embeddings.astype("float32"), labels]


def repeat_members(embeddings: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """Return all twice and four times as long too: exact ties within a class."""
    copies = np.concatenate([embeddings, 2 * embeddings, 4 * embeddings])
    return [copies, np.tile(labels, 3)]


def measure_margin(embeddings: np.ndarray, labels: np.ndarray) -> float:
    """Return the least difference of similarity across classes, for any query."""
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    order = np.argsort(similarities := units @ units.T, axis=1)
    gaps = np.diff(np.take_along_axis(similarities, order, axis=1), axis=1)
    return gaps[np.diff(labels[order], axis=1) != 0].min()


def draw_cases() -> dict[str, list[np.ndarray]]:
    """Return embeddings and labels by the name of the case."""
    unequal = [1, 2, 3, 1, 30, 8, 14]  # two classes have nothing to find
    for seed in range(1000):
        cases = {
            "mixed": draw_clusters(unequal, spread=1.0, seed=seed),
            "separated": draw_clusters(unequal, spread=0.5, seed=seed),
            "pairs": draw_clusters([2] * 12, spread=0.6, seed=seed),
            "all_alone": draw_clusters([1] * 5, spread=1.0, seed=seed),
        }
        cases["repeated"] = repeat_members(*draw_clusters([2, 5, 9], 1.0, seed))
        margins = [
            measure_margin(embeddings.astype("float64"), labels)
            for embeddings, labels in cases.values()
        ]
        if min(margins) > MARGIN:
            print(f"seed {seed}, margin {min(margins):.1e}")
            return cases
    raise RuntimeError("No seed keeps the margin.")


def main() -> None:
    """Write metrics.npz beside this file."""
    calculator = AccuracyCalculator(
        include=tuple(WITNESSES.values()),
        k="max_bin_count",
        device=torch.device("cpu"),
        knn_func=CustomKNN(CosineSimilarity()),
    )
    record: dict[str, np.ndarray] = {}
    for name, (embeddings, labels) in draw_cases().items():
        answers = calculator.get_accuracy(
            torch.tensor(embeddings, dtype=torch.float64), torch.tensor(labels)
        )
        record[f"{name}/embeddings"] = embeddings
        record[f"{name}/labels"] = labels.astype("int32")
        for ours, theirs in WITNESSES.items():
            record[f"{name}/{ours}"] = np.float64(answers[theirs])
            print(f"{name} {theirs}: {answers[theirs]}")
    np.savez(Path(__file__).with_name("metrics.npz"), **record)
    print("pytorch-metric-learning", version("pytorch-metric-learning"))


if __name__ == "__main__":
    main()
