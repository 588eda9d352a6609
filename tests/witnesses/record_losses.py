"""Record the values and gradients of pytorch-metric-learning's losses.

tests/test_losses_witnesses.py compares the losses of this package with them.
Everything is computed and stored in float64. Where a loss of this package chooses its
triplets, the choice is made here once more, by a plain loop or by the library.

Run with ``make witnesses``.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import (
    ContrastiveLoss,
    MarginLoss,
    ProxyAnchorLoss,
    ProxyNCALoss,
    TripletMarginLoss,
)
from pytorch_metric_learning.miners import BatchHardMiner, DistanceWeightedMiner
from pytorch_metric_learning.reducers import MeanReducer
from torch import Tensor

NUM_CLASSES, DIMENSION = 6, 5
LABELS = {
    "ordinary": [0, 1, 2, 0, 1, 2, 3, 0, 3, 1, 4, 0],  # class 4 has a single example
    "close": [0, 1, 2, 0, 1, 2, 3, 0, 3, 1, 4, 0],
    "one_class": [2, 2, 2, 2],
    "all_different": [3, 0, 5, 1],
}
NUM_MINER_RUNS = 4000


class SquaredContrastiveLoss(ContrastiveLoss):
    """The library's contrastive loss with the costs squared, as Hadsell et al. do."""

    def pos_calc(self, pos_pair_dist: Tensor, margin: float) -> Tensor:
        return super().pos_calc(pos_pair_dist, margin) ** 2

    def neg_calc(self, neg_pair_dist: Tensor, margin: float) -> Tensor:
        return super().neg_calc(neg_pair_dist, margin) ** 2


def distance(power: int) -> LpDistance:
    return LpDistance(normalize_embeddings=True, p=2, power=power)


def differentiate(value: Tensor, variable: Tensor) -> np.ndarray:
    (gradient,) = torch.autograd.grad(value, variable, retain_graph=True)
    return gradient.numpy()


def find_semi_hard(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """Return each positive pair with the nearest negative beyond, or the farthest."""
    unit = torch.nn.functional.normalize(embeddings.detach())
    triplets = []
    for a, anchor in enumerate(unit):
        to_anchor = [(anchor - other).norm().item() for other in unit]
        negatives = [n for n in range(len(unit)) if labels[n] != labels[a]]
        for p in range(len(unit)):
            if p == a or labels[p] != labels[a] or not negatives:
                continue
            beyond = [n for n in negatives if to_anchor[n] > to_anchor[p]]
            if beyond:
                n = min(beyond, key=to_anchor.__getitem__)
            else:
                n = max(negatives, key=to_anchor.__getitem__)
            triplets.append((a, p, n))
    return tuple(torch.tensor(triplets, dtype=torch.long).reshape(-1, 3).T)


def choose_triplets(labels: Tensor, generator: np.random.Generator) -> np.ndarray:
    """Return each positive pair of the batch with any negative, (number, 3)."""
    triplets = []
    for a, p in np.ndindex(len(labels), len(labels)):
        negatives = np.flatnonzero(labels.numpy() != int(labels[a]))
        if a != p and labels[a] == labels[p] and len(negatives):
            triplets.append((a, p, generator.choice(negatives)))
    return np.array(triplets, dtype="int64").reshape(-1, 3)


def record_pair_losses(
    embeddings: Tensor, labels: Tensor, generator: np.random.Generator
) -> dict[str, np.ndarray]:
    chosen = choose_triplets(labels, generator)
    semi_hard = find_semi_hard(embeddings, labels)
    hard = BatchHardMiner(distance=distance(1))(embeddings, labels)
    mean = MeanReducer()

    def triplet(power: int, **options: object) -> TripletMarginLoss:
        options = {"margin": 1.0, "reducer": mean, **options}
        return TripletMarginLoss(distance=distance(power), **options)

    values = {
        "triplet_semi_hard": triplet(1)(embeddings, labels, semi_hard),
        "triplet_semi_hard/squared": triplet(2)(embeddings, labels, semi_hard),
        "triplet_hard": triplet(1)(embeddings, labels, hard),
        "triplet_hard/soft": triplet(1, margin=0.0, smooth_loss=True)(
            embeddings, labels, hard
        ),
        "triplet_all": triplet(1, reducer=None)(embeddings, labels),
        "triplet_all/narrow": triplet(1, reducer=None, margin=0.2)(embeddings, labels),
        "contrastive": SquaredContrastiveLoss(distance=distance(1))(embeddings, labels),
    }
    arrays: dict[str, np.ndarray] = {"margin/triplets": chosen}
    if len(chosen):
        values["margin"] = MarginLoss(distance=distance(1))(
            embeddings, labels, tuple(torch.tensor(chosen).T)
        )
    for name, value in values.items():
        arrays[f"{name}/value"] = value.detach().numpy()
        arrays[f"{name}/gradient"] = differentiate(value, embeddings)
    return arrays


def record_proxy_losses(
    embeddings: Tensor, labels: Tensor, proxies: np.ndarray
) -> dict[str, np.ndarray]:
    arrays = {}
    for name, loss in {
        "proxy_nca": ProxyNCALoss(NUM_CLASSES, DIMENSION, softmax_scale=9),
        "proxy_anchor": ProxyAnchorLoss(NUM_CLASSES, DIMENSION),
    }.items():
        loss.proxies.data = torch.tensor(proxies)
        value = loss(embeddings, labels)
        arrays[f"{name}/value"] = value.detach().numpy()
        arrays[f"{name}/gradient"] = differentiate(value, embeddings)
        arrays[f"{name}/proxy_gradient"] = differentiate(value, loss.proxies)
    return arrays


def count_mined(embeddings: Tensor, labels: Tensor) -> np.ndarray:
    """Return how often distance-weighted mining took a negative for an anchor."""
    torch.manual_seed(0)
    np.random.seed(0)
    miner = DistanceWeightedMiner(cutoff=0.5, nonzero_loss_cutoff=1.4)
    counts = np.zeros((len(labels), len(labels)), dtype="int64")
    for _ in range(NUM_MINER_RUNS):
        anchors, _, negatives = miner(embeddings.detach(), labels)
        np.add.at(counts, (anchors.numpy(), negatives.numpy()), 1)
    return counts


def main() -> None:
    generator = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {
        "proxies": generator.standard_normal((NUM_CLASSES, DIMENSION))
    }
    for case, case_labels in LABELS.items():
        labels = torch.tensor(case_labels)
        drawn = generator.standard_normal((len(labels), DIMENSION))
        if case == "close":  # a common direction hides the differences
            drawn = 0.2 * drawn + 2
        embeddings = torch.tensor(drawn, requires_grad=True)
        recorded = {
            "embeddings": drawn,
            "labels": np.array(case_labels),
            **record_pair_losses(embeddings, labels, generator),
            **record_proxy_losses(embeddings, labels, arrays["proxies"]),
        }
        if case == "ordinary":
            recorded["margin/mined_counts"] = count_mined(embeddings, labels)
        arrays.update({f"{case}/{name}": array for name, array in recorded.items()})
    path = Path(__file__).with_name("losses.npz")
    np.savez_compressed(path, **arrays)
    print(f"{path.name}: {len(arrays)} arrays, {path.stat().st_size} bytes")
    for name in ("torch", "pytorch-metric-learning", "numpy"):
        print(f"  {name} {version(name)}")


if __name__ == "__main__":
    main()
