"""The pointing game: does the hottest pixel lie on the object."""

from typing import Any

import keras
from keras import ops

from keras_embcam.heatmaps import scale_heatmaps
from keras_embcam.metrics.heatmap_ratio import find_empty_maps
from keras_embcam.metrics.mean_over_images import MeanOverImages
from keras_embcam.metrics.regions import (
    check_heatmaps,
    has_area,
    place_boxes,
    split_masks,
)

Tensor = Any


def pointing_game_in_boxes(
    heatmaps: Tensor, boxes: Tensor, bounding_box_format: str, tolerance: float = 15.0
) -> Tensor:
    """Return 1 where a map's maximum lies on a box or near it, else 0.

    Zhang et al. (Top-down Neural Attention by Excitation Backprop, ECCV 2016) count
    a hit where the maximum is at most 15 pixels from an object; they average over
    the images of each class and then over classes, here it is over images. The
    maximum is the centre of its pixel, the first in reading order where several
    share it, and the distance is Euclidean, to the nearest of several boxes. With a
    tolerance of 0 the centre must lie in a box or on its border.

    An empty map (``find_empty_maps``) points nowhere and is a miss. NaN, to be left
    out of a mean, for an image without a box that has area inside the image. Works
    inside ``tf.function``.

    Args:
        heatmaps: (n, H, W) float, >= 0, at the size of the input image.
        boxes: (n, 4), or (n, m, 4) for several; pad with rows of zeros or -1.
        bounding_box_format: as Keras names it, for example "xyxy" or "rel_yxyx".
        tolerance: in pixels of the heatmaps, >= 0.

    Returns:
        (n,) float32: 1, 0 or NaN.

    Raises:
        ValueError: for other shapes, an unknown format or a negative tolerance.

    Example:

    >>> import numpy as np
    >>> heatmaps = np.float32([[[0, 0, 0, 9]]])  # the centre is at x = 3.5
    >>> box = np.float32([[0, 0, 2, 1]])
    >>> for tolerance in (1, 1.5):
    ...     np.asarray(pointing_game_in_boxes(heatmaps, box, "xyxy", tolerance)).item()
    0.0
    1.0
    """
    heatmaps = check_heatmaps(heatmaps)
    boxes = place_boxes(boxes, bounding_box_format, heatmaps)
    x, y = _find_maximum(heatmaps)
    right = ops.relu(x - boxes[..., 2]) + ops.relu(boxes[..., 0] - x)
    down = ops.relu(y - boxes[..., 3]) + ops.relu(boxes[..., 1] - y)
    there = has_area(boxes)
    squared = ops.where(there, right**2 + down**2, float("inf"))
    return _count_hits(squared, there, heatmaps, tolerance)


def pointing_game_in_masks(
    heatmaps: Tensor,
    masks: Tensor,
    foreground: int | None = None,
    ignored: int | None = None,
    tolerance: float = 15.0,
) -> Tensor:
    """Return 1 where a map's maximum lies on the object or near it, else 0.

    As ``pointing_game_in_boxes``, with the distance from pixel centre to the nearest
    pixel centre of the object. Heat on ignored pixels is not looked at: the maximum
    is searched among the others, and a map with no heat there is a miss. NaN for an
    empty mask. Works inside ``tf.function``.

    Args:
        heatmaps: (n, H, W) float, >= 0, at the size of the masks.
        masks: (n, H, W) or (n, H, W, 1), bool, or integer with `foreground` given.
        foreground: the value of the object in integer masks.
        ignored: the value to leave out, None for none.
        tolerance: in pixels, >= 0.

    Returns:
        (n,) float32: 1, 0 or NaN.

    Raises:
        ValueError: for other shapes and dtypes, contradicting values or a negative
            tolerance.

    Example:

    >>> import numpy as np
    >>> heatmaps = np.float32([[[0, 9, 0, 0]]])
    >>> mask = np.array([[[False, False, False, True]]])
    >>> for tolerance in (1, 2):
    ...     hits = pointing_game_in_masks(heatmaps, mask, tolerance=tolerance)
    ...     np.asarray(hits).item()
    0.0
    1.0
    """
    heatmaps = check_heatmaps(heatmaps)
    inside, counted = split_masks(masks, foreground, ignored, heatmaps)
    heatmaps = ops.where(counted, heatmaps, 0.0)
    x, y = _find_maximum(heatmaps)
    _, height, width = ops.shape(heatmaps)
    columns = (ops.cast(ops.arange(width), "float32") + 0.5 - x) ** 2
    rows = (ops.cast(ops.arange(height), "float32") + 0.5 - y) ** 2
    squared = rows[:, :, None] + columns[:, None, :]
    squared = ops.where(inside, squared, float("inf"))
    squared = ops.reshape(squared, (-1, height * width))
    there = ops.reshape(inside, (-1, height * width))
    return _count_hits(squared, there, heatmaps, tolerance)


def _find_maximum(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """Return x and y of the hottest pixel's centre, (n, 1) each."""
    _, height, width = ops.shape(heatmaps)
    heat = ops.reshape(scale_heatmaps(heatmaps), (-1, height * width))
    hottest = ops.equal(heat, ops.max(heat, axis=1, keepdims=True))
    # TensorFlow leaves open which of several maxima argmax returns.
    last = height * width - 1
    index = ops.where(hottest, ops.arange(height * width), last)
    first = ops.min(index, axis=1, keepdims=True)
    return (
        ops.cast(first % width, "float32") + 0.5,
        ops.cast(first // width, "float32") + 0.5,
    )


def _count_hits(
    squared: Tensor, there: Tensor, heatmaps: Tensor, tolerance: float
) -> Tensor:
    """Compare squared distances to the candidates (n, m) that are there."""
    if not tolerance >= 0:
        raise ValueError(
            f"`tolerance` must be a number of pixels >= 0. Received: {tolerance!r}"
        )
    near = ops.any(squared <= tolerance**2, axis=1)
    hit = ops.logical_and(near, ops.logical_not(find_empty_maps(heatmaps)))
    return ops.where(ops.any(there, axis=1), ops.cast(hit, "float32"), float("nan"))


@keras.saving.register_keras_serializable(package="keras_embcam")
class PointingGameInBoxes(MeanOverImages):
    """Share of maps that point at a box (see ``pointing_game_in_boxes``).

    ``update_state(boxes, heatmaps, sample_weight=None)``.

    Args:
        bounding_box_format: as Keras names it, for example "xyxy" or "rel_yxyx".
        tolerance: in pixels of the heatmaps, >= 0.
        name: of the metric.
        dtype: of its state.

    Example:

    >>> import numpy as np
    >>> metric = PointingGameInBoxes("xyxy", tolerance=0)
    >>> float(metric(np.float32([[0, 0, 2, 1]]), np.float32([[[0, 5, 0]]])))
    1.0
    """

    def __init__(
        self,
        bounding_box_format: str,
        tolerance: float = 15.0,
        name: str = "pointing_game_bbox",
        dtype: Any = None,
    ) -> None:
        super().__init__(
            name, dtype, bounding_box_format=bounding_box_format, tolerance=tolerance
        )

    def measure(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return 1, 0 or NaN for each image."""
        return pointing_game_in_boxes(y_pred, y_true, **self.options)


@keras.saving.register_keras_serializable(package="keras_embcam")
class PointingGameInMasks(MeanOverImages):
    """Share of maps that point at the object's pixels (``pointing_game_in_masks``).

    ``update_state(masks, heatmaps, sample_weight=None)``.

    Args:
        foreground: the value of the object in integer masks, None for bool masks.
        ignored: the value to leave out, None for none.
        tolerance: in pixels, >= 0.
        name: of the metric.
        dtype: of its state.

    Example:

    >>> import numpy as np
    >>> metric = PointingGameInMasks(tolerance=0)
    >>> float(metric(np.array([[[True, False]]]), np.float32([[[5, 0]]])))
    1.0
    """

    def __init__(
        self,
        foreground: int | None = None,
        ignored: int | None = None,
        tolerance: float = 15.0,
        name: str = "pointing_game_mask",
        dtype: Any = None,
    ) -> None:
        super().__init__(
            name, dtype, foreground=foreground, ignored=ignored, tolerance=tolerance
        )

    def measure(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return 1, 0 or NaN for each image."""
        return pointing_game_in_masks(y_pred, y_true, **self.options)
