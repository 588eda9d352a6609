"""What an actor does: one part of a catalogue, from encoded images to a file."""

from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import keras
import numpy as np

from keras_embcam.catalogue.manifest import part_path, write_whole
from keras_embcam.catalogue.source import (
    Item,
    Part,
    Source,
    check_features,
    read_items,
)
from keras_embcam.heatmaps import find_boxes, resize_heatmaps, scale_heatmaps
from keras_embcam.method import Method
from keras_embcam.metrics import heatmap_ratio_in_boxes
from keras_embcam.metrics.regions import place_boxes
from keras_embcam.network.inputs import declared_images
from keras_embcam.network.view import ModelView
from keras_embcam.resizing import spread_heatmaps
from keras_embcam.running.compiled_functions import run_batches
from keras_embcam.running.image_batches import ImageSource
from keras_embcam.running.image_files import decode_image, resize_image
from keras_embcam.running.one_batch import explain_images, fields_of, read_field


class Settings(NamedTuple):
    """How the images of a catalogue are explained.

    Attributes:
        model_path: a ``.keras`` file.
        output_folder: of the catalogue.
        batch_size: images at a time.
        method: what is explained and how; maps as large as the activations, not scaled.
        preprocessing_function: applied to images before the model, its name, or None.
        image_size: (height, width) for a model of images of any size, or None.
        bounding_box_format: of the boxes, as Keras names it.
    """

    model_path: Path
    output_folder: Path
    batch_size: int
    method: Method
    preprocessing_function: str | Callable | None
    image_size: tuple[int, int] | None
    bounding_box_format: str


class Prepared(NamedTuple):
    """An image that could be read.

    Attributes:
        image: (H, W, c) float32 in [0, 255], as large as the model takes it.
        boxes: (m, 4), "rel_xyxy"; zero where a box has no area in the image.
    """

    image: np.ndarray
    boxes: np.ndarray


class PartExplainer:
    """Read, explain and write parts; the model is loaded once.

    Args:
        source: of the images.
        settings: how to explain them.
    """

    def __init__(self, source: Source, settings: Settings) -> None:
        self._source = source
        self._settings = settings
        self._is_checked = False

    def __call__(self, table: Any) -> Any:
        """Write the part, unless it is there, and report what went wrong.

        Args:
            table: of one row, a `Part` and its number.

        Returns:
            A table of one row: the problem, which ends the run, or None.
        """
        import pyarrow
        import pyarrow.parquet

        (row,) = table.to_pylist()
        path = part_path(self._settings.output_folder, row.pop("number"))
        problem = None
        # The file exists if an actor was killed after writing it, before its report.
        if not path.exists():
            try:
                part = Part(**row)
                self._check_once(part)
                rows = self._explain(read_items(self._source, part))
                explained = pyarrow.Table.from_pylist(rows, _schema())
                write_whole(path, lambda x: pyarrow.parquet.write_table(explained, x))
            except Exception as error:
                # Reported as a value: Ray would show an exception among many frames of
                # its own, and retry the part.
                is_ours = isinstance(error, TypeError | ValueError)
                problem = str(error) if is_ours else f"{type(error).__name__}: {error}"
        return pyarrow.table({"problem": pyarrow.array([problem], pyarrow.string())})

    @cached_property
    def _model(self) -> keras.Model:
        # Loaded on first use and not in `__init__`, so that an error is reported like
        # all others.
        return keras.models.load_model(self._settings.model_path, compile=False)

    def _explain(self, items: Iterator[Item]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        while batch := list(islice(items, self._settings.batch_size)):
            readable, prepared = [], []
            for item in batch:
                row: dict[str, Any] = {"id": item.id, "error": item.error}
                rows.append(row)
                if item.image is None:
                    continue
                try:
                    prepared.append(self._prepare(item.image, item.box))
                    readable.append(row)
                except Exception as error:
                    row["error"] = str(error)
            found = self._measure_each(prepared) if prepared else []
            for row, values in zip(readable, found, strict=True):
                row.update(values)
        return rows

    def _check_once(self, part: Part) -> None:
        """Find what is wrong with all images before the first one."""
        if self._is_checked:
            return
        check_features(self._source, part)
        self._convert_boxes([0.0, 0.0, 1.0, 1.0], (1, 1))
        if not all(self._input_shape):
            raise ValueError(
                "The model takes images of any size: pass `image_size`, the (height, "
                "width) to bring them to."
            )
        # Noise, since preprocessing may divide by the deviation of the pixels.
        noise = np.random.default_rng(0).integers(0, 256, self._input_shape)
        self._measure([Prepared(noise.astype("float32"), np.zeros((0, 4), "float32"))])
        self._is_checked = True

    @cached_property
    def _input_shape(self) -> tuple[Any, Any, int]:
        """H, W and the number of channels of what the model takes."""
        shape = (None,) * 3 if self._declared is None else self._declared.shape[1:]
        height, width = self._settings.image_size or shape[:2]
        return height, width, shape[2] or 3

    @cached_property
    def _declared(self) -> Any:
        return declared_images(self._model)

    def _prepare(self, encoded: bytes, box: list[float] | None) -> Prepared:
        height, width, channels = self._input_shape
        image = decode_image(encoded, channels)
        boxes = self._convert_boxes(box, image.shape)
        resized = resize_image(image, (height, width))
        if self._declared is not None and "int" in self._declared.dtype:
            resized = np.rint(resized)
        return Prepared(resized, boxes)

    def _convert_boxes(self, box: list[float] | None, shape: Any) -> np.ndarray:
        if box is None:
            return np.zeros((0, 4), "float32")
        boxes = np.asarray(box, "float32")
        if boxes.size % 4:
            raise ValueError(f"A box must be 4 numbers. Received: {boxes.tolist()}")
        height, width = shape[:2]
        boxes = place_boxes(
            boxes.reshape(1, -1, 4),
            self._settings.bounding_box_format,
            np.broadcast_to(np.float32(0), (1, height, width)),
        )
        return np.asarray(boxes)[0] / _size_of_boxes(height, width)

    def _measure_each(self, prepared: list[Prepared]) -> list[dict[str, Any]]:
        """As `_measure`; an image that makes it fail has the error, alone."""
        try:
            return self._measure(prepared)
        except Exception as error:
            if len(prepared) == 1:
                return [{"error": str(error) or type(error).__name__}]
        return [self._measure_each([one])[0] for one in prepared]

    def _measure(self, prepared: list[Prepared]) -> list[dict[str, Any]]:
        settings = self._settings
        images = np.stack([x.image for x in prepared])
        source = ImageSource(
            images, self._model, len(images), settings.preprocessing_function
        )
        [(_, (embeddings, maps, fields))] = run_batches(
            self._model, source, settings.method, _explain_and_place
        )
        field = read_field(fields)
        height, width = images.shape[1:3]
        heatmaps = scale_heatmaps(resize_heatmaps(maps, (height, width), field))
        found = find_boxes(heatmaps, settings.method.box_threshold)
        found /= _size_of_boxes(height, width)
        # Images with fewer boxes are filled up with zeros, which count as no box.
        boxes = np.zeros((len(prepared), max(len(x.boxes) for x in prepared), 4))
        for row, one in zip(boxes, prepared, strict=True):
            row[: len(one.boxes)] = one.boxes
        ratios = np.full(len(prepared), np.nan)
        if boxes.size:
            ratios = np.asarray(
                heatmap_ratio_in_boxes(heatmaps, boxes.astype("float32"), "rel_xyxy")
            )
        small = np.asarray(scale_heatmaps(spread_heatmaps(maps, field)))
        return [
            {
                "embedding": embedding,
                "box": None if np.isnan(box).any() else box,
                "ratio": None if np.isnan(ratio) else ratio,
                "heatmap": _encode(heatmap),
            }
            if np.isfinite(embedding).all()
            else {"error": "The embedding holds NaN or infinity."}
            for embedding, box, ratio, heatmap in zip(
                embeddings, found, ratios, small, strict=True
            )
        ]


def _explain_and_place(
    view: ModelView, images: Any, proxies: Any, method: Method
) -> tuple[Any, Any, Any]:
    """Return embeddings, small maps, and where in the images these lie."""
    embeddings, maps, _ = explain_images(view, images, proxies, method)
    return embeddings, maps, fields_of(view, images)


def _size_of_boxes(height: int, width: int) -> np.ndarray:
    return np.array([width, height, width, height], "float32")


def _encode(heatmap: np.ndarray) -> bytes:
    levels = np.rint(255 * heatmap).astype("uint8")
    return cv2.imencode(".png", levels)[1].tobytes()


def _schema() -> Any:
    import pyarrow

    return pyarrow.schema(
        {
            "id": pyarrow.string(),
            "embedding": pyarrow.list_(pyarrow.float32()),
            "box": pyarrow.list_(pyarrow.float32()),
            "ratio": pyarrow.float32(),
            "heatmap": pyarrow.binary(),
            "error": pyarrow.string(),
        }
    )
