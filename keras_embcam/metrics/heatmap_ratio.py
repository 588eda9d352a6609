"""The heatmap ratio: how much of the heat lies on the object."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_embcam.heatmaps import scale_heatmaps
from keras_embcam.metrics.mean_over_images import MeanOverImages
from keras_embcam.metrics.regions import (
    check_heatmaps,
    cover_boxes,
    place_boxes,
    split_masks,
)

Tensor = Any


def heatmap_ratio_in_boxes(
    heatmaps: Tensor, boxes: Tensor, bounding_box_format: str
) -> Tensor:
    """Return the share of each map's heat that lies inside the union of its boxes.

    ``sum(H * C) / sum(H)``, with C the share of each pixel that the boxes cover
    (``regions.cover_boxes``). Chen et al. (Adapting Grad-CAM for Embedding Networks,
    WACV 2020) and Bachhawat (Generalizing GradCAM for Embedding Networks,
    arXiv:2402.00909) report its mean over images; Wang et al. (Score-CAM, CVPR
    workshops 2020) call it the energy-based pointing game.

    A ratio says nothing without the one of the uniform map, which is the area of the
    boxes over the area of the image: pass ``ones_like(heatmaps)`` to get it.

    The ratio is NaN, to be left out of a mean, for a map without heat (all zero, or
    holding NaN or infinity: ``find_empty_maps`` counts them) and for an image
    without a box that has area inside the image. Works inside ``tf.function``.

    Args:
        heatmaps: (n, H, W) float, >= 0, at the size of the input image.
        boxes: (n, 4), or (n, m, 4) for several, which count as their union; pad with
            rows of zeros or -1.
        bounding_box_format: as Keras names it, for example "xyxy" or "rel_yxyx".
            Pixel formats are pixels of the heatmaps.

    Returns:
        (n,) float32 in [0, 1], or NaN.

    Raises:
        ValueError: for other shapes or an unknown format.

    Example:

    >>> import numpy as np
    >>> heatmaps = np.float32([[[1, 2, 1]]])
    >>> box = np.float32([[0, 0, 1.5, 1]])  # one pixel and a half
    >>> np.asarray(heatmap_ratio_in_boxes(heatmaps, box, "xyxy")).tolist()
    [0.5]
    >>> uniform = np.ones_like(heatmaps)
    >>> np.asarray(heatmap_ratio_in_boxes(uniform, box, "xyxy")).tolist()
    [0.5]
    """
    heatmaps = check_heatmaps(heatmaps)
    covered = cover_boxes(place_boxes(boxes, bounding_box_format, heatmaps), heatmaps)
    return _share_of_heat(heatmaps, covered)


def heatmap_ratio_in_masks(
    heatmaps: Tensor,
    masks: Tensor,
    foreground: int | None = None,
    ignored: int | None = None,
) -> Tensor:
    """Return the share of each map's heat that lies on the object's pixels.

    ``sum of H over the object / sum of H over all pixels that count``. Ignored pixels
    are left out of both sums, for the uniform map too. NaN for a map without heat on
    the pixels that count and for an empty mask. Works inside ``tf.function``.

    Args:
        heatmaps: (n, H, W) float, >= 0, at the size of the masks.
        masks: (n, H, W) or (n, H, W, 1), bool, or integer with `foreground` given.
        foreground: the value of the object in integer masks (1 in pets' trimaps).
        ignored: the value to leave out (3 in pets' trimaps), None for none.

    Returns:
        (n,) float32 in [0, 1], or NaN.

    Raises:
        ValueError: for other shapes and dtypes, or where the values contradict.

    Example:

    >>> import numpy as np
    >>> heatmaps = np.float32([[[1, 3, 4]]])
    >>> mask = np.array([[[True, False, False]]])
    >>> np.asarray(heatmap_ratio_in_masks(heatmaps, mask)).tolist()
    [0.125]
    >>> trimap = np.uint8([[[1, 2, 3]]])
    >>> ratio = heatmap_ratio_in_masks(heatmaps, trimap, foreground=1, ignored=3)
    >>> np.asarray(ratio).tolist()
    [0.25]
    """
    heatmaps = check_heatmaps(heatmaps)
    inside, counted = split_masks(masks, foreground, ignored, heatmaps)
    return _share_of_heat(
        ops.where(counted, heatmaps, 0.0), ops.cast(inside, "float32")
    )


def _share_of_heat(heatmaps: Tensor, covered: Tensor) -> Tensor:
    heat = scale_heatmaps(heatmaps)  # so that no sum overflows
    total = ops.sum(heat, axis=(1, 2))
    defined = ops.logical_and(total > 0, ops.max(covered, axis=(1, 2)) > 0)
    inside = ops.sum(heat * covered, axis=(1, 2))
    return ops.where(defined, inside / ops.where(defined, total, 1.0), float("nan"))


def find_empty_maps(heatmaps: Tensor) -> Tensor:
    """Tell which maps show nothing: all zero, or holding NaN or infinity.

    After the ReLU of Grad-CAM nothing may be left, and the ratio of such a map is
    undefined. Report their share beside every mean that leaves them out.

    Args:
        heatmaps: (n, H, W) float, >= 0.

    Returns:
        (n,) bool.

    Raises:
        ValueError: for another shape.

    Example:

    >>> import numpy as np
    >>> heatmaps = np.float32([[[0, 1]], [[0, 0]], [[float("nan"), 1]]])
    >>> np.asarray(find_empty_maps(heatmaps)).tolist()
    [False, True, True]
    """
    total = ops.sum(scale_heatmaps(check_heatmaps(heatmaps)), axis=(1, 2))
    return ops.logical_not(total > 0)  # NaN is not above zero either


def _measure(
    ratio_of: Callable[..., Tensor],
    heatmaps: Tensor,
    objects: Tensor,
    uniform: bool,
    **options: Any,
) -> Tensor:
    """Measure each map, or the uniform one where the map's own ratio is defined."""
    own = ratio_of(heatmaps, objects, **options)
    if not uniform:
        return own
    of_uniform = ratio_of(ops.ones_like(heatmaps), objects, **options)
    return ops.where(ops.isnan(own), own, of_uniform)


@keras.saving.register_keras_serializable(package="keras_embcam")
class HeatmapRatioInBoxes(MeanOverImages):
    """Mean heatmap ratio in boxes (see ``heatmap_ratio_in_boxes``).

    ``update_state(boxes, heatmaps, sample_weight=None)``.

    Args:
        bounding_box_format: as Keras names it, for example "xyxy" or "rel_yxyx".
        uniform: measure the uniform map in place of each heatmap, over the same
            images: the baseline to read the ratio against.
        name: of the metric.
        dtype: of its state.

    Example:

    >>> import numpy as np
    >>> metric = HeatmapRatioInBoxes("xyxy")
    >>> baseline = HeatmapRatioInBoxes("xyxy", uniform=True)
    >>> heatmaps, boxes = np.float32([[[3, 0, 0, 1]]]), np.float32([[0, 0, 1, 1]])
    >>> float(metric(boxes, heatmaps)), float(baseline(boxes, heatmaps))
    (0.75, 0.25)
    """

    def __init__(
        self,
        bounding_box_format: str,
        uniform: bool = False,
        name: str = "heatmap_ratio_bbox",
        dtype: Any = None,
    ) -> None:
        super().__init__(
            name, dtype, bounding_box_format=bounding_box_format, uniform=uniform
        )

    def measure(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the ratio of each image, or of the uniform map in its place."""
        return _measure(heatmap_ratio_in_boxes, y_pred, y_true, **self.options)


@keras.saving.register_keras_serializable(package="keras_embcam")
class HeatmapRatioInMasks(MeanOverImages):
    """Mean heatmap ratio in masks (see ``heatmap_ratio_in_masks``).

    ``update_state(masks, heatmaps, sample_weight=None)``.

    Args:
        foreground: the value of the object in integer masks, None for bool masks.
        ignored: the value to leave out, None for none.
        uniform: measure the uniform map in place of each heatmap, over the same
            images: the baseline to read the ratio against.
        name: of the metric.
        dtype: of its state.

    Example:

    >>> import numpy as np
    >>> metric = HeatmapRatioInMasks(foreground=1, ignored=3)
    >>> float(metric(np.uint8([[[1, 2, 3]]]), np.float32([[[1, 3, 6]]])))
    0.25
    """

    def __init__(
        self,
        foreground: int | None = None,
        ignored: int | None = None,
        uniform: bool = False,
        name: str = "heatmap_ratio_mask",
        dtype: Any = None,
    ) -> None:
        super().__init__(
            name, dtype, foreground=foreground, ignored=ignored, uniform=uniform
        )

    def measure(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the ratio of each image, or of the uniform map in its place."""
        return _measure(heatmap_ratio_in_masks, y_pred, y_true, **self.options)


@keras.saving.register_keras_serializable(package="keras_embcam")
class EmptyMapShare(MeanOverImages):
    """Share of the maps that show nothing (see ``find_empty_maps``).

    ``update_state(None, heatmaps, sample_weight=None)``; what is passed as `y_true`
    is not looked at, and images without an object count too.

    Args:
        name: of the metric.
        dtype: of its state.

    Example:

    >>> import numpy as np
    >>> float(EmptyMapShare()(None, np.float32([[[0, 1]], [[0, 0]]])))
    0.5
    """

    def __init__(self, name: str = "empty_heatmaps", dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)

    def measure(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return 1 for an empty map and 0 for another."""
        return ops.cast(find_empty_maps(y_pred), "float32")
