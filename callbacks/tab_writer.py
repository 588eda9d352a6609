"""Write the data of TensorBoard's EmbeddingCAM tab: every example at every update."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import tensorflow as tf

from keras_embcam.drawing import to_uint8
from keras_embcam.tab_format import (
    EXAMPLES_TAG,
    UPDATES_TAG,
    Examples,
    Update,
    summary_metadata,
)
from keras_embcam.unit_vectors import normalize_rows
from keras_embcam.vector_search import find_nearest

MAX_MAP_SIDE = 28  # cells; finer maps are averaged
MAX_THUMBNAIL_SIDE = 160  # pixels
MAX_THUMBNAIL_BYTES = 16_000
MAX_OUTLINE_POINTS = 100  # of an example
MAX_NAME_LENGTH = 100
NUM_NEIGHBORS = 5
_JPEG_QUALITIES = (85, 70, 50, 30)
_SMALL_SIDE = 64  # pixels; smaller pictures are kept without loss


def write_examples(examples: Examples, step: int) -> None:
    """Write what is shown, into the default `tf.summary` writer."""
    _write(EXAMPLES_TAG, examples.to_blobs(), step)


def write_update(update: Update, step: int) -> None:
    """Write what one run over the examples found, into the default writer."""
    _write(UPDATES_TAG, update.to_blobs(), step)


def _write(tag: str, blobs: list[bytes], step: int) -> None:
    tf.summary.write(tag, tf.constant(blobs), step, summary_metadata())


def encode_thumbnails(images: Any) -> list[bytes]:
    """Return small pictures as files, at most `MAX_THUMBNAIL_BYTES` each.

    Args:
        images: (n, H, W, c) of any range that `to_uint8` knows, judged on the whole
            batch.

    Returns:
        PNG files up to 64 pixels a side, else JPEG files up to 160 pixels a side.
    """
    images = np.nan_to_num(np.asarray(images))
    return [_encode(picture) for picture in to_uint8(images)]


def _encode(picture: np.ndarray) -> bytes:
    height, width = picture.shape[:2]
    bgr = picture[..., ::-1]
    if max(height, width) <= _SMALL_SIDE:
        return cv2.imencode(".png", bgr)[1].tobytes()
    factor = MAX_THUMBNAIL_SIDE / max(height, width)
    if factor < 1:
        size = max(1, round(width * factor)), max(1, round(height * factor))
        bgr = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)
    for quality in _JPEG_QUALITIES:
        options = [cv2.IMWRITE_JPEG_QUALITY, quality]
        file = cv2.imencode(".jpg", bgr, options)[1].tobytes()
        if len(file) <= MAX_THUMBNAIL_BYTES:
            break
    return file


def trace_outlines(masks: Any) -> list[list[np.ndarray]]:
    """Return the outer outlines of the objects, simplified to a hundred points.

    Args:
        masks: (n, H, W) bool.

    Returns:
        For each mask its outlines (p, 2), x, y as shares of the sides, largest first.
    """
    return [_trace(np.asarray(mask)) for mask in masks]


def _trace(mask: np.ndarray) -> list[np.ndarray]:
    size = np.asarray(mask.shape[::-1], float)
    found, _ = cv2.findContours(
        np.ascontiguousarray(mask, "uint8"), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    outlines, num_points = [], 0
    for contour in sorted(found, key=len, reverse=True):
        points = cv2.approxPolyDP(contour, 0.004 * size.max(), True).reshape(-1, 2)
        num_points += len(points)
        if num_points > MAX_OUTLINE_POINTS:
            break
        # A contour runs through the centres of the pixels.
        outlines.append((points + 0.5) / size)
    return outlines


def keep_boxes(boxes: Any) -> list[np.ndarray]:
    """Return the boxes of each example that have an area.

    Args:
        boxes: (n, m, 4), x1, y1, x2, y2 as shares of the image's sides.
    """
    boxes = np.asarray(boxes, float)
    with np.errstate(invalid="ignore"):  # padding may be NaN
        kept = (boxes[..., :2] < boxes[..., 2:]).all(-1)
    return [rows[keep] for rows, keep in zip(boxes, kept, strict=True)]


def find_neighbors(
    embeddings: Any, num_neighbors: int = NUM_NEIGHBORS
) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest other examples by cosine, nearest first.

    Args:
        embeddings: (n, d), raw.
        num_neighbors: at most.

    Returns:
        Their numbers and their cosines, each (n, k), k below n.
    """
    units = np.asarray(normalize_rows(np.asarray(embeddings, "float32")))
    # A diverged network has neighbors too, but none to speak of.
    units = np.nan_to_num(units)
    count = min(num_neighbors, len(units) - 1)
    if count < 1:
        return np.empty((len(units), 0), int), np.empty((len(units), 0))
    return find_nearest(units, units, count, own_rows=np.arange(len(units)))


def name_examples(num_examples: int, given: Sequence[Any] | None = None) -> list[str]:
    """Return distinct names, by which runs are matched: given ones, or numbers.

    Of long names the end is kept, where paths differ.
    """
    names: list[str] = []
    seen: set[str] = set()
    for name in range(num_examples) if given is None else given:
        text = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
        text = distinct = text[-MAX_NAME_LENGTH:]
        number = 1
        while distinct in seen:
            number += 1
            distinct = f"{text} ({number})"
        seen.add(distinct)
        names.append(distinct)
    return names
