"""CUB-200-2011: a small folder made here, and real photographs where they are."""

import doctest
import importlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from builders import BIRDS as CUB

from keras_embcam.datasets import cub200

# id, class, split, file, x, y, width, height of the box. Images are 40 high and 80
# wide. Ids have gaps and are not in the order of the classes' ids.
BIRDS = [
    (3, 2, 1, "002.Teal/a.png", 20.0, 10.0, 40.0, 20.0),
    (5, 2, 0, "002.Teal/b_c.jpg", 60.0, 0.0, 30.0, 20.0),  # passes the right border
    (11, 7, 1, "007.Coot/d.png", -4.0, -4.0, 24.0, 24.0),  # and the upper left one
    (12, 9, 0, "009.Gull/e.png", 0.0, 0.0, 80.0, 40.0),
]


def write_tables(folder: Path, birds: list[tuple]) -> None:
    tables = {
        "classes.txt": "2 002.Teal\n7 007.Coot\n9 009.Gull\n",
        "images.txt": "".join(f"{b[0]} {b[3]}\n" for b in birds),
        "image_class_labels.txt": "".join(f"{b[0]} {b[1]}\n" for b in birds),
        "train_test_split.txt": "".join(f"{b[0]} {b[2]}\n" for b in birds),
        "bounding_boxes.txt": "".join(
            f"{b[0]} {b[4]} {b[5]} {b[6]} {b[7]}\n" for b in birds
        ),
    }
    for name, text in tables.items():
        (folder / name).write_text(text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of four images; the second is a grey JPEG, the birds are bright."""
    write_tables(tmp_path, BIRDS)
    for bird in BIRDS:
        left, top, width, height = (int(v) for v in bird[4:])
        pixels = np.zeros((40, 80, 3), np.uint8)
        pixels[max(top, 0) : top + height, max(left, 0) : left + width] = 200
        if bird[3].endswith(".jpg"):
            encoded = tf.io.encode_jpeg(pixels[..., :1], format="grayscale")
        else:
            encoded = tf.io.encode_png(pixels)
        tf.io.write_file(str(tmp_path / "images" / bird[3]), encoded)
        # Half of the annotators marked one pixel more.
        mask = pixels[..., :1] // 200 * 255
        mask[-1, -1] = max(mask[-1, -1], 127)
        name = bird[3].rsplit(".", 1)[0] + ".png"
        path = tmp_path / "segmentations" / name
        tf.io.write_file(str(path), tf.io.encode_png(mask))
    (tmp_path / "parts").mkdir()
    lines = ["3 1 20.0 10.0 1", "3 2 0.0 0.0 0", "5 2 79.0 39.0 1", "99 1 1.0 1.0 1"]
    (tmp_path / "parts" / "part_locs.txt").write_text("\n".join(lines))
    return tmp_path


@pytest.mark.parametrize("name", ["cub200", "cub200_tables"])
def test_doctests(name: str) -> None:
    module = importlib.import_module(f"keras_embcam.datasets.{name}")
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


def test_images_labels_and_boxes(folder: Path) -> None:
    dataset = cub200(folder)
    assert len(dataset) == 4
    examples = list(dataset.as_numpy_iterator())
    assert [e["label"] for e in examples] == [0, 0, 1, 2]
    assert {e["label"].dtype for e in examples} == {np.dtype("int32")}
    assert {(e["image"].shape, str(e["image"].dtype)) for e in examples} == {
        ((40, 80, 3), "uint8")
    }
    # By hand: x / 80 and y / 40, clipped to the image.
    expected = [
        [0.25, 0.25, 0.75, 0.75],
        [0, 0.75, 0.5, 1],
        [0, 0, 0.5, 0.25],
        [0, 0, 1, 1],
    ]
    np.testing.assert_allclose([e["bbox"] for e in examples], expected, atol=1e-6)
    assert sorted(examples[0]) == ["bbox", "image", "label"]


def test_parts_and_segmentations(folder: Path) -> None:
    examples = list(cub200(folder, parts=True, segmentations=True))
    parts = np.array([e["parts"] for e in examples])
    expected = np.zeros((4, 2, 3))
    expected[0, 0] = [10 / 40, 20 / 80, 1]
    expected[1, 1] = [39 / 40, 79 / 80, 1]
    np.testing.assert_allclose(parts, expected, rtol=1e-6)
    for example in examples:
        bright = example["image"].numpy()[..., 0] > 100
        assert example["segmentation_mask"].dtype == tf.bool
        # The pixel that half of the annotators marked does not count.
        np.testing.assert_array_equal(example["segmentation_mask"], bright)


@pytest.mark.parametrize("framing", ["full_frame", "centre_crop"])
def test_one_size_can_be_batched(folder: Path, framing: str) -> None:
    dataset = cub200(
        folder, image_size=(20, 24), framing=framing, parts=True, segmentations=True
    )
    (batch,) = dataset.batch(4)
    assert batch["image"].shape == (4, 20, 24, 3)
    assert batch["segmentation_mask"].shape == (4, 20, 24)
    assert batch["parts"].shape == (4, 2, 3)
    # The known shapes let a model be built from the dataset's specification.
    assert dataset.element_spec["image"].shape == (20, 24, 3)
    assert dataset.element_spec["segmentation_mask"].shape == (20, 24)


def test_splits(folder: Path) -> None:
    labels = {
        split: [int(e["label"]) for e in cub200(folder, split=split)]
        for split in ("first_half", "second_half", "official_train", "official_test")
    }
    # One of three classes in the first half, two in the second.
    assert labels["first_half"] == [0, 0] and labels["second_half"] == [1, 2]
    assert labels["official_train"] == [0, 1] and labels["official_test"] == [0, 2]


def test_nothing_is_decoded_before_it_is_asked_for(folder: Path) -> None:
    dataset = cub200(folder)
    (folder / "images" / BIRDS[3][3]).unlink()
    assert len(list(dataset.take(3))) == 3


@pytest.mark.parametrize("damage", ["missing", "truncated", "text"])
def test_an_unreadable_image_is_named(folder: Path, damage: str) -> None:
    path = folder / "images" / BIRDS[1][3]
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    if damage == "text":
        path.write_text("not an image")
    with pytest.raises(tf.errors.OpError, match="Cannot read the image .*b_c.jpg"):
        list(cub200(folder))


@pytest.mark.parametrize(
    "name", ["images.txt", "bounding_boxes.txt", "classes.txt", "parts/part_locs.txt"]
)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing. Pass the folder"):
        cub200(folder, parts=True)


def test_missing_segmentations(folder: Path) -> None:
    (folder / "segmentations").rename(folder / "elsewhere")
    with pytest.raises(FileNotFoundError, match="segmentations is missing. The masks"):
        cub200(folder, segmentations=True)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("images.txt", "one file.png", "a number and a name. Received in line 1: 'one"),
        ("images.txt", "3\n", "a number and a name. Received in line 1: '3'"),
        ("bounding_boxes.txt", "3 1 2\n", "5 numbers. Received in line 1: '3 1 2'"),
        ("bounding_boxes.txt", "\n3 1 2 3 x\n", "5 numbers. Received in line 2"),
        ("bounding_boxes.txt", "3 1 2 3 4\n", "no line for 3 images .*\\[5, 11, 12\\]"),
        ("image_class_labels.txt", "3 2\n5 2\n11 7\n12 4", "does not have: \\[4\\]"),
        ("train_test_split.txt", "\n", "train_test_split.txt is empty"),
    ],
)
def test_another_layout(folder: Path, name: str, text: str, message: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        cub200(folder)


def test_unknown_and_empty_splits(folder: Path) -> None:
    with pytest.raises(ValueError, match="`split` must be one of .*split='train'"):
        cub200(folder, split="train")
    write_tables(folder, BIRDS[2:])
    with pytest.raises(ValueError, match="holds no image.*split='first_half' of 2 im"):
        cub200(folder, split="first_half")


@pytest.fixture(scope="module")
def real_folder() -> Path:
    if not CUB.is_dir():
        pytest.skip("no CUB_mini: set KERAS_EMBCAM_TEST_DATA to the folder of it")
    return CUB


def test_real_folder_splits(real_folder: Path) -> None:
    dataset = cub200(real_folder)
    assert len(dataset) == 1115
    halves = [cub200(real_folder, split=f"{half}_half") for half in ("first", "second")]
    classes = (real_folder / "classes.txt").read_text().split()[1::2]
    assert len(classes) == 20
    files = (real_folder / "images.txt").read_text().split()[1::2]
    num_first = sum(file.split("/")[0] in classes[:10] for file in files)
    assert [len(half) for half in halves] == [num_first, 1115 - num_first]
    num_train = len(cub200(real_folder, split="official_train"))
    num_test = len(cub200(real_folder, split="official_test"))
    assert (num_train, num_test) == (600, 515)


def test_real_birds(real_folder: Path) -> None:
    """Parts are points of the bird: those visible lie in its box, or close to it."""
    dataset = cub200(real_folder, image_size=96, parts=True).shard(40, 0)
    labels, num_inside, num_visible = [], 0, 0
    for example in dataset.as_numpy_iterator():
        assert example["image"].shape == (96, 96, 3)
        labels.append(int(example["label"]))
        top, left, bottom, right = example["bbox"]
        assert 0 <= top < bottom <= 1 and 0 <= left < right <= 1
        visible = example["parts"][example["parts"][:, 2] > 0]
        low = visible[:, :2] >= [top - 0.02, left - 0.02]
        high = visible[:, :2] <= [bottom + 0.02, right + 0.02]
        num_inside += int(np.all(low & high, axis=1).sum())
        num_visible += len(visible)
    assert labels == sorted(labels) and len(set(labels)) > 10
    assert num_inside >= 0.99 * num_visible > 0


def test_real_centre_crops(real_folder: Path) -> None:
    """A box inside the square crop keeps its proportions in pixels."""
    whole = cub200(real_folder).shard(100, 0)
    crops = cub200(real_folder, image_size=128, framing="centre_crop").shard(100, 0)
    num_compared = 0
    for full, crop in zip(
        whole.as_numpy_iterator(), crops.as_numpy_iterator(), strict=True
    ):
        height, width = full["image"].shape[:2]
        side = min(height, width)
        start = np.array([(height - side) // 2, (width - side) // 2] * 2)
        pixels = full["bbox"] * [height, width, height, width] - start
        expected = np.clip(pixels / side, 0, 1)
        np.testing.assert_allclose(crop["bbox"], expected, atol=1e-5)
        num_compared += 1
    assert num_compared == 12
