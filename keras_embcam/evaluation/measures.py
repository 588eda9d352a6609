"""What is measured on the maps of one method, streamed over a set."""

from typing import Any, NamedTuple

import numpy as np

from keras_embcam.evaluation.localization import (
    box_accuracy_curve,
    choose_threshold,
    max_box_accuracy,
    overlap_curve,
)
from keras_embcam.evaluation.pixel_precision import PixelAveragePrecision
from keras_embcam.metrics import (
    find_empty_maps,
    heatmap_ratio_in_boxes,
    heatmap_ratio_in_masks,
    localization_accuracy,
    pointing_game_in_boxes,
    pointing_game_in_masks,
)
from keras_embcam.running.labelled_examples import Examples

METRICS = ("ratio_box", "ratio_mask", "localization", "pxap", "pointing_game")
NEEDED = {
    "ratio_box": ("bbox",),
    "ratio_mask": ("segmentation_mask",),
    "localization": ("bbox",),
    "pxap": ("segmentation_mask",),
    "pointing_game": ("bbox", "segmentation_mask"),  # one of them
}
# Shares of a map's maximum; 0.2 is the papers' (Zhou et al.), 0.15 Grad-CAM's.
THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
NAMED_THRESHOLDS = (0.2, 0.15)
IOU_THRESHOLDS = (0.3, 0.5, 0.7)


class Regions(NamedTuple):
    """How the objects of a set are stated.

    Attributes:
        bounding_box_format: as Keras names it.
        mask_foreground: see `heatmap_ratio_in_masks`.
        mask_ignored: see `heatmap_ratio_in_masks`.
    """

    bounding_box_format: str = "rel_yxyx"
    mask_foreground: int | None = None
    mask_ignored: int | None = None


def choose_metrics(metrics: Any, keys: set[str]) -> tuple[str, ...]:
    """Return the metrics to measure.

    Args:
        metrics: among `METRICS`, or None for all that the examples allow.
        keys: what the examples have.

    Raises:
        ValueError: for an unknown metric, or one whose boxes or masks are missing.

    Example:

    >>> choose_metrics(None, {"image", "bbox"})
    ('ratio_box', 'localization', 'pointing_game')
    """
    if metrics is None:
        return tuple(x for x in METRICS if keys.intersection(NEEDED[x]))
    metrics = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    unknown = [x for x in metrics if x not in METRICS]
    if unknown:
        raise ValueError(f"`metrics` must be among {METRICS}. Received: {unknown}")
    missing = {x: NEEDED[x] for x in metrics if not keys.intersection(NEEDED[x])}
    if missing:
        raise ValueError(
            "`examples` must have what the asked metrics measure on: "
            f"{ {x: ' or '.join(needed) for x, needed in missing.items()} }. Received "
            f"examples with {sorted(keys)}. Add it, or leave these metrics out."
        )
    return metrics


def measure_uniform(examples: Examples, regions: Regions) -> dict[str, np.ndarray]:
    """Return the ratios of the uniform map, (n,) each, in boxes and in masks."""
    found: dict[str, Any] = {}
    heatmaps = np.ones(examples["image"].shape[:3], "float32")
    if "bbox" in examples:
        boxes = examples["bbox"], regions.bounding_box_format
        found["uniform_box"] = heatmap_ratio_in_boxes(heatmaps, *boxes)
    if "segmentation_mask" in examples:
        masks = examples["segmentation_mask"], *regions[1:]
        found["uniform_mask"] = heatmap_ratio_in_masks(heatmaps, *masks)
    return {name: np.asarray(values) for name, values in found.items()}


class Measures:
    """The figures of one method; keeps a few numbers an image.

    Args:
        metrics: among `METRICS`.
        regions: how the objects are stated.
        thresholds: (T,) of the localisation curve.
        own_threshold: the method's own for boxes, measured besides; None for none.
    """

    def __init__(
        self,
        metrics: tuple[str, ...],
        regions: Regions,
        thresholds: tuple[float, ...] = THRESHOLDS,
        own_threshold: Any = None,
    ) -> None:
        self._metrics = metrics
        self._regions = regions
        self._thresholds = thresholds
        self._own_threshold = own_threshold
        self._parts: dict[str, list[np.ndarray]] = {}
        self._precision = PixelAveragePrecision()
        self.num_left_out = 0

    def update(
        self,
        heatmaps: np.ndarray,
        examples: Examples,
        uniform: dict[str, np.ndarray],
        missing: np.ndarray,
    ) -> None:
        """Add a batch.

        Args:
            heatmaps: (n, H, W) float32 in [0, 1].
            examples: of the same images.
            uniform: their `measure_uniform`.
            missing: (n,) bool, images that the method could not explain: left out.
        """
        self.num_left_out += int(missing.sum())
        heatmaps = heatmaps[~missing]
        examples = {key: values[~missing] for key, values in examples.items()}
        if not len(heatmaps):
            return
        found: dict[str, Any] = {"empty": find_empty_maps(heatmaps)}
        if "bbox" in examples:
            found |= self._measure_boxes(heatmaps, examples["bbox"])
        if "segmentation_mask" in examples:
            masks = examples["segmentation_mask"]
            found |= self._measure_masks(heatmaps, masks, "bbox" in examples)
        for name, values in uniform.items():
            own = name.replace("uniform", "ratio")
            if own in found:  # over the images whose own ratio is defined
                undefined = np.isnan(np.asarray(found[own]))
                found[name] = np.where(undefined, np.nan, values[~missing])
        for name, values in found.items():
            self._parts.setdefault(name, []).append(np.asarray(values))

    def _measure_boxes(self, heatmaps: np.ndarray, boxes: np.ndarray) -> dict[str, Any]:
        where = boxes, self._regions.bounding_box_format
        found: dict[str, Any] = {}
        if "ratio_box" in self._metrics:
            found["ratio_box"] = heatmap_ratio_in_boxes(heatmaps, *where)
        if "localization" in self._metrics:
            found["overlaps"] = overlap_curve(heatmaps, *where, self._thresholds)
            if self._own_threshold is not None:
                found["localization_own"] = localization_accuracy(
                    heatmaps, *where, self._own_threshold
                )
        if "pointing_game" in self._metrics:
            found["pointing_game"] = pointing_game_in_boxes(
                heatmaps, *where, tolerance=0
            )
        return found

    def _measure_masks(
        self, heatmaps: np.ndarray, masks: np.ndarray, has_boxes: bool
    ) -> dict[str, Any]:
        found: dict[str, Any] = {}
        where = masks, self._regions.mask_foreground, self._regions.mask_ignored
        if "ratio_mask" in self._metrics:
            found["ratio_mask"] = heatmap_ratio_in_masks(heatmaps, *where)
        if "pointing_game" in self._metrics and not has_boxes:
            found["pointing_game"] = pointing_game_in_masks(heatmaps, *where, 0.0)
        if "pxap" in self._metrics:
            self._precision.update(heatmaps, *where)
        return found

    def values(self, name: str) -> np.ndarray:
        """Return what was measured of each image, (n,) or for overlaps (n, T).

        Args:
            name: one of the metrics, "empty", "overlaps", or a uniform ratio.
        """
        width = (len(self._thresholds),) if name == "overlaps" else ()
        return np.concatenate(self._parts.get(name, [np.empty((0, *width))]))

    def choose_thresholds(self) -> list[float]:
        """Return the best threshold for each of `IOU_THRESHOLDS` on these images."""
        overlaps = self.values("overlaps")
        return [choose_threshold(overlaps, self._thresholds, x) for x in IOU_THRESHOLDS]

    def localization_curve(self) -> np.ndarray:
        """Return the localisation accuracy at each threshold, (T,)."""
        return box_accuracy_curve(self.values("overlaps"))

    def row(self, chosen: list[float] | None = None) -> dict[str, Any]:
        """Return the figures by column; NaN for what nothing can be said of.

        Args:
            chosen: thresholds from another set, from its `choose_thresholds`; None
                for the best on these images themselves.
        """
        row: dict[str, Any] = {
            "images": len(self.values("empty")),
            "left_out": self.num_left_out,
            "empty_maps": mean_of(self.values("empty")),
        }
        for name in ("ratio_box", "ratio_mask"):
            if name in self._parts:
                row[name] = mean_of(self.values(name))
                row[f"{name}_std"] = std_of(self.values(name))
                uniform = name.replace("ratio", "uniform")
                row[uniform] = mean_of(self.values(uniform))
        if "overlaps" in self._parts:
            row |= self._localization(chosen)
        if "pointing_game" in self._parts:
            row["pointing_game"] = mean_of(self.values("pointing_game"))
        if "pxap" in self._metrics:
            row["pxap"] = self._precision.result()
        return row

    def _localization(self, chosen: list[float] | None) -> dict[str, Any]:
        overlaps, curve = self.values("overlaps"), self.localization_curve()
        row: dict[str, Any] = {}
        if np.isnan(curve).all():  # no image has a box
            return row
        for threshold in NAMED_THRESHOLDS:
            if threshold in self._thresholds:
                at = self._thresholds.index(threshold)
                row[f"localization_{threshold}"] = float(curve[at])
        if self._own_threshold is not None:
            row["localization_own"] = mean_of(self.values("localization_own"))
            row["own_threshold"] = self._own_threshold
        best = max_box_accuracy(overlaps, self._thresholds, IOU_THRESHOLDS, chosen)
        thresholds = self.choose_thresholds() if chosen is None else chosen
        row["threshold"] = thresholds[IOU_THRESHOLDS.index(0.5)]
        for iou, accuracy in zip(IOU_THRESHOLDS, best, strict=True):
            row[f"max_box_{iou}"] = float(accuracy)
        row["max_box_mean"] = float(best.mean())
        return row


def mean_of(values: Any) -> float:
    """Return the mean of what is not NaN; NaN of nothing.

    Example:

    >>> mean_of([1, float("nan"), 2])
    1.5
    """
    values = np.asarray(values, "float64")
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")


def std_of(values: Any) -> float:
    """Return the sample standard deviation of what is not NaN; NaN of less than two.

    Example:

    >>> std_of([1, 3, float("nan")]) == 2**0.5
    True
    """
    values = np.asarray(values, "float64")
    values = values[~np.isnan(values)]
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")
