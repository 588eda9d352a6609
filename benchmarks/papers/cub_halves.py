"""The two halves of a CUB folder in memory, and the best box in the middle."""

from pathlib import Path
from typing import Any

import numpy as np

from keras_embcam.datasets import cub200
from keras_embcam.metrics.regions import intersection_over_union

Examples = dict[str, np.ndarray]

SHARES = tuple(round(0.05 * step, 2) for step in range(4, 21))


def load_half(
    folder: Path, split: str, image_size: int, framing: str, limit: int | None = None
) -> Examples:
    """Return the images of a split with labels, boxes and masks where there are any.

    Args:
        folder: in the layout of CUB-200-2011.
        split: see `cub200`.
        image_size: height and width.
        framing: see `cub200`.
        limit: at most as many images, four or more of each of the first classes;
            None for all.

    Returns:
        Arrays "image" (n, H, W, 3) uint8, "label" (n,), "bbox" (n, 4) rel_yxyx and
        perhaps "segmentation_mask" (n, H, W) bool.

    Raises:
        ValueError: for a half that holds less than two classes.
    """
    birds = cub200(
        folder,
        split=split,
        image_size=image_size,
        framing=framing,
        segmentations=(folder / "segmentations").is_dir(),
    )
    examples = list(birds.as_numpy_iterator() if limit is None else _take(birds, limit))
    found = {key: np.stack([x[key] for x in examples]) for key in examples[0]}
    if len(np.unique(found["label"])) < 2:
        raise ValueError(
            f"The {split.replace('_', ' ')} of the classes must be at least two. "
            f"Received {len(examples)} images of one class in {folder.name!r}"
        )
    return found


def _take(birds: Any, limit: int) -> list[Any]:
    """Return the first images of the first classes, as few files read as that takes."""
    num_classes = max(limit // 4, 2)
    found: dict[int, list[Any]] = {}
    for example in birds.as_numpy_iterator():
        label = int(example["label"])
        if label not in found and len(found) == num_classes:
            break
        found.setdefault(label, []).append(example)
    num_images = max(limit // len(found), 1)
    return [x for examples in found.values() for x in examples[:num_images]]


def choose_central_box(boxes: np.ndarray) -> float:
    """Return the share of each side at which a box in the middle finds most objects.

    At an IoU of 0.5 or more; the smallest of equal ones.

    Args:
        boxes: (n, 4) rel_yxyx, of other images than those to report on. Boxes
            without area count as missed.

    Example:

    >>> choose_central_box(np.float32([[0.2, 0.2, 0.8, 0.8], [0.0, 0.0, 0.1, 0.1]]))
    0.45
    """
    halves = np.array(SHARES)[:, None] / 2
    centred = np.concatenate([0.5 - halves] * 2 + [0.5 + halves] * 2, axis=1)
    overlaps = intersection_over_union(centred[:, None], boxes[None])
    return SHARES[int((overlaps >= 0.5).mean(axis=1).argmax())]
