"""Maps of pairs whose embeddings are known: the same as those of explain_pair()."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_embcam import embed, explain_pair
from keras_embcam.method import Method
from keras_embcam.retrieval.known_pairs import NUM_MAPS, map_known_pairs

RNG = np.random.default_rng(0)
IMAGES = RNG.random((7, 10, 9, 3)).astype("float32")
# Image 2 is in more pairs than maps are made at a time; 6 is in none.
ROWS_A = np.array([5, 0, 1, 3, 4, 2])
ROWS_B = np.array([2, 2, 2, 2, 2, 0])


def make(*head):
    keras.utils.set_random_seed(1)
    conv = layers.Conv2D(6, 3, activation="relu", name="conv")
    return keras.Sequential([keras.Input((10, 9, 3)), conv, *head])


HEADS = {
    "pooled": lambda: [layers.GlobalAveragePooling2D()],
    "bias": lambda: [
        layers.GlobalAveragePooling2D(),
        layers.Dense(4, bias_initializer="random_normal"),
    ],
    "MLP": lambda: [
        layers.GlobalAveragePooling2D(),
        layers.Dense(16, activation="tanh", bias_initializer="random_normal"),
        layers.Dense(4),
    ],
}


@pytest.mark.parametrize("name", HEADS)
def test_they_are_those_of_explain_pair(name):
    model = make(*HEADS[name]())
    embeddings = embed(model, IMAGES)
    batches = [IMAGES[:3], IMAGES[3:6], IMAGES[6:]]
    *maps, _ = map_known_pairs(model, Method(), batches, ROWS_A, ROWS_B, embeddings)
    expected = explain_pair(model, IMAGES[ROWS_A], IMAGES[ROWS_B])
    assert np.bincount(np.r_[ROWS_A, ROWS_B])[2] > NUM_MAPS
    for mine, theirs in zip(maps, (expected.signed_a, expected.signed_b), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-6)
        sums = mine.sum(axis=(1, 2))
        np.testing.assert_allclose(sums, expected.similarity, atol=1e-4)


def test_the_network_runs_only_on_images_that_are_needed():
    seen = []
    model = make(layers.GlobalAveragePooling2D())

    def batches():
        for number in range(7):
            seen.append(number)
            # A wrong shape would fail where the network saw it.
            yield IMAGES[[number]] if number in (1, 3) else np.zeros((1, 2))

    rows = np.array([1]), np.array([3])
    *maps, _ = map_known_pairs(model, Method(), batches(), *rows, embed(model, IMAGES))
    assert seen == list(range(7)) and maps[0].shape == maps[1].shape == (1, 8, 7)


def test_no_pairs():
    model = make(layers.GlobalAveragePooling2D())
    none = np.zeros(0, int)
    *maps, _ = map_known_pairs(
        model, Method(), [IMAGES], none, none, embed(model, IMAGES)
    )
    assert len(maps[0]) == len(maps[1]) == 0
