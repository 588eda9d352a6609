"""Tests of keras_embcam.proxies.triplets."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_embcam import explain
from keras_embcam.proxies import distance_difference, pairwise_distance, triplet


def make_triplets() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    return tuple(
        random.normal(size=shape) * random.uniform(0.5, 20, size=(*shape[:-1], 1))
        for shape in ((4, 5), (4, 6, 5), (4, 6, 5))
    )


def differentiate_hinge(anchors, positives, negatives, margin, hinge=True):
    """Return losses and gradients at the raw anchors of the real loss, by a tape.

    The mean over the active triplets, the number of which is held constant.
    """
    anchors, positives, negatives = map(tf.constant, (anchors, positives, negatives))
    with tf.GradientTape() as tape:
        tape.watch(anchors)
        unit = tf.math.l2_normalize(anchors, axis=-1)[:, None]
        near = tf.reduce_sum((unit - tf.math.l2_normalize(positives, -1)) ** 2, -1)
        far = tf.reduce_sum((unit - tf.math.l2_normalize(negatives, -1)) ** 2, -1)
        terms = near - far
        if hinge:
            terms = tf.maximum(terms + margin, 0)
        num_terms = tf.math.count_nonzero(terms, axis=1, dtype="float64")
        losses = tf.reduce_sum(terms, axis=1) / num_terms
    return losses, tape.gradient(losses, anchors), num_terms


@pytest.mark.parametrize("margin", [0.2, 1.0])
@pytest.mark.parametrize("sign", [-1, 1])
def test_triplets_agree_with_a_tape_on_the_real_loss(margin, sign) -> None:
    triplets = make_triplets()
    losses, gradients, num_active = differentiate_hinge(*triplets, margin)
    # Each anchor has active triplets, and not all are active.
    assert np.all(num_active > 0) and np.any(num_active < 6)
    result = triplet(*triplets, margin=margin, sign=sign)
    np.testing.assert_allclose(result.proxies, sign * gradients, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(result.losses, losses, rtol=1e-6)
    np.testing.assert_array_equal(result.num_active, num_active)
    assert result.proxies.dtype == result.losses.dtype == "float32"
    # The loss does not change with the length of the embedding.
    scores = np.sum(result.proxies * triplets[0], axis=-1)
    np.testing.assert_allclose(scores, 0, atol=1e-6)


def test_repeated_triplets_count_again() -> None:
    anchor, positive, negatives = [1.0, 0.0], [0.0, 1.0], [[0.6, 0.8], [0.8, 0.6]]
    once = triplet(anchor, [positive] * 2, negatives, margin=1)
    again = triplet(anchor, [positive] * 3, [negatives[0], *negatives], margin=1)
    # Behind |y| = 1 and across f = (1, 0), 2 (mean n - mean p) is 2 (0.7 - 1) first,
    # then 2 ((0.8 + 0.8 + 0.6) / 3 - 1).
    np.testing.assert_allclose(once.proxies, [[0, 0.6]], atol=1e-6)
    np.testing.assert_allclose(again.proxies, [[0, 1.6 / 3]], atol=1e-6)


@pytest.mark.parametrize("sign", [-1, 1])
def test_distance_difference_agrees_with_a_tape(sign) -> None:
    triplets = make_triplets()
    _, gradients, _ = differentiate_hinge(*triplets, 0.0, hinge=False)
    proxies = distance_difference(*triplets, sign=sign)
    np.testing.assert_allclose(proxies, sign * gradients, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("sign", [-1, 1])
def test_pairwise_distance_agrees_with_a_tape(sign) -> None:
    anchors, others, _ = make_triplets()
    embeddings = tf.constant(anchors)
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        unit = tf.math.l2_normalize(embeddings, axis=-1)[:, None]
        squares = (unit - tf.math.l2_normalize(others, axis=-1)) ** 2
        distances = tf.reduce_mean(tf.reduce_sum(squares, axis=-1), axis=1)
    gradients = tape.gradient(distances, embeddings)
    proxies = pairwise_distance(anchors, others, sign=sign)
    np.testing.assert_allclose(proxies, sign * gradients, rtol=1e-5, atol=1e-7)


def test_an_image_without_active_triplet_is_reported() -> None:
    anchors = [[1.0, 0.0], [0.0, 1.0]]
    positives, negatives = [[[1.0, 0.0]]] * 2, [[[0.0, 1.0]]] * 2
    with pytest.warns(UserWarning, match=r"1 of 2 images .*NaN: \[0\].*`margin` \(0.2"):
        result = triplet(anchors, positives, negatives)
    assert np.isnan(result.proxies).all(axis=1).tolist() == [True, False]
    assert result.num_active.tolist() == [0, 1]
    np.testing.assert_allclose(result.losses, [0, 2.2], rtol=1e-6)


def test_a_triplet_on_the_margin_is_not_active() -> None:
    # The hinge is 2 f.n - 2 f.p + 2 = 0.
    with pytest.warns(UserWarning, match="1 of 1 images have no active triplet"):
        triplet([1.0, 0.0], [[1.0, 0.0]], [[0.0, 1.0]], margin=2)


def test_active_triplets_do_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        triplet(*make_triplets())


def test_proxies_of_inactive_triplets_are_refused_not_drawn() -> None:
    images = keras.Input((4, 4, 3))
    features = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3)(images))
    model = keras.Model(images, features)
    with pytest.warns(UserWarning, match="no active triplet"):
        result = triplet([1.0, 0.0], [[1.0, 0.0]], [[0.0, 1.0]])
    message = r"`proxies` must be finite \(an image without an active .*images \[0\]"
    with pytest.raises(ValueError, match=message):
        explain(model, np.ones((1, 4, 4, 3)), proxies=result.proxies)


@pytest.mark.parametrize("function", [triplet, distance_difference])
def test_triplets_that_do_not_fit_are_refused(function) -> None:
    anchors, positives, negatives = make_triplets()
    for wrong in (
        (anchors, positives[:3], negatives[:3]),
        (anchors, positives[..., :4], negatives[..., :4]),
        (anchors, positives, negatives[:, :5]),
        (anchors, positives[0], negatives[0]),
        (anchors[None], positives, negatives),
    ):
        with pytest.raises(ValueError, match=r"must both have the shape \(n, s, d\)"):
            function(*wrong)
    with pytest.raises(ValueError, match="`sign` must be -1 or .1. Received: 2"):
        function(anchors, positives, negatives, sign=2)
    with pytest.raises(ValueError, match="at least one triplet"):
        function(anchors, positives[:, :0], negatives[:, :0])


@pytest.mark.parametrize("value", [0, np.nan, np.inf])
def test_triplets_of_embeddings_without_direction_are_refused(value) -> None:
    for position in range(3):
        triplets = make_triplets()
        triplets[position][0] = value
        with pytest.raises(ValueError, match="must be finite and not zero"):
            triplet(*triplets)


@pytest.mark.parametrize("margin", [-0.1, np.nan])
def test_a_negative_margin_is_refused(margin) -> None:
    with pytest.raises(ValueError, match="`margin` must be >= 0. Received: "):
        triplet(*make_triplets(), margin=margin)
