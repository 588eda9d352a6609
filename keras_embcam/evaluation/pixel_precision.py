"""PxAP: how well the heat of all pixels tells the object from the background."""

from typing import Any

import numpy as np
from keras import ops

from keras_embcam.metrics.regions import check_heatmaps, split_masks

Tensor = Any


class PixelAveragePrecision:
    """PxAP: the area under the precision-recall curve of all pixels of all images.

    Pixels of all images are pooled, and for the thresholds ``t_l = l / L`` from 1
    down to 0, with ``T`` the object and ``H`` the heat,

        precision_l = |H >= t_l and T| / |H >= t_l|
        recall_l    = |H >= t_l and T| / |T|
        PxAP        = sum_l precision_l (recall_l - recall_(l-1))

    (Choe et al., CVPR 2020, section 4.1). Only two histograms are kept, so a set of
    any size can be streamed. It equals ``sklearn.metrics.average_precision_score``
    over all pixels where no two different values of heat share a bin of ``1 / L``,
    for example for maps rounded to multiples of it. The uniform map scores the
    object's share of all pixels.

    An image whose mask is empty is left out, as by the other metrics of masks; the
    data of Choe et al. have none. A map that holds NaN or infinity counts as all
    zero.

    Args:
        num_thresholds: L, >= 1. Theirs is 1000.

    Raises:
        ValueError: for another number of thresholds.

    Example:

    >>> metric = PixelAveragePrecision()
    >>> metric.update(np.float32([[[1, 0.5, 0]]]), np.array([[[True, False, True]]]))
    >>> round(metric.result(), 4)  # 1/2 x 1 and then 1/2 x 2/3
    0.8333
    """

    def __init__(self, num_thresholds: int = 1000) -> None:
        if num_thresholds < 1:
            raise ValueError(
                f"`num_thresholds` must be at least 1. Received: {num_thresholds!r}"
            )
        # Compared in float32, as the maps come: 0.7 is then not below 700 / 1000.
        self._edges = np.linspace(0, 1, num_thresholds + 1).astype("float32")
        self._inside = np.zeros(num_thresholds + 1, "int64")
        self._outside = np.zeros(num_thresholds + 1, "int64")

    def update(
        self,
        heatmaps: Tensor,
        masks: Tensor,
        foreground: int | None = None,
        ignored: int | None = None,
    ) -> None:
        """Add a batch.

        Args:
            heatmaps: (n, H, W) float in [0, 1], at the size of the masks.
            masks: (n, H, W) or (n, H, W, 1), bool, or integer with `foreground`.
            foreground: the value of the object in integer masks.
            ignored: the value to leave out, None for none.

        Raises:
            ValueError: for other shapes, dtypes or ranges, or contradicting values.
        """
        heatmaps = check_heatmaps(heatmaps)
        inside, counted = split_masks(masks, foreground, ignored, heatmaps)
        inside, counted, heat = map(ops.convert_to_numpy, (inside, counted, heatmaps))
        heat = np.where(np.isfinite(heat).all(axis=(1, 2), keepdims=True), heat, 0)
        if heat.size and not 0 <= heat.min() <= heat.max() <= 1:
            raise ValueError(
                "`heatmaps` must lie in [0, 1]; divide them by their maximum with "
                "keras_embcam.heatmaps.scale_heatmaps. Received: values from "
                f"{heat.min()} to {heat.max()}"
            )
        outside = counted & ~inside & inside.any(axis=(1, 2), keepdims=True)
        levels = np.searchsorted(self._edges, heat, side="right") - 1
        num_levels = len(self._edges)
        self._inside += np.bincount(levels[inside], minlength=num_levels)
        self._outside += np.bincount(levels[outside], minlength=num_levels)

    def result(self) -> float:
        """Return PxAP in [0, 1], NaN where no pixel of an object was seen."""
        found = self._inside[::-1].cumsum()
        wrong = self._outside[::-1].cumsum()
        if not found[-1]:
            return float("nan")
        precision = found / np.maximum(found + wrong, 1)
        recall = found / found[-1]
        return float((precision * np.diff(recall, prepend=0)).sum())
