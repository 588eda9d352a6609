"""Tests of keras_embcam.evaluation.examples: streams with images that fail."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_embcam.datasets import cub200
from keras_embcam.evaluation import evaluate
from keras_embcam.evaluation.examples import MAX_ERRORS_IN_A_ROW, ExampleStream

SIZE = 8


@pytest.fixture(scope="module")
def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
        ]
    )


@pytest.fixture
def birds(tmp_path):
    """Return a folder in CUB's layout; the image of id 3 is none."""
    lines: dict[str, list[str]] = {
        name: []
        for name in (
            "images.txt",
            "image_class_labels.txt",
            "bounding_boxes.txt",
            "train_test_split.txt",
        )
    }
    random = np.random.default_rng(0)
    for number in range(1, 7):
        path = f"{number}.png"
        picture = random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        content = tf.io.encode_png(picture) if number != 3 else b"no image"
        tf.io.write_file(str(tmp_path / "images" / path), content)
        lines["images.txt"].append(f"{number} {path}")
        lines["image_class_labels.txt"].append(f"{number} {1 + number % 2}")
        lines["bounding_boxes.txt"].append(f"{number} 0.0 {number}.0 4.0 1.0")
        lines["train_test_split.txt"].append(f"{number} 1")
    for name, text in lines.items():
        (tmp_path / name).write_text("\n".join(text))
    (tmp_path / "classes.txt").write_text("1 a\n2 b")
    return tmp_path


def test_an_image_that_cannot_be_read_is_named_and_the_rest_measured(
    network, birds
) -> None:
    dataset = cub200(birds, image_size=SIZE)
    report = evaluate(network, dataset, ["uniform"], batch_size=2, num_timings=0)
    (row,) = report.rows
    assert report.settings["images"] == row["images"] == 5
    (note,) = report.notes
    assert "1 examples" in note and "images/3.png" in note
    # Boxes of 4 by 1 pixels, whichever image it is.
    assert row["ratio_box"] == pytest.approx(4 / 64, abs=1e-6)


def test_the_others_keep_their_order_and_boxes(network, birds) -> None:
    stream = ExampleStream(cub200(birds, image_size=SIZE), network, batch_size=4)
    for _ in range(2):  # the same each time
        batches = list(stream)
        assert [len(batch["image"]) for batch in batches] == [4, 1]
        tops = np.concatenate([batch["bbox"][:, 0] for batch in batches]) * SIZE
        assert tops.tolist() == [1, 2, 4, 5, 6]
        assert len(stream.skipped) == 1
    taken = stream.take(np.array([1, 4]))
    assert (taken["bbox"][:, 0] * SIZE).tolist() == [2, 6]


def test_a_batched_set_tells_that_more_is_lost(network, birds) -> None:
    dataset = cub200(birds, image_size=SIZE).batch(2)
    stream = ExampleStream(dataset, network, batch_size=32)
    num_images = sum(len(batch["image"]) for batch in stream)
    assert num_images in (4, 5)
    assert "and what its batch held before it" in stream.skipped[0]


def test_strict_raises_and_names_the_file(network, birds) -> None:
    dataset = cub200(birds, image_size=SIZE)
    with pytest.raises(ValueError, match=r"cannot be read: .*images/3\.png"):
        evaluate(network, dataset, ["uniform"], strict=True, num_timings=0)


def test_nothing_left_is_an_error(network) -> None:
    empty = {"image": np.zeros((0, SIZE, SIZE, 3)), "bbox": np.zeros((0, 4))}
    with pytest.raises(ValueError, match="at least one image that can be read"):
        evaluate(network, empty, ["uniform"], num_timings=0)
    none_left = make_broken(3)
    with pytest.raises(ValueError, match="Received none. Left out: .*the disk is"):
        list(ExampleStream(none_left, network, batch_size=2))


def test_a_broken_set_is_given_up(network) -> None:
    with pytest.raises(ValueError, match="An example cannot be read: .*the disk is"):
        list(ExampleStream(make_broken(MAX_ERRORS_IN_A_ROW + 1), network, 32))


def make_broken(length: int) -> tf.data.Dataset:
    def fail(number: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies(
            [tf.debugging.Assert(number < 0, ["the disk is"])]
        ):
            return tf.zeros((SIZE, SIZE, 3))

    return tf.data.Dataset.range(length).map(fail)


@pytest.mark.parametrize("form", ["dict", "tuple", "images", "dataset", "batches"])
def test_forms_of_examples(network, form) -> None:
    images = np.random.default_rng(0).random((5, SIZE, SIZE, 3)).astype("float32")
    labels = np.arange(5)
    dataset = tf.data.Dataset.from_tensor_slices({"image": images, "label": labels})
    examples = {
        "dict": {"image": images, "label": labels, "other": None},
        "tuple": (images, labels),
        "images": images,
        "dataset": dataset,
        "batches": dataset.batch(3),
    }[form]
    batches = list(ExampleStream(examples, network, 3, lambda x: 2 * x))
    assert [len(batch["image"]) for batch in batches] == [3, 2]
    found = np.concatenate([batch["image"] for batch in batches])
    np.testing.assert_array_equal(found, 2 * images)
    if form != "images":
        assert np.concatenate([x["label"] for x in batches]).tolist() == [0, 1, 2, 3, 4]


def test_another_order_each_time_is_refused(network) -> None:
    images = np.random.default_rng(0).random((40, SIZE, SIZE, 3)).astype("float32")
    dataset = tf.data.Dataset.from_tensor_slices(
        {"image": images, "label": np.arange(40) % 8, "bbox": [[0, 0, 1, 0.5]] * 40}
    ).shuffle(40, seed=0)
    with pytest.raises(ValueError, match="the same order each time"):
        evaluate(network, dataset, ["class_mean"], num_timings=0)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ("folder", "must be an array of images"),
        ({"label": np.zeros(2)}, r"must have an \"image\". Received: \['label'\]"),
        (
            {"image": np.zeros((2, SIZE, SIZE, 3)), "label": np.zeros(3)},
            "as many of each .*'image': 2, 'label': 3",
        ),
        ({"image": np.zeros((2, 4, 4, 1))}, "The model takes images of the shape"),
    ],
)
def test_errors(network, examples, message) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        list(ExampleStream(examples, network, batch_size=2))


def test_images_of_several_sizes_and_a_wrong_batch_size(network) -> None:
    def generate():
        for side in (4, 5):
            yield np.zeros((side, side, 3), "float32")

    signature = tf.TensorSpec((None, None, 3), tf.float32)
    sizes = tf.data.Dataset.from_generator(generate, output_signature=signature)
    with pytest.raises(ValueError, match=r"must have one size.*\(4, 4, 3\)"):
        list(ExampleStream(sizes, network, batch_size=2))
    with pytest.raises(ValueError, match="`batch_size` must be an integer >= 1"):
        ExampleStream(np.zeros((1, SIZE, SIZE, 3)), network, batch_size=0)
