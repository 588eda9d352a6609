"""The figures of one method's maps, added batch by batch, and their means."""

from typing import Any

import numpy as np

from keras_embcam.evaluation.max_box_accuracy import (
    box_accuracy_curve,
    choose_threshold,
    max_box_accuracy,
    overlap_curve,
)
from keras_embcam.evaluation.pixel_precision import PixelAveragePrecision
from keras_embcam.metrics import (
    ObjectFormat,
    localization_accuracy,
    measure_heatmaps,
)
from keras_embcam.metrics.heatmap_figures import FIGURES, RATIOS
from keras_embcam.metrics.statistics import mean_of, std_of
from keras_embcam.running.labelled_examples import Examples

# Shares of a map's maximum; 0.2 is the papers' (Zhou et al.), 0.15 Grad-CAM's.
THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
NAMED_THRESHOLDS = (0.2, 0.15)
IOU_THRESHOLDS = (0.3, 0.5, 0.7)
# The IoU from which on a found box counts as right.
IOU_THRESHOLD = 0.5


class StreamedFigures:
    """The figures of one method, of image after image; keeps a few numbers of each.

    Args:
        metrics: among `whole_set.METRICS`.
        objects: how the objects are stated.
        box_threshold: the method's own for boxes.
    """

    def __init__(
        self, metrics: tuple[str, ...], objects: ObjectFormat, box_threshold: Any
    ) -> None:
        self._metrics = metrics
        self._objects = objects
        self._box_threshold = box_threshold
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
            uniform: the ratios of their uniform maps.
            missing: (n,) bool, images that the method could not explain: their figures
                are NaN and count nowhere.
        """
        self.num_left_out += int(missing.sum())
        asked = [x for x in FIGURES if x in ("empty_heatmaps", *self._metrics)]
        found = measure_heatmaps(heatmaps, examples, self._objects, asked)
        if "localization_accuracy" in self._metrics and "bbox" in examples:
            found |= self._find_boxes(heatmaps, examples["bbox"])
        if "pxap" in self._metrics and "segmentation_mask" in examples:
            masks = examples["segmentation_mask"][~missing]
            self._precision.update(heatmaps[~missing], masks, *self._objects[1:])
        for name, values in found.items():
            values = np.array(values, "float32")
            values[missing] = np.nan
            self._parts.setdefault(name, []).append(values)
        for name in uniform.keys() & found.keys():
            # Over the images whose own ratio is defined.
            own = self._parts[name][-1]
            values = np.where(np.isnan(own), np.nan, uniform[name])
            self._parts.setdefault(f"{name}_uniform", []).append(values)

    def _find_boxes(self, heatmaps: np.ndarray, boxes: np.ndarray) -> dict[str, Any]:
        where = boxes, self._objects.bounding_box_format
        overlaps = overlap_curve(heatmaps, *where, THRESHOLDS)
        if self._box_threshold in THRESHOLDS:
            own = overlaps[:, THRESHOLDS.index(self._box_threshold)]
            hits = np.where(np.isnan(own), np.nan, own >= np.float32(IOU_THRESHOLD))
        else:
            hits = localization_accuracy(
                heatmaps, *where, self._box_threshold, IOU_THRESHOLD
            )
        return {"overlaps": overlaps, "localization_accuracy": hits}

    def of_images(self) -> dict[str, np.ndarray]:
        """Return each figure that is one number an image, (n,), by its name.

        NaN for an image of which nothing can be said.
        """
        return {
            name: np.concatenate(parts)
            for name, parts in self._parts.items()
            if name != "overlaps"
        }

    def overlaps(self) -> np.ndarray:
        """Return the IoU of each image at each of `THRESHOLDS`, (n, T)."""
        nothing = [np.empty((0, len(THRESHOLDS)))]
        return np.concatenate(self._parts.get("overlaps", nothing))

    def localization_curve(self) -> np.ndarray:
        """Return the localisation accuracy at each of `THRESHOLDS`, (T,)."""
        return box_accuracy_curve(self.overlaps(), IOU_THRESHOLD)

    def choose_thresholds(self) -> list[float]:
        """Return the best threshold for each of `IOU_THRESHOLDS` on these images."""
        overlaps = self.overlaps()
        return [choose_threshold(overlaps, THRESHOLDS, x) for x in IOU_THRESHOLDS]

    def row(self, chosen: list[float] | None = None) -> dict[str, Any]:
        """Return the figures by column; NaN for what nothing can be said of.

        Args:
            chosen: thresholds from another set, from its `choose_thresholds`; None
                for the best on these images themselves.
        """
        values = self.of_images()
        row: dict[str, Any] = {
            "images": int((~np.isnan(values["empty_heatmaps"])).sum()),
            "left_out": self.num_left_out,
        }
        for name in FIGURES:
            if name in values:
                row[name] = mean_of(values[name])
            if name in RATIOS and name in values:
                row[f"{name}_std"] = std_of(values[name])
                row[f"{name}_uniform"] = mean_of(values[f"{name}_uniform"])
        if "overlaps" in self._parts:
            row |= self._localization(values["localization_accuracy"], chosen)
        if "pxap" in self._metrics:
            row["pxap"] = self._precision.result()
        return row

    def _localization(
        self, hits: np.ndarray, chosen: list[float] | None
    ) -> dict[str, Any]:
        overlaps, curve = self.overlaps(), self.localization_curve()
        if np.isnan(curve).all():  # no image has a box
            return {}
        row: dict[str, Any] = {
            "localization_accuracy": mean_of(hits),
            "box_threshold": self._box_threshold,
        }
        for threshold in NAMED_THRESHOLDS:
            at = THRESHOLDS.index(threshold)
            row[f"localization_accuracy_{threshold}"] = float(curve[at])
        best = max_box_accuracy(overlaps, THRESHOLDS, IOU_THRESHOLDS, chosen)
        thresholds = self.choose_thresholds() if chosen is None else chosen
        row["max_box_threshold"] = thresholds[IOU_THRESHOLDS.index(IOU_THRESHOLD)]
        for iou, accuracy in zip(IOU_THRESHOLDS, best, strict=True):
            row[f"max_box_accuracy_{iou}"] = float(accuracy)
        row["max_box_accuracy_mean"] = float(best.mean())
        return row
