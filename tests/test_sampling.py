"""Class-balanced batches."""

import doctest

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_embcam import sampling
from keras_embcam.sampling import sample_balanced_batches


def make_labels(sizes):
    """Return labels of classes 10, 11, ... with these sizes, shuffled."""
    labels = np.repeat(np.arange(10, 10 + len(sizes)), sizes)
    return np.random.default_rng(0).permutation(labels)


def make_dataset(sizes, classes_per_batch, images_per_class, seed=0):
    labels = make_labels(sizes)
    dataset = sample_balanced_batches(
        np.arange(len(labels)),
        labels,
        classes_per_batch=classes_per_batch,
        images_per_class=images_per_class,
        seed=seed,
    )
    return dataset, labels


def read_epoch(dataset):
    batches = list(dataset.as_numpy_iterator())
    return [indices for indices, _ in batches], [labels for _, labels in batches]


def count_most_batches(groups, num_classes):
    """Return how many batches there can be, by taking the largest classes first.

    This greedy rule is the best one for drawing sets of different classes.
    """
    groups, number = sorted(groups, reverse=True), 0
    while len(groups) >= num_classes and groups[num_classes - 1] > 0:
        for place in range(num_classes):
            groups[place] -= 1
        groups.sort(reverse=True)
        number += 1
    return number


SIZES = {
    "equal": ([8] * 6, 3, 4),
    "one class": ([9], 1, 4),
    "all classes in each batch": ([7, 9, 30], 3, 2),
    "one image of a class": ([3, 1, 2, 2, 5], 2, 1),
    "one very large class": ([200, 6, 6, 7, 5], 2, 2),
    "leftovers": ([5, 6, 7, 8, 9, 10, 11], 2, 4),
    "long tail": ([64, 32, 16, 8, 4, 4, 4, 4, 4], 3, 4),
}


def test_examples():
    results = doctest.testmod(sampling)
    assert results.failed == 0
    assert results.attempted > 0


@pytest.mark.parametrize("case", SIZES)
def test_batches_hold_p_classes_with_k_images_and_nothing_comes_twice(case):
    sizes, num_classes, num_images = SIZES[case]
    dataset, labels = make_dataset(sizes, num_classes, num_images)
    for _ in range(4):
        epoch, epoch_labels = read_epoch(dataset)
        for indices, batch_labels in zip(epoch, epoch_labels, strict=True):
            np.testing.assert_array_equal(batch_labels, labels[indices])
            classes, counts = np.unique(batch_labels, return_counts=True)
            assert len(classes) == num_classes
            assert (counts == num_images).all()
            # The images of a class beside each other.
            assert np.count_nonzero(np.diff(batch_labels)) == num_classes - 1
        every_index = np.concatenate(epoch)
        assert len(np.unique(every_index)) == len(every_index)


@pytest.mark.parametrize("case", SIZES)
def test_epoch_has_as_many_batches_as_there_can_be(case):
    sizes, num_classes, num_images = SIZES[case]
    dataset, _ = make_dataset(sizes, num_classes, num_images)
    expected = count_most_batches([size // num_images for size in sizes], num_classes)
    assert len(dataset) == expected
    for _ in range(4):
        assert len(read_epoch(dataset)[0]) == expected


def test_random_sizes_give_as_many_batches_as_there_can_be():
    generator = np.random.default_rng(1)
    for _ in range(40):
        groups = generator.integers(1, 12, generator.integers(2, 9))
        num_classes = int(generator.integers(1, len(groups) + 1))
        expected = count_most_batches(list(groups), num_classes)
        assert sampling._count_batches(groups, num_classes) == expected
        chosen = list(
            sampling._choose_classes(groups, num_classes, expected, generator)
        )
        assert len(chosen) == expected
        assert all(len(set(batch)) == num_classes for batch in chosen)
        used = np.bincount(np.concatenate(chosen), minlength=len(groups))
        assert (used <= groups).all()
        assert (used[groups > expected] == expected).all()
        left_out = (groups - used)[groups <= expected]
        assert left_out.sum() < num_classes


def test_classes_are_drawn_in_proportion_to_their_groups():
    generator = np.random.default_rng(0)
    groups, num_draws = np.array([2, 1, 1, 1, 1]), 1000
    first = [
        int(next(sampling._choose_classes(groups, 1, 6, generator))[0])
        for _ in range(num_draws)
    ]
    shares = groups / groups.sum()
    spread = np.sqrt(num_draws * shares * (1 - shares))
    counts = np.bincount(first, minlength=5)
    assert (np.abs(counts - num_draws * shares) < 4 * spread).all()


def test_classes_of_one_size_are_used_up():
    dataset, labels = make_dataset([8] * 6, 3, 4)
    assert sorted(np.concatenate(read_epoch(dataset)[0])) == list(range(len(labels)))


def test_left_over_images_come_in_other_epochs():
    dataset, labels = make_dataset([5, 6, 7], 3, 4)
    epochs = [np.concatenate(read_epoch(dataset)[0]) for _ in range(30)]
    assert all(len(epoch) == 12 for epoch in epochs)
    assert set(np.concatenate(epochs)) == set(range(len(labels)))


def test_images_of_a_class_are_equally_likely():
    dataset, labels = make_dataset([6, 4], 2, 4)
    counts = np.zeros(10)
    for _ in range(60):
        counts[np.concatenate(read_epoch(dataset)[0])] += 1
    assert (counts[labels == 11] == 60).all()
    # Each of the six images of class 10 in four of six epochs.
    spread = np.sqrt(60 * (4 / 6) * (2 / 6))
    assert (np.abs(counts[labels == 10] - 60 * 4 / 6) < 4 * spread).all()


def test_classes_meet_in_changing_company():
    dataset, _ = make_dataset([8] * 6, 2, 4)
    companies = {
        tuple(np.unique(labels)) for _ in range(15) for labels in read_epoch(dataset)[1]
    }
    assert len(companies) == 6 * 5 / 2


def test_seed_repeats_the_epochs_and_epochs_differ():
    def read(seed):
        dataset, _ = make_dataset([5, 6, 7], 2, 2, seed)
        return [np.stack(read_epoch(dataset)[0]).tolist() for _ in range(3)]

    assert read(4) == read(4)
    assert read(4) != read(5)
    first, second, third = read(4)
    assert first != second != third != first


def test_epoch_that_is_broken_off_does_not_change_the_next():
    whole, _ = make_dataset([9] * 4, 2, 2)
    broken, _ = make_dataset([9] * 4, 2, 2)
    read_epoch(whole)
    next(iter(broken))
    assert np.array_equal(read_epoch(whole)[0], read_epoch(broken)[0])


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", "int64"])
def test_pixels_and_labels_keep_shape_and_dtype(dtype):
    images = np.random.default_rng(0).integers(0, 9, (12, 3, 4, 2)).astype(dtype)
    labels = (np.arange(12) % 3).astype("int32")[:, None]
    dataset = sample_balanced_batches(
        images, labels, classes_per_batch=2, images_per_class=3
    )
    assert dataset.element_spec == (
        tf.TensorSpec((6, 3, 4, 2), dtype),
        tf.TensorSpec((6, 1), "int32"),
    )
    by_content = dict(
        zip([image.tobytes() for image in images], labels[:, 0], strict=True)
    )
    for batch, batch_labels in dataset.as_numpy_iterator():
        for image, label in zip(batch, batch_labels[:, 0], strict=True):
            assert by_content[image.tobytes()] == label


def test_file_paths_are_read_by_map(tmp_path):
    paths = [str(tmp_path / f"{number}.png") for number in range(6)]
    for number, path in enumerate(paths):
        tf.io.write_file(path, tf.io.encode_png(np.full((2, 2, 3), number, "uint8")))

    def read(batch_paths, labels):
        images = tf.map_fn(
            lambda path: tf.io.decode_png(tf.io.read_file(path), 3),
            batch_paths,
            fn_output_signature=tf.TensorSpec((None, None, 3), tf.uint8),
        )
        return images, labels

    dataset = sample_balanced_batches(
        paths, [0, 0, 1, 1, 2, 2], classes_per_batch=3, images_per_class=2
    )
    ((images, labels),) = dataset.map(read).as_numpy_iterator()
    assert images.shape == (6, 2, 2, 3)
    np.testing.assert_array_equal(images[:, 0, 0, 0] // 2, labels)


def test_memory_mapped_arrays_are_taken(tmp_path):
    np.save(tmp_path / "images.npy", np.arange(24.0).reshape(12, 2))
    images = np.load(tmp_path / "images.npy", mmap_mode="r")
    dataset = sample_balanced_batches(
        images, np.arange(12) % 2, classes_per_batch=2, images_per_class=3
    )
    for batch, labels in dataset.as_numpy_iterator():
        np.testing.assert_array_equal(batch[:, 0] // 2 % 2, labels)


def test_fit_takes_the_dataset_and_knows_its_length():
    dataset, _ = make_dataset([6] * 4, 2, 3)
    one_hot = dataset.map(
        lambda indices, labels: (tf.one_hot(indices, 24), tf.one_hot(labels, 4))
    )
    model = keras.Sequential([keras.Input((24,)), keras.layers.Dense(4)])
    model.compile("sgd", "mse")
    seen = []
    counter = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(batch)
    )
    model.fit(one_hot, epochs=3, callbacks=[counter], shuffle=False, verbose=0)
    assert len(dataset) == 4
    assert seen == [0, 1, 2, 3] * 3


GOOD = {"images": np.arange(8), "labels": [0, 0, 0, 0, 1, 1, 1, 1]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes_per_batch": 0}, "classes_per_batch must be an integer above 0.*=0"),
        ({"classes_per_batch": 1.5}, "classes_per_batch must be an integer.*=1.5"),
        ({"images_per_class": -1}, "images_per_class must be an integer above 0.*=-1"),
        ({"images_per_class": True}, "images_per_class must be an integer.*=True"),
        (
            {"images": np.arange(7)},
            r"same length.*shape \(7,\) and labels of shape \(8,",
        ),
        ({"images": np.float32(3)}, r"same length.*images of shape \(\)"),
        ({"labels": np.eye(8)}, r"one label for each image.*shape \(8, 8\).*argmax"),
        ({"labels": 3}, r"one label for each image.*shape \(\)"),
        ({"classes_per_batch": 3}, "more classes than there are.*=3.*of 2 classes"),
        (
            {"images_per_class": 5},
            "at least images_per_class.*2 smaller.*0 has 4 im",
        ),
        (
            {"images": [], "labels": []},
            "more classes than there are.*labels of 0 classes",
        ),
    ],
)
def test_errors(arguments, message):
    good = {**GOOD, "classes_per_batch": 2, "images_per_class": 2}
    with pytest.raises(ValueError, match=message):
        sample_balanced_batches(**{**good, **arguments})
