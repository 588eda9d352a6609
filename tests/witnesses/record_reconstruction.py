"""Record how scikit-image reconstructs heatmaps of birds from markers.

tests/test_heatmaps.py compares ``reconstruct_heatmaps``. The masks are the maps of
bird_heatmaps.npz, in [0, 1]; the marker of each is itself where another of the maps is
at least 0.8.

Run with ``make witnesses``.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
from skimage.morphology import reconstruction

FOLDER = Path(__file__).parent


def main() -> None:
    """Write reconstruction.npz beside this file."""
    masks = np.load(FOLDER / "bird_heatmaps.npz")["heatmaps"].astype("float64")
    markers = np.where(masks[::-1] >= 0.8, masks, 0)
    footprint = np.ones((3, 3))
    heatmaps = [
        reconstruction(marker, mask, "dilation", footprint)
        for marker, mask in zip(markers, masks, strict=True)
    ]
    # Its values are values of the masks, so nothing is lost.
    np.savez_compressed(
        FOLDER / "reconstruction.npz", heatmaps=np.array(heatmaps, "float16")
    )
    print("scikit-image", version("scikit-image"))


if __name__ == "__main__":
    main()
