"""What counts as the object: boxes and masks on the pixel grid of the heatmaps.

All metrics measure on the grid of the input image. A map of the coarse grid is
brought to it first with ``keras_embcam.heatmaps.resize_heatmaps`` (bilinear, pixel
centres aligned, which ``resize=True`` of the explaining functions does); measured on
the coarse grid, a heatmap ratio is off by several hundredths.
"""

from typing import Any

import numpy as np
from keras import ops
from keras.utils import bounding_boxes

Tensor = Any
FORMATS = (
    *("yxyx", "xyxy", "xywh", "center_xywh", "center_yxhw"),
    *("rel_yxyx", "rel_xyxy", "rel_xywh", "rel_center_xywh"),
)


def check_heatmaps(heatmaps: Tensor) -> Tensor:
    """Return the heatmaps as a float32 tensor.

    Args:
        heatmaps: (n, H, W), any float dtype.

    Returns:
        (n, H, W) float32.

    Raises:
        ValueError: where there are not three axes.

    Example:

    >>> import numpy as np
    >>> tuple(check_heatmaps(np.zeros((2, 4, 4), "float16")).shape)
    (2, 4, 4)
    """
    heatmaps = ops.convert_to_tensor(heatmaps)
    if len(heatmaps.shape) != 3:
        raise ValueError(
            "`heatmaps` must have the shape (n, H, W), one map for each image. "
            f"Received: heatmaps.shape={tuple(heatmaps.shape)}"
        )
    return ops.cast(heatmaps, "float32")


def place_boxes(boxes: Tensor, bounding_box_format: str, heatmaps: Tensor) -> Tensor:
    """Return boxes as pixels of the heatmaps, clipped to the image.

    Boxes are continuous: pixel ``i`` reaches from ``i`` to ``i + 1``. What lies
    outside the image is cut off, for no heat can be there. A box with no area left
    (outside the image, inverted, NaN, or padding such as Keras's rows of -1) is no
    box and becomes all zero.

    Args:
        boxes: (n, 4) one box an image, or (n, m, 4) several, padded to m.
        bounding_box_format: a format of ``keras.utils.bounding_boxes``: "xyxy",
            "yxyx", "xywh", "center_xywh", "center_yxhw", "rel_xyxy", "rel_yxyx",
            "rel_xywh" or "rel_center_xywh".
        heatmaps: (n, H, W), for its size.

    Returns:
        (n, m, 4) float32 as x_min, y_min, x_max, y_max, in [0, W] and [0, H].

    Raises:
        ValueError: for other shapes, for a number of images that differs from the
            number of maps, and for an unknown format.

    Example:

    >>> import numpy as np
    >>> heatmaps = np.zeros((1, 10, 20), "float32")
    >>> np.asarray(place_boxes([[0.5, 0, 2, 0.25]], "rel_yxyx", heatmaps)).tolist()
    [[[0.0, 5.0, 5.0, 10.0]]]
    """
    boxes = ops.convert_to_tensor(boxes)
    shape = tuple(boxes.shape)
    if len(shape) not in (2, 3) or shape[-1] != 4:
        raise ValueError(
            "`boxes` must have the shape (n, 4), one box for each image, or "
            f"(n, m, 4), several. Received: boxes.shape={shape}"
        )
    num_images = heatmaps.shape[0]
    if None not in (shape[0], num_images) and shape[0] != num_images:
        raise ValueError(
            "`boxes` must hold one row for each heatmap; pass (n, m, 4) for several "
            f"boxes an image. Received: boxes.shape={shape} for {num_images} heatmaps"
        )
    # Relative boxes are converted in the unit square and then enlarged, because Keras
    # before 3.15 takes height for width in "rel_center_xywh".
    source = bounding_box_format.lower()
    if source.removeprefix("rel_") not in FORMATS:
        raise ValueError(
            f"`bounding_box_format` must be one of {', '.join(FORMATS)}. Received: "
            f'{bounding_box_format!r}. COCO states boxes as "xywh", Pascal VOC as '
            '"xyxy", YOLO as "rel_center_xywh".'
        )
    boxes = bounding_boxes.convert_format(boxes, source.removeprefix("rel_"), "xyxy")
    if len(shape) == 2:
        boxes = boxes[:, None]
    _, height, width = ops.shape(heatmaps)
    size = ops.cast(ops.stack([width, height, width, height]), "float32")
    if source.startswith("rel_"):
        boxes = boxes * size
    boxes = ops.clip(boxes, 0.0, size)
    return ops.where(has_area(boxes)[..., None], boxes, 0.0)


def has_area(boxes: Tensor) -> Tensor:
    """Tell which boxes in xyxy format (..., 4) have an area: (...) bool.

    Example:

    >>> import numpy as np
    >>> np.asarray(has_area(np.float32([[0, 0, 2, 1], [0, 0, 2, 0]]))).tolist()
    [True, False]
    """
    return ops.logical_and(boxes[..., 2] > boxes[..., 0], boxes[..., 3] > boxes[..., 1])


def intersection_over_union(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the intersection over union of boxes; 0 where one of them has no area.

    Areas are continuous: pixel ``i`` reaches from ``i`` to ``i + 1``.

    Args:
        boxes: (..., 4) float, x_min, y_min, x_max, y_max.
        others: (..., 4), broadcastable to `boxes`.

    Returns:
        (...) float in [0, 1]; 0 for a box that holds NaN.

    Example:

    >>> boxes, others = np.array([[0, 0, 2, 1]]), np.array([[1, 0, 4, 1]])
    >>> intersection_over_union(boxes, others).tolist()
    [0.25]
    """
    low = np.maximum(boxes[..., :2], others[..., :2])
    high = np.minimum(boxes[..., 2:], others[..., 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=-1)
    areas = [
        np.prod(np.maximum(x[..., 2:] - x[..., :2], 0), -1) for x in (boxes, others)
    ]
    return np.where(
        shared > 0, shared / np.where(shared > 0, sum(areas) - shared, 1), 0
    )


def cover_boxes(boxes: Tensor, heatmaps: Tensor) -> Tensor:
    """Return the share of each pixel's area that lies in the union of the boxes.

    A pixel on the border counts by the fraction of it that is inside, not by its
    centre: so the ratio moves smoothly with the box, a box smaller than a pixel is
    not lost, rounding in relative coordinates (or halving an image, which puts
    borders on pixel centres) cannot flip a whole row, and the uniform map scores
    exactly the area of the box over the area of the image. For borders on whole
    pixels both rules agree. The union is exact, also within a pixel: the borders
    cut the image into a grid whose cells are wholly inside or wholly outside.

    Args:
        boxes: (n, m, 4) float32, as ``place_boxes`` returns them.
        heatmaps: (n, H, W), for its size.

    Returns:
        (n, H, W) float32 in [0, 1].

    Example:

    >>> import numpy as np
    >>> boxes = np.float32([[[0, 0, 1.5, 1], [1.25, 0, 1.75, 1]]])
    >>> np.asarray(cover_boxes(boxes, np.zeros((1, 1, 3)))).tolist()
    [[[1.0, 0.75, 0.0]]]
    """
    _, height, width = ops.shape(heatmaps)
    columns, inside_columns = _cut(boxes[..., 0], boxes[..., 2], width)
    rows, inside_rows = _cut(boxes[..., 1], boxes[..., 3], height)
    inside = ops.einsum("nbr,nbc->nrc", inside_rows, inside_columns) > 0
    cells = ops.cast(inside, "float32")
    return ops.einsum("nrh,nrc,ncw->nhw", rows, cells, columns)


def _cut(low: Tensor, high: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Cut one axis at every border of every box.

    Returns how much of each pixel each piece covers, (n, pieces, length), and
    whether each box contains each piece, (n, m, pieces).
    """
    borders = ops.sort(ops.concatenate([low, high], axis=1), axis=1)
    start, end = borders[:, :-1], borders[:, 1:]
    pixel = ops.cast(ops.arange(length), "float32")
    covered = ops.relu(
        ops.minimum(end[..., None], pixel + 1) - ops.maximum(start[..., None], pixel)
    )
    inside = ops.logical_and(
        low[..., None] <= start[:, None], end[:, None] <= high[..., None]
    )
    return covered, ops.cast(inside, "float32")


def split_masks(
    masks: Tensor, foreground: int | None, ignored: int | None, heatmaps: Tensor
) -> tuple[Tensor, Tensor]:
    """Return which pixels are the object and which count at all.

    Args:
        masks: (n, H, W) or (n, H, W, 1), bool, or integer with `foreground` given.
        foreground: the value of the object in integer masks, for example 1 in the
            trimaps of Oxford-IIIT Pet; None for bool masks.
        ignored: a value that belongs to neither side, for example 3 there; None
            where every other value is background.
        heatmaps: (n, H, W), for its size.

    Returns:
        Two bool tensors (n, H, W).

    Raises:
        ValueError: for another size or dtype, or where the values contradict.

    Example:

    >>> import numpy as np
    >>> trimap = np.uint8([[[1, 2, 3]]])
    >>> inside, counted = split_masks(
    ...     trimap, foreground=1, ignored=3, heatmaps=np.ones((1, 1, 3))
    ... )
    >>> np.asarray(inside).tolist(), np.asarray(counted).tolist()
    ([[[True, False, False]]], [[[True, True, False]]])
    """
    masks = ops.convert_to_tensor(masks)
    shape, size = tuple(masks.shape), tuple(heatmaps.shape)
    if shape[3:] == (1,):
        masks = masks[..., 0]
    pairs = zip(masks.shape, size, strict=False)
    if len(masks.shape) != 3 or any(
        None not in pair and len(set(pair)) > 1 for pair in pairs
    ):
        raise ValueError(
            "`masks` must have the shape of the heatmaps (n, H, W), or (n, H, W, 1); "
            "resize the maps with keras_embcam.heatmaps.resize_heatmaps. "
            f"Received: masks.shape={shape}, heatmaps.shape={size}"
        )
    dtype = str(getattr(masks.dtype, "name", masks.dtype))
    if foreground is None and (dtype != "bool" or ignored is not None):
        raise ValueError(
            "`masks` must be bool where `foreground` is None; for integer masks pass "
            "`foreground`, the value of the object, and `ignored` where there is one "
            "(`mask_foreground=` and `mask_ignored=` of the logger and `evaluate`). "
            f"Received: masks.dtype={dtype}, ignored={ignored!r}"
        )
    if foreground is None:
        return masks, ops.ones_like(masks)
    if "int" not in dtype:
        raise ValueError(
            "`masks` must be integer where `foreground` is given; leave it out for "
            f"bool masks. Received: masks.dtype={dtype}, foreground={foreground!r}"
        )
    if foreground == ignored:
        raise ValueError(
            "`foreground` and `ignored` must differ. Received: "
            f"foreground={foreground!r}, ignored={ignored!r}"
        )
    masks = ops.cast(masks, "int32")
    inside = ops.equal(masks, foreground)
    if ignored is None:
        return inside, ops.ones_like(inside)
    return inside, ops.not_equal(masks, ignored)
