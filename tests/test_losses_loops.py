"""The losses against slow loops in plain numpy, on ordinary and degenerate batches."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_embcam.losses import (
    ContrastiveLoss,
    MarginLoss,
    ProxyAnchorLoss,
    ProxyNCALoss,
    TripletAllLoss,
    TripletHardLoss,
    TripletSemiHardLoss,
)
from keras_embcam.losses.pairwise import measure_distances

DIMENSION, NUM_CLASSES = 6, 8


class FixedMarginLoss(MarginLoss):
    """Takes for each pair (a, p) the next negative after a, to leave out the chance."""

    def choose_negatives(self, weights):
        return tf.constant(next_candidates(weights.numpy() > 0))


def next_candidates(candidates):
    """Return for each pair (a, p) the anchor's first candidate after p, or zero."""
    size = len(candidates)
    chosen = np.zeros((size, size), dtype="int32")
    for a, p in np.ndindex(size, size):
        order = [(p + step) % size for step in range(size)]
        chosen[a, p] = next((n for n in order if candidates[a, n]), 0)
    return chosen


def mean(terms):
    return sum(terms) / len(terms) if terms else 0.0


def active(terms):
    return [term for term in terms if term > 1e-9]


class Loops:
    """Every loss once more, from lists and loops, in float64."""

    def __init__(self, labels, embeddings, metric="L2"):
        self.labels, self.size = labels, len(labels)
        unit = []
        for row in np.asarray(embeddings, "float64"):
            length = math.sqrt(sum(value * value for value in row))
            unit.append(row / length if length > 0 else row)
        self.metric = metric
        self.distances = [[self.measure(a, b) for b in unit] for a in unit]

    def measure(self, a, b):
        squared = sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
        return {
            "L2": math.sqrt(squared),
            "squared-L2": squared,
            "angular": squared / 2,
        }[self.metric]

    def positives(self, a):
        return [
            p for p in range(self.size) if p != a and self.labels[p] == self.labels[a]
        ]

    def negatives(self, a):
        return [n for n in range(self.size) if self.labels[n] != self.labels[a]]

    def semi_hard(self, margin=1.0):
        terms = []
        for a, row in enumerate(self.distances):
            to_negatives = [row[n] for n in self.negatives(a)]
            for p in self.positives(a) if to_negatives else []:
                beyond = [distance for distance in to_negatives if distance > row[p]]
                chosen = min(beyond) if beyond else max(to_negatives)
                terms.append(max(0.0, row[p] - chosen + margin))
        return mean(terms)

    def hard(self, margin=1.0, soft=False):
        terms = []
        for a, row in enumerate(self.distances):
            if self.positives(a) and self.negatives(a):
                farthest = max(row[p] for p in self.positives(a))
                difference = farthest - min(row[n] for n in self.negatives(a))
                softened = math.log1p(math.exp(difference))
                terms.append(softened if soft else max(0.0, difference + margin))
        return mean(terms)

    def all(self, margin=1.0):
        return mean(
            active(
                self.distances[a][p] - self.distances[a][n] + margin
                for a in range(self.size)
                for p in self.positives(a)
                for n in self.negatives(a)
            )
        )

    def contrastive(self, margin=1.0):
        together, apart = [], []
        for a, row in enumerate(self.distances):
            together += [row[p] ** 2 for p in self.positives(a)]
            apart += [max(0.0, margin - row[n]) ** 2 for n in self.negatives(a)]
        return mean(active(together)) + mean(active(apart))

    def margin(self, margin=0.2, beta=1.2):
        candidates = np.zeros((self.size, self.size), dtype=bool)
        for a, row in enumerate(self.distances):
            for n in self.negatives(a):
                candidates[a, n] = row[n] < beta + margin
        chosen, terms = next_candidates(candidates), []
        for a, row in enumerate(self.distances):
            for p in self.positives(a):
                terms.append(row[p] - beta + margin)
                if candidates[a].any():
                    terms.append(beta - row[chosen[a, p]] + margin)
        return mean(active(terms))


PAIR_LOSSES = {
    "semi-hard": (TripletSemiHardLoss(), lambda loops: loops.semi_hard()),
    "semi-hard narrow": (TripletSemiHardLoss(0.1), lambda loops: loops.semi_hard(0.1)),
    "hard": (TripletHardLoss(), lambda loops: loops.hard()),
    "hard narrow": (TripletHardLoss(0.1), lambda loops: loops.hard(0.1)),
    "hard soft": (TripletHardLoss(soft=True), lambda loops: loops.hard(soft=True)),
    "all": (TripletAllLoss(), lambda loops: loops.all()),
    "all narrow": (TripletAllLoss(0.1), lambda loops: loops.all(0.1)),
    "contrastive": (ContrastiveLoss(), lambda loops: loops.contrastive()),
    "contrastive wide": (ContrastiveLoss(1.5), lambda loops: loops.contrastive(1.5)),
    "margin": (FixedMarginLoss(), lambda loops: loops.margin()),
    "margin wide": (FixedMarginLoss(0.5, 1.0), lambda loops: loops.margin(0.5, 1.0)),
}


def draw_batches():
    generator = np.random.default_rng(3)

    def draw(size):
        return generator.standard_normal((size, DIMENSION)).astype("float32")

    mixed = [0, 1, 2, 0, 1, 2, 3, 0, 3, 1, 4, 0]
    one = draw(1)
    some_zero = draw(8)
    some_zero[[0, 3, 4]] = 0
    return {
        "ordinary": (mixed, draw(12)),
        "different lengths": (mixed, draw(12) * 10.0 ** np.arange(-6, 6)[:, None]),
        "close together": (mixed, 1 + 0.03 * draw(12)),
        "a pair": ([5, 5], draw(2)),
        "a negative pair": ([5, 6], draw(2)),
        "one class": ([7] * 6, draw(6)),
        "all classes different": ([3, 1, 4, 0, 5], draw(5)),
        "batch of one": ([2], draw(1)),
        "identical embeddings": (mixed, np.repeat(one, 12, axis=0)),
        "identical embeddings, one class": ([1] * 4, np.repeat(one, 4, axis=0)),
        "identical within the class": (mixed, draw(5)[mixed]),
        "zero embeddings": (mixed, np.zeros((12, DIMENSION), "float32")),
        "some zero embeddings": ([0, 0, 0, 1, 1, 1, 2, 2], some_zero),
        "opposite embeddings": ([0, 0, 1, 1], np.concatenate([one, -one, one, -one])),
    }


BATCHES = draw_batches()
# A zero embedding is at distance 1 from all others. With a margin of 1 this is where a
# cost begins, and rounding says whether it counts in the mean of those that do.
AT_A_JUMP = [("all", "some zero embeddings"), ("contrastive", "some zero embeddings")]
WITHOUT_PAIR_OF_ONE_CLASS = ["a negative pair", "all classes different", "batch of one"]
WITHOUT_TRIPLET = [*WITHOUT_PAIR_OF_ONE_CLASS, "a pair", "one class"]


def differentiate(loss, labels, predictions):
    predictions = tf.constant(predictions, "float32")
    with tf.GradientTape() as tape:
        tape.watch(predictions)
        value = loss(tf.constant(labels), predictions)
    return value.numpy(), tape.gradient(value, predictions).numpy()


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_pair_losses_equal_the_loops(name, batch):
    loss, loop = PAIR_LOSSES[name]
    labels, embeddings = BATCHES[batch]
    value, gradient = differentiate(loss, labels, embeddings)
    if (name, batch) not in AT_A_JUMP:
        assert value == pytest.approx(loop(Loops(labels, embeddings)), abs=1e-5)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert gradient.shape == embeddings.shape


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("metric", ["squared-L2", "angular"])
def test_triplet_losses_with_other_distances_equal_the_loops(metric, batch):
    labels, embeddings = BATCHES[batch]
    loops = Loops(labels, embeddings, metric)
    expected = [loops.semi_hard(), loops.hard(), loops.all(0.3)]
    losses = [
        TripletSemiHardLoss(distance_metric=metric),
        TripletHardLoss(distance_metric=metric),
        TripletAllLoss(0.3, distance_metric=metric),
    ]
    for loss, number in zip(losses, expected, strict=True):
        value, gradient = differentiate(loss, labels, embeddings)
        assert value == pytest.approx(number, abs=1e-5)
        assert np.isfinite(gradient).all()


@pytest.fixture
def check_numerics():
    """Let TensorFlow look at every number on its way."""
    tf.debugging.enable_check_numerics()
    yield
    tf.debugging.disable_check_numerics()


@pytest.mark.parametrize("name", ["semi-hard", "hard soft", "all", "margin"])
def test_no_nan_or_infinity_on_the_way(name, check_numerics):
    for batch in ["one class", "identical embeddings", "some zero embeddings"]:
        labels, embeddings = BATCHES[batch]
        PAIR_LOSSES[name][0](np.array(labels), embeddings)


@pytest.mark.parametrize("spread", [1e-2, 1e-3, 1e-4])
def test_distances_between_embeddings_that_nearly_collapsed(spread):
    """As a network may give them before its training; the rounding is 6e-8."""
    points = 1 + spread * np.random.default_rng(6).standard_normal((6, DIMENSION))
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype("float32")
    expected = np.linalg.norm(
        np.float64(points)[:, None] - np.float64(points)[None], axis=-1
    )
    np.testing.assert_allclose(measure_distances(points), expected, rtol=1e-3)
    _, gradient = differentiate(TripletHardLoss(), [0, 0, 1, 1, 2, 2], points)
    assert (np.linalg.norm(gradient, axis=1) > 0.1).all()


@pytest.mark.parametrize("batch", WITHOUT_TRIPLET)
@pytest.mark.parametrize("name", ["semi-hard", "hard", "hard soft", "all"])
def test_batch_without_a_triplet_costs_nothing(name, batch):
    value, gradient = differentiate(PAIR_LOSSES[name][0], *BATCHES[batch])
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("batch", WITHOUT_PAIR_OF_ONE_CLASS)
def test_margin_loss_of_a_batch_without_a_positive_pair_is_zero(batch):
    value, gradient = differentiate(MarginLoss(seed=0), *BATCHES[batch])
    assert value == 0
    assert (gradient == 0).all()


def test_contrastive_loss_of_a_batch_of_one_is_zero():
    value, gradient = differentiate(ContrastiveLoss(), *BATCHES["batch of one"])
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_zero_embeddings_get_a_zero_gradient(name):
    labels, embeddings = BATCHES["some zero embeddings"]
    _, gradient = differentiate(PAIR_LOSSES[name][0], labels, embeddings)
    is_zero = ~embeddings.any(axis=1)
    assert (gradient[is_zero] == 0).all()
    assert np.abs(gradient[~is_zero]).max() < 10


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_length_of_the_embeddings_does_not_count(name):
    labels, embeddings = BATCHES["ordinary"]
    loss = PAIR_LOSSES[name][0]
    value, gradient = differentiate(loss, labels, embeddings)
    scaled_value, scaled_gradient = differentiate(loss, labels, 8 * embeddings)
    assert scaled_value == pytest.approx(value, rel=1e-6)
    np.testing.assert_allclose(8 * scaled_gradient, gradient, atol=1e-6)


def proxy_nca_loop(labels, similarities, temperature=1 / 9):
    terms = []
    for label, row in zip(labels, similarities, strict=True):
        exponentials = [math.exp(-(2 - 2 * s) / temperature) for s in row]
        terms.append(-math.log(exponentials[label] / sum(exponentials)))
    return mean(terms)


def proxy_anchor_loop(labels, similarities, margin=0.1, scale=32.0):
    pulls, pushes = [], []
    for c in range(NUM_CLASSES):
        own, others = [], []
        for label, row in zip(labels, similarities, strict=True):
            (own if label == c else others).append(row[c])
        if own:
            pulls.append(math.log1p(sum(math.exp(-scale * (s - margin)) for s in own)))
        pushes.append(math.log1p(sum(math.exp(scale * (s + margin)) for s in others)))
    return mean(pulls) + mean(pushes)


PROXY_LOSSES = {
    "nca": (ProxyNCALoss(), proxy_nca_loop),
    "nca warm": (ProxyNCALoss(0.5), lambda *batch: proxy_nca_loop(*batch, 0.5)),
    "anchor": (ProxyAnchorLoss(), proxy_anchor_loop),
    "anchor soft": (ProxyAnchorLoss(0.3, 4), lambda *b: proxy_anchor_loop(*b, 0.3, 4)),
}
SIMILARITY_BATCHES = {
    "ordinary": ([0, 1, 2, 0, 1, 7, 3, 0], 0.8),
    "one class": ([2] * 4, 0.8),
    "all classes": (list(range(NUM_CLASSES)), 0.8),
    "batch of one": ([5], 0.8),
    "zero similarities": ([0, 1, 1, 2], 0.0),
    "extreme similarities": ([0, 1, 1, 2], 1e9),
}


@pytest.mark.parametrize("batch", SIMILARITY_BATCHES)
@pytest.mark.parametrize("name", PROXY_LOSSES)
def test_proxy_losses_equal_the_loops(name, batch, check_numerics):
    loss, loop = PROXY_LOSSES[name]
    labels, spread = SIMILARITY_BATCHES[batch]
    drawn = np.random.default_rng(4).standard_normal((len(labels), NUM_CLASSES))
    similarities = np.clip(spread * drawn, -1, 1).astype("float32")
    value, gradient = differentiate(loss, labels, similarities)
    expected = loop(labels, similarities.astype("float64"))
    assert value == pytest.approx(expected, rel=1e-6, abs=1e-5)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("label", [-1, NUM_CLASSES])
@pytest.mark.parametrize("name", PROXY_LOSSES)
def test_label_without_a_proxy_makes_the_loss_nan(name, label):
    similarities = np.zeros((3, NUM_CLASSES), "float32")
    assert np.isnan(PROXY_LOSSES[name][0](np.array([0, label, 1]), similarities))
    assert not np.isnan(PROXY_LOSSES[name][0](np.array([0, 2, 1]), similarities))


def test_proxy_nca_has_a_loss_for_each_example():
    labels = np.array([0, 1])
    similarities = np.array([[0.3, 0.1], [0.3, 0.2]], "float32")
    each = ProxyNCALoss(reduction="none")(labels, similarities).numpy()
    expected = [proxy_nca_loop([k], similarities[k : k + 1].tolist()) for k in (0, 1)]
    assert each == pytest.approx(expected, rel=1e-5)
    weighted = ProxyNCALoss()(labels, similarities, sample_weight=np.array([3.0, 1.0]))
    assert float(weighted) == pytest.approx((3 * each[0] + each[1]) / 2, rel=1e-5)


@pytest.mark.parametrize("name", [*PAIR_LOSSES, *PROXY_LOSSES])
def test_labels_may_have_an_axis_more_and_any_integer_dtype(name):
    loss = {**PAIR_LOSSES, **PROXY_LOSSES}[name][0]
    labels = [0, 1, 2, 0, 1, 2, 3, 0]
    predictions = np.random.default_rng(5).uniform(-1, 1, (8, NUM_CLASSES))
    expected = float(loss(labels, predictions))
    for dtype in ("int32", "int64", "uint8"):
        array = np.array(labels, dtype)
        assert float(loss(array, predictions)) == expected
        assert float(loss(array[:, None], keras.ops.array(predictions))) == expected


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_large_labels_are_told_apart(name):
    labels, embeddings = np.array([0, 1, 0, 1]), BATCHES["ordinary"][1][:4]
    loss = PAIR_LOSSES[name][0]
    # float32 holds no number between 16777216 and 16777218.
    assert float(loss(labels + 2**24, embeddings)) == float(loss(labels, embeddings))
    assert float(loss(labels + 2**24, embeddings)) != float(loss([0] * 4, embeddings))
