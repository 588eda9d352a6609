"""Localisation accuracy: does the box found from the heat meet the true box."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_embcam.heatmaps import find_boxes
from keras_embcam.metrics.mean_over_images import MeanOverImages
from keras_embcam.metrics.regions import intersection_over_union, place_boxes

Tensor = Any


def box_overlaps(
    heatmaps: Tensor,
    boxes: Tensor,
    bounding_box_format: str,
    threshold: float | str = 0.2,
) -> np.ndarray:
    """Return the IoU of the box found from each map with the best of its true boxes.

    The found box is the tightest around the largest 8-connected component strictly
    above `threshold` times the map's maximum (``keras_embcam.heatmaps.find_boxes``).
    True boxes are clipped to the image first, as what is outside cannot be found.
    The areas are continuous, pixel ``i`` reaching from ``i`` to ``i + 1``.

    0 for a map without heat; NaN, to be left out of a mean, for an image without a
    true box that has area inside the image. Components are found with OpenCV, so
    this takes arrays and eager tensors, not the symbolic ones of a ``tf.function``.

    Args:
        heatmaps: (n, H, W) float, >= 0, at the size of the input image.
        boxes: (n, 4), or (n, m, 4) for several; pad with rows of zeros or -1.
        bounding_box_format: as Keras names it, for example "xyxy" or "rel_yxyx".
        threshold: share of the maximum, in [0, 1), or a rule; see `find_boxes`.

    Returns:
        (n,) float32 array in [0, 1], or NaN.

    Raises:
        ValueError: for other shapes, an unknown format or a threshold outside [0, 1).

    Example:

    >>> import numpy as np
    >>> heatmaps = np.float32([[[0, 9, 9, 0]]])
    >>> boxes = np.float32([[[0, 0, 1, 1], [1, 0, 2, 1]]])
    >>> box_overlaps(heatmaps, boxes, "xyxy").tolist()
    [0.5]
    """
    found = find_boxes(heatmaps, threshold)
    return compare_boxes(found, boxes, bounding_box_format, heatmaps)


def compare_boxes(
    found: np.ndarray, boxes: Tensor, bounding_box_format: str, heatmaps: Tensor
) -> np.ndarray:
    """Return the overlaps of ``box_overlaps`` for boxes that are found already.

    Args:
        found: (n, 4), as of `find_boxes`.
        boxes: (n, 4) or (n, m, 4), the true ones.
        bounding_box_format: of the true ones.
        heatmaps: (n, H, W), for its size.
    """
    true = place_boxes(boxes, bounding_box_format, heatmaps)
    true = np.asarray(ops.convert_to_numpy(true))
    best = intersection_over_union(found[:, None], true).max(axis=1, initial=0)
    # `place_boxes` leaves zeros where there is no box.
    return np.where(true.any(axis=(1, 2)), best, np.nan).astype("float32")


def find_hits(overlaps: np.ndarray, iou_threshold: float = 0.5) -> np.ndarray:
    """Return 1 for overlaps from a threshold on, 0 for smaller ones, NaN for NaN."""
    hits = (overlaps >= iou_threshold).astype("float32")
    return np.where(np.isnan(overlaps), overlaps, hits)


def localization_accuracy(
    heatmaps: Tensor,
    boxes: Tensor,
    bounding_box_format: str,
    threshold: float | str = 0.2,
    iou_threshold: float = 0.5,
) -> np.ndarray:
    """Return 1 where the found box overlaps a true box by `iou_threshold`, else 0.

    The rule of Zhou et al. (Learning Deep Features for Discriminative Localization,
    CVPR 2016, section 3.2): pixels above 20 % of the maximum, the largest connected
    component, its box; correct at an intersection over union of 0.5 or more, with
    the best of several true boxes. Whether the image was classified correctly plays
    no part. Edge rules as in ``box_overlaps``: an empty map is a miss, an image
    without a true box is NaN. Takes arrays and eager tensors only.

    Args:
        heatmaps: (n, H, W) float, >= 0, at the size of the input image.
        boxes: (n, 4), or (n, m, 4) for several; pad with rows of zeros or -1.
        bounding_box_format: as Keras names it, for example "xyxy" or "rel_yxyx".
        threshold: share of the maximum, in [0, 1), or a rule; see `find_boxes`.
        iou_threshold: in (0, 1].

    Returns:
        (n,) float32 array: 1, 0 or NaN.

    Raises:
        ValueError: for other shapes, an unknown format or a threshold out of range.

    Example:

    >>> import numpy as np
    >>> heatmaps = np.float32([[[0, 9, 9, 0]]])
    >>> localization_accuracy(heatmaps, np.float32([[0, 0, 4, 1]]), "xyxy").tolist()
    [1.0]
    """
    if not 0 < iou_threshold <= 1:
        raise ValueError(
            "`iou_threshold` must lie above 0 and not above 1. "
            f"Received: {iou_threshold!r}"
        )
    overlaps = box_overlaps(heatmaps, boxes, bounding_box_format, threshold)
    return find_hits(overlaps, iou_threshold)


@keras.saving.register_keras_serializable(package="keras_embcam")
class LocalizationAccuracy(MeanOverImages):
    """Share of images whose box is found (see ``localization_accuracy``).

    ``update_state(boxes, heatmaps, sample_weight=None)``, on arrays or eager tensors:
    where it is compiled into a model, ``compile(..., run_eagerly=True)``.

    Args:
        bounding_box_format: as Keras names it, for example "xyxy" or "rel_yxyx".
        threshold: share of the maximum, in [0, 1), or a rule; see `find_boxes`.
        iou_threshold: in (0, 1].
        name: of the metric.
        dtype: of its state.

    Example:

    >>> import numpy as np
    >>> metric = LocalizationAccuracy("xyxy")
    >>> heatmaps = np.float32([[[0, 9, 9, 0]], [[9, 0, 0, 0]]])
    >>> float(metric(np.float32([[0, 0, 4, 1], [0, 0, 4, 1]]), heatmaps))
    0.5
    """

    def __init__(
        self,
        bounding_box_format: str,
        threshold: float | str = 0.2,
        iou_threshold: float = 0.5,
        name: str = "localization_accuracy",
        dtype: Any = None,
    ) -> None:
        super().__init__(
            name,
            dtype,
            bounding_box_format=bounding_box_format,
            threshold=threshold,
            iou_threshold=iou_threshold,
        )

    def measure(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return 1, 0 or NaN for each image."""
        return localization_accuracy(y_pred, y_true, **self.options)
