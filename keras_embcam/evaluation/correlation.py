"""How alike two maps order the pixels of an image."""

import numpy as np

from keras_embcam.extras import import_extra


def check_scipy() -> None:
    """Check that what `rank_correlation` needs is installed.

    Raises:
        ImportError: without SciPy.
    """
    import_extra("scipy.stats", "evaluation", "Rank correlations need SciPy")


def rank_correlation(maps: np.ndarray, other_maps: np.ndarray) -> np.ndarray:
    """Return Spearman's rank correlation of two maps of each image, over pixels.

    Args:
        maps: (n, H, W) float.
        other_maps: the same shape.

    Returns:
        (n,) float64 in [-1, 1]; NaN where a map is constant or not finite.

    Raises:
        ValueError: for shapes that differ.
        ImportError: without SciPy.

    Example:

    >>> rank_correlation([[[1, 2, 3]]], [[[0, 10, 11]]]).round(6).tolist()
    [1.0]
    """
    check_scipy()
    from scipy.stats import spearmanr

    maps, other_maps = np.asarray(maps), np.asarray(other_maps)
    if maps.ndim != 3 or maps.shape != other_maps.shape:
        raise ValueError(
            "`maps` and `other_maps` must have the same shape (n, H, W). Received: "
            f"{maps.shape} and {other_maps.shape}"
        )
    maps, other_maps = (x.reshape(len(x), -1) for x in (maps, other_maps))
    correlations = np.full(len(maps), np.nan)
    for i in np.flatnonzero(has_order(maps) & has_order(other_maps)):
        correlations[i] = spearmanr(maps[i], other_maps[i]).statistic
    return correlations


def has_order(flat_maps: np.ndarray) -> np.ndarray:
    """Tell which maps order their pixels: finite and not constant.

    Args:
        flat_maps: (n, pixels) float.

    Returns:
        (n,) bool.

    Example:

    >>> has_order(np.array([[1.0, 2.0], [3.0, 3.0], [np.nan, 0.0]])).tolist()
    [True, False, False]
    """
    differs = (flat_maps != flat_maps[:, :1]).any(axis=1)
    return differs & np.isfinite(flat_maps).all(axis=1)
