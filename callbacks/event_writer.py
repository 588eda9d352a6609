"""Write what a validation run found as TensorBoard events."""

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow as tf
from tensorboard.plugins.image.metadata import create_summary_metadata

from keras_embcam.callbacks.settings import Settings
from keras_embcam.callbacks.validation_run import Numbers, Shown
from keras_embcam.drawing import (
    add_caption,
    draw_boxes,
    make_grid,
    overlay_heatmap,
    to_uint8,
)
from keras_embcam.heatmaps import find_boxes
from keras_embcam.metrics.regions import place_boxes

# Smaller pictures are enlarged, or their captions would have no room.
MIN_PICTURE_SIZE = 192
MAX_PICTURE_SIZE = 512
TRUE_COLOR = (0, 255, 0)
FOUND_COLOR = (255, 255, 255)


class EventWriter:
    """Writes scalars, histograms and pictures of one training.

    Args:
        log_dir: runs `validation` and `uniform_baseline` are written under it.
    """

    def __init__(self, log_dir: Path) -> None:
        self.run_dir = log_dir / "validation"
        self._validation = tf.summary.create_file_writer(str(self.run_dir))
        self._log_dir = log_dir
        self._uniform: Any = None

    def write_numbers(
        self, numbers: Numbers, tag: str, step: int, scalars: bool = True
    ) -> None:
        """Write a curve for each value, and how the ratios of the images spread.

        Args:
            numbers: of one run.
            tag: of a curve, with the name of the value in place of `{}`.
            step: position on the axis.
            scalars: False where somebody else writes the values themselves.
        """
        with self._validation.as_default():
            if scalars:
                for name, value in numbers.values.items():
                    tf.summary.scalar(tag.format(name), value, step=step)
            for name, values in numbers.per_image.items():
                values = values[~np.isnan(values)]
                if len(values):
                    tf.summary.histogram(f"{name}_per_image", values, step=step)
        if numbers.uniform:
            if self._uniform is None:
                folder = str(self._log_dir / "uniform_baseline")
                self._uniform = tf.summary.create_file_writer(folder)
            with self._uniform.as_default():
                for name, value in numbers.uniform.items():
                    tf.summary.scalar(tag.format(name), value, step=step)

    def write_pictures(
        self, shown: Shown, worst: Shown | None, step: int, settings: Settings
    ) -> None:
        """Write one picture for each example shown, and one grid of the worst."""
        with self._validation.as_default():
            pictures = draw_examples(shown, settings)
            for number, picture in enumerate(pictures):
                _write_picture(f"heatmaps/{number:02d}", picture, step)
            if worst is not None and len(worst.heatmaps):
                grid = make_grid(draw_examples(worst, settings))
                _write_picture("heatmaps/worst", grid, step)

    def flush(self) -> None:
        """Bring everything to the disk, where it fails if it has to."""
        for writer in (self._validation, self._uniform):
            if writer is not None:
                writer.flush()

    def close(self) -> None:
        """Close the files; nothing can be written afterwards."""
        for writer in (self._validation, self._uniform):
            if writer is not None:
                writer.close()


def _write_picture(tag: str, picture: np.ndarray, step: int) -> None:
    """Write what `tf.summary.image` writes, compressed less.

    Its compression cannot be chosen, and took five times as long for files 7 to 12 %
    smaller: of what an update over small images takes, a sixth.
    """
    height, width, _ = picture.shape
    png = tf.io.encode_png(picture, compression=1)
    metadata = create_summary_metadata(display_name=None, description=None)
    tf.summary.write(tag, [str(width), str(height), png], step, metadata)


def draw_examples(shown: Shown, settings: Settings) -> list[np.ndarray]:
    """Return uint8 RGB pictures: heat, true boxes (green), found box (white), caption.

    Args:
        shown: the examples with their heatmaps.
        settings: which say how boxes are stated and found.
    """
    images = to_uint8(shown.examples["image"])
    found_boxes = find_boxes(shown.heatmaps, settings.box_threshold)
    num_images, height, width = shown.heatmaps.shape
    factor = _enlargement(height, width)
    true_boxes = None
    if "bbox" in shown.examples:
        true_boxes = np.asarray(
            place_boxes(
                shown.examples["bbox"], settings.bounding_box_format, shown.heatmaps
            )
        )
    pictures = []
    for index in range(num_images):
        image = cv2.resize(
            images[index], None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR
        )
        picture = overlay_heatmap(image, shown.heatmaps[index])
        if np.isfinite(found_boxes[index]).all():
            picture = draw_boxes(picture, found_boxes[index] * factor, FOUND_COLOR, 1)
        if true_boxes is not None:
            picture = draw_boxes(picture, true_boxes[index] * factor, TRUE_COLOR)
        pictures.append(add_caption(picture, _caption(shown, index)))
    return pictures


def _enlargement(height: int, width: int) -> float:
    short, long = sorted((height, width))
    if long > MAX_PICTURE_SIZE:
        return MAX_PICTURE_SIZE / long
    return float(max(1, math.ceil(MIN_PICTURE_SIZE / short)))


def _caption(shown: Shown, index: int) -> str:
    parts = []
    if "bbox" in shown.examples or "segmentation_mask" in shown.examples:
        ratio = shown.ratios[index]
        parts.append("ratio -" if np.isnan(ratio) else f"ratio {ratio:.2f}")
    if "label" in shown.examples:
        parts.append(f"label {shown.examples['label'][index]}")
    return ", ".join(parts)
