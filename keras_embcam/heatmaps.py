"""Heatmaps: weights times activations, resized, scaled and turned into boxes."""

import functools
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from keras import ops

from keras_embcam.resizing import Field, resize_heatmaps

Tensor = Any
# Which root of the values each rule by Otsu looks at.
OTSU_ROOTS = {"otsu": 2, "otsu_4th_root": 4}
TINY = 1.2e-38  # just above the smallest normal float32


def combine_channels(activations: Tensor, weights: Tensor) -> Tensor:
    """Return the raw heatmaps ``relu(sum_k W_k A_k)`` (Grad-CAM, eq. 5).

    Args:
        activations: (n, h, w, k) float32.
        weights: broadcastable to the activations: (n, 1, 1, k) for one weight a
            channel, (n, h, w, k) for one a position.

    Returns:
        (n, h, w) float32, >= 0, in the units of the score.

    Example:

    >>> import numpy as np
    >>> activations = np.float32([[[[1, 2]], [[3, 4]]]])
    >>> weights = np.float32([[[[1, -0.5]]]])
    >>> np.asarray(combine_channels(activations, weights)).tolist()
    [[[0.0], [1.0]]]
    """
    n, h, w, k = ops.shape(activations)
    if tuple(weights.shape[1:]) == (1, 1, activations.shape[-1]):
        # One matrix product for each image, where `weights * activations` would first
        # make an array as large as the activations.
        columns = ops.reshape(weights, (-1, k, 1))
        signed = ops.matmul(ops.reshape(activations, (-1, h * w, k)), columns)
        signed = ops.reshape(signed, (-1, h, w))
    else:
        signed = ops.sum(weights * activations, axis=-1)
    return ops.relu(signed)


def fuse_heatmaps(
    heatmaps: Sequence[Tensor], frames: Sequence[Field | None] | None = None
) -> Tensor:
    """Return the mean of the maps of several layers, each divided by its maximum.

    Args:
        heatmaps: of each layer, (n, h, w) float32, >= 0.
        frames: the `field` of each, see `resize_heatmaps`, for maps that lie elsewhere.

    Returns:
        (n, h, w) float32 in [0, 1], of the size of the largest maps.

    Example:

    >>> import numpy as np
    >>> maps = np.float32([[[2.0]]]), np.float32([[[0, 4]]])
    >>> np.asarray(fuse_heatmaps(maps)).tolist()
    [[[0.5, 1.0]]]
    """
    shapes = [ops.shape(x) for x in heatmaps]
    size = _largest([x[1] for x in shapes]), _largest([x[2] for x in shapes])
    scaled = [scale_heatmaps(x) for x in _resize_each(heatmaps, size, frames)]
    return sum(scaled[1:], scaled[0]) / len(scaled)


def add_heatmaps(
    heatmaps: Sequence[Tensor], frames: Sequence[Field | None] | None = None
) -> Tensor:
    """Return the sum of the maps of parallel branches, all in units of the score.

    A value of a small map stands for more of the image. So each map is multiplied by
    its number of positions over that of the result: resized, it keeps its sum, but for
    what the interpolation does at the border.

    Args:
        heatmaps: of each branch, (n, h, w) float32, >= 0.
        frames: see `fuse_heatmaps`.

    Returns:
        (n, h, w) float32, >= 0, of the size of the largest maps.

    Example:

    >>> import numpy as np
    >>> maps = np.float32([[[2.0]]]), np.float32([[[0, 4]]])
    >>> np.asarray(add_heatmaps(maps)).tolist()
    [[[1.0, 5.0]]]
    """
    shapes = [ops.shape(x) for x in heatmaps]
    size = _largest([x[1] for x in shapes]), _largest([x[2] for x in shapes])
    resized = _resize_each(heatmaps, size, frames)
    areas = [ops.cast(shape[1] * shape[2], "float32") for shape in shapes]
    whole = ops.cast(size[0] * size[1], "float32")
    shares = [x * area / whole for x, area in zip(resized, areas, strict=True)]
    return sum(shares[1:], shares[0])


def _resize_each(
    heatmaps: Sequence[Tensor], size: Any, frames: Sequence[Field | None] | None
) -> list[Tensor]:
    frames = frames or [None] * len(heatmaps)
    return [
        resize_heatmaps(x, size, frame)
        for x, frame in zip(heatmaps, frames, strict=True)
    ]


def _largest(lengths: Sequence[Any]) -> Any:
    """Return the largest length: a tensor where a graph does not know them all."""
    if all(isinstance(x, int) for x in lengths):
        return max(lengths)
    return functools.reduce(ops.maximum, lengths)


def scale_heatmaps(heatmaps: Tensor) -> Tensor:
    """Divide each map by its maximum; an empty map stays all zero.

    The minimum is never subtracted: zero heat must stay zero.

    Args:
        heatmaps: (..., h, w) float32, >= 0.

    Returns:
        The same shape, in [0, 1].

    Example:

    >>> import numpy as np
    >>> np.asarray(scale_heatmaps(np.float32([[[1, 4]], [[0, 0]]]))).tolist()
    [[[0.25, 1.0]], [[0.0, 0.0]]]
    """
    maximum = ops.max(heatmaps, axis=(-2, -1), keepdims=True)
    return heatmaps / ops.maximum(maximum, TINY)


def reconstruct_heatmaps(markers: Tensor, masks: Tensor) -> Tensor:
    """Let heat flow from the markers through what is connected with them in the masks.

    Morphological reconstruction by dilation (Vincent, Morphological Grayscale
    Reconstruction in Image Analysis, IEEE TIP 1993): the maximum over 3 x 3 positions,
    limited by the mask, until nothing changes. Each position gets the highest level at
    which a path of neighbours leads to it from a marker; a region of the mask that no
    marker lies in keeps the level of the saddle on the way to it.

    Args:
        markers: (n, h, w) float32, >= 0, where the heat starts from.
        masks: (n, h, w) float32, >= 0, what it cannot exceed.

    Returns:
        (n, h, w) float32 in [0, masks].

    Example: the second peak is reached over a saddle of 1.

    >>> import numpy as np
    >>> masks = np.float32([[[2, 4, 1, 3, 3]]])
    >>> markers = np.float32([[[0, 9, 0, 0, 0]]])
    >>> np.asarray(reconstruct_heatmaps(markers, masks)).tolist()
    [[[2.0, 4.0, 1.0, 1.0, 1.0]]]
    """
    masks = ops.convert_to_tensor(masks)

    def grow(grown: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        larger = ops.minimum(_dilate(grown), masks)
        return larger, ops.any(larger > grown)

    start = ops.minimum(markers, masks), ops.convert_to_tensor(True)
    return ops.while_loop(lambda _, has_grown: has_grown, grow, start)[0]


def _dilate(heatmaps: Tensor) -> Tensor:
    """Return the maximum over 3 x 3 positions, at a fifth of what small pools cost."""
    rows = ops.pad(heatmaps, ((0, 0), (1, 1), (0, 0)))
    heatmaps = ops.maximum(ops.maximum(rows[:, :-2], heatmaps), rows[:, 2:])
    columns = ops.pad(heatmaps, ((0, 0), (0, 0), (1, 1)))
    return ops.maximum(ops.maximum(columns[:, :, :-2], heatmaps), columns[:, :, 2:])


def find_boxes(heatmaps: Tensor, threshold: float | str = 0.2) -> np.ndarray:
    """Return the tightest box around the largest hot region of each map.

    A pixel is hot strictly above ``threshold`` times the map's maximum, compared in
    float32; regions are 8-connected (Zhou et al., Learning Deep Features for
    Discriminative Localization, CVPR 2016, section 3.2, who take 20 %). Of several
    regions with the most pixels it is the one whose box starts highest, then
    leftmost. OpenCV finds them, so this takes arrays and eager tensors, not the
    symbolic ones of a ``tf.function``.

    Args:
        heatmaps: (n, H, W) float, >= 0, at the size the boxes are wanted in.
        threshold: share of the maximum, in [0, 1), or "otsu" for the one that best
            parts the square roots of each map's values into two classes (Otsu, A
            Threshold Selection Method from Gray-Level Histograms, 1979): the root
            makes few peaks count less. "otsu_4th_root" looks at fourth roots, for maps
            with more contrast.

    Returns:
        (n, 4) float32 array: x_min, y_min, x_max, y_max in pixels ("xyxy"), the
        edges of the region, so that a single pixel gives a box of area 1. NaN for a
        map that is all zero or holds NaN or infinity.

    Raises:
        ValueError: for another shape or a threshold outside [0, 1).

    Example:

    >>> import numpy as np
    >>> find_boxes(np.float32([[[0, 9, 0, 5], [0, 0, 9, 0]], [[0] * 4] * 2])).tolist()
    [[1.0, 0.0, 4.0, 2.0], [nan, nan, nan, nan]]
    """
    heatmaps = np.asarray(heatmaps, dtype="float32")
    if heatmaps.ndim != 3:
        raise ValueError(
            "`heatmaps` must have the shape (n, H, W), one map for each image. "
            f"Received: heatmaps.shape={heatmaps.shape}"
        )
    root = OTSU_ROOTS.get(threshold) if isinstance(threshold, str) else None
    if root is None and not (
        isinstance(threshold, int | float | np.number) and 0 <= threshold < 1
    ):
        raise ValueError(
            "`threshold` is a share of each map's maximum and must lie in [0, 1), or "
            f"be one of {list(OTSU_ROOTS)}. Received: {threshold!r}"
        )
    boxes = np.full((len(heatmaps), 4), np.nan, dtype="float32")
    for box, heatmap in zip(boxes, heatmaps, strict=True):
        maximum = heatmap.max()
        if not 0 < maximum < np.inf:  # false for NaN too
            continue
        share = _otsu_share(heatmap / maximum, root) if root else threshold
        hot = (heatmap > np.float32(share) * maximum).astype("uint8")
        _, _, regions, _ = cv2.connectedComponentsWithStats(hot, connectivity=8)
        areas = regions[1:, cv2.CC_STAT_AREA]  # region 0 is the background
        largest = regions[1:][areas == areas.max()]
        left, top, width, height, _ = min(
            largest.tolist(), key=lambda region: (region[1], region[0])
        )
        box[:] = left, top, left + width, top + height
    return boxes


def _otsu_share(heatmap: np.ndarray, root: int) -> float:
    """Return the share of the maximum that parts a map in [0, 1]; below 1."""
    levels = np.rint(255 * heatmap ** (1 / root)).astype("uint8")
    level, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return min((level / 255) ** root, 0.99)
