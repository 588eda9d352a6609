"""Whether a map stays with the object: adversarial noise and translation."""

from typing import Any

import numpy as np

from keras_embcam.evaluation.correlation import rank_correlation
from keras_embcam.evaluation.measure import FAITHFULNESS, Column, Measured, fills
from keras_embcam.evaluation.measure_input import Context
from keras_embcam.evaluation.shared_runs import run_once, split
from keras_embcam.heatmaps import find_boxes
from keras_embcam.metrics.regions import intersection_over_union
from keras_embcam.metrics.statistics import mean_of
from keras_embcam.running.pixel_gradients import explain_pixels

# Noise step as a fraction of the range of the images: 2 in pictures of 0 to 255.
NOISE = 2 / 255
# Shift that a box has to follow, as a fraction of each side of the image.
SHIFT = 1 / 8


@fills(FAITHFULNESS, Column("noise", "noise rank corr. (high)"))
def measure_noise(context: Context) -> Measured:
    """Measure the rank correlation of the maps with those under adversarial noise.

    The noise is against the image's own embedding, for all methods.
    """
    sample = context.sample
    if np.issubdtype(sample.examples["image"].dtype, np.integer):
        note = "No noise: the model takes integers, in which nothing has a gradient"
        return Measured(
            [{"noise": float("nan")} for _ in context.methods], notes=[note]
        )
    gradients = [
        run_once(
            context.model,
            sample.images[rows],
            context.embedding_method,
            explain_pixels,
            None,
            False,
            proxies=sample.single_points[rows],
        )[0]
        for rows in split(len(sample.images))
    ]
    epsilon = NOISE * float(np.ptp(sample.images))
    noisy = add_adversarial_noise(sample.images, np.concatenate(gradients), epsilon)
    columns = [
        {"noise": mean_of(rank_correlation(after, before))}
        for after, before in zip(sample.explain(noisy), sample.maps, strict=True)
    ]
    note = f"Noise of {NOISE:.4f} of the range, against the image's own embedding"
    return Measured(columns, notes=[note])


@fills(FAITHFULNESS, Column("translation", "translation IoU (high)"))
def measure_translation(context: Context) -> Measured:
    """Measure how well the found box follows a shift of the image."""
    sample = context.sample
    height, width = sample.images.shape[1:3]
    shift = (max(1, round(height * SHIFT)), max(1, round(width * SHIFT)))
    mean_colour = sample.images.mean(axis=(0, 1, 2))
    shifted = shift_images(sample.images, *shift, fill=mean_colour)
    columns = []
    for method, before, after in zip(
        context.methods, sample.maps, sample.explain(shifted), strict=True
    ):
        threshold = method.find_box_threshold()
        overlap = translation_overlap(
            find_boxes(before, threshold),
            find_boxes(after, threshold),
            shift,
            size=(height, width),
        )
        columns.append({"translation": mean_of(overlap)})
    note = f"Translation: a shift of {SHIFT} of each side, boxes by the method's rule"
    return Measured(columns, notes=[note])


def add_adversarial_noise(
    images: np.ndarray,
    gradients: np.ndarray,
    epsilon: float,
) -> np.ndarray:
    """Return images moved by one small step that lowers the score.

    ``x - epsilon sign(dL/dx)``, clipped to the range of the given images: the fast
    gradient sign method (Goodfellow et al., "Explaining and Harnessing Adversarial
    Examples", ICLR 2015, section 4) on the score ``y . p`` in place of a loss.
    Selvaraju et al. ("Grad-CAM", ICCV 2017, under "Effect of adversarial noise on
    VGG-16") show that maps of the class that is there hardly change under such noise.

    Args:
        images: (n, H, W, c) float, in the range that the model expects.
        gradients: (n, H, W, c) float, of the score in the pixels, signed.
        epsilon: >= 0, in units of the images: 2 in images from 0 to 255 is small.

    Returns:
        (n, H, W, c) float32.

    Raises:
        ValueError: for shapes that differ, gradients that are not finite, or an
            `epsilon` below 0.

    Example:

    >>> images = np.array([0, 5, 9, 10]).reshape(1, 1, 4, 1)
    >>> gradients = np.array([2, 2, -2, -2]).reshape(1, 1, 4, 1)
    >>> add_adversarial_noise(images, gradients, 0.5).ravel().tolist()
    [0.0, 4.5, 9.5, 10.0]
    """
    images, gradients = np.asarray(images, "float32"), np.asarray(gradients)
    if images.ndim != 4 or gradients.shape != images.shape:
        raise ValueError(
            "`images` and `gradients` must have the same shape (n, H, W, c). Received: "
            f"{images.shape} and {gradients.shape}"
        )
    if not np.isfinite(gradients).all():
        raise ValueError(
            "`gradients` must be finite. Received NaN or infinity for the images "
            f"{np.flatnonzero(~np.isfinite(gradients).all(axis=(1, 2, 3))).tolist()}"
        )
    if not 0 <= epsilon < np.inf:
        raise ValueError(f"`epsilon` must be a number >= 0. Received: {epsilon!r}")
    lowest, highest = images.min(initial=np.inf), images.max(initial=-np.inf)
    moved = images - np.float32(epsilon) * np.sign(gradients)
    return np.clip(moved, lowest, highest).astype("float32")


def shift_images(images: np.ndarray, dy: int, dx: int, fill: Any) -> np.ndarray:
    """Return images with their content moved, and `fill` where it came from.

    Args:
        images: (n, H, W, c).
        dy: pixels down, negative for up; less than H.
        dx: pixels to the right, negative for left; less than W.
        fill: a number or (c,), in the range of the images, for example their mean.

    Returns:
        (n, H, W, c) of the same dtype.

    Raises:
        ValueError: for another shape, a shift that leaves nothing or is not whole, or
            a `fill` that does not fit.

    Example:

    >>> images = np.array([1, 2, 3]).reshape(1, 1, 3, 1)
    >>> shift_images(images, 0, -1, fill=9).ravel().tolist()
    [2, 3, 9]
    """
    images = np.asarray(images)
    if images.ndim != 4 or np.shape(fill) not in ((), images.shape[3:]):
        raise ValueError(
            "`images` must have the shape (n, H, W, c), and `fill` must be a number or "
            f"(c,). Received: images.shape={images.shape}, fill.shape={np.shape(fill)}"
        )
    height, width = images.shape[1:3]
    if not (abs(dy) < height and abs(dx) < width and dy == int(dy) and dx == int(dx)):
        raise ValueError(
            "`dy` and `dx` must be whole numbers of pixels, smaller than the image. "
            f"Received: dy={dy!r}, dx={dx!r} for {height} x {width} pixels"
        )
    dy, dx = int(dy), int(dx)
    shifted = np.empty_like(images)
    shifted[:] = fill
    shifted[:, max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)] = (
        images[:, max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)]
    )
    return shifted


def shift_boxes(
    boxes: np.ndarray, dy: float, dx: float, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Return boxes moved with the content of their image.

    A box without an area, which stands for none (padding of zeros or -1, NaN), stays
    as it is.

    Args:
        boxes: (..., 4) float, x_min, y_min, x_max, y_max in pixels ("xyxy"); other
            formats through ``keras_embcam.metrics.regions.place_boxes``.
        dy: pixels down, negative for up.
        dx: pixels to the right, negative for left.
        size: (H, W) of the images, to cut off what has left them (a box that is
            outside is then without an area); None to leave the boxes whole.

    Returns:
        (..., 4) float32.

    Raises:
        ValueError: for another shape.

    Example:

    >>> shift_boxes([[0, 0, 3, 2], [0, 0, 0, 0]], 1, 4, size=(10, 6)).tolist()
    [[4.0, 1.0, 6.0, 3.0], [0.0, 0.0, 0.0, 0.0]]
    """
    boxes = np.asarray(boxes, "float32")
    if boxes.shape[-1:] != (4,):
        raise ValueError(
            f"`boxes` must have the shape (..., 4). Received: boxes.shape={boxes.shape}"
        )
    shifted = boxes + np.array([dx, dy, dx, dy], "float32")
    if size is not None:
        height, width = size
        shifted = np.clip(shifted, 0, np.array([width, height] * 2, "float32"))
    has_area = (boxes[..., 2:] > boxes[..., :2]).all(axis=-1, keepdims=True)
    return np.where(has_area, shifted, boxes)


def translation_overlap(
    boxes_before: np.ndarray,
    boxes_after: np.ndarray,
    shift: tuple[float, float],
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Return the IoU of the box found after a shift with the shifted one from before.

    1 where the box has moved exactly as the content did. A map that guesses a place,
    such as the centre, does not move with it.

    Args:
        boxes_before: (n, 4) float, as ``keras_embcam.heatmaps.find_boxes`` returns
            them for the images as they were.
        boxes_after: (n, 4) the same for the shifted images.
        shift: (dy, dx) in pixels, as given to ``shift_images``.
        size: (H, W) of the images: what has left them cannot be found and is not
            asked for; None to ask for the whole box.

    Returns:
        (n,) float32 in [0, 1]; 0 where the box is lost, NaN where there was none
        before or it has left the image.

    Raises:
        ValueError: for other shapes.

    Example:

    >>> before, after = [[0, 0, 2, 2], [0, 0, 2, 2]], [[3, 0, 5, 2], [0, 0, 2, 2]]
    >>> translation_overlap(before, after, shift=(0, 3)).tolist()
    [1.0, 0.0]
    """
    boxes_before, boxes_after = np.asarray(boxes_before), np.asarray(boxes_after)
    if boxes_before.ndim != 2 or boxes_before.shape != boxes_after.shape:
        raise ValueError(
            "`boxes_before` and `boxes_after` must have the same shape (n, 4). "
            f"Received: {boxes_before.shape} and {boxes_after.shape}"
        )
    expected = shift_boxes(boxes_before, *shift, size)
    overlaps = intersection_over_union(expected, boxes_after)
    is_expected = (expected[:, 2:] > expected[:, :2]).all(axis=1)
    return np.where(is_expected, overlaps, np.nan).astype("float32")
