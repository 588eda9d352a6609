"""Explanation: heatmaps and what belongs to them."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Explanation(NamedTuple):
    """Heatmaps and what belongs to them, as numpy arrays.

    Attributes:
        heatmaps: (n, H, W) float32 in [0, 1], or (n, m, H, W); see `explain`.
        embeddings: (n, d) float32, raw.
        scores: (n,) float32, or (n, m): ``y . p``.
        images: (n, H, W, c) as given or read, before `preprocessing_function`.
        files: n paths where the images come from files, without those that could not
            be read; else None.
    """

    heatmaps: np.ndarray
    embeddings: np.ndarray
    scores: np.ndarray
    images: Any
    files: list[Path] | None = None
