"""Tests of keras_embcam.proxies.triplet_draws."""

from collections import Counter

import numpy as np
import pytest
from keras import ops

from keras_embcam.proxies import pairwise_distance
from keras_embcam.proxies.triplet_draws import TripletDraws

LABELS = np.array([3, 3, 3, 7, 7, 9, 9, 9])


def make_embeddings(num_images: int = 8, width: int = 4) -> np.ndarray:
    random = np.random.default_rng(3)
    return (3 * random.normal(size=(num_images, width))).astype("float32")


def make_draws(embeddings=None, labels=LABELS, **options) -> TripletDraws:
    defaults = {"num_triplets": 50, "margin": 0.2, "sign": 1, "loss": None, "seed": 0}
    embeddings = make_embeddings() if embeddings is None else embeddings
    return TripletDraws(embeddings, labels, **{**defaults, **options})


def list_slowly(embeddings, labels, anchor, margin) -> list[np.ndarray]:
    """Return the gradient at the raw anchor of each active triplet, one by one."""
    embeddings = embeddings.astype("float64")
    found = []
    y = embeddings[anchor]
    length = np.sqrt(y @ y)
    f = y / length
    for positive in range(len(labels)):
        for negative in range(len(labels)):
            if positive == anchor or labels[positive] != labels[anchor]:
                continue
            if labels[negative] == labels[anchor]:
                continue
            p, n = embeddings[positive], embeddings[negative]
            p, n = p / np.sqrt(p @ p), n / np.sqrt(n @ n)
            if (f - p) @ (f - p) - (f - n) @ (f - n) + margin > 0:
                q = 2 * (f - p) - 2 * (f - n)
                found.append((q - (q @ f) * f) / length)
    return found


@pytest.mark.parametrize("margin", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("sign", [-1, 1])
def test_all_active_triplets_are_those_of_a_slow_loop(margin, sign) -> None:
    draws = make_draws(margin=margin, sign=sign)
    numbers = []
    for anchor in range(8):
        expected = list_slowly(make_embeddings(), LABELS, anchor, margin)
        drawn = draws.draw(anchor)
        assert drawn.shape == (len(expected), 4) and drawn.dtype == "float32"
        numbers.append(len(expected))
        if expected:
            # In any order.
            drawn, expected = (
                x[np.lexsort(x.round(4).T)] for x in (sign * drawn, np.array(expected))
            )
            np.testing.assert_allclose(drawn, expected, atol=1e-6)
    # Not all 2 x 5 or 1 x 6 triplets are active.
    assert min(numbers) < 6 and max(numbers) > 5


def test_each_active_triplet_is_equally_likely_and_none_comes_twice() -> None:
    expected = np.array(list_slowly(make_embeddings(), LABELS, 0, 1.0))
    total, size, num_seeds = len(expected), 3, 600
    assert total > 5
    counts: Counter[int] = Counter()
    for seed in range(num_seeds):
        drawn = make_draws(margin=1.0, num_triplets=size, seed=seed).draw(0)
        distances = np.abs(drawn[:, None] - expected).max(axis=-1)
        which = distances.argmin(axis=1)
        assert distances.min(axis=1).max() < 1e-6
        assert len({*which}) == len(which) == size
        counts.update(which.tolist())
    # Binomial: five standard deviations.
    share = size / total
    spread = 5 * np.sqrt(num_seeds * share * (1 - share))
    assert len(counts) == total
    assert max(abs(x - num_seeds * share) for x in counts.values()) < spread


def test_what_is_drawn_for_an_image_follows_from_the_seed_and_its_number() -> None:
    options = {"margin": 1.0, "num_triplets": 3}
    one, other = make_draws(**options), make_draws(**options)
    expected = [one.draw(anchor) for anchor in range(8)]
    for anchor in reversed(range(8)):
        np.testing.assert_array_equal(other.draw(anchor), expected[anchor])
    changed = [make_draws(**options, seed=1).draw(anchor) for anchor in range(8)]
    assert any(np.any(a != b) for a, b in zip(changed, expected, strict=True))


def test_identical_images_are_no_active_triplet_without_a_margin() -> None:
    """The hinge is rounding there."""
    embeddings = np.repeat(make_embeddings(1, 128), 4, axis=0)
    assert len(make_draws(embeddings, [0, 0, 1, 1], margin=0.0).draw(0)) == 0
    assert len(make_draws(embeddings, [0, 0, 1, 1], margin=0.1).draw(0)) == 2


def test_an_image_alone_in_its_class_has_no_triplet() -> None:
    draws = make_draws(labels=[0, 0, 0, 1, 1, 1, 1, 2], margin=3.9)
    assert len(draws.draw(7)) == 0 and len(draws.draw(0)) > 0


# Other losses


def square_distance(a, b):
    a, b = (x / ops.norm(x, axis=-1, keepdims=True) for x in (a, b))
    return ops.sum((a - b) ** 2, axis=-1)


def test_a_loss_of_pairs() -> None:
    """Of classes of two images there is but one positive."""
    draws = make_draws(
        labels=[0, 0, 1, 1, 2, 2, 3, 3], loss=lambda a, p, n: square_distance(a, p)
    )
    embeddings = make_embeddings()
    for anchor in range(8):
        expected = pairwise_distance(
            embeddings[anchor], [embeddings[anchor ^ 1]], sign=1
        )
        drawn = draws.draw(anchor)
        assert drawn.shape == (50, 4)
        np.testing.assert_allclose(drawn, np.repeat(expected, 50, axis=0), atol=1e-6)


def test_the_triplet_loss_as_a_function_has_the_gradients_of_the_default() -> None:
    def loss(a, p, n):
        return ops.relu(square_distance(a, p) - square_distance(a, n) + 0.2)

    some = 0
    for anchor in range(8):
        drawn = make_draws(loss=loss, sign=-1).draw(anchor)
        expected = make_draws(sign=-1).draw(anchor)
        assert (len(drawn) == 0) == (len(expected) == 0)
        some += len(drawn) == 0
        if len(drawn):
            distances = np.abs(drawn[:, None] - expected).max(axis=-1)
            # Each is one of the active triplets, and each of these is drawn.
            assert distances.min(axis=1).max() < 1e-6 > distances.min(axis=0).max()


def test_numbers_rank_the_images_for_a_pair_head() -> None:
    """Which house costs more: the sigmoid of a linear score, worked by hand."""
    embeddings = np.float32([[1, 0], [0, 2], [3, 1]])
    slope = np.float32([0.5, -1.0])

    def cross_entropy(dearer, cheaper):
        return ops.softplus(-ops.sum((dearer - cheaper) * slope, axis=-1))

    def loss(a, lower, higher):
        return cross_entropy(a, lower) + cross_entropy(higher, a)

    draws = make_draws(embeddings, [10.0, 20.0, 30.0], loss=loss, num_triplets=2)
    # d softplus(-x) = -sigmoid(-x): once with x = (y1 - y0) . slope, for the anchor,
    # and once against it with x = (y2 - y1) . slope.
    first, second = -2.5, 2.5
    factor = -1 / (1 + np.exp(first)) + 1 / (1 + np.exp(second))
    np.testing.assert_allclose(draws.draw(1), [factor * slope] * 2, rtol=1e-5)
    # The cheapest and the dearest lack a partner.
    assert len(draws.draw(0)) == len(draws.draw(2)) == 0


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda a, p, n: ops.sum(a), r"one finite number .*\(1000,\).* shape \(\)"),
        (lambda a, p, n: a, r"one finite number .* shape \(1000, 4\)"),
        (lambda a, p, n: ops.sum(a, -1) / 0, "1000 that are NaN or infinite"),
        (lambda a, p, n: ops.sum(p, -1), "`loss` must be a differentiable function"),
        (
            lambda a, p, n: 1 + ops.sum(ops.sqrt(a - a), -1),
            "`loss` must have a finite gradient",
        ),
    ],
    ids=["scalar", "matrix", "infinite", "constant", "root"],
)
def test_losses_that_do_not_fit_are_refused(loss, message) -> None:
    with pytest.raises(ValueError, match=message):
        make_draws(loss=loss).draw(0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1], r"integers of the shape \(8,\).* shape \(2,\) of int64"),
        (np.eye(8, dtype=int), r"integers of the shape \(8,\).* shape \(8, 8\)"),
        (LABELS + 0.5, r"integers of the shape \(8,\).* of float64"),
        (["a"] * 8, r"integers of the shape \(8,\).* of <U1"),
        ([4] * 8, "at least two classes. Received 1 in 8 images"),
        (range(8), "two images of one class. Received labels of 8 images that all"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, message) -> None:
    with pytest.raises(ValueError, match=message):
        make_draws(labels=labels)


def test_numbers_to_rank_by_must_be_finite_and_differ() -> None:
    with pytest.raises(ValueError, match="`labels` must be finite"):
        make_draws(labels=[np.nan, *range(7)], loss=square_distance)
    with pytest.raises(ValueError, match="at least two classes"):
        make_draws(labels=[1.0] * 8, loss=square_distance)


@pytest.mark.parametrize("value", [0, np.nan, np.inf])
def test_embeddings_without_direction_are_refused(value) -> None:
    embeddings = make_embeddings()
    embeddings[5] = value
    with pytest.raises(ValueError, match=r"finite and not zero.* rows \[5\]"):
        make_draws(embeddings)
