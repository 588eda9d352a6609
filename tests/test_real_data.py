"""Real photographs and real weights: the folder of KERAS_EMBCAM_TEST_DATA.

CUB-200-2011 (Wah et al. 2011) and MobileNetV2; nothing of it is part of the project.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from builders import BIRDS, make_bird_network, needs_birds
from keras import layers, ops

from keras_embcam import EmbeddingCAM, explain
from keras_embcam.proxies import class_mean

SIZE = 224
NUM_PHOTOS, NUM_MONTAGES = 124, 16

pytestmark = needs_birds


def make_network(width: int = SIZE, embedding_width: int | None = None) -> keras.Model:
    """Return MobileNetV2 of birds, with another layer behind where a width is given."""
    network = make_bird_network(SIZE, width)
    if embedding_width is None:
        return network
    initializer = keras.initializers.HeNormal(seed=0)
    dense = layers.Dense(embedding_width, kernel_initializer=initializer)
    return keras.Model(network.input, dense(network.output))


@pytest.fixture(scope="module")
def network() -> keras.Model:
    return make_network()


@pytest.fixture(scope="module")
def birds() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return photographs in [-1, 1], labels, and boxes as shares of the image.

    Full frames, resized to the size of the network; every ninth of all.
    """

    def read_table(name: str) -> np.ndarray:
        return np.loadtxt(BIRDS / name, dtype=str)[::9][:NUM_PHOTOS]

    photos, sizes = [], []
    for path in read_table("images.txt")[:, 1]:
        content = tf.io.read_file(str(BIRDS / "images" / path))
        photo = tf.io.decode_jpeg(content, channels=3)
        sizes.append([photo.shape[1], photo.shape[0]])
        photos.append(tf.image.resize(photo, (SIZE, SIZE)) / 127.5 - 1)
    labels = read_table("image_class_labels.txt")[:, 1].astype(int) - 1
    corners = read_table("bounding_boxes.txt")[:, 1:].astype(float).reshape(-1, 2, 2)
    corners[:, 1] += corners[:, 0]
    return np.stack(photos), labels, corners / np.array(sizes)[:, None]


@pytest.fixture(scope="module")
def explained(network, birds):
    return explain(network, birds[0], details=True)


def inside(box: np.ndarray) -> np.ndarray:
    """Return which pixel centres lie in a box [[left, top], [right, bottom]]."""
    centres = (np.arange(SIZE) + 0.5) / SIZE
    columns, rows = ((box[0, i] <= centres) & (centres < box[1, i]) for i in (0, 1))
    return rows[:, None] & columns


def test_heat_sits_on_the_birds(birds, explained) -> None:
    """The share of heat in the box, against the share of the box in the image."""
    gains = []
    for heatmap, box in zip(explained.heatmaps, birds[2], strict=True):
        mask = inside(box)
        gains.append(heatmap[mask].sum() / heatmap.sum() - mask.mean())
    print(f"{len(gains)} birds: {np.mean(gains):.3f} above the uniform map")
    assert len(gains) == NUM_PHOTOS
    assert np.mean(gains) >= 0.25


def test_heat_follows_the_proxy(birds, explained) -> None:
    """Two species side by side: the class mean of one, then of the other.

    The plain sum of the activations, which knows nothing of the proxy, is beside it.
    """
    photos, labels, _ = birds
    random = np.random.default_rng(0)
    left = random.choice(NUM_PHOTOS, NUM_MONTAGES, replace=False)
    right = [random.choice(np.flatnonzero(labels != labels[index])) for index in left]
    montages = np.concatenate([photos[left], photos[right]], axis=2)
    shown = np.union1d(left, right)
    others = np.setdiff1d(np.arange(NUM_PHOTOS), shown)  # the proxies see none of them
    means = class_mean(explained.embeddings[others], labels[others], num_classes=20)
    proxies = np.stack([means[labels[left]], means[labels[right]]], axis=1)

    def measure_right(heatmaps: np.ndarray) -> np.ndarray:
        return heatmaps[..., SIZE:].sum(axis=(-2, -1)) / heatmaps.sum(axis=(-2, -1))

    wide = make_network(2 * SIZE)
    of_left, of_right = measure_right(explain(wide, montages, proxies=proxies)).T
    activation_sum = measure_right(
        explain(wide, montages, weighting=lambda a, g: ops.ones_like(a))
    )
    print(
        f"share of heat on the right: {of_left.mean():.3f} for the left species, "
        f"{of_right.mean():.3f} for the right one, {activation_sum.mean():.3f} for the "
        "sum of the activations"
    )
    assert of_left.mean() < 0.4 and of_right.mean() > 0.6
    assert np.all(of_left < of_right)  # in each single montage
    contrast = measure_right(
        explain(wide, montages, proxies=proxies[:, 1] - proxies[:, 0])
    )
    print(f"{contrast.mean():.3f} for the right species rather than the left one")
    assert contrast.mean() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_shows_the_same(birds, policy) -> None:
    """At the last convolution, single point and proxies of any length."""
    photos, width = birds[0][:3], 32
    full = make_network(embedding_width=width)
    keras.config.set_dtype_policy(policy)
    try:
        half = make_network(embedding_width=width)
    finally:
        keras.config.set_dtype_policy("float32")
    half.set_weights(full.get_weights())
    assert half.compute_dtype == policy.removeprefix("mixed_")
    direction = np.random.default_rng(0).normal(size=(len(photos), width))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    embeddings, expected = EmbeddingCAM(full)(photos)
    single = embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)
    proxies = np.stack([single, 1e-3 * direction, 1e3 * direction], axis=1)
    expected = explain(full, photos, proxies=proxies)
    heatmaps = explain(half, photos, proxies=proxies)
    own = explain(half, photos)
    correlations = [
        [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(x, y, strict=True)]
        for x, y in zip(heatmaps, expected, strict=True)
    ]
    of_own = [
        np.corrcoef(a.ravel(), b.ravel())[0, 1]
        for a, b in zip(own, expected[:, 0], strict=True)
    ]
    print(policy, "least correlations", np.min(correlations, axis=0), np.min(of_own))
    assert np.min(correlations) >= 0.99 and np.min(of_own) >= 0.99
    # The lengths of the proxies change the scores and nothing else.
    np.testing.assert_allclose(heatmaps[:, 1], heatmaps[:, 2], atol=0.02)
