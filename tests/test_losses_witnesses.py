"""The losses against pytorch-metric-learning and tensorflow-addons.

Their values and gradients were recorded by the scripts in tests/witnesses.
"""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_embcam.layers import Proxies
from keras_embcam.losses import (
    ContrastiveLoss,
    MarginLoss,
    ProxyAnchorLoss,
    ProxyNCALoss,
    TripletAllLoss,
    TripletHardLoss,
    TripletSemiHardLoss,
)

FOLDER = Path(__file__).parent / "witnesses"
METRIC_LEARNING = np.load(FOLDER / "losses.npz")
ADDONS = np.load(FOLDER / "addons_losses.npz")
CASES = ["ordinary", "close", "one_class", "all_different"]
PAIR_LOSSES = {
    "triplet_semi_hard": TripletSemiHardLoss(),
    "triplet_semi_hard/squared": TripletSemiHardLoss(distance_metric="squared-L2"),
    "triplet_hard": TripletHardLoss(),
    "triplet_hard/soft": TripletHardLoss(soft=True),
    "triplet_all": TripletAllLoss(),
    "triplet_all/narrow": TripletAllLoss(margin=0.2),
    "contrastive": ContrastiveLoss(),
}


class FixedMarginLoss(MarginLoss):
    """Takes given triplets instead of sampled ones."""

    def __init__(self, triplets, size):
        super().__init__()
        self.chosen = np.zeros((size, size), "int32")
        self.chosen[triplets[:, 0], triplets[:, 1]] = triplets[:, 2]

    def choose_negatives(self, weights):
        return tf.constant(self.chosen)


def check(loss, labels, embeddings, expected_value, expected_gradient):
    embeddings = tf.constant(embeddings, "float32")
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        value = loss(labels, embeddings)
    gradient = tape.gradient(value, embeddings)
    assert float(value) == pytest.approx(float(expected_value), rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=1e-5)


def read(case, name):
    return METRIC_LEARNING[f"{case}/{name}"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_pytorch_metric_learning_agrees(name, case):
    check(
        PAIR_LOSSES[name],
        read(case, "labels"),
        read(case, "embeddings"),
        read(case, f"{name}/value"),
        read(case, f"{name}/gradient"),
    )


@pytest.mark.parametrize("case", ["ordinary", "close"])
def test_pytorch_metric_learning_agrees_on_the_margin_loss_of_given_triplets(case):
    labels = read(case, "labels")
    check(
        FixedMarginLoss(read(case, "margin/triplets"), len(labels)),
        labels,
        read(case, "embeddings"),
        read(case, "margin/value"),
        read(case, "margin/gradient"),
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("name", "loss"),
    [("proxy_nca", ProxyNCALoss()), ("proxy_anchor", ProxyAnchorLoss())],
)
def test_pytorch_metric_learning_agrees_through_the_proxies_layer(name, loss, case):
    recorded = METRIC_LEARNING["proxies"]
    layer = Proxies(len(recorded))
    layer.build((None, recorded.shape[1]))
    layer.proxies.assign(recorded)
    embeddings = tf.constant(read(case, "embeddings"), "float32")
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        value = loss(read(case, "labels"), layer(embeddings))
    gradients = tape.gradient(value, [embeddings, layer.proxies.value])
    assert float(value) == pytest.approx(float(read(case, f"{name}/value")), rel=1e-5)
    for gradient, kind in zip(gradients, ["gradient", "proxy_gradient"], strict=True):
        expected = read(case, f"{name}/{kind}")
        # The scale of 32 in Proxy-Anchor takes the gradients to about 20.
        tolerance = 1e-5 * max(1, np.abs(expected).max())
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        (f"{kind.__name__}/{metric}", kind(distance_metric=metric))
        for kind in (TripletSemiHardLoss, TripletHardLoss)
        for metric in ("L2", "squared-L2", "angular")
    ]
    + [
        ("TripletSemiHardLoss/narrow", TripletSemiHardLoss(margin=0.2)),
        ("TripletHardLoss/soft", TripletHardLoss(soft=True)),
    ],
)
def test_tensorflow_addons_agrees(name, loss):
    unit = ADDONS["unit_embeddings"].astype("float64")
    expected = ADDONS[f"{name}/gradient"].astype("float64")
    # Ours normalises inside, which leaves the part at right angles to the embedding.
    expected -= unit * np.sum(unit * expected, axis=1, keepdims=True)
    check(loss, ADDONS["labels"], unit, ADDONS[f"{name}/value"], expected)


def test_tensorflow_addons_agrees_on_the_contrastive_costs():
    costs = ADDONS["ContrastiveLoss/costs"]
    is_same_class = ADDONS["ContrastiveLoss/is_same_class"]
    together, apart = costs[is_same_class], costs[~is_same_class]
    expected = together.mean() + apart[apart > 0].mean()
    value = ContrastiveLoss()(ADDONS["labels"], ADDONS["unit_embeddings"])
    assert float(value) == pytest.approx(expected, rel=1e-5)
