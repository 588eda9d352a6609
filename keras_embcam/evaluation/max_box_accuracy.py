"""Localisation over all thresholds, as Choe et al. measure it: MaxBoxAcc."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from keras import ops

from keras_embcam.metrics.regions import (
    check_heatmaps,
    intersection_over_union,
    place_boxes,
)

Tensor = Any


def overlap_curve(
    heatmaps: Tensor,
    boxes: Tensor,
    bounding_box_format: str,
    thresholds: Sequence[float] | np.ndarray,
    largest_only: bool = True,
) -> np.ndarray:
    """Return the IoU of the found box with the best true box at every threshold.

    With `largest_only` each column is ``keras_embcam.metrics.box_overlaps`` at that
    threshold. Without it, every 8-connected region above the threshold gives a box
    and the best one counts: the rule of MaxBoxAccV2 (Choe et al., "Evaluation for
    Weakly Supervised Object Localization: Protocol, Metrics, and Datasets", TPAMI
    2022). Their code takes contours, so that the rim of a hole is a candidate too;
    and it shifts maps by their minimum first, which here is never done.

    As a hot region only shrinks when the threshold rises, each search is confined to
    the box around what the one before has left.

    Args:
        heatmaps: (n, H, W) float, >= 0, at the size of the input image.
        boxes: (n, 4), or (n, m, 4) for several; pad with rows of zeros or -1.
        bounding_box_format: as Keras names it, for example "xyxy" or "rel_yxyx".
        thresholds: (T,) shares of each map's maximum, in [0, 1), in any order.
        largest_only: True for the box of the largest region, as in MaxBoxAcc; False
            for the best box of all regions.

    Returns:
        (n, T) float32 array in [0, 1]; 0 for a map without heat, NaN for an image
        without a true box that has area inside the image.

    Raises:
        ValueError: for other shapes, an unknown format or thresholds outside [0, 1).

    Example:

    >>> heatmaps, boxes = np.float32([[[2, 2, 0, 9]]]), [[0, 0, 2, 1]]
    >>> overlap_curve(heatmaps, boxes, "xyxy", [0.1, 0.5]).tolist()
    [[1.0, 0.0]]
    """
    thresholds = _check_thresholds(thresholds)
    heatmaps = ops.convert_to_numpy(check_heatmaps(heatmaps))
    true_boxes = ops.convert_to_numpy(place_boxes(boxes, bounding_box_format, heatmaps))
    overlaps = np.full((len(heatmaps), len(thresholds)), np.nan, "float32")
    for row, heatmap, true in zip(overlaps, heatmaps, true_boxes, strict=True):
        if not true.any():  # `place_boxes` leaves zeros where there is no box
            continue
        row[:] = 0
        columns, found = _find_regions(heatmap, thresholds, largest_only)
        best = intersection_over_union(found[:, None], true).max(axis=1)
        np.maximum.at(row, columns, best)
    return overlaps


def _find_regions(
    heatmap: np.ndarray, thresholds: np.ndarray, largest_only: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes (b, 4) and the column of the threshold that each was found at."""
    columns, boxes = [np.zeros(0, int)], [np.zeros((0, 4), "float32")]
    maximum = heatmap.max()
    if not 0 < maximum < np.inf:  # NaN is neither
        thresholds = thresholds[:0]
    left = top = 0
    for column in np.argsort(thresholds):
        hot = heatmap > thresholds[column] * maximum
        across, down = np.flatnonzero(hot.any(axis=0)), np.flatnonzero(hot.any(axis=1))
        if not len(across):  # the maximum is so small that it has no fractions
            break
        window = np.s_[down[0] : down[-1] + 1, across[0] : across[-1] + 1]
        heatmap, hot = heatmap[window], hot[window]
        left, top = left + across[0], top + down[0]
        _, _, regions, _ = cv2.connectedComponentsWithStats(
            hot.astype("uint8"), connectivity=8
        )
        regions = regions[1:]  # without the background
        if largest_only:
            x, y, _, _, areas = regions.T
            regions = regions[np.lexsort((x, y, -areas))[:1]]
        corners = regions[:, :2] + [left, top]
        boxes.append(np.concatenate([corners, corners + regions[:, 2:4]], axis=1))
        columns.append(np.full(len(regions), column))
    return np.concatenate(columns), np.concatenate(boxes).astype("float32")


def box_accuracy_curve(overlaps: np.ndarray, iou_threshold: float = 0.5) -> np.ndarray:
    """Return the share of images whose IoU reaches `iou_threshold`, by threshold.

    BoxAcc of Choe et al. ("Evaluating Weakly Supervised Object Localization Methods
    Right", CVPR 2020, section 4.1).

    Args:
        overlaps: (n, T) float, from ``overlap_curve``; images of NaN are left out.
        iou_threshold: in (0, 1].

    Returns:
        (T,) float64 in [0, 1]; NaN where no image is left.

    Raises:
        ValueError: for another shape or an IoU outside (0, 1].

    Example:

    >>> overlaps = np.float32([[0.5, 0.2], [0.6, 0.7], [np.nan, np.nan]])
    >>> box_accuracy_curve(overlaps).tolist()
    [1.0, 0.5]
    """
    overlaps = np.asarray(overlaps)
    if overlaps.ndim != 2:
        raise ValueError(
            "`overlaps` must have the shape (n, T), as `overlap_curve` returns it. "
            f"Received: overlaps.shape={overlaps.shape}"
        )
    if not 0 < iou_threshold <= 1:
        raise ValueError(
            "An IoU threshold must lie above 0 and not above 1. "
            f"Received: {iou_threshold!r}"
        )
    counted = ~np.isnan(overlaps)
    num_images = counted.sum(axis=0)
    # In float32, as `localization_accuracy` compares: 0.7 is met by 7 / 10.
    hits = (overlaps >= np.float32(iou_threshold)).sum(axis=0)
    return np.where(num_images > 0, hits / np.maximum(num_images, 1), np.nan)


def choose_threshold(
    overlaps: np.ndarray,
    thresholds: Sequence[float] | np.ndarray,
    iou_threshold: float = 0.5,
) -> float:
    """Return the threshold of the highest box accuracy, the lowest of equal ones.

    Choose it on one set and report on another (``max_box_accuracy`` with `at`).

    Args:
        overlaps: (n, T) float, from ``overlap_curve``.
        thresholds: (T,) that they were measured at.
        iou_threshold: in (0, 1].

    Returns:
        One of `thresholds`.

    Raises:
        ValueError: for other shapes or ranges, or where no image has a box.

    Example:

    >>> choose_threshold(np.float32([[0.4, 0.5, 0.6]]), [0.1, 0.2, 0.3])
    0.2
    """
    thresholds = _match_thresholds(overlaps, thresholds)
    accuracy = box_accuracy_curve(overlaps, iou_threshold)
    if np.isnan(accuracy).any():
        raise ValueError(
            "A threshold can only be chosen on images with boxes: `overlaps` must "
            f"hold a number in every column. Received: accuracy={accuracy.tolist()}"
        )
    return float(thresholds[accuracy == accuracy.max()].min())


def max_box_accuracy(
    overlaps: np.ndarray,
    thresholds: Sequence[float] | np.ndarray,
    iou_thresholds: Sequence[float] = (0.3, 0.5, 0.7),
    at: Sequence[float] | None = None,
) -> np.ndarray:
    """Return MaxBoxAcc, the box accuracy at the best threshold, for each IoU.

    ``max over t of BoxAcc(t, IoU)`` (Choe et al., CVPR 2020, section 4.1). Over
    IoU 0.5 and the largest region it is their MaxBoxAcc; the mean over 0.3, 0.5 and
    0.7, each with its own threshold and over all regions, is MaxBoxAccV2 (TPAMI
    2022). A maximum over the very images it is reported on is optimistic: with `at`
    the thresholds come from another set (``choose_threshold``).

    Args:
        overlaps: (n, T) float, from ``overlap_curve``; images of NaN are left out.
        thresholds: (T,) that they were measured at.
        iou_thresholds: each in (0, 1].
        at: one threshold for each IoU, each one of `thresholds`; None for the best.

    Returns:
        (number of IoUs,) float64 in [0, 1]; NaN where no image has a box.

    Raises:
        ValueError: for other shapes or ranges, or for an `at` that was not measured.

    Example:

    >>> overlaps = np.float32([[0.5, 0.2], [0.2, 0.4], [0.1, 0.3]])
    >>> max_box_accuracy(overlaps, [0.2, 0.4], (0.3, 0.5)).round(2).tolist()
    [0.67, 0.33]
    >>> max_box_accuracy(overlaps, [0.2, 0.4], (0.3, 0.5), at=[0.2, 0.4]).round(2)
    array([0.33, 0.  ])
    """
    thresholds = _match_thresholds(overlaps, thresholds)
    curves = np.stack([box_accuracy_curve(overlaps, iou) for iou in iou_thresholds])
    if at is None:
        return curves.max(axis=1)
    is_measured = np.isclose(np.reshape(at, (-1, 1)), thresholds, rtol=0, atol=1e-6)
    if len(is_measured) != len(curves) or not is_measured.any(axis=1).all():
        raise ValueError(
            "`at` must hold one threshold for each IoU, each of them one of "
            f"`thresholds`. Received: at={at!r} for iou_thresholds={iou_thresholds!r} "
            f"and thresholds={thresholds.tolist()}"
        )
    return curves[np.arange(len(curves)), is_measured.argmax(axis=1)]


def _check_thresholds(thresholds: Sequence[float] | np.ndarray) -> np.ndarray:
    shares = np.asarray(thresholds, "float32")
    if shares.ndim != 1 or not len(shares) or not ((shares >= 0) & (shares < 1)).all():
        raise ValueError(
            "`thresholds` are shares of each map's maximum: a list of at least one, "
            f"each in [0, 1). Received: {thresholds!r}"
        )
    return shares


def _match_thresholds(
    overlaps: np.ndarray, thresholds: Sequence[float] | np.ndarray
) -> np.ndarray:
    _check_thresholds(thresholds)
    if len(thresholds) != np.shape(overlaps)[-1]:
        raise ValueError(
            "`thresholds` must hold one number for each column of `overlaps`. "
            f"Received: {len(thresholds)} for overlaps.shape={np.shape(overlaps)}"
        )
    return np.asarray(thresholds)
