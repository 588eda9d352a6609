"""Tests of keras_embcam.running.image_batches."""

from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from PIL import Image

from keras_embcam import explain
from keras_embcam.running.image_batches import ImageSource
from keras_embcam.running.image_files import list_files

SIZE = 8


def make_model(*shape: int | None, dtype: str = "float32") -> keras.Model:
    images = keras.Input(shape or (SIZE, SIZE, 3), dtype=dtype)
    x = layers.Conv2D(4, 3)(layers.Rescaling(1.0)(images))
    return keras.Model(images, layers.GlobalAveragePooling2D()(x))


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return make_model()


def make_images(num_images: int = 5) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.integers(0, 256, (num_images, SIZE, SIZE, 3)).astype("float32")


def write_image(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    assert cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)
    return path


def read_all(images, model, batch_size: int = 2, **options) -> list:
    return list(ImageSource(images, model, batch_size, **options))


def assert_same(batches, expected: np.ndarray) -> None:
    inputs = np.concatenate([batch.inputs for batch in batches])
    np.testing.assert_array_equal(inputs, expected)
    assert inputs.dtype == expected.dtype


# Arrays


@pytest.mark.parametrize("kind", [np.asarray, tf.constant, list])
def test_arrays_and_tensors_come_in_batches(model, kind) -> None:
    source = ImageSource(kind(make_images()), model, 2)
    assert source.num_images == 5
    batches = list(source)
    assert [len(batch.inputs) for batch in batches] == [2, 2, 1]
    assert_same(batches, make_images())
    assert {batch.labels for batch in batches} == {None}


def test_a_list_of_images_is_a_batch(model) -> None:
    assert_same(read_all([*make_images()], model), make_images())
    assert_same(read_all([tf.constant(x) for x in make_images()], model), make_images())


def test_a_list_of_arrays_of_several_sizes_is_refused(model) -> None:
    """Failed before: `all input arrays must have the same shape`."""
    message = r"must have one shape. .*\(5, 8, 3\), \(8, 8, 3\).* Resize them first"
    for free in (model, make_model(None, None, 3)):
        with pytest.raises(ValueError, match=message):
            read_all([make_images()[0], make_images()[0][:5]], free)


def test_a_list_of_inputs_may_begin_with_something_else(model) -> None:
    """Failed before: `all input arrays must have the same shape`."""
    sequence = keras.Input((4, 2))
    both = keras.Model([sequence, model.input], model.output)
    batches = read_all([np.ones((5, 4, 2)), make_images()], both)
    assert [len(x) for x in batches[0].inputs] == [2, 2]


@pytest.mark.parametrize("preprocess", [None, lambda x: x / 2])
def test_a_single_image_is_told_of_as_it_is(model, preprocess) -> None:
    """Failed before: received the shape of its first rows, (2, 8, 3)."""
    with pytest.raises(ValueError, match=r"Received the shape \(8, 8, 3\). Add the ba"):
        read_all(make_images()[0], model, preprocessing_function=preprocess)
    with pytest.raises(
        ValueError, match=r"\(8, 8\). Add both axes .*\[None, \.\.\., N"
    ):
        read_all(make_images()[0, ..., 0], make_model(SIZE, SIZE, 1))


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "float64"])
def test_images_get_the_dtype_of_the_model(model, dtype) -> None:
    assert_same(read_all(make_images().astype(dtype), model), make_images())
    integers = make_model(SIZE, SIZE, 3, dtype="uint8")
    given = make_images().astype(dtype)
    if dtype != "float16":
        assert_same(read_all(given, integers), make_images().astype("uint8"))


def test_several_inputs_keep_their_structure() -> None:
    inputs = {
        "a": keras.Input((SIZE, SIZE, 3), name="a"),
        "b": keras.Input((2,), name="b"),
    }
    model = keras.Model(inputs, inputs["b"])
    given = {"a": make_images(), "b": np.ones((5, 2))}
    batches = read_all(given, model)
    assert [len(batch.inputs["b"]) for batch in batches] == [2, 2, 1]
    assert batches[0].inputs["b"].dtype == "float32"
    with pytest.raises(ValueError, match=r"one row for each image.*lengths \[4, 5\]"):
        read_all({**given, "b": np.ones((4, 2))}, model)
    with pytest.raises(ValueError, match="takes 2 inputs.* Received 1 arrays"):
        read_all(make_images(), model)


def test_preprocessing_works_on_a_copy(model) -> None:
    images = make_images()
    preprocess = keras.applications.mobilenet_v2.preprocess_input  # works in place
    batches = read_all(images, model, preprocessing_function=preprocess)
    np.testing.assert_array_equal(images, make_images())
    np.testing.assert_array_equal(batches[0].images, images[:2])
    np.testing.assert_allclose(batches[0].inputs, images[:2] / 127.5 - 1, atol=1e-6)


# tf.data


def make_datasets() -> dict[str, tf.data.Dataset]:
    images, labels = make_images(), np.arange(5)
    slices = tf.data.Dataset.from_tensor_slices
    return {
        "images": slices(images),
        "tuples": slices((images, labels)),
        "weighted": slices((images, labels, np.ones(5))),
        "dicts": slices({"image": images, "label": labels, "bbox": np.ones((5, 4))}),
        "unlabelled": slices({"image": images}),
        "single": slices((images,)),
    }


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("kind", make_datasets())
def test_datasets_of_all_forms(model, kind, batched) -> None:
    dataset = make_datasets()[kind]
    source = ImageSource(dataset.batch(3) if batched else dataset, model, 2)
    assert source.num_images is None
    batches = list(source)
    assert [len(x.inputs) for x in batches] == ([3, 2] if batched else [2, 2, 1])
    assert_same(batches, make_images())
    if kind in ("tuples", "weighted", "dicts"):
        assert np.concatenate([x.labels for x in batches]).tolist() == [0, 1, 2, 3, 4]
    else:
        assert all(x.labels is None for x in batches)


def test_a_dataset_of_unknown_rank_is_refused(model) -> None:
    dataset = tf.data.Dataset.from_generator(make_images, output_types=tf.float32)
    with pytest.raises(ValueError, match="must state the rank.*`output_signature`"):
        ImageSource(dataset, model, 2)


class Sequence(keras.utils.PyDataset):
    def __init__(self, labelled: bool) -> None:
        super().__init__()
        self.labelled = labelled

    def __len__(self) -> int:
        return 2

    def __getitem__(self, number: int):
        rows = slice(3 * number, 3 * number + 3)
        return (make_images()[rows], np.arange(5)[rows])[: 1 + self.labelled]


@pytest.mark.parametrize("labelled", [True, False])
def test_a_py_dataset_is_read(model, labelled) -> None:
    """Failed before: `images` must be an array."""
    source = ImageSource(Sequence(labelled), model, 2)
    batches = list(source)
    assert source.num_images is None and [len(x.inputs) for x in batches] == [3, 2]
    assert_same(batches, make_images())
    if labelled:
        assert np.concatenate([x.labels for x in batches]).tolist() == [0, 1, 2, 3, 4]


def test_a_py_dataset_without_an_end_is_refused(model) -> None:
    class Endless(Sequence):
        num_batches = None

    with pytest.raises(ValueError, match="must know how many batches it has"):
        ImageSource(Endless(True), model, 2)


# Files


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path, model) -> None:
    images = make_images().astype("uint8")
    names = ["b/2.png", "a.png", "b/1.PNG", "c.bmp"]
    for name, image in zip(names, images, strict=False):
        write_image(tmp_path / name, image)
    (tmp_path / "notes.txt").write_text("no image")
    expected = make_images()[[1, 2, 0, 3]]
    assert_same(read_all(tmp_path, model), expected)
    assert_same(read_all(str(tmp_path), model), expected)
    files = [tmp_path / "b/2.png", str(tmp_path / "a.png")]
    assert_same(read_all(files, model), make_images()[:2])
    assert_same(read_all(str(files[0]), model), make_images()[:1])


def test_files_are_resized_as_keras_does(tmp_path) -> None:
    model = make_model(6, 10, 3)
    random = np.random.default_rng(1)
    for name, size in [("a", (9, 7)), ("b", (20, 31))]:
        write_image(tmp_path / f"{name}.png", random.integers(0, 256, (*size, 3)))
    expected = keras.utils.image_dataset_from_directory(
        tmp_path, labels=None, image_size=(6, 10), shuffle=False, verbose=False
    )
    expected = np.concatenate([x.numpy() for x in expected])
    assert_same(read_all(tmp_path, model), expected)
    # A model of integers gets whole numbers.
    model = make_model(6, 10, 3, dtype="uint8")
    assert_same(read_all(tmp_path, model), np.rint(expected).astype("uint8"))


def test_files_for_a_sequential_model_are_resized(tmp_path) -> None:
    stack = [layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()]
    model = keras.Sequential([keras.Input((6, 10, 3)), *stack])
    write_image(tmp_path / "a.png", make_images()[0])
    assert read_all(tmp_path, model)[0].inputs.shape == (1, 6, 10, 3)


def test_grey_files_and_grey_models(tmp_path, model) -> None:
    grey = make_images()[0, ..., 0].astype("uint8")
    write_image(tmp_path / "grey.png", grey)
    expected = np.repeat(grey[None, ..., None], 3, axis=-1).astype("float32")
    assert_same(read_all(tmp_path, model), expected)
    assert_same(read_all(tmp_path, make_model(SIZE, SIZE, 1)), expected[..., :1])


def test_files_of_several_sizes_come_one_size_at_a_time(tmp_path) -> None:
    """Failed before: refused, `batch_size=1`."""
    model = make_model(None, None, 3)
    sizes = [(8, 8), (8, 8), (5, 8), (8, 8), (6, 7), (6, 7), (6, 7)]
    for number, (height, width) in enumerate(sizes):
        image = np.full((height, width, 3), number, "uint8")
        write_image(tmp_path / f"{number}.png", image)
    batches = read_all(tmp_path, model, 5)
    assert [x.inputs.shape[:3] for x in batches] == [
        (2, 8, 8),
        (1, 5, 8),
        (1, 8, 8),
        (1, 6, 7),
        (2, 6, 7),
    ]
    values = np.concatenate([batch.inputs[:, 0, 0, 0] for batch in batches])
    assert values.tolist() == list(range(7))
    assert [batch.start for batch in batches] == [0, 2, 3, 4, 5]
    names = [path.name for batch in batches for path in batch.files]
    assert names == [f"{number}.png" for number in range(7)]
    assert explain(model, [tmp_path / "4.png", tmp_path / "5.png"]).shape == (2, 6, 7)


def test_files_for_a_model_of_any_size_are_resized_on_demand(tmp_path) -> None:
    for name, height in (("a", 9), ("b", 20)):
        write_image(tmp_path / f"{name}.png", np.zeros((height, 7, 3), "uint8"))
    free = make_model(None, None, 3)
    (batch,) = read_all(tmp_path, free, image_size=(6, 10))
    np.testing.assert_array_equal(
        batch.inputs, read_all(tmp_path, make_model(6, 10, 3))[0].inputs
    )
    with pytest.raises(ValueError, match=r"shape \(None, 8, 8, 3\). Received .*6, 10"):
        read_all(tmp_path, make_model(), image_size=(6, 10))
    with pytest.raises(
        ValueError, match=r"is for files .*\(6, 10\) and ndarray of .5, 8"
    ):
        read_all(make_images(), free, image_size=(6, 10))
    for size in (224, (0, 5), (5, 5, 3), (5.0, 5)):
        with pytest.raises(ValueError, match=r"`image_size` must be \(height, width\)"):
            read_all(tmp_path, free, image_size=size)


def test_unreadable_files_are_left_out_and_named(tmp_path, model) -> None:
    """Failed before: one file such as macOS leaves behind ended the whole run."""
    for number in (0, 1, 3, 4):
        write_image(tmp_path / f"{number}.png", make_images()[number])
    (tmp_path / "2.png").write_bytes(b"\x00\x05\x16\x07 Mac OS X")
    (tmp_path / "5.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    source = ImageSource(tmp_path, model, 3, strict=False)
    for _ in range(2):  # each pass tells
        with pytest.warns(UserWarning, match="2 of 6 images cannot .*strict") as caught:
            batches = list(source)
        message = str(caught[0].message)
        assert "2.png': it is empty, or in no format" in message and "5.jpg" in message
    expected = make_images()[[0, 1, 3, 4]]
    assert_same(batches, expected)
    assert [batch.start for batch in batches] == [0, 3]
    assert [[x.name for x in batch.files] for batch in batches] == [
        ["0.png", "1.png"],
        ["3.png", "4.png"],
    ]
    assert source.num_images == 6
    with pytest.raises(ValueError, match=r"Cannot read the image '.*2.png': it is emp"):
        list(ImageSource(tmp_path, model, 3))


def test_no_readable_file_at_all_is_an_error(tmp_path, model) -> None:
    for number in range(12):
        (tmp_path / f"{number:02}.png").write_text("no image")
    with pytest.raises(ValueError, match="any of the images: .*09.png.*; and 2 more$"):
        list(ImageSource(tmp_path, model, 5, strict=False))


def test_pillow_images_are_read_like_files(tmp_path, model) -> None:
    """Failed before: `images` must be an array."""
    sizes = [(9, 7), (20, 31), (8, 8)]
    random = np.random.default_rng(1)
    for number, size in enumerate(sizes):
        image = random.integers(0, 256, (*size, 3)).astype("uint8")
        write_image(tmp_path / f"{number}.png", image)
    expected = read_all(tmp_path, model)
    pictures = [Image.open(path) for path in list_files(tmp_path)]
    assert_same(read_all(pictures, model), np.concatenate([x.inputs for x in expected]))
    assert {x.files for x in read_all(pictures, model)} == {None}
    assert_same(read_all(pictures[0], model), expected[0].inputs[:1])
    (batch,) = read_all(pictures, make_model(None, None, 3), 3, image_size=(5, 4))
    assert batch.inputs.shape == (3, 5, 4, 3)


# What is refused


@pytest.mark.parametrize("images", [None, 3, object(), ["a", 3], b"ab"])
def test_images_of_another_kind_are_refused(model, images) -> None:
    with pytest.raises(TypeError, match="`images` must be an array .*Received: "):
        read_all(images, model)


@pytest.mark.parametrize("images", [[], make_images(0), np.zeros((0, 3))])
def test_no_images_are_refused(model, images) -> None:
    with pytest.raises(ValueError, match="`images` must hold at least one image"):
        read_all(images, model)
    dataset = tf.data.Dataset.from_tensor_slices(make_images()).take(0)
    with pytest.raises(ValueError, match="`images` must hold at least one image"):
        read_all(dataset, model)


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, "2", None])
def test_impossible_batch_sizes_are_refused(model, batch_size) -> None:
    with pytest.raises(ValueError, match="`batch_size` must be an integer >= 1. Recei"):
        read_all(make_images(), model, batch_size)


def test_objects_are_named_and_not_printed(model) -> None:
    with pytest.raises(
        TypeError, match=r"dtype object and the shape \(2, 8, 8, 3\)"
    ) as e:
        read_all(np.zeros((2, 8, 8, 3), object), model)
    assert len(str(e.value)) < 400


@pytest.mark.parametrize("ragged", [False, True])
def test_data_sets_of_several_sizes(ragged) -> None:
    images = [
        np.full((6 + number // 2, 8, 3), number, "float32") for number in range(5)
    ]
    dataset = tf.data.Dataset.from_generator(
        lambda: iter(zip(images, range(5), strict=True)),
        output_signature=(tf.TensorSpec((None, None, 3)), tf.TensorSpec((), "int32")),
    )
    dataset = dataset.ragged_batch(3) if ragged else dataset
    open_size = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(2, 3)])
    found = list(ImageSource(dataset, open_size, 4))
    assert [x.inputs.shape[:2] for x in found] == [(2, 6), (2, 7), (1, 8)]
    assert [x.start for x in found] == [0, 2, 4]
    assert np.concatenate([x.labels for x in found]).tolist() == list(range(5))
    assert [x.inputs[0, 0, 0, 0] for x in found] == [0, 2, 4]
