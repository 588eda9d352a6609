"""Occlusion: how much the score drops when a patch covers a part of the image."""

from typing import Any

import numpy as np

from keras_embcam.evaluation.checked_arguments import (
    Embed,
    check_images,
    embed_checked,
)
from keras_embcam.evaluation.correlation import rank_correlation
from keras_embcam.evaluation.measure import FAITHFULNESS, Column, Measured, fills
from keras_embcam.evaluation.measure_input import Context
from keras_embcam.metrics.statistics import mean_of
from keras_embcam.whole_numbers import check_integer

PATCHES_A_SIDE = 7


@fills(FAITHFULNESS, Column("occlusion", "occlusion rank corr. (high)"))
def measure_occlusion(context: Context) -> Measured:
    """Measure the rank correlation of the maps with the occlusion map."""
    sample = context.sample
    patch_size = max(1, min(sample.images.shape[1:3]) // PATCHES_A_SIDE)
    # Methods of the same proxy share one occlusion map.
    made: list[tuple[np.ndarray, np.ndarray]] = []
    rows: list[dict[str, Any]] = []
    for maps, targets in zip(sample.maps, sample.targets, strict=True):
        same = [x for known, x in made if np.array_equal(known, targets)]
        if not same:
            same = [occlusion_maps(context.embed, sample.images, targets, patch_size)]
            made.append((targets, same[0]))
        rows.append({"occlusion": mean_of(rank_correlation(maps, same[0]))})
    note = f"Occlusion: patches of 1/{PATCHES_A_SIDE} of a side"
    return Measured(rows, notes=[note])


def occlusion_maps(
    embed: Embed,
    images: np.ndarray,
    proxies: np.ndarray,
    patch_size: int,
    stride: int | None = None,
) -> np.ndarray:
    """Return how much the score ``y . p`` drops when a patch covers each pixel.

    What a map is compared with to see whether it is faithful (Selvaraju et al.,
    "Grad-CAM", ICCV 2017, appendix on occlusion; Zeiler and Fergus, 2014): the score
    of the whole image minus the score with a patch over it, averaged over the patches
    that cover the pixel. A patch has the mean colour of its image, which is grey in
    whatever range the model expects. Compare with ``correlation.rank_correlation``.

    Args:
        embed: returns the embeddings (n, d) of images (n, H, W, c) float32, raw, not
            normalised. Called once for the images and once for each patch.
        images: (n, H, W, c), in the range that the model expects.
        proxies: (n, d), one for each image.
        patch_size: side of the square in pixels, >= 1, at most the image's.
        stride: pixels from one patch to the next, >= 1 and at most `patch_size`; None
            for `patch_size`. The last patch is moved to end at the border.

    Returns:
        (n, H, W) float32, signed: negative where covering helps.

    Raises:
        ValueError: for shapes that do not fit, or sizes out of range.

    Example:

    >>> def embed(images):  # the mean of all pixels
    ...     return images.mean(axis=(1, 2))
    >>> images = np.array([0, 0, 4, 8]).reshape(1, 1, 4, 1)
    >>> occlusion_maps(embed, images, np.ones((1, 1)), 1).tolist()
    [[[-0.75, -0.75, 0.25, 1.25]]]
    """
    images = check_images(images)
    height, width = images.shape[1:3]
    check_integer("patch_size", patch_size, 1, min(height, width))
    stride = patch_size if stride is None else stride
    check_integer("stride", stride, 1, patch_size)
    proxies = np.asarray(proxies, "float64")
    grey = images.mean(axis=(1, 2), keepdims=True)
    whole = (embed_checked(embed, images, proxies) * proxies).sum(axis=1)
    drops = np.zeros(images.shape[:3])
    num_covering = np.zeros((height, width))
    for top in _place_patches(height, patch_size, stride):
        for left in _place_patches(width, patch_size, stride):
            patch = np.s_[..., top : top + patch_size, left : left + patch_size]
            covered = images.copy()
            covered[(*patch, slice(None))] = grey
            score = (embed_checked(embed, covered, proxies) * proxies).sum(axis=1)
            drops[patch] += (whole - score)[:, None, None]
            num_covering[patch] += 1
    return (drops / num_covering).astype("float32")


def _place_patches(length: int, patch_size: int, stride: int) -> list[int]:
    last = length - patch_size
    return [*range(0, last, stride), last]
