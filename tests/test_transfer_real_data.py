"""Weight transfer on photographs of birds: the folder of KERAS_EMBCAM_TEST_DATA.

CUB-200-2011 (Wah et al. 2011) and MobileNetV2; nothing of it is part of the project.
"""

import keras
import numpy as np
import pytest
from builders import BIRDS, make_bird_network, needs_birds

from keras_embcam import embed, explain
from keras_embcam.proxies.triplet_draws import TripletDraws
from keras_embcam.running.image_files import read_image
from keras_embcam.transfer import GradWeightDatabase

SIZE, NUM_CLASSES, NUM_IMAGES = 224, 4, 4

pytestmark = needs_birds


@pytest.fixture(scope="module")
def network() -> keras.Model:
    return make_bird_network()


@pytest.fixture(scope="module")
def birds() -> tuple[np.ndarray, np.ndarray]:
    """Return photographs in [-1, 1] and labels: eight of each class, four by four."""
    paths = np.loadtxt(BIRDS / "images.txt", dtype=str)[:, 1]
    labels = np.loadtxt(BIRDS / "image_class_labels.txt", dtype=int)[:, 1]
    first = [
        np.flatnonzero(labels == label)[: 2 * NUM_IMAGES]
        for label in np.unique(labels)[:NUM_CLASSES]
    ]
    chosen = np.stack(first).reshape(NUM_CLASSES, 2, NUM_IMAGES).swapaxes(0, 1)
    photos = [
        read_image(BIRDS / "images" / path, size=(SIZE, SIZE)) / 127.5 - 1
        for path in paths[chosen.ravel()]
    ]
    return np.stack(photos), labels[chosen.ravel()]


def test_birds_lend_their_weights(network, birds) -> None:
    half = NUM_CLASSES * NUM_IMAGES
    photos, labels = birds[0][:half], birds[1][:half]
    embeddings = embed(network, photos)
    options = {"num_triplets": 20, "margin": 0.5, "sign": -1, "seed": 0}
    database = GradWeightDatabase.fit(
        network, photos, labels, embeddings=embeddings, top_channels=None, **options
    )
    print(database)
    assert len(database) == half and database.num_channels == 1280
    # A photograph that is in the database borrows from itself: what it gets is what
    # back-propagation gives.
    own = database.explain(network, photos, details=True)
    assert own.neighbors[:, 0].tolist() == list(range(half))
    draws = TripletDraws(embeddings, labels, loss=None, **options)
    proxies = np.stack([draws.draw(anchor).mean(axis=0) for anchor in range(half)])
    expected = explain(network, photos, proxies=proxies)
    np.testing.assert_allclose(own.heatmaps, expected, atol=1e-4)
    assert np.all(expected.max(axis=(1, 2)) == 1)
    # Others borrow from a bird of their own class more often than by chance.
    others = database.explain(network, birds[0][half:], details=True)
    hits = np.mean(labels[others.neighbors[:, 0]] == birds[1][half:])
    print(f"{hits:.3f} of the neighbors are of the same class")
    assert hits > 2 / NUM_CLASSES
    assert np.all(others.heatmaps.max(axis=(1, 2)) == 1)
