"""Neighbors: the search, right and wrong, and what explains them."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_embcam import embed, explain_neighbors, explain_pair, vector_search
from keras_embcam.metrics import measure_retrieval
from keras_embcam.retrieval import contribution_reader, embedded, search
from keras_embcam.retrieval.neighbor_explanation import _name
from keras_embcam.transfer import weight_table as transfer_search

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (20, 10, 9, 3), dtype="uint8")
LABELS = np.repeat(["wren", "finch", "owl", "lark"], 5)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((10, 9, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(6, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5),
        ]
    )


@pytest.fixture(scope="module")
def similarities(model):
    """Cosines by a plain loop, those of an image with itself left out."""
    embeddings = embed(model, IMAGES)
    found = np.zeros((20, 20))
    for i, a in enumerate(embeddings):
        for j, b in enumerate(embeddings):
            found[i, j] = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        found[i, i] = -np.inf
    return found


@pytest.fixture(scope="module")
def found(model):
    return explain_neighbors(model, IMAGES, k=3, labels=LABELS, batch_size=8)


def test_neighbors_are_those_of_a_slow_loop(found, similarities):
    order = np.argsort(-similarities, axis=1)[:, :3]
    np.testing.assert_array_equal(found.indices, order)
    expected = np.take_along_axis(similarities, order, axis=1)
    np.testing.assert_allclose(found.similarities, expected, atol=1e-6)
    np.testing.assert_array_equal(found.is_right, LABELS[order] == LABELS[:, None])


def test_right_first_matches_are_recall_at_1(found, model):
    recall = measure_retrieval(embed(model, IMAGES), LABELS)["recall_at_1"]
    assert found.is_right[:, 0].mean() == pytest.approx(recall)
    assert 0 < recall < 1


def test_maps_are_those_of_pairs(found, model):
    for query, number in ((0, 0), (11, 2)):
        match = found.indices[query, number]
        pair = explain_pair(model, IMAGES[[query]], IMAGES[[match]])
        for mine, expected in (
            (found.heatmaps_queries, pair.heatmaps_a),
            (found.heatmaps_matches, pair.heatmaps_b),
            (found.correspondences.values, pair.correspondences.values),
            (found.correspondences.positions_b, pair.correspondences.positions_b),
        ):
            np.testing.assert_allclose(mine[query, number], expected[0], atol=1e-5)
        np.testing.assert_array_equal(found.match_images[query, number], IMAGES[match])


def test_contrast_sums_to_the_difference_of_the_similarities(found, similarities):
    same = np.where(LABELS == LABELS[:, None], similarities, -np.inf)
    np.testing.assert_array_equal(found.best_right, same.argmax(axis=1))
    wrong = ~found.is_right[:, 0]
    difference = found.similarities[:, 0] - found.best_right_similarities
    sums = found.contrasts_signed.sum(axis=(1, 2))
    np.testing.assert_allclose(sums[wrong], difference[wrong], atol=1e-5)
    assert np.all(difference[wrong] > 0) and wrong.any()
    assert found.contrasts[wrong].max() == 1
    np.testing.assert_array_equal(found.contrasts[~wrong], 0)


def test_only_errors(found, model):
    errors = explain_neighbors(model, IMAGES, k=3, labels=LABELS, only_errors=True)
    wrong = np.flatnonzero(~found.is_right[:, 0])
    np.testing.assert_array_equal(errors.queries, wrong)
    np.testing.assert_array_equal(errors.indices, found.indices[wrong])
    np.testing.assert_allclose(
        errors.heatmaps_matches, found.heatmaps_matches[wrong], atol=1e-5
    )
    assert not errors.is_right[:, 0].any()


def test_a_query_in_the_gallery_is_left_out(model, found):
    other = explain_neighbors(model, IMAGES[[3, 7]], IMAGES, k=3)
    np.testing.assert_array_equal(other.indices, found.indices[[3, 7]])
    twice = np.concatenate([IMAGES, IMAGES[:4]])
    doubled = explain_neighbors(model, IMAGES[[3]], twice, k=3)
    assert not {3, 23} & set(doubled.indices[0].tolist())


@pytest.mark.parametrize("kind", ["folder", "files", "data set", "list"])
def test_galleries_of_all_kinds(model, found, kind, tmp_path):
    files = [str(tmp_path / f"{number:02}.png") for number in range(20)]
    for file, image in zip(files, IMAGES, strict=True):
        tf.io.write_file(file, tf.io.encode_png(image))
    data = {"image": IMAGES, "label": np.repeat(range(4), 5)}
    gallery = {
        "folder": tmp_path,
        "files": files,
        "data set": tf.data.Dataset.from_tensor_slices(data).batch(6),
        "list": list(IMAGES),
    }[kind]
    options = {"labels": [0, 2]} if kind == "data set" else {}
    other = explain_neighbors(model, IMAGES[[0, 11]], gallery, k=3, **options)
    np.testing.assert_array_equal(other.indices, found.indices[[0, 11]])
    np.testing.assert_array_equal(other.match_images, found.match_images[[0, 11]])
    np.testing.assert_allclose(
        other.heatmaps_matches, found.heatmaps_matches[[0, 11]], atol=1e-5
    )
    if options:
        np.testing.assert_array_equal(other.is_right, found.is_right[[0, 11]])


def test_given_embeddings(model, found):
    embeddings = embed(model, IMAGES)
    options = {"k": 3, "gallery_embeddings": embeddings, "own_rows": [0, 11]}
    with_images = explain_neighbors(model, IMAGES[[0, 11]], IMAGES, **options)
    np.testing.assert_array_equal(with_images.indices, found.indices[[0, 11]])
    without = explain_neighbors(model, IMAGES[[0, 11]], **options)
    np.testing.assert_array_equal(without.indices, found.indices[[0, 11]])
    np.testing.assert_allclose(
        without.heatmaps_queries, with_images.heatmaps_queries, atol=1e-5
    )
    assert without.heatmaps_matches is None and without.correspondences is None
    with pytest.raises(ValueError, match="A picture needs the images of the matches"):
        without.draw()
    itself = explain_neighbors(model, IMAGES[[4]], k=1, gallery_embeddings=embeddings)
    assert itself.indices.item() == 4  # no pixels to compare with


def test_given_embeddings_of_other_images(model):
    embeddings = embed(model, IMAGES)
    options = {"k": 2, "own_rows": [0, 1], "gallery_embeddings": embeddings}
    with pytest.warns(UserWarning, match="Those of the rows .* are not what the model"):
        explain_neighbors(model, IMAGES[:2], IMAGES * np.uint8([0, 0, 1]), **options)
    options["gallery_embeddings"] = embeddings.astype("float16")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain_neighbors(model, IMAGES[:2], IMAGES, **options)


def test_faiss_finds_the_same(model, found):
    pytest.importorskip("faiss", reason="faiss is not installed")
    other = explain_neighbors(model, IMAGES, k=3, search="faiss")
    np.testing.assert_array_equal(other.indices, found.indices)
    np.testing.assert_allclose(other.similarities, found.similarities, atol=1e-6)


def test_pictures(found):
    pictures = found.draw()
    assert len(pictures) == 20
    assert all(x.ndim == 3 and x.dtype == np.uint8 for x in pictures)
    wrong = int(np.flatnonzero(~found.is_right[:, 0])[0])
    right = int(np.flatnonzero(found.is_right[:, 0])[0])

    def count(picture, color):
        return int(np.all(picture == np.array(color), axis=-1).sum())

    red, green = (205, 40, 40), (30, 160, 60)
    num_red = int((~found.is_right[wrong]).sum())
    assert count(pictures[wrong], red) > 1000 * num_red
    assert count(pictures[right], green) > 1000
    labels = LABELS[found.indices]
    np.testing.assert_array_equal(found.match_labels, labels)
    np.testing.assert_array_equal(found.labels, LABELS)
    numbers = found.indices
    texts = [
        [f"{labels[row, i]}, image {numbers[row, i]}" for i in range(3)]
        for row in range(20)
    ]
    np.testing.assert_array_equal(found.draw(texts)[0], pictures[0])
    named = found.draw(captions=[["x"] * 3] * 20)
    assert named[0].shape == pictures[0].shape and np.any(named[0] != pictures[0])


def test_a_number_is_named_a_label_and_a_string_is_its_own_name():
    assert _name(np.array([3, 4]), 1, start=", ") == ", label 4"
    assert _name(np.array([["owl"]]), (0, 0), end=", ") == "owl, "
    assert _name(None, 0, "query") == ""


def test_pictures_of_four_channels():
    model = keras.Sequential(
        [
            keras.Input((10, 9, 4)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
        ]
    )
    images = np.concatenate([IMAGES, IMAGES[..., :1]], axis=-1)[:5]
    found = explain_neighbors(model, images, k=2, labels=[0, 0, 1, 1, 0])
    grey = found.draw()[0]
    assert grey.ndim == 3 and grey.dtype == np.uint8
    (picture,) = explain_pair(model, images[:1], images[1:2]).draw()
    assert picture.ndim == 3 and picture.shape[-1] == 3


BAD = {
    "k": ({"k": 20}, "`k` must not be larger than the gallery.*k=20.*20 images"),
    "k 0": ({"k": 0}, "`k` must be an integer >= 1"),
    "empty": ({"gallery": IMAGES[:0]}, "must hold at least one image"),
    "channels": ({"gallery": np.zeros((4, 10, 9, 1))}, "takes images of the shape"),
    "labels": ({"labels": LABELS[:7]}, "`labels` must hold one label for each image"),
    "gallery labels": (
        {"gallery": IMAGES, "labels": LABELS, "gallery_labels": LABELS[:7]},
        "`gallery_labels` must hold one label for each image of `gallery`, .20,",
    ),
    "one side": (
        {"gallery": IMAGES, "labels": LABELS},
        "`labels` tell right from wrong only beside `gallery_labels`",
    ),
    "other side": (
        {"gallery": IMAGES, "gallery_labels": LABELS},
        "`gallery_labels` tell right from wrong only beside `labels`",
    ),
    "width": (
        {"gallery_embeddings": np.ones((20, 6))},
        "as wide as the model's embedding, 5. Received the width 6",
    ),
    "shape": ({"gallery_embeddings": np.ones(5)}, "must have the shape .N, d."),
    "no embeddings": ({"gallery_embeddings": np.ones((0, 5))}, "with N >= 1"),
    "fewer embeddings": (
        {"gallery": IMAGES, "gallery_embeddings": np.ones((4, 5))},
        "one row for each image of `gallery`. Received 4 rows for 20 images",
    ),
    "NaN": (
        {"gallery_embeddings": np.full((20, 5), np.nan)},
        "`gallery_embeddings` must be finite",
    ),
    "search": ({"search": "annoy"}, "`search` must be one of"),
    "own rows": ({"own_rows": [20] * 20}, "`own_rows` must be .20,. integers"),
    "errors": ({"only_errors": True}, "`only_errors` needs labels"),
    "no errors": (
        {"only_errors": True, "labels": np.zeros(20, int)},
        "`only_errors` has nothing to explain",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(model, name):
    options, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        explain_neighbors(model, IMAGES, **{"k": 2, **options})


def test_matches_of_several_sizes_are_refused(model):
    gallery = tf.data.Dataset.from_generator(
        lambda: iter([IMAGES[None, 0], np.repeat(IMAGES[None, 1], 2, axis=1)]),
        output_signature=tf.TensorSpec((None, None, None, 3), tf.uint8),
    )
    with pytest.raises(ValueError, match="must have one size"):
        explain_neighbors(model, IMAGES[5:7], gallery, k=2)


def test_embeddings_of_words_are_refused(model):
    with pytest.raises(TypeError, match="`gallery_embeddings` must be an array"):
        explain_neighbors(model, IMAGES, gallery_embeddings=["a", "b"])


def test_a_network_without_finite_embeddings_is_refused():
    dense = layers.Dense(2)
    model = keras.Sequential(
        [
            keras.Input((10, 9, 3)),
            layers.Conv2D(6, 3),
            layers.GlobalAveragePooling2D(),
            dense,
        ]
    )
    dense.bias.assign([np.nan, 0])
    with pytest.raises(ValueError, match="`queries` must be finite"):
        explain_neighbors(model, IMAGES, k=2)


def test_strings_and_numbers_are_never_equal(model):
    numbers = np.repeat(np.arange(4), 5)
    options = {"k": 1, "labels": numbers[:2], "gallery_labels": numbers.astype(str)}
    with pytest.raises(ValueError, match=r"of one kind.* \[0, 0\] and \['0', '0', '0"):
        explain_neighbors(model, IMAGES[:2], IMAGES, **options)


def test_strings_of_a_data_set_equal_those_of_a_list(model, found):
    rows = LABELS[:, None]  # bytes in TensorFlow, here of the shape (n, 1)
    dataset = tf.data.Dataset.from_tensor_slices((IMAGES, rows)).batch(8)
    again = explain_neighbors(
        model, dataset, IMAGES, k=3, gallery_labels=LABELS, batch_size=8
    )
    np.testing.assert_array_equal(again.is_right, found.is_right)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The images as files, of which numbers 2 and 7 cannot be read."""
    folder = tmp_path_factory.mktemp("files")
    paths = [folder / f"{number:02}.png" for number in range(20)]
    for path, image in zip(paths, IMAGES, strict=True):
        tf.io.write_file(str(path), tf.io.encode_png(image))
    for number in BROKEN:
        paths[number].write_bytes(b"no picture")
    return paths


BROKEN = [2, 7]


def test_files_that_cannot_be_read_keep_their_numbers(model, files, similarities):
    left = np.setdiff1d(np.arange(20), BROKEN)
    options = {"k": 3, "labels": LABELS, "batch_size": 4}
    with pytest.warns(UserWarning, match="2 of 20 images cannot be read.*02.png"):
        found = explain_neighbors(model, files, **options)
    np.testing.assert_array_equal(found.queries, left)
    known = similarities.copy()
    known[:, BROKEN] = -np.inf
    order = np.argsort(-known, axis=1)[left, :3]
    np.testing.assert_array_equal(found.indices, order)
    np.testing.assert_array_equal(found.is_right, LABELS[order] == LABELS[left, None])
    same = np.where(LABELS == LABELS[:, None], known, -np.inf)
    np.testing.assert_array_equal(found.best_right, same.argmax(axis=1)[left])
    np.testing.assert_array_equal(found.query_images, IMAGES[left])
    np.testing.assert_array_equal(found.match_images, IMAGES[order])
    with pytest.warns(UserWarning, match="cannot be read"):
        given = explain_neighbors(
            model, IMAGES[[5]], files, k=3, own_rows=[5], gallery_labels=LABELS,
            labels=["finch"],
        )  # fmt: skip
    np.testing.assert_array_equal(given.indices[0], order[left == 5][0])
    with pytest.raises(ValueError, match="Cannot read the image .*02.png"):
        explain_neighbors(model, files, strict=True)


def test_the_network_runs_once_on_each_query_and_match(model, found, monkeypatch):
    """Behind pooling and a linear map; those of a gallery are embedded before."""
    seen = []

    def count(inner):
        def run(*arguments, **options):
            for batch, values in inner(*arguments, **options):
                if arguments[3].__name__ in ("record_parts", "embed_images"):
                    seen.append((arguments[3].__name__, len(values[0])))
                yield batch, values

        return run

    for module in (contribution_reader, embedded):
        monkeypatch.setattr(module, "run_batches", count(module.run_batches))
    embeddings = embed(model, IMAGES)
    options = {"k": 3, "gallery_embeddings": embeddings, "own_rows": [0, 11]}
    explain_neighbors(model, IMAGES[[0, 11]], IMAGES, **options)
    num_matches = len(np.unique(found.indices[[0, 11]]))
    assert seen == [("record_parts", 2), ("record_parts", num_matches)]
    seen.clear()
    same = explain_neighbors(model, IMAGES, k=3, labels=LABELS, batch_size=8)
    assert seen == [("record_parts", 8), ("record_parts", 8), ("record_parts", 4)]
    seen.clear()
    # What is not kept is run again, and gives the same.
    monkeypatch.setattr(embedded, "MAX_KEPT_BYTES", 1)
    again = explain_neighbors(model, IMAGES, k=3, labels=LABELS, batch_size=8)
    assert seen[:3] == [("record_parts", 8), ("embed_images", 8), ("embed_images", 4)]
    assert len(seen) > 3
    for name in ("heatmaps_queries", "heatmaps_matches", "contrasts", "errors"):
        one, two = getattr(same, name), getattr(again, name)
        np.testing.assert_allclose(one, two, atol=1e-5)
    np.testing.assert_array_equal(again.match_images, same.match_images)


def test_the_search_is_that_of_the_transfer(model, monkeypatch):
    """One call for all queries of 100,000 embeddings, none for each."""
    assert search.SEARCHES is transfer_search.SEARCHES is vector_search.SEARCHES
    assert search.find_nearest is vector_search.find_nearest
    sizes = []

    def count(queries, gallery, *arguments, **options):
        sizes.append((len(queries), len(gallery)))
        return vector_search.find_nearest(queries, gallery, *arguments, **options)

    monkeypatch.setattr(search, "find_nearest", count)
    many = np.random.default_rng(0).normal(size=(100_000, 5)).astype("float32")
    numbers = np.arange(100_000) % 4
    explain_neighbors(
        model, IMAGES, k=3, gallery_embeddings=many, labels=numbers[:20],
        gallery_labels=numbers, resize=False,
    )  # fmt: skip
    assert sizes == [(20, 100_000)]


class Shuffling(keras.utils.PyDataset):
    """Another order at each reading."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        if index == 0:
            self.order = np.random.permutation(20)
        return IMAGES[self.order[10 * index : 10 * index + 10]]


def test_a_data_set_in_another_order_each_time_is_refused(model, monkeypatch):
    monkeypatch.setattr(embedded, "MAX_KEPT_BYTES", 0)  # but for the first batch
    np.random.seed(0)
    images = tf.data.Dataset.from_tensor_slices(IMAGES)
    shuffled = images.shuffle(20, seed=1).batch(6)
    words = "must come in the same order each time.*shuffling"
    for queries, gallery in (
        (shuffled, None),
        (Shuffling(), None),
        (shuffled, IMAGES),
        (IMAGES[:3], shuffled),
    ):
        with pytest.raises(ValueError, match=words):
            explain_neighbors(model, queries, gallery, k=2)
    fixed = images.shuffle(20, seed=1, reshuffle_each_iteration=False).batch(6)
    found = explain_neighbors(model, fixed, k=1)
    sides = (found.query_images, found.match_images[:, 0])
    a, b = (keras.utils.normalize(embed(model, x)) for x in sides)
    shown = np.sum(a * b, axis=1)
    np.testing.assert_allclose(shown, found.similarities[:, 0], atol=1e-5)


@pytest.mark.parametrize("captions", [["a"], [["a"] * 2] * 20, "a"])
def test_captions_that_do_not_fit(found, captions):
    with pytest.raises(ValueError, match=r"`captions` must hold .*\(20, 3\). Received"):
        found.draw(captions)
