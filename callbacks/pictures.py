"""Pictures of examples: heat, boxes and a caption."""

import math

import cv2
import numpy as np

from keras_embcam.callbacks.update import Shown
from keras_embcam.drawing import add_caption, draw_boxes, overlay_heatmap, to_uint8
from keras_embcam.heatmaps import find_boxes
from keras_embcam.metrics.regions import place_boxes

# Smaller pictures are enlarged, or their captions would have no room.
MIN_PICTURE_SIZE = 192
MAX_PICTURE_SIZE = 512
TRUE_COLOR = (0, 255, 0)
FOUND_COLOR = (255, 255, 255)


def choose_examples(
    num_examples: int, num_images: int, rule: str | None, labels: np.ndarray | None
) -> list[int]:
    """Return the numbers of the examples to show.

    Args:
        num_examples: how many there are.
        num_images: how many to show at most.
        rule: None for the first; "class_balanced" for the first of each class, then
            the second of each, and so on.
        labels: (num_examples,), or None.

    Raises:
        ValueError: for classes without labels.

    Example:

    >>> labels = np.array([0, 0, 0, 0, 1, 1, 2])
    >>> choose_examples(7, 6, "class_balanced", labels)
    [0, 4, 6, 1, 5, 2]
    """
    if rule is None:
        return list(range(min(num_images, num_examples)))
    if labels is None:
        raise ValueError(
            '`picture_indices="class_balanced"` needs labels. Received '
            '`validation_examples` without a "label".'
        )
    # The rank of each example within its class.
    rank = np.zeros(num_examples, int)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank[members] = np.arange(len(members))
    order = np.lexsort((labels, rank))[:num_images]
    return [int(index) for index in order]


def draw_examples(
    shown: Shown, bounding_box_format: str, box_threshold: float | str
) -> list[np.ndarray]:
    """Return uint8 RGB pictures: heat, true boxes (green), found box (white), caption.

    Args:
        shown: the examples with their heatmaps.
        bounding_box_format: of the true boxes.
        box_threshold: of the boxes to find; see `find_boxes`.
    """
    images = to_uint8(shown.examples["image"])
    found_boxes = find_boxes(shown.heatmaps, box_threshold)
    num_images, height, width = shown.heatmaps.shape
    factor = _enlargement(height, width)
    true_boxes = None
    if "bbox" in shown.examples:
        true_boxes = np.asarray(
            place_boxes(shown.examples["bbox"], bounding_box_format, shown.heatmaps)
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
