"""Record where scikit-image parts heatmaps of birds by Otsu's method.

tests/test_heatmaps.py compares the threshold of ``find_boxes(heatmaps, "otsu")``, which
looks at the square roots of a map's values in 256 levels. The maps are those of
bird_heatmaps.npz.

Run with ``make witnesses``.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
from skimage.filters import threshold_otsu

FOLDER = Path(__file__).parent


def main() -> None:
    """Write otsu.npz beside this file."""
    heatmaps = np.load(FOLDER / "bird_heatmaps.npz")["heatmaps"].astype("float64")
    roots = np.sqrt(heatmaps / heatmaps.max(axis=(1, 2), keepdims=True))
    levels = [threshold_otsu(np.rint(255 * x).astype("uint8")) for x in roots]
    shares = (np.array(levels) / 255) ** 2
    np.savez(FOLDER / "otsu.npz", shares=shares)
    print(shares.round(4), "scikit-image", version("scikit-image"))


if __name__ == "__main__":
    main()
