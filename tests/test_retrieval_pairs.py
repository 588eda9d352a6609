"""Pairs of images: against a slow loop over all pairs of positions, and their sums."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_embcam import contributions, explain, explain_pair
from keras_embcam.proxies import pair as pair_proxies
from keras_embcam.retrieval.pair_maps import divide_by_length, find_correspondences

RNG = np.random.default_rng(0)
A, B = RNG.random((2, 3, 10, 9, 3)).astype("float32")


def make(*head):
    keras.utils.set_random_seed(1)
    conv = layers.Conv2D(6, 3, activation="relu", name="conv")
    head = head or (layers.GlobalAveragePooling2D(),)
    return keras.Sequential([keras.Input((10, 9, 3)), conv, *head])


def dense(use_bias):
    bias = keras.initializers.RandomNormal(seed=3)
    return layers.Dense(
        4, use_bias=use_bias, bias_initializer=bias if use_bias else None
    )


@pytest.mark.parametrize("use_bias", [True, False])
def test_maps_and_matrix_sum_to_the_cosine(use_bias):
    model = make(layers.GlobalAveragePooling2D(), dense(use_bias))
    found = explain_pair(model, A, B, batch_size=2)
    a, b = (model.predict(x, verbose=0) for x in (A, B))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = np.sum(a * b, axis=1) / lengths
    totals = [found.matrix(i).sum() for i in range(3)]
    for sums in (
        found.similarity,
        found.signed_a.sum(axis=(1, 2)),
        found.signed_b.sum(axis=(1, 2)),
        totals,
    ):
        np.testing.assert_allclose(sums, cosines, atol=1e-5)
    matrix = found.matrix(1)
    np.testing.assert_allclose(matrix.sum(axis=(2, 3)), found.signed_a[1], atol=1e-6)
    np.testing.assert_allclose(matrix.sum(axis=(0, 1)), found.signed_b[1], atol=1e-6)


def test_a_toy_by_hand_and_a_slow_loop():
    """Two channels, 1 x 2 and 2 x 1 positions, summed: embeddings (3, 1) and (1, 2).

    The cosine is 5 / (sqrt 10 sqrt 5); position by position it is made of
    a_1 b_1 = 2, a_1 b_2 = 0, a_2 b_1 = 2, a_2 b_2 = 1 over the same root of 50.
    """
    sums = layers.Lambda(lambda x: keras.ops.sum(x, (1, 2)))
    conv = layers.Conv2D(2, 1, name="conv", use_bias=False)
    model = keras.Sequential([keras.Input((None, None, 2)), conv, sums])
    conv.kernel.assign(np.eye(2, dtype="float32").reshape(1, 1, 2, 2))
    a = np.float32([[[[2, 0], [1, 1]]]])
    b = np.float32([[[[1, 1]], [[0, 1]]]])
    found = explain_pair(model, a, b, num_correspondences=3, resize=False)
    root = np.sqrt(50)
    expected = np.zeros((1, 2, 2, 1))
    for place in np.ndindex(expected.shape):
        i, j, x, y = place
        for d in range(2):
            expected[place] += a[0, i, j, d] * b[0, x, y, d] / root
    assert (expected.ravel() * root).round(6).tolist() == [2, 0, 2, 1]
    np.testing.assert_allclose(found.matrix(0), expected, atol=1e-6)
    np.testing.assert_allclose(found.similarity, [5 / root], rtol=1e-6)
    np.testing.assert_allclose(found.signed_a[0] * root, [[2, 3]], rtol=1e-5)
    np.testing.assert_allclose(found.heatmaps_a[0], [[2 / 3, 1]], rtol=1e-5)
    np.testing.assert_allclose(found.heatmaps_b[0], [[1], [1 / 4]], rtol=1e-5)
    strongest = found.correspondences
    np.testing.assert_allclose(strongest.values[0] * root, [2, 2, 1], rtol=1e-5)
    np.testing.assert_allclose(strongest.positions_a[0, 2], [0.5, 0.75])
    np.testing.assert_allclose(strongest.positions_b[0, 2], [0.75, 0.5])


def test_what_pulls_apart_is_a_map_of_its_own():
    model = make(layers.GlobalAveragePooling2D(), dense(False))
    found = explain_pair(
        model, A, B, resize=False, normalize=False, num_correspondences=9
    )
    for signed, heat, against in (
        (found.signed_a, found.heatmaps_a, found.against_a),
        (found.signed_b, found.heatmaps_b, found.against_b),
    ):
        np.testing.assert_allclose(heat - against, signed, atol=1e-7)
        assert np.all(heat >= 0) and np.all(against >= 0)
    for index in range(3):
        ordered = np.sort(found.matrix(index).ravel())
        np.testing.assert_allclose(
            found.correspondences.values[index], ordered[::-1][:9], rtol=1e-6
        )
        np.testing.assert_allclose(
            found.oppositions.values[index], np.minimum(ordered[:9], 0), rtol=1e-6
        )


def test_for_pooling_and_dense_the_maps_are_those_of_pair_proxies():
    model = make(layers.GlobalAveragePooling2D(), dense(False))
    found = explain_pair(model, A, B)
    expected = explain(model, A, proxies=pair_proxies(model.predict(B, verbose=0)))
    np.testing.assert_allclose(found.heatmaps_a, expected, atol=1e-5)


def test_each_position_at_most_once():
    matrix = RNG.normal(size=(3, 3, 2, 4)).astype("float32")
    found = find_correspondences(matrix, 20, each_once=True)
    there = found.values > 0
    assert there.sum() <= 8
    for positions in (found.positions_a, found.positions_b):
        assert len(np.unique(positions[there], axis=0)) == there.sum()
        assert np.isnan(positions[~there]).all()
    assert np.all(np.diff(found.values[there]) <= 0)
    best = np.unravel_index(matrix.argmax(), matrix.shape)
    np.testing.assert_allclose(
        found.positions_a[0], [(best[0] + 0.5) / 3, (best[1] + 0.5) / 3]
    )


def test_pictures_and_images_of_two_sizes():
    conv = layers.Conv2D(6, 3, activation="relu", name="conv")
    pool = layers.GlobalAveragePooling2D()
    model = keras.Sequential([keras.Input((None, None, 3)), conv, pool])
    wide = np.concatenate([B, B], axis=2)
    found = explain_pair(model, A, wide)
    assert found.heatmaps_a.shape == (3, 10, 9) and found.heatmaps_b.shape == (
        3,
        10,
        18,
    )
    assert found.matrix(0).shape == (8, 7, 8, 16)
    pictures = found.draw()
    assert len(pictures) == 3 and pictures[0].dtype == np.uint8
    without = found.draw(num_lines=1)
    assert pictures[0].shape == without[0].shape
    assert np.any(pictures[0] != without[0])


def test_an_embedding_of_zeros():
    model = make(layers.GlobalAveragePooling2D(), layers.Dense(4, use_bias=False))
    found = explain_pair(model, A, np.zeros_like(B))
    np.testing.assert_array_equal(found.similarity, 0)
    np.testing.assert_array_equal(found.heatmaps_a, 0)
    assert np.isfinite(found.errors).all()


def test_other_numbers_of_images_are_refused():
    with pytest.raises(ValueError, match="a partner for each image.*Received 2 for 3"):
        explain_pair(make(), A, B[:2])


def test_embeddings_that_are_not_finite_are_refused():
    model = make(layers.GlobalAveragePooling2D(), layers.Dense(4))
    model.layers[-1].bias.assign([np.inf, 0, 0, 0])
    with pytest.raises(ValueError, match="`images_a` must be finite"):
        explain_pair(model, A, B)


@pytest.mark.parametrize("number", [0, 2.5])
def test_a_number_of_correspondences_that_is_none(number):
    with pytest.raises(ValueError, match="`num_correspondences` must be an integer"):
        explain_pair(make(), A, B, num_correspondences=number)


def test_positions_of_a_model_that_crops_its_images_lie_in_what_it_sees():
    """The network behind the crop, given what it leaves, is the witness."""
    stack = [layers.Conv2D(4, 3, activation="relu"), layers.GlobalAveragePooling2D()]
    inner = keras.Sequential([keras.Input((6, 6, 3)), *stack])
    crop = layers.Cropping2D(((1, 3), (2, 1)))
    model = keras.Sequential([keras.Input((10, 9, 3)), crop, inner])
    found = explain_pair(model, A, B)
    expected = explain_pair(inner, A[:, 1:7, 2:8], B[:, 1:7, 2:8])
    np.testing.assert_allclose(
        found.heatmaps_a[:, 1:7, 2:8], expected.heatmaps_a, atol=1e-5
    )
    assert found.heatmaps_a.shape == (*A.shape[:3],)
    for side in ("positions_a", "positions_b"):
        inside = getattr(expected.correspondences, side)
        np.testing.assert_allclose(
            getattr(found.correspondences, side),
            (inside * 6 + [1, 2]) / [10, 9],
            atol=1e-4,
        )


def test_pairs_of_files_that_cannot_be_read_are_left_out(tmp_path):
    """The broken file of one side is the partner of a good one."""
    images = RNG.integers(0, 256, (2, 4, 14, 12, 3), dtype="uint8")
    sides = []
    for side, broken in (("a", 1), ("b", 2)):
        paths = [tmp_path / f"{side}{number}.png" for number in range(4)]
        for path, image in zip(paths, images[int(side == "b")], strict=True):
            tf.io.write_file(str(path), tf.io.encode_png(image))
        paths[broken].write_bytes(b"no picture")
        sides.append(paths)
    conv = layers.Conv2D(6, 3, activation="relu", name="conv")
    pool = layers.GlobalAveragePooling2D()
    model = keras.Sequential([keras.Input((None, None, 3)), conv, pool])
    with pytest.warns(UserWarning, match="1 of 4 images cannot be read") as caught:
        found = explain_pair(model, *sides, image_size=(10, 9), batch_size=2)
    told = " ".join(str(x.message) for x in caught)
    assert "a1.png" in told and "b2.png" in told
    np.testing.assert_array_equal(found.rows, [0, 3])
    assert found.heatmaps_a.shape == (2, 10, 9)
    alone = explain_pair(model, sides[0][3], sides[1][3], image_size=(10, 9))
    np.testing.assert_allclose(found.similarity[1], alone.similarity[0], rtol=1e-5)
    np.testing.assert_allclose(found.heatmaps_b[1], alone.heatmaps_b[0], atol=1e-5)
    with pytest.warns(UserWarning, match="a1.png"):
        known = contributions(model, sides[0], image_size=(10, 9))
    np.testing.assert_array_equal(known.rows, [0, 2, 3])
    for explained in (
        lambda: explain_pair(model, *sides, strict=True),
        lambda: contributions(model, sides[0], strict=True),
    ):
        with pytest.raises(ValueError, match="Cannot read the image .*a1.png"):
            explained()
    with (
        pytest.warns(UserWarning, match="cannot be read"),
        pytest.raises(ValueError, match="a pair of which both files can be read.*2 p"),
    ):
        explain_pair(model, sides[0][1:3], sides[1][1:3])
    with pytest.raises(ValueError, match="`image_size` is for files"):
        explain_pair(model, A, B, image_size=(5, 5))
    with pytest.raises(ValueError, match="must hold at least one image"):
        explain_pair(model, A[:0], B[:0])


@pytest.mark.parametrize("scale", [1e-28, 1e24])
def test_lengths_whose_squares_are_no_numbers(scale):
    """Of float32 they overflow, or vanish."""
    a, b = (RNG.normal(size=(3, 4)).astype("float32") for _ in range(2))
    expected = np.sum(a * b, axis=1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))
    units = [divide_by_length(x, x) for x in (np.float32(scale) * a, b)]
    np.testing.assert_allclose(np.sum(units[0] * units[1], axis=1), expected, rtol=1e-5)


def test_a_warning_of_maps_that_miss_the_cosine():
    pool = layers.GlobalAveragePooling2D()
    shrink = layers.Lambda(lambda x: x / (0.1 + ops.sum(x, axis=1, keepdims=True)))
    with pytest.warns(UserWarning, match="is 0.[0-9]+ of its length, so these maps"):
        explain_pair(make(pool, shrink), A, B, num_steps=1)
