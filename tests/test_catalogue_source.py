"""What catalogues are read from, and what is refused; without starting Ray."""

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from builders import encode_image
from keras import layers
from PIL import Image

from keras_embcam import explain
from keras_embcam.catalogue import CatalogueCounts, actor, driver, explain_catalogue
from keras_embcam.catalogue.manifest import write_whole
from keras_embcam.catalogue.source import Part, Source, list_parts, read_items
from keras_embcam.heatmaps import find_boxes
from keras_embcam.metrics import heatmap_ratio_in_boxes
from keras_embcam.presets import get_preset

ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")
pa = pytest.importorskip("pyarrow", reason="the extra [ray] is not installed")
pq = pytest.importorskip("pyarrow.parquet")

SIZE = 16


def make_model(*first: Any, size: int | None = SIZE, dtype: str = "float32") -> Any:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((size, size, 3), dtype=dtype),
            *first,
            layers.Conv2D(6, 3, strides=2, activation="relu", name="conv"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4),
        ]
    )


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return make_model(layers.Rescaling(1 / 255))


@pytest.fixture(scope="module")
def model_path(model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.keras"
    model.save(path)
    return path


def decode_image(encoded: bytes) -> np.ndarray:
    return tf.image.resize(tf.io.decode_png(encoded), (SIZE, SIZE)).numpy()


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for seed in range(3):
        (folder / f"{seed}.png").write_bytes(encode_image(seed))
    return folder


@pytest.fixture(autouse=True)
def without_actors(monkeypatch) -> None:
    """The explaining of parts by this process itself, in place of Ray's actors."""

    def explain_parts(parts: Any, source: Any, settings: Any, *_: Any) -> None:
        explainer = driver.PartExplainer(source, settings)
        for number, part in parts.items():
            row = {"number": number, **part._asdict()}
            (problem,) = explainer(pa.Table.from_pylist([row]))["problem"].to_pylist()
            if problem is not None:
                raise ValueError(problem)

    monkeypatch.setattr(driver, "_explain_parts", explain_parts)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)


def read_rows(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder).to_pylist()


def standardize(images: np.ndarray) -> np.ndarray:
    """Divide by the deviation: 0 / 0 where there is a single colour."""
    axes = (1, 2, 3)
    with np.errstate(invalid="ignore"):
        centred = images - images.mean(axes, keepdims=True)
        return centred / images.std(axes, keepdims=True)


def refuse(images: np.ndarray) -> np.ndarray:
    """Raise an error of a kind that nobody expects."""
    if not images.any(axis=(1, 2, 3)).all():
        raise KeyError("black")
    return images


def write_records(path: Path, records: list[bytes]) -> None:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)


def make_example(image: bytes | None, key: Any, box: list | None) -> bytes:
    features = {}
    if image is not None:
        features["image"] = tf.train.Feature(
            bytes_list=tf.train.BytesList(value=[image])
        )
    if isinstance(key, int):
        features["key"] = tf.train.Feature(int64_list=tf.train.Int64List(value=[key]))
    elif key is not None:
        value = tf.train.BytesList(value=[key.encode()])
        features["key"] = tf.train.Feature(bytes_list=value)
    if box is not None:
        value = tf.train.FloatList(value=box)
        features["box"] = tf.train.Feature(float_list=value)
    return tf.train.Example(
        features=tf.train.Features(feature=features)
    ).SerializeToString()


class TestTFRecord:
    def test_ids_boxes_and_damaged_records(self, model, model_path, tmp_path) -> None:
        images = [encode_image(seed) for seed in range(6)]
        box = [0.1, 0.2, 0.7, 0.9]
        source = tmp_path / "source"
        source.mkdir()
        records = [
            make_example(images[0], "a", box),
            make_example(images[1], 7, None),
            b"\xff" * 40,
            make_example(images[3], None, [0, 0, 0.5, 0.5, *box]),
            make_example(None, "d", box),
        ]
        write_records(source / "b.tfrecord-00000-of-00002", records)
        records = [make_example(images[5], "f", box[:3]), make_example(b"", "g", None)]
        write_records(source / "b.tfrecord-00001-of-00002", records)
        counts = explain_catalogue(
            model_path,
            source,
            tmp_path / "out",
            id_column="key",
            box_column="box",
            images_per_part=2,
        )
        assert counts == CatalogueCounts(7, 4)
        assert len(list((tmp_path / "out").glob("part-*"))) == 2
        rows = read_rows(tmp_path / "out")
        name = "b.tfrecord-00000-of-00002"
        ids = ["a", "7", f"{name}:2", f"{name}:3", "d", "f", "g"]
        assert [row["id"] for row in rows] == ids
        errors = [row["error"] for row in rows]
        assert errors[0] is errors[1] is errors[3] is None
        assert errors[2].startswith("Damaged record: ")
        assert errors[4] == "There is no 'image'."
        assert errors[5].startswith("A box must be 4 numbers. Received: [0.1")
        assert errors[6].startswith("Cannot read the image: ")
        pictures = np.stack([decode_image(images[x]) for x in (0, 3)])
        heatmaps = explain(model, pictures)
        boxes = np.float32([[box, [0] * 4], [[0, 0, 0.5, 0.5], box]])
        np.testing.assert_allclose(
            [rows[0]["ratio"], rows[3]["ratio"]],
            heatmap_ratio_in_boxes(heatmaps, boxes, "rel_yxyx"),
            atol=1e-6,
        )
        assert rows[1]["ratio"] is None and rows[1]["embedding"] is not None

    @pytest.mark.parametrize("change", ["compressed", "other"])
    def test_a_file_that_is_none_is_refused(self, change, model_path, tmp_path) -> None:
        path = tmp_path / "a.tfrecord"
        write_records(path, [make_example(encode_image(0), None, None)] * 2)
        content = path.read_bytes()
        if change == "compressed":
            options = tf.io.TFRecordOptions(compression_type="GZIP")
            with tf.io.TFRecordWriter(str(path), options) as writer:
                writer.write(content)
        else:
            path.write_bytes(b"nothing of the kind, but long enough")
        with pytest.raises(ValueError, match="is no TFRecord file, or compressed"):
            explain_catalogue(model_path, path, tmp_path / "out")

    @pytest.mark.parametrize("change", ["cut", "flipped"])
    def test_what_lies_behind_damage_is_one_error(
        self, change, model_path, tmp_path
    ) -> None:
        path = tmp_path / "a.tfrecord"
        record = make_example(encode_image(0), None, None)
        write_records(path, [record] * 4)
        content = bytearray(path.read_bytes())
        size = len(content) // 4
        if change == "cut":
            content = content[: 2 * size + 30]
        else:
            content[2 * size + size // 2] ^= 1  # its checksum tells
        path.write_bytes(content)
        counts = explain_catalogue(model_path, path, tmp_path / "out")
        assert counts == CatalogueCounts(3, 1)
        errors = [row["error"] for row in read_rows(tmp_path / "out")]
        assert errors[:2] == [None, None]
        assert errors[2].startswith("Damaged record: this one and all behind it")

    def test_a_file_is_a_part_and_an_empty_one_has_no_rows(
        self, model_path, tmp_path
    ) -> None:
        source = tmp_path / "source"
        source.mkdir()
        write_records(source / "a.tfrecord", [])
        record = make_example(encode_image(0), None, None)
        write_records(source / "b.tfrecord", [record] * 3)
        opened = Source(source, "tfrecord", "image", None, None)
        inputs = [["a.tfrecord", 0, 0], ["b.tfrecord", 0, 0]]
        assert list_parts(opened, inputs, 2) == [
            Part(["a.tfrecord"], 0, None),
            Part(["b.tfrecord"], 0, None),
        ]
        counts = explain_catalogue(model_path, source, tmp_path / "out")
        assert counts == CatalogueCounts(3, 0)
        with pytest.raises(ValueError, match="must hold images. It holds none"):
            explain_catalogue(model_path, source / "a.tfrecord", tmp_path / "none")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"image_column": "jpeg"}, r"has no column 'jpeg'.*\['image', 'key'\]"),
            ({"id_column": "a", "box_column": "b"}, "has no column 'a', 'b'"),
        ],
    )
    def test_features_must_fit(self, options, message, model_path, tmp_path) -> None:
        record = make_example(encode_image(0), "a", None)
        write_records(tmp_path / "a.tfrecord", [record])
        with pytest.raises(ValueError, match=message):
            explain_catalogue(
                model_path, tmp_path / "a.tfrecord", tmp_path / "out", **options
            )


class TestParquet:
    def test_each_part_has_its_rows(self, tmp_path) -> None:
        """For any part, whatever the row groups."""
        images = [bytes([number]) for number in range(150)]
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"image": images}), path, row_group_size=70)
        source = Source(path, "parquet", "image", None, None)
        for first, count in ((0, 1), (0, 150), (69, 2), (70, 70), (139, 11), (140, 3)):
            items = [*read_items(source, Part(["a.parquet"], first, count))]
            assert [item.image for item in items] == images[first : first + count]
            assert items[0].id == f"a.parquet:{first}"

    def test_boxes_and_ratios(self, model, model_path, tmp_path) -> None:
        """Of two files, with row groups across parts."""
        images = [encode_image(seed) for seed in range(7)]
        boxes = [[0.1, 0.2, 0.7, 0.9], None] * 3 + [[0, 0, 0.5, 0.5, 0.2, 0.1, 0.9, 1]]
        table = pa.table({"key": range(7), "jpeg": images, "where": boxes})
        source = tmp_path / "source"
        source.mkdir()
        pq.write_table(table[:6], source / "a.parquet", row_group_size=2)
        pq.write_table(table[6:], source / "b.parquet")
        counts = explain_catalogue(
            model_path,
            source,
            tmp_path / "out",
            images_per_part=3,
            image_column="jpeg",
            id_column="key",
            box_column="where",
        )
        assert counts == CatalogueCounts(7, 0)
        rows = read_rows(tmp_path / "out")
        assert [row["id"] for row in rows] == [str(key) for key in range(7)]
        heatmaps = explain(model, np.stack([decode_image(x) for x in images]))
        for row, box, heatmap in zip(rows, boxes, heatmaps, strict=True):
            if box is None:
                assert row["ratio"] is None
            else:
                several = np.float32(box).reshape(1, -1, 4)
                (ratio,) = heatmap_ratio_in_boxes(heatmap[None], several, "rel_yxyx")
                np.testing.assert_allclose(row["ratio"], ratio, atol=1e-5)

    def test_rows_without_something(self, model_path, tmp_path) -> None:
        boxes = [[[0.0, 0.0, 1.0, 1.0]], None, [], [[2.0, 2.0, 3.0, 3.0]]]
        table = pa.table(
            {
                "image": pa.array([encode_image(0), None, *[encode_image(1)] * 2]),
                "key": ["a", "b", None, "d"],
                "box": boxes,
            }
        )
        pq.write_table(table, tmp_path / "a.parquet")
        counts = explain_catalogue(
            model_path,
            tmp_path / "a.parquet",
            tmp_path / "out",
            id_column="key",
            box_column="box",
            bounding_box_format="rel_xyxy",
        )
        assert counts == CatalogueCounts(4, 1)
        rows = read_rows(tmp_path / "out")
        assert [row["id"] for row in rows] == ["a", "b", "a.parquet:2", "d"]
        assert rows[1]["error"] == "There is no 'image'."
        np.testing.assert_allclose(rows[0]["ratio"], 1, atol=1e-6)
        assert [row["ratio"] for row in rows[1:]] == [None] * 3  # the last lies outside

    def test_boxes_of_pixels_are_those_of_the_encoded_image(
        self, model_path, tmp_path
    ) -> None:
        image = encode_image(4)  # 24 x 30
        ratios = []
        for number, (box, kind) in enumerate(
            [([6, 12, 24, 20], "xyxy"), ([0.5, 0.2, 20 / 24, 0.8], "rel_yxyx")]
        ):
            path = tmp_path / f"{number}.parquet"
            boxes = pa.array([box], pa.list_(pa.float32()))
            pq.write_table(pa.table({"image": [image], "box": boxes}), path)
            out = tmp_path / str(number)
            options = {"box_column": "box", "bounding_box_format": kind}
            explain_catalogue(model_path, path, out, **options)
            ratios += [row["ratio"] for row in read_rows(out)]
        assert 0.05 < ratios[0] < 0.95
        np.testing.assert_allclose(*ratios, atol=1e-6)

    def test_a_table_without_rows_is_refused(self, model_path, tmp_path) -> None:
        table = pa.table({"image": pa.array([], pa.binary())})
        pq.write_table(table, tmp_path / "a.parquet")
        with pytest.raises(ValueError, match="must hold images: .* has no rows"):
            explain_catalogue(model_path, tmp_path / "a.parquet", tmp_path / "out")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"image_column": "jpeg"}, r"has no column 'jpeg'.*\['image', 'text'\]"),
            ({"id_column": "a", "box_column": "b"}, "has no column 'a', 'b'"),
            ({"image_column": "text"}, "'text' must hold encoded images.*is string"),
        ],
    )
    def test_columns_must_fit(self, options, message, model_path, tmp_path) -> None:
        table = pa.table({"image": [b""], "text": ["a"]})
        pq.write_table(table, tmp_path / "a.parquet")
        with pytest.raises(ValueError, match=message):
            explain_catalogue(
                model_path, tmp_path / "a.parquet", tmp_path / "out", **options
            )


class TestModels:
    def explain(self, model: Any, source: Path, folder: Path, **options: Any) -> Any:
        model.save(folder / "model.keras")
        explain_catalogue(
            folder / "model.keras", source, folder / "out", batch_size=2, **options
        )
        return read_rows(folder / "out")

    def test_one_that_takes_integers(self, photographs, tmp_path) -> None:
        model = make_model(layers.Rescaling(1 / 255, dtype="float32"), dtype="uint8")
        rows = self.explain(model, photographs, tmp_path)
        expected = explain(model, photographs, details=True).embeddings
        embeddings = [row["embedding"] for row in rows]
        np.testing.assert_allclose(embeddings, expected, atol=1e-6)

    def test_one_that_takes_any_size(self, model, photographs, tmp_path) -> None:
        free = make_model(layers.Rescaling(1 / 255), size=None)
        with pytest.raises(ValueError, match="images of any size: pass `image_size`"):
            self.explain(free, photographs, tmp_path)
        shutil.rmtree(tmp_path / "out")
        rows = self.explain(free, photographs, tmp_path, image_size=(SIZE, SIZE))
        expected = explain(model, photographs, details=True).embeddings
        embeddings = [row["embedding"] for row in rows]
        np.testing.assert_allclose(embeddings, expected, atol=1e-6)

    def test_an_embedding_that_is_none_is_the_error_of_its_image(
        self, tmp_path
    ) -> None:
        images = keras.Input((SIZE, SIZE, 3))
        x = layers.Conv2D(6, 3, activation="relu")(images)
        x = layers.GlobalAveragePooling2D()(x)
        # NaN for the bright image alone, behind the ReLU: oneDNN's turns NaN into 0.
        brightness = keras.ops.mean(images, axis=(1, 2, 3))[:, None]
        model = keras.Model(
            images, layers.Dense(4)(x) + keras.ops.log(254.5 - brightness)
        )
        source = tmp_path / "source"
        source.mkdir()
        for name, pixel in (("bright", 255), ("dark", 1)):
            picture = np.full((SIZE, SIZE, 3), pixel, "uint8")
            content = tf.io.encode_png(picture).numpy()
            (source / f"{name}.png").write_bytes(content)
        bright, dark = self.explain(model, source, tmp_path)
        assert bright["error"] == "The embedding holds NaN or infinity."
        assert bright["embedding"] is None
        assert dark["error"] is None and np.isfinite(dark["embedding"]).all()

    def test_a_preset_is_that_of_explain(self, photographs, tmp_path) -> None:
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((SIZE, SIZE, 3)),
                layers.Conv2D(4, 3, activation="relu"),
                layers.MaxPooling2D(),
                layers.Conv2D(6, 3, activation="relu"),
                layers.GlobalAveragePooling2D(),
                layers.Dense(4),
            ]
        )
        model.save(tmp_path / "model.keras")
        explain_catalogue(
            tmp_path / "model.keras", photographs, tmp_path / "out", preset="localize"
        )
        paths = sorted(photographs.iterdir())
        heatmaps = explain(model, paths, preset="localize")
        rows = read_rows(tmp_path / "out")
        boxes = find_boxes(heatmaps, get_preset("localize").box_threshold)
        np.testing.assert_allclose([row["box"] for row in rows], boxes / SIZE)
        assert (boxes != find_boxes(heatmaps)).any()  # or the rule would not show
        small = explain(model, paths, preset="localize", resize=False)
        for row, heatmap in zip(rows, small, strict=True):
            levels = tf.io.decode_png(row["heatmap"]).numpy()[..., 0]
            assert levels.shape == (14, 14)
            np.testing.assert_allclose(levels / 255, heatmap, atol=0.51 / 255)

    def test_photographs_are_read_as_elsewhere(self, model, tmp_path) -> None:
        """Failed before: WebP was no image, and EXIF rotation was ignored."""
        source = tmp_path / "source"
        source.mkdir()
        picture = Image.open(io.BytesIO(encode_image(3)))
        picture.save(source / "a.webp", lossless=True)
        turned = Image.Exif()
        turned[0x0112] = 6
        picture.save(source / "b.jpg", exif=turned)
        rows = self.explain(model, source, tmp_path)
        assert [row["error"] for row in rows] == [None, None]
        expected = explain(model, source, details=True).embeddings
        np.testing.assert_allclose(
            [row["embedding"] for row in rows], expected, atol=1e-6
        )

    def test_preprocessing_by_name(self, photographs, tmp_path) -> None:
        model = make_model()
        rows = self.explain(
            model, photographs, tmp_path, preprocessing_function="mobilenet_v2"
        )
        expected = explain(
            model, photographs, details=True, preprocessing_function="-1,1"
        ).embeddings
        embeddings = [row["embedding"] for row in rows]
        np.testing.assert_allclose(embeddings, expected, atol=1e-6)
        manifest = json.loads((tmp_path / "out" / "_manifest.json").read_text())
        assert manifest["options"]["preprocessing_function"] == "mobilenet_v2"

    @pytest.mark.parametrize(
        ("function", "message"), [(standardize, "must not hold NaN"), (refuse, "black")]
    )
    def test_an_image_that_cannot_be_explained_is_the_only_one_with_an_error(
        self, function, message, model_path, photographs, tmp_path
    ) -> None:
        black = tf.io.encode_png(np.zeros((20, 30, 3), np.uint8)).numpy()
        for name in ("0.png", "2.png"):
            shutil.copy(photographs / name, tmp_path)
        (tmp_path / "1.png").write_bytes(black)
        folder = tmp_path.with_name(f"{tmp_path.name}_explained")
        counts = explain_catalogue(
            model_path, tmp_path, folder, preprocessing_function=function
        )
        assert counts == CatalogueCounts(3, 1)
        errors = [row["error"] for row in read_rows(folder)]
        assert errors[0] is None and errors[2] is None
        assert message in errors[1]

    def test_what_goes_wrong_with_the_disk_ends_the_run(
        self, model_path, photographs, tmp_path, monkeypatch
    ) -> None:
        def fill_up(*_: Any) -> None:
            raise OSError("No space left on device")

        monkeypatch.setattr(actor, "write_whole", fill_up)
        with pytest.raises(ValueError, match="OSError: No space left on device"):
            explain_catalogue(model_path, photographs, tmp_path / "out")

    def test_an_empty_map_has_no_box(self, photographs, tmp_path) -> None:
        model = make_model()
        conv = model.get_layer("conv")
        conv.set_weights([np.zeros_like(x) for x in conv.get_weights()])
        model.layers[-1].set_weights([np.ones((6, 4)), np.ones(4)])
        rows = self.explain(model, photographs, tmp_path)
        assert [row["box"] for row in rows] == [None] * 3
        assert all(row["heatmap"] and row["embedding"] for row in rows)


class TestBegunBefore:
    @pytest.fixture
    def folder(self, model_path, photographs, tmp_path) -> Path:
        out = tmp_path / "out"
        explain_catalogue(model_path, photographs, out, images_per_part=2)
        return out

    def test_a_missing_part_is_made_again_and_no_other(
        self, folder, model_path, photographs
    ) -> None:
        first, second = sorted(folder.glob("part-*"))
        content, state = first.read_bytes(), second.stat()
        first.unlink()
        explain_catalogue(model_path, photographs, folder, images_per_part=2)
        assert first.read_bytes() == content
        assert second.stat() == state or second.stat().st_mtime_ns == state.st_mtime_ns

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"weighting": "layercam"}, "weighting was 'auto' and is 'layercam'"),
            ({"images_per_part": 3}, "images_per_part was 2 and is 3"),
            ({"top_channels": 2}, "top_channels was None and is 2"),
            (
                {
                    "preprocessing_function": (
                        keras.applications.mobilenet_v2.preprocess_input
                    )
                },
                "preprocessing_function was None and is '.*preprocess_input'",
            ),
        ],
    )
    def test_other_options_are_refused(
        self, folder, options, message, model_path, photographs
    ) -> None:
        options = {"images_per_part": 2, **options}
        with pytest.raises(ValueError, match=f"catalogue of other options: {message}"):
            explain_catalogue(model_path, photographs, folder, **options)

    def test_other_weights_are_refused(self, folder, photographs, tmp_path) -> None:
        make_model().save(tmp_path / "other.keras")
        with pytest.raises(ValueError, match="options: the file of the model has"):
            explain_catalogue(
                tmp_path / "other.keras", photographs, folder, images_per_part=2
            )

    @pytest.mark.parametrize("change", ["added", "removed", "changed"])
    def test_other_inputs_are_refused(
        self, folder, change, model_path, photographs, tmp_path
    ) -> None:
        source = tmp_path / "copy"
        shutil.copytree(photographs, source)  # keeps the times
        explain_catalogue(model_path, source, folder, images_per_part=2)  # moved only
        if change == "added":
            (source / "1b.png").write_bytes(b"")
        elif change == "removed":
            (source / "1.png").unlink()
        else:
            (source / "1.png").write_bytes(encode_image(1)[::-1])
        name = "1b.png" if change == "added" else "1.png"
        with pytest.raises(ValueError, match=rf"1 files came.*\['{name}'\]"):
            explain_catalogue(model_path, source, folder, images_per_part=2)

    def test_one_that_was_killed_while_it_wrote_the_manifest(
        self, model_path, photographs, tmp_path
    ) -> None:
        folder = tmp_path / "begun"
        folder.mkdir()
        (folder / "._manifest.json.0123.unfinished").write_text('{"opt')
        sizes = {"image_size": (np.int64(SIZE), SIZE), "images_per_part": np.int64(2)}
        assert explain_catalogue(model_path, photographs, folder, **sizes) == (3, 0)
        assert not list(folder.glob(".*"))

    def test_the_manifest_lists_inputs_and_parts(self, folder) -> None:
        manifest = json.loads((folder / "_manifest.json").read_text())
        assert [x[0] for x in manifest["inputs"]] == ["0.png", "1.png", "2.png"]
        assert [Part(*x).files for x in manifest["parts"]] == [
            ["0.png", "1.png"],
            ["2.png"],
        ]

    def test_a_part_that_is_there_is_left_alone(
        self, folder, model_path, photographs, monkeypatch
    ) -> None:
        """As when an actor died between its writing and its report."""
        first = min(folder.glob("part-*"))
        first.write_bytes(b"as it is")
        settings = driver.Settings(model_path, folder, *[None] * 5)
        source = Source(photographs, "images", "image", None, None)
        row = {"number": 0, **Part(["0.png"], 0, 1)._asdict()}
        report = driver.PartExplainer(source, settings)(pa.Table.from_pylist([row]))
        assert report.to_pylist() == [{"problem": None}]
        assert first.read_bytes() == b"as it is"


def test_a_file_is_written_whole_or_not_at_all(tmp_path) -> None:
    def write(path: Path) -> None:
        path.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "file", write)
    assert not (tmp_path / "file").exists()


def test_a_file_that_cannot_be_opened_is_the_error_of_its_image(tmp_path) -> None:
    source = Source(tmp_path, "images", "image", None, None)
    (item,) = read_items(source, Part(["gone.png"], 0, 1))
    assert item.error == "FileNotFoundError: No such file or directory"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_actors": 0}, "`num_actors` must be an integer >= 1. Received: 0"),
        ({"preset": "other"}, "`preset` must be one of .*'localize'.*'other'"),
        ({"preset": "localize", "top_channels": 5}, "states the weighting"),
        ({"batch_size": 0.5}, "`batch_size` must be an integer >= 1. Received: 0.5"),
        ({"images_per_part": 0}, "`images_per_part` must be an integer"),
        ({"weighting": "no"}, r"`weighting` must be one of \['gradcam'.*'no'"),
        ({"top_channels": 0}, "`top_channels` must be an integer between 1"),
        ({"image_size": 224}, r"`image_size` must be \(height, width\).*224"),
        ({"format": "csv"}, "`format` must be one of .*'csv'"),
        ({"box_column": "box"}, "Image files have no columns: leave out"),
        (
            {"preprocessing_function": lambda x: x},
            "must be a function at the top of a module.*lambda",
        ),
        ({"preprocessing_function": "resnet49"}, "or one of these names: .*'vgg16'"),
        ({"bounding_box_format": "corners"}, "must be one of .*'corners'. COCO"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_options_must_fit(options, message, model_path, photographs, tmp_path) -> None:
    with pytest.raises(ValueError, match=message):
        explain_catalogue(model_path, photographs, tmp_path / "out", **options)


def test_paths_must_fit(model_path, photographs, tmp_path) -> None:
    with pytest.raises(ValueError, match="`model_path` must be a .keras file"):
        explain_catalogue(tmp_path / "no.keras", photographs, tmp_path / "out")
    with pytest.raises(ValueError, match="`source` must exist"):
        explain_catalogue(model_path, tmp_path / "no", tmp_path / "out")
    with pytest.raises(ValueError, match="`output_folder` must not lie in `source`"):
        explain_catalogue(model_path, photographs, photographs / "out")
    with pytest.raises(ValueError, match="`output_folder` must be empty, or hold"):
        explain_catalogue(model_path, photographs, model_path.parent)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"`format` must be given.*: \[\]"):
        explain_catalogue(model_path, tmp_path / "empty", tmp_path / "out")
    with pytest.raises(ValueError, match="`source` must hold files of the format"):
        explain_catalogue(
            model_path, tmp_path / "empty", tmp_path / "out", format="images"
        )


def test_ray_is_started_and_stopped_where_nobody_has(
    model_path, photographs, tmp_path, monkeypatch
) -> None:
    calls: list[Any] = []

    def fail(*_: Any) -> None:
        calls.append("explain")
        raise ValueError("stop")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: calls.append(options))
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("shutdown"))
    monkeypatch.setattr(driver, "_explain_parts", fail)
    with pytest.raises(ValueError, match="stop"):
        explain_catalogue(model_path, photographs, tmp_path / "out")
    assert calls == [{"include_dashboard": False}, "explain", "shutdown"]


def test_an_interrupted_run_says_how_to_go_on(
    model_path, photographs, tmp_path, monkeypatch
) -> None:
    """Failed before: a bare KeyboardInterrupt."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(driver, "_explain_parts", interrupt)
    with pytest.raises(KeyboardInterrupt) as caught:
        explain_catalogue(model_path, photographs, tmp_path / "out")
    assert caught.value.__notes__ == [
        "The finished parts are kept: call it again to go on."
    ]


def test_without_ray_it_says_what_to_install(
    model_path, photographs, tmp_path, monkeypatch
) -> None:
    for name in ("ray", "ray.data"):  # loaded already, by other tests
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r'pip install "keras-embcam\[ray\]"'):
        explain_catalogue(model_path, photographs, tmp_path / "out")
