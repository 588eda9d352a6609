"""The distance-weighted sampling of the margin loss."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_embcam.losses import MarginLoss
from keras_embcam.losses.margin import draw_columns, weigh_negatives

WITNESS = Path(__file__).parent / "witnesses" / "losses.npz"


def inverse_density(distance, dimension):
    """Return min(λ, 1/q(D)), section 4.1 of Wu et al., worked out in the open."""

    def density(value):
        return value ** (dimension - 2) * (1 - value**2 / 4) ** ((dimension - 3) / 2)

    return min(1 / density(0.5), 1 / density(distance))


def place_on_circle(*distances):
    """Return an anchor and points at these distances from it, in 5 dimensions."""
    angles = 2 * np.arcsin(np.array([0, *distances]) / 2)
    zeros = np.zeros_like(angles)
    return np.stack([np.cos(angles), np.sin(angles), zeros, zeros, zeros], axis=1)


def test_density_is_that_of_random_unit_vectors():
    """The q of the paper, against the distances of drawn unit vectors."""
    vectors = np.random.default_rng(0).standard_normal((2, 40_000, 5))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    distances = np.linalg.norm(vectors[0] - vectors[1], axis=-1)
    edges = np.linspace(0.6, 1.4, 9)
    shares = np.histogram(distances, edges)[0].astype("float64")
    middles = (edges[1:] + edges[:-1]) / 2
    weights = weigh_negatives(
        tf.constant(middles[None], "float32"), np.ones((1, 8), bool), 5
    ).numpy()[0]
    # As many vectors as their weight is low: the products are constant.
    products = shares * weights / np.mean(shares * weights)
    np.testing.assert_allclose(products, 1, atol=4 / np.sqrt(shares.min()))


@pytest.mark.parametrize("dimension", [2, 3, 5, 64])
def test_weights_are_those_of_the_paper(dimension):
    distances = np.array([[0.1, 0.3, 0.5, 0.7, 1.0, 1.4, 1.99, 0.6]])
    candidates = np.array([[True] * 7 + [False]])
    weights = weigh_negatives(tf.constant(distances), candidates, dimension).numpy()[0]
    expected = np.array([inverse_density(d, dimension) for d in distances[0, :7]])
    np.testing.assert_allclose(weights[:7], expected / expected.max(), rtol=1e-6)
    assert weights[7] == 0


def test_weights_stay_finite_in_many_dimensions():
    distances = np.array([[0.0, 0.5, 1.0, 1.41, 2.0], [1.3, 1.35, 1.38, 2.0, 2.0]])
    candidates = np.array([[True] * 5, [False, False, True, False, False]])
    weights = weigh_negatives(tf.constant(distances, "float32"), candidates, 2048)
    assert np.isfinite(weights).all()
    assert (weights.numpy().max(axis=1) == 1).all()
    assert (weights.numpy()[~candidates] == 0).all()


def test_row_without_a_candidate_weighs_nothing():
    distances = tf.constant([[0.3, 0.9], [0.3, 0.9]])
    weights = weigh_negatives(distances, [[False, False], [True, False]], 4).numpy()
    assert weights.tolist() == [[0, 0], [1, 0]]


def test_columns_are_drawn_with_the_probability_of_their_weight():
    weights = tf.constant([[1.0, 0.0, 2.0, 5.0], [0.0, 0.0, 7.0, 0.0]])
    num_draws = 40_000
    noise = keras.random.uniform((2, num_draws), seed=1)
    chosen = draw_columns(weights, noise).numpy()
    shares = np.bincount(chosen[0], minlength=4) / num_draws
    np.testing.assert_allclose(shares, [1 / 8, 0, 2 / 8, 5 / 8], atol=0.01)
    assert shares[1] == 0
    assert (chosen[1] == 2).all()


def test_least_and_greatest_noise_draw_a_column_with_weight():
    weights = tf.constant([[0.0, 0.3, 0.1, 0.7, 0.0, 0.0]])
    noise = tf.constant([[0.0, np.nextafter(np.float32(1), np.float32(0))]])
    assert draw_columns(weights, noise).numpy().tolist() == [[1, 3]]


def test_loss_samples_negatives_as_the_paper_says():
    """Anchor and 60 positives on one spot: 60 draws for one anchor at each call."""
    distances = [0.3, 0.7, 0.9, 1.1, 1.35, 1.6]
    points = place_on_circle(*distances)
    embeddings = np.concatenate([np.repeat(points[:1], 61, axis=0), points[1:]])
    labels = np.array([0] * 61 + [1, 2, 3, 4, 5, 6])
    loss = MarginLoss(seed=3)
    drawn = []

    def choose_negatives(weights):
        drawn.append(MarginLoss.choose_negatives(loss, weights).numpy()[:61, :61])
        return tf.zeros(weights.shape, "int32")

    loss.choose_negatives = choose_negatives
    for _ in range(5):
        loss(labels, embeddings)
    counts = np.bincount(np.concatenate(drawn, axis=None), minlength=67)[61:]
    probabilities = np.array([inverse_density(d, 5) for d in distances[:5]] + [0])
    probabilities /= probabilities.sum()
    num_draws = 5 * 61 * 61
    assert counts.sum() == num_draws
    assert counts[5] == 0  # beyond margin + beta = 1.4
    spread = np.sqrt(num_draws * probabilities * (1 - probabilities))
    assert (np.abs(counts - num_draws * probabilities) <= 4 * spread).all()


def test_pytorch_metric_learning_mines_with_the_same_probabilities():
    arrays = np.load(WITNESS)
    counts = arrays["ordinary/margin/mined_counts"]
    labels, embeddings = arrays["ordinary/labels"], arrays["ordinary/embeddings"]
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    distances = np.linalg.norm(unit[:, None] - unit[None], axis=-1)
    candidates = (labels[:, None] != labels) & (distances < 1.4)
    weights = weigh_negatives(tf.constant(distances), candidates, 5).numpy()
    compared = 0
    for row_counts, row_weights in zip(counts, weights, strict=True):
        if row_counts.sum():
            probabilities = row_weights / row_weights.sum()
            expected = row_counts.sum() * probabilities
            spread = np.sqrt(expected * (1 - probabilities))
            assert (np.abs(row_counts - expected) <= 4.5 * spread).all()
            compared += np.count_nonzero(expected)
    assert compared > 40


def draw_values(loss, labels, embeddings, number=6):
    return [float(loss(labels, embeddings)) for _ in range(number)]


def test_seed_repeats_the_sequence_and_the_sequence_varies():
    arrays = np.load(WITNESS)
    batch = arrays["ordinary/labels"], arrays["ordinary/embeddings"]
    values = draw_values(MarginLoss(seed=1), *batch)
    assert values == draw_values(MarginLoss(seed=1), *batch)
    assert values != draw_values(MarginLoss(seed=2), *batch)
    assert len(set(values)) > 1


def test_without_a_seed_the_sequence_follows_the_global_one():
    arrays = np.load(WITNESS)
    batch = arrays["ordinary/labels"], arrays["ordinary/embeddings"]
    values = []
    for seed in (5, 5, 6):
        keras.utils.set_random_seed(seed)
        values.append(draw_values(MarginLoss(), *batch))
    assert values[0] == values[1] != values[2]


def test_chosen_negatives_get_the_gradient_and_no_others():
    """One positive pair, negatives at 1 and 1.6: only the nearer can be drawn."""
    points = place_on_circle(0.1, 1.0, 1.6)
    embeddings = tf.constant(points, "float32")
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        value = MarginLoss(seed=0)([0, 0, 1, 2], embeddings)
    gradient = np.linalg.norm(tape.gradient(value, embeddings), axis=1)
    # Anchor 0: 1.4 - 1.0. Anchor 1, at 0.1 from it: 1.4 - their distance.
    to_negative = np.linalg.norm(points[1] - points[2])
    assert float(value) == pytest.approx((0.4 + 1.4 - to_negative) / 2, rel=1e-5)
    assert gradient[2] > 0.1
    assert gradient[3] == 0
