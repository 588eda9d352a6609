"""from_tfds, with the library's own mock data and with a data set written here."""

import contextlib
import doctest
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_embcam.datasets import from_tfds

try:
    import tensorflow_datasets as tfds
except ImportError:
    tfds = None

needs_tfds = pytest.mark.skipif(
    tfds is None, reason="tensorflow-datasets is not installed: the extra [tfds]"
)
IMAGE = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)
TRIMAP = np.array([1, 2, 3, 2] * 6, np.uint8).reshape(6, 4, 1)
BOX = np.array([0.25, 0.5, 0.75, 1.0], np.float32)


@needs_tfds
def test_doctests() -> None:
    module = importlib.import_module("keras_embcam.datasets.tfds")
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r'pip install "keras-embcam\[tfds\]"'):
        from_tfds("caltech_birds2011", "train")


@contextlib.contextmanager
def mocked(rows: dict[str, Any]) -> Iterator[None]:
    """Every builder of the library yields this one row."""

    def as_dataset(builder: Any, *args: Any, **kwargs: Any) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensors(rows)

    with tfds.testing.mock_data(as_dataset_fn=as_dataset):
        yield


@needs_tfds
def test_values_of_a_real_builder() -> None:
    rows = {
        "image": IMAGE,
        "image/filename": "bird.jpg",
        "label": np.int64(17),
        "label_name": "Cardinal",
        "bbox": BOX,
        "segmentation_mask": TRIMAP,
    }
    with mocked(rows):
        (example,) = from_tfds(tfds.builder("caltech_birds2011"), "train")
    assert sorted(example) == ["bbox", "image", "label", "segmentation_mask"]
    np.testing.assert_array_equal(example["image"], IMAGE)
    np.testing.assert_array_equal(example["bbox"], BOX)
    assert example["label"].dtype == tf.int32 and example["label"] == 17
    # Without a foreground the numbers stay, and with them the undecided pixels.
    assert example["segmentation_mask"].dtype == tf.uint8
    np.testing.assert_array_equal(example["segmentation_mask"], TRIMAP[..., 0])


@needs_tfds
@pytest.mark.parametrize(
    ("foreground", "expected"), [(1, TRIMAP == 1), (lambda mask: mask > 1, TRIMAP > 1)]
)
def test_trimaps_and_named_features(foreground: Any, expected: np.ndarray) -> None:
    rows = {
        "image": IMAGE,
        "label": np.int64(3),
        "species": np.int64(1),
        "file_name": "cat.jpg",
        "segmentation_mask": TRIMAP,
        "head_bbox": BOX,
    }
    with mocked(rows):
        (example,) = from_tfds("oxford_iiit_pet", "train", foreground=foreground)
        features = {"bbox": "head_bbox", "label": "species"}
        (named,) = from_tfds("oxford_iiit_pet", "train", features=features)
    # A box of the head is no box of the animal, and is not taken for it.
    assert sorted(example) == ["image", "label", "segmentation_mask"]
    assert example["segmentation_mask"].dtype == tf.bool
    np.testing.assert_array_equal(example["segmentation_mask"], expected[..., 0])
    assert example["label"] == 3 and named["label"] == 1
    np.testing.assert_array_equal(named["bbox"], BOX)


@needs_tfds
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("caltech_birds2011", {"image", "label", "bbox", "segmentation_mask"}),
        ("oxford_iiit_pet", {"image", "label", "segmentation_mask"}),
        ("cars196", {"image", "label", "bbox"}),
        ("stanford_dogs", {"image", "label", "bbox"}),
        ("coco/2017", {"image", "bbox"}),
        ("voc/2007", {"image", "bbox"}),
        ("wider_face", {"image", "bbox"}),
        ("mnist", {"image", "label"}),
    ],
)
@pytest.mark.parametrize("framing", ["full_frame", "centre_crop"])
def test_mock_data(name: str, expected: set[str], framing: str) -> None:
    """Features, types and shapes are the library's own, values are random."""
    with tfds.testing.mock_data(num_examples=2):
        dataset = from_tfds(name, "train", image_size=(32, 24), framing=framing)
        examples = list(dataset)
    assert len(examples) == 2
    for example in examples:
        assert set(example) == expected
        assert example["image"].shape[:2] == (32, 24)
        assert example["image"].dtype == tf.uint8
        if "label" in expected:
            assert example["label"].shape == () and example["label"].dtype == tf.int32
        if "bbox" in expected:
            one_box = name in ("caltech_birds2011", "cars196")
            assert example["bbox"].shape.rank == (1 if one_box else 2)
            assert example["bbox"].shape[-1] == 4
            assert example["bbox"].dtype == tf.float32
        if "segmentation_mask" in expected:
            assert example["segmentation_mask"].shape == (32, 24)


@needs_tfds
def test_several_boxes_are_padded_with_empty_ones() -> None:
    boxes = np.stack([BOX, BOX / 2])
    rows = {"image": IMAGE, "label": np.int64(1), "objects": {"bbox": boxes}}
    with mocked(rows | {"image/filename": "dog.jpg"}):
        dataset = from_tfds("stanford_dogs", "train").repeat(2)
    (batch,) = dataset.padded_batch(
        2, padded_shapes={"bbox": (3, 4)} | {"image": (None, None, 3), "label": ()}
    )
    np.testing.assert_array_equal(batch["bbox"][0, :2], boxes)
    np.testing.assert_array_equal(batch["bbox"][0, 2], np.zeros(4))


def stored(folder: Path, features: dict[str, Any], rows: dict[str, Any]) -> Any:
    """A builder of data that the library has really written to disk."""
    # Version 4.9.10 imports it for builders of one's own without requiring it.
    pytest.importorskip("importlib_resources")
    return tfds.dataset_builders.store_as_tfds_dataset(
        name="tiny",
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={"train": [("first", rows)]},
        data_dir=folder,
    )


@needs_tfds
def test_data_on_disk(tmp_path: Path) -> None:
    features = {
        "picture": tfds.features.Image(shape=(6, 4, 3)),
        "kind": tfds.features.ClassLabel(num_classes=5),
        "animal": {"bbox": tfds.features.BBoxFeature()},
        "segmentation_mask": tfds.features.Image(shape=(6, 4, 1)),
    }
    rows = {
        "picture": IMAGE,
        "kind": 4,
        "animal": {"bbox": tfds.features.BBox(*map(float, BOX))},
        "segmentation_mask": TRIMAP,
    }
    builder = stored(tmp_path, features, rows)
    (example,) = from_tfds(builder, "train", foreground=1)
    np.testing.assert_array_equal(example["image"], IMAGE)
    np.testing.assert_array_equal(example["bbox"], BOX)
    np.testing.assert_array_equal(example["segmentation_mask"], TRIMAP[..., 0] == 1)
    assert example["label"] == 4


@needs_tfds
def test_two_labels_are_left_out_unless_one_is_named(tmp_path: Path) -> None:
    features = {
        "image": tfds.features.Image(shape=(6, 4, 3)),
        "breed": tfds.features.ClassLabel(num_classes=5),
        "species": tfds.features.ClassLabel(num_classes=5),
    }
    builder = stored(tmp_path, features, {"image": IMAGE, "breed": 1, "species": 2})
    (example,) = from_tfds(builder, "train")
    assert sorted(example) == ["image"]
    (example,) = from_tfds(builder, "train", features={"label": "species"})
    assert example["label"] == 2


@needs_tfds
def test_boxes_of_another_format(tmp_path: Path) -> None:
    features = {
        "image": tfds.features.Image(shape=(6, 4, 3)),
        "bbox": tfds.features.BBoxFeature(bbox_format="XYXY"),
    }
    box = tfds.features.BBox(1.0, 2.0, 3.0, 4.0)
    builder = stored(tmp_path, features, {"image": IMAGE, "bbox": box})
    with pytest.raises(ValueError, match="Boxes must be rel_yxyx.*'bbox' with bbox_f"):
        from_tfds(builder, "train")


@needs_tfds
def test_errors(tmp_path: Path) -> None:
    builder = tfds.builder("caltech_birds2011", data_dir=tmp_path)
    with pytest.raises(ValueError, match="The data of caltech_birds2011.* not prepa"):
        from_tfds(builder, "train")
    with pytest.raises(ValueError, match=r"of which \['boxes', 'outline'\] are unkn"):
        from_tfds(builder, "train", features={"boxes": "outline"})
    with pytest.raises(ValueError, match="No feature is plainly the image.*'features'"):
        from_tfds(tfds.builder("penguins", data_dir=tmp_path), "train")
    with pytest.raises(ValueError, match="`framing` must be one of"):
        from_tfds(builder, "train", framing="stretch")
