"""Labelled examples: the forms they come in, and images that cannot be read."""

import doctest
import importlib
import itertools
import tracemalloc

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_embcam.datasets import cub200
from keras_embcam.evaluation import evaluate
from keras_embcam.metrics import heatmap_ratio_in_boxes
from keras_embcam.running.data_set_elements import MAX_ERRORS_IN_A_ROW
from keras_embcam.running.labelled_examples import ExampleStream

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
    assert row["heatmap_ratio_bbox"] == pytest.approx(4 / 64, abs=1e-6)


def test_the_others_keep_their_order_and_boxes(network, birds) -> None:
    stream = ExampleStream(cub200(birds, image_size=SIZE), network, batch_size=4)
    for _ in range(2):  # the same each time
        batches = list(stream)
        assert [len(batch["image"]) for batch in batches] == [4, 1]
        tops = np.concatenate([batch["bbox"][:, 0, 0] for batch in batches]) * SIZE
        assert tops.tolist() == [1, 2, 4, 5, 6]
        assert len(stream.skipped) == 1
    taken = stream.take(np.array([1, 4]))
    assert (taken["bbox"][:, 0, 0] * SIZE).tolist() == [2, 6]


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
    with pytest.raises(ValueError, match="n >= 1"):
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
    # Labels do not tell where there are none, nor where the order is that of an earlier
    # time for a while.
    unlabelled = tf.data.Dataset.from_tensor_slices({"image": images}).batch(8)
    fixed = unlabelled.shuffle(5, seed=0, reshuffle_each_iteration=False)
    for order, is_right in (
        (unlabelled, True),
        (fixed, True),
        (dataset.batch(8), False),
    ):
        stream = ExampleStream(order)
        next(iter(stream))
        if is_right:
            assert sum(len(batch["image"]) for batch in stream) == 40
            continue
        with pytest.raises(ValueError, match="images of batch 0 differ"):
            list(stream)


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


def stream_batches(examples, batch_size=3, **options):
    return list(ExampleStream(examples, batch_size=batch_size, **options))


IMAGES = np.arange(7 * 2 * 2 * 1, dtype="float32").reshape(7, 2, 2, 1)
LABELS = np.array([0, 0, 0, 0, 1, 1, 2])
ONE_BOX_EACH = np.tile(np.float32([0, 0, 1, 1]), (7, 1))
DICT = {"image": IMAGES, "label": LABELS, "bbox": ONE_BOX_EACH}


def slices(values) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(values)


class Batches(keras.utils.PyDataset):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, number: int) -> tuple:
        rows = slice(3 * number, 3 * number + 3)
        return IMAGES[rows], LABELS[rows], np.ones(len(LABELS[rows]))


@pytest.mark.parametrize(
    ("form", "keys"),
    [
        (IMAGES, {"image"}),
        (tf.constant(IMAGES), {"image"}),
        (list(IMAGES), {"image"}),
        ((IMAGES, LABELS), {"image", "label"}),
        ([IMAGES, LABELS.tolist()], {"image", "label"}),
        ((IMAGES, LABELS, np.ones(7)), {"image", "label"}),
        (({"image": IMAGES}, {"label": LABELS}), {"image", "label"}),
        (DICT, {"image", "label", "bbox"}),
        (slices(IMAGES), {"image"}),
        (slices((IMAGES, LABELS)), {"image", "label"}),
        (slices(DICT), {"image", "label", "bbox"}),
        (slices(DICT).batch(3), {"image", "label", "bbox"}),
        (Batches(), {"image", "label"}),
    ],
)
def test_every_form_gives_the_same_batches(form, keys) -> None:
    stream = ExampleStream(form, batch_size=3)
    assert stream.keys == keys
    for _ in range(2):  # every time the same
        batches = list(stream)
        assert [len(batch["image"]) for batch in batches] == [3, 3, 1]
        for key in keys:
            expected = ONE_BOX_EACH[:, None] if key == "bbox" else DICT[key]
            joined = np.concatenate([batch[key] for batch in batches])
            np.testing.assert_array_equal(joined, expected)


@pytest.mark.parametrize("form", [DICT, slices(DICT).batch(2)])
def test_take_keeps_the_order_asked_for(form) -> None:
    taken = ExampleStream(form, batch_size=3).take([5, 0])
    np.testing.assert_array_equal(taken["image"], IMAGES[[5, 0]])
    np.testing.assert_array_equal(taken["label"], [1, 0])
    with pytest.raises(ValueError, match=r"has 7 examples.*numbers \[7\]"):
        ExampleStream(form).take([0, 7])


# Two, none and one box.
SOME_BOXES = [
    np.float32([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]]),
    np.zeros((0, 4), "float32"),
    np.float32([[0.25, 0.25, 1, 1]]),
]
PADDED = np.full((3, 2, 4), -1, "float32")
PADDED[0], PADDED[2, 0] = SOME_BOXES[0], SOME_BOXES[2][0]


def unbatched_boxes() -> tf.data.Dataset:
    def generate():
        for image, boxes in zip(IMAGES, SOME_BOXES, strict=False):
            yield {"image": image, "bbox": boxes}

    signature = {
        "image": tf.TensorSpec((2, 2, 1)),
        "bbox": tf.TensorSpec((None, 4)),
    }
    return tf.data.Dataset.from_generator(generate, output_signature=signature)


def object_array() -> np.ndarray:
    boxes = np.empty(3, object)
    boxes[:] = SOME_BOXES
    return boxes


@pytest.mark.parametrize(
    "examples",
    [
        {"image": IMAGES[:3], "bbox": SOME_BOXES},
        {"image": IMAGES[:3], "bbox": [x.tolist() for x in SOME_BOXES]},
        {"image": IMAGES[:3], "bbox": object_array()},
        {"image": IMAGES[:3], "bbox": PADDED.astype("float64")},
        {
            "image": IMAGES[:3],
            "bbox": tf.ragged.stack([tf.constant(x) for x in SOME_BOXES]),
        },
        {
            "image": IMAGES[:3],
            "bbox": tf.RaggedTensor.from_row_lengths(
                np.concatenate(SOME_BOXES), [2, 0, 1]
            ),
        },
        unbatched_boxes(),
        unbatched_boxes().ragged_batch(3),
        unbatched_boxes().padded_batch(3, padding_values={"image": 0.0, "bbox": -1.0}),
    ],
    ids=[
        "list of arrays",
        "nested lists",
        "object array",
        "padded",
        "ragged, by stack",
        "ragged, by row lengths",
        "unbatched",
        "ragged_batch",
        "padded_batch",
    ],
)
def test_several_boxes_an_image(examples) -> None:
    (batch,) = stream_batches(examples)
    assert batch["bbox"].dtype == np.float32
    np.testing.assert_array_equal(batch["bbox"], PADDED)
    ratios = heatmap_ratio_in_boxes(np.ones((3, 8, 8)), batch["bbox"], "rel_yxyx")
    np.testing.assert_allclose(ratios, [0.5, np.nan, 0.5625])


def test_batches_with_fewer_boxes_are_joined() -> None:
    stream = ExampleStream(unbatched_boxes(), batch_size=1)
    assert [batch["bbox"].shape[1] for batch in stream] == [2, 1, 1]
    np.testing.assert_array_equal(stream.take([2, 1, 0])["bbox"], PADDED[::-1])


@pytest.mark.parametrize(
    ("labels", "numbers", "classes"),
    [
        (["b", "a", "b"], [1, 0, 1], ["a", "b"]),
        (np.array([b"b", b"a", b"b"]), [1, 0, 1], ["a", "b"]),
        ([2_000_000, -7, 5], [2, 0, 1], [-7, 5, 2_000_000]),
        (np.array([[4], [4], [2]]), [1, 1, 0], [2, 4]),
        (np.float32([1, 0, 1]), [1, 0, 1], [0, 1]),
        (np.array([True, False, True]), [1, 0, 1], [0, 1]),
    ],
)
def test_labels_of_any_kind(labels, numbers, classes) -> None:
    stream = ExampleStream((IMAGES[:3], labels))
    (batch,) = stream
    assert batch["label"].tolist() == numbers
    assert stream.classes.tolist() == classes
    # A data set gives numbers in the order in which it shows the classes.
    dataset = ExampleStream(slices((IMAGES[:3], labels)), batch_size=2)
    for _ in range(2):
        found = np.concatenate([x["label"] for x in dataset])
        assert dataset.classes[found].tolist() == np.array(classes)[numbers].tolist()
        assert found[0] == 0


def test_boxes_in_a_dict_as_keras_has_them() -> None:
    boxes = {"boxes": np.zeros((3, 1, 4)), "labels": np.zeros((3, 1))}
    with pytest.raises(ValueError, match=r"one array as 'bbox'.*\['boxes', 'labels'\]"):
        ExampleStream({"image": IMAGES[:3], "bbox": boxes})


def test_masked_arrays_are_refused() -> None:
    masks = np.ma.masked_equal(np.eye(8, dtype="uint8")[None].repeat(3, 0), 0)
    entries = {"image": IMAGES[:3], "segmentation_mask": masks}
    with pytest.raises(ValueError, match=r"plain array as 'segmentation_m.*filled"):
        ExampleStream(entries)
    ExampleStream({"image": IMAGES[:3], "segmentation_mask": np.ma.array(masks.data)})


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.eye(3), r"\(n,\) or \(n, 1\).*argmax.*one-hot"),
        (np.float32([0.5, 1, 2]), r"whole numbers or strings.*0\.5"),
        # 16777217 is 16777216 as float32: two classes became one.
        (np.float32([2**24, 2**24 + 1, 0]), "float32 knows not all.* from 16777216 on"),
        (np.array([None, 1, 2]), "integers or strings.*None"),
    ],
)
def test_labels_that_are_none(labels, message) -> None:
    with pytest.raises(ValueError, match=message):
        ExampleStream((IMAGES[:3], labels))


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (np.zeros((3, 5)), r"\(n, m, 4\).*\(3, 1, 5\)"),
        ([np.zeros((1, 4)), np.zeros((2, 3)), []], r"an array \(m, 4\).*\(2, 3\)"),
        ([["a"], [], []], "an array .*of numbers.*'a'"),
        ([{"bbox": [0, 0, 1, 1]}] * 3, "an array .*of numbers.*'bbox': "),
    ],
)
def test_boxes_that_are_none(boxes, message) -> None:
    with pytest.raises(ValueError, match=message):
        ExampleStream({"image": IMAGES[:3], "bbox": boxes})


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"boxes": ONE_BOX_EACH}, r"\['boxes'\] .*not used. Did you mean 'bbox'"),
        ({"classes": LABELS}, "Did you mean 'label' instead of 'classes'"),
        ({"segmentation_masks": LABELS}, "Did you mean 'segmentation_mask'"),
        ({"objects": {"bbox": ONE_BOX_EACH}}, r"x\[\"objects\"\]\[\"bbox\"\]"),
        ({"file": LABELS}, r"\['file'\] of them are not used\.$"),
    ],
)
def test_entries_that_are_not_used_are_told(entries, message) -> None:
    model = keras.Sequential([keras.Input((2, 2, 1)), layers.Flatten()])
    with pytest.warns(UserWarning, match=message):
        ExampleStream({"image": IMAGES, **entries}, model)
    with pytest.warns(UserWarning, match=message):
        ExampleStream(slices({"image": IMAGES, **entries}), model)


def test_nothing_is_told_where_all_is_used(recwarn) -> None:
    model = keras.Sequential([keras.Input((2, 2, 1)), layers.Flatten()])
    ExampleStream({**DICT, "other": None}, model)
    assert not [x for x in recwarn if "not used" in str(x.message)]


NAMED = {"image": IMAGES, "id": np.arange(7), "file_name": list("abcdefg")}


@pytest.mark.parametrize(
    "form", [NAMED, (NAMED, LABELS), slices(NAMED), slices(NAMED).batch(2)]
)
def test_names_of_examples_come_with_the_batches(form) -> None:
    stream = ExampleStream(form, batch_size=3)
    assert stream.name_key == "file_name"
    names = np.concatenate([batch["file_name"] for batch in stream])
    assert [x if isinstance(x, str) else x.decode() for x in names] == list("abcdefg")


def test_an_entry_with_several_values_each_is_no_name() -> None:
    assert ExampleStream({"image": IMAGES, "id": np.ones((7, 2))}).name_key is None
    assert ExampleStream(slices(DICT)).name_key is None


def two_inputs(**names) -> keras.Model:
    inputs = {key: keras.Input(shape, name=key) for key, shape in names.items()}
    flat = [layers.Flatten()(x) for x in inputs.values()]
    return keras.Model(inputs, layers.Concatenate()(flat))


META = np.arange(7.0)[:, None]
OWN_LABELS = np.array([10, 10, 10, 10, 11, 11, 12])


@pytest.mark.parametrize(
    "form",
    [
        {"image": IMAGES, "meta": META, "label": LABELS},
        {"image": IMAGES, "meta": META[:, 0], "label": LABELS},
        ({"image": IMAGES, "meta": META}, LABELS),
        ((IMAGES, META), LABELS),
        slices(({"image": IMAGES, "meta": META}, LABELS)),
        slices(((IMAGES, META), LABELS)).batch(3),
    ],
)
def test_several_inputs(form) -> None:
    model = two_inputs(image=(2, 2, 1), meta=(1,))
    stream = ExampleStream(form, model, batch_size=3)
    first = next(iter(stream))
    inputs = stream.inputs_of(first)
    assert set(inputs) == {"image", "meta"}
    np.testing.assert_array_equal(inputs["image"], IMAGES[:3])
    np.testing.assert_array_equal(inputs["meta"], META[:3])
    # What is changed in a batch changes what goes into the model.
    changed = stream.inputs_of({**first, "image": first["image"] + 1})
    np.testing.assert_array_equal(changed["image"], IMAGES[:3] + 1)


@pytest.mark.parametrize("label_input", ["label", "labels", "target"])
def test_the_label_as_an_input_keeps_its_own_number(label_input) -> None:
    model = two_inputs(photo=(2, 2, 1), **{label_input: ()})
    stream = ExampleStream((IMAGES, OWN_LABELS), model)
    (batch,) = stream
    assert batch["label"].tolist() == LABELS.tolist()
    inputs = stream.inputs_of(batch)
    assert inputs[label_input].tolist() == OWN_LABELS.tolist()


def test_a_subclassed_model_gets_the_dict_that_fit_gives_it() -> None:
    class TakesDict(keras.Model):
        def call(self, inputs):
            return layers.Flatten()(inputs["image"]) + inputs["meta"]

    model = TakesDict()
    stream = ExampleStream(({"image": IMAGES, "meta": META}, LABELS), model)
    (batch,) = stream
    inputs = stream.inputs_of(batch)
    np.testing.assert_array_equal(inputs["image"], IMAGES)
    np.testing.assert_array_equal(inputs["meta"], META)


def test_an_input_without_an_entry() -> None:
    model = two_inputs(image=(2, 2, 1), meta=(1,))
    with pytest.raises(ValueError, match=r"inputs \['image', 'meta'\].*\['meta'\]"):
        ExampleStream((IMAGES, LABELS), model)


@pytest.mark.parametrize("batched", [False, True])
def test_images_of_several_sizes_bring_the_code_that_mends_it(batched) -> None:
    def generate():
        for side in (4, 5):
            image = np.full((side, side, 3), side, "float32")
            yield {"image": image, "segmentation_mask": image[..., 0] > 0}

    signature = {
        "image": tf.TensorSpec((None, None, 3)),
        "segmentation_mask": tf.TensorSpec((None, None), tf.bool),
    }
    dataset = tf.data.Dataset.from_generator(generate, output_signature=signature)
    stream = ExampleStream(dataset.ragged_batch(2) if batched else dataset)
    with pytest.raises(ValueError, match=r"one size.*\(4, 4, 3\)") as caught:
        list(stream)
    code = str(caught.value).partition("before it is batched: ")[2].rstrip(".")
    with pytest.raises(ValueError, match=r"one size.*\(4, 4, 3\)"):
        ExampleStream([np.zeros((4, 4, 3)), np.zeros((5, 5, 3))])
    mended = eval(code, {"tf": tf, "dataset": dataset})
    (batch,) = ExampleStream(mended)
    assert batch["image"].shape == (2, 4, 4, 3)
    assert batch["segmentation_mask"].shape == (2, 4, 4, 1)


def test_masks_of_another_size_than_the_images() -> None:
    examples = {"image": IMAGES, "segmentation_mask": np.ones((7, 4, 4), bool)}
    with pytest.raises(ValueError, match=r"\(3, 2, 2, 1\).*\(3, 4, 4\).*nearest"):
        stream_batches(examples)


def test_a_data_set_without_end_is_refused_before_it_is_read() -> None:
    endless = slices(DICT).batch(2).repeat()
    with pytest.raises(ValueError, match=r"must end.*\.repeat\(\)"):
        ExampleStream(endless)
    assert len(stream_batches(endless.take(5))) == 5


def test_memory_of_a_long_data_set_is_flat() -> None:
    pictures = tf.data.Dataset.range(1000).map(
        lambda number: (tf.zeros((64, 64, 3)), number % 10)
    )
    stream = ExampleStream(pictures, batch_size=10)
    list(itertools.islice(stream, 5))
    tracemalloc.start()
    num_images = sum(len(batch["image"]) for batch in stream)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert num_images == 1000
    assert peak < 6 * 10 * 64 * 64 * 3 * 4  # of a few batches, not of a hundred


@pytest.mark.parametrize(
    "name",
    [
        "example_entries",
        "example_names",
        "example_order",
        "example_values",
        "labelled_examples",
    ],
)
def test_doctests(name) -> None:
    module = importlib.import_module(f"keras_embcam.running.{name}")
    finished = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert finished.attempted and not finished.failed
