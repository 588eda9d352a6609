"""Record where scikit-image parts heatmaps of birds by Otsu's method.

tests/test_heatmaps.py compares those of ``find_boxes(heatmaps, "otsu")``, which looks
at the square roots of a map's values in 256 levels, and of "otsu_4th_root". The maps
are those of bird_heatmaps.npz.

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
    heatmaps /= heatmaps.max(axis=(1, 2), keepdims=True)
    shares = {}
    for rule, root in (("otsu", 2), ("otsu_4th_root", 4)):
        levels = np.rint(255 * heatmaps ** (1 / root)).astype("uint8")
        shares[rule] = (np.array([threshold_otsu(x) for x in levels]) / 255) ** root
    np.savez(FOLDER / "otsu.npz", **shares)
    print(shares, "scikit-image", version("scikit-image"))


if __name__ == "__main__":
    main()
