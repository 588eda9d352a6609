"""Bringing an example to one size: image, boxes, mask and parts together."""

from numbers import Integral

import tensorflow as tf

FRAMINGS = ("full_frame", "centre_crop")
Example = dict[str, tf.Tensor]


def check_frame(
    image_size: int | tuple[int, int] | None, framing: str
) -> tuple[int, int] | None:
    """Return the size as (height, width), or None to leave examples as they are.

    Args:
        image_size: height and width in pixels, one number for both, or None.
        framing: `"full_frame"` or `"centre_crop"`.

    Returns:
        (height, width), or None.

    Raises:
        ValueError: for other values, and for a crop without a size.

    Example:

    >>> check_frame(224, "centre_crop")
    (224, 224)
    """
    if framing not in FRAMINGS:
        raise ValueError(
            f"`framing` must be one of {FRAMINGS}. Received: framing={framing!r}. "
            "Pass 'full_frame' to keep the whole image, 'centre_crop' to keep its "
            "proportions."
        )
    if image_size is None:
        if framing != "full_frame":
            raise ValueError(
                f"`framing='{framing}'` needs the size of the crop. Received: "
                "image_size=None. Pass for example image_size=224."
            )
        return None
    return check_size(image_size, 1)


def check_size(image_size: int | tuple[int, int], smallest: int) -> tuple[int, int]:
    """Return a size given by one or two numbers as (height, width).

    Args:
        image_size: height and width in pixels, or one number for both.
        smallest: the least number of pixels a side may have.

    Returns:
        (height, width).

    Raises:
        ValueError: for anything else.

    Example:

    >>> check_size(64, 1), check_size((48, 64), 1)
    ((64, 64), (48, 64))
    """
    sides = image_size if isinstance(image_size, tuple | list) else (image_size,) * 2
    if len(sides) != 2 or not all(
        isinstance(side, Integral) and side >= smallest for side in sides
    ):
        raise ValueError(
            "`image_size` must be one or two whole numbers of pixels, at least "
            f"{smallest}. Received: image_size={image_size!r}. Pass for example 224 "
            "or (224, 336)."
        )
    return int(sides[0]), int(sides[1])


def frame_example(
    example: Example, size: tuple[int, int] | None, framing: str
) -> Example:
    """Return an example at one size, its boxes, mask and parts moved along.

    `"full_frame"` resizes the whole image and does not keep its proportions.
    `"centre_crop"` first cuts out the largest centred window of the proportions of
    `size`. A box is clipped to the window; one that lies outside it becomes
    (0, 0, 0, 0), which the metrics count as no box, and a part outside it becomes
    not visible. The example itself is kept, so that the set stays the same.

    Images are resized bilinearly with anti-aliasing and rounded, masks by nearest
    neighbour, so that they keep their values.

    Args:
        example: `"image"` (H, W, c) uint8 and, where there are any, `"bbox"`
            (..., 4) float32 as rel_yxyx, `"segmentation_mask"` (H, W) of any
            dtype, `"parts"` (m, 3) float32 as relative y, relative x, visible.
            Other entries are passed through.
        size: (height, width) in pixels, or None to change nothing.
        framing: `"full_frame"` or `"centre_crop"`.

    Returns:
        A dict of the same keys, shapes of image and mask (height, width, ...).

    Example:

    >>> example = {"image": tf.zeros((40, 80, 3), tf.uint8), "bbox": [0, 0, 1, 0.5]}
    >>> framed = frame_example(example, (20, 20), "centre_crop")
    >>> framed["image"].shape.as_list(), framed["bbox"].numpy().tolist()
    ([20, 20, 3], [0.0, 0.0, 1.0, 0.5])
    """
    if size is None:
        return example
    framed = dict(example)
    if framing == "centre_crop":
        window = _centred_window(tf.shape(example["image"]), size)
        for name in ("image", "segmentation_mask"):
            if name in framed:
                framed[name] = _cut(framed[name], size)
        if "bbox" in framed:
            framed["bbox"] = _move_boxes(framed["bbox"], window)
        if "parts" in framed:
            framed["parts"] = _move_parts(framed["parts"], window)
    image = tf.image.resize(framed["image"], size, antialias=True)
    framed["image"] = tf.saturate_cast(tf.round(image), tf.uint8)
    if "segmentation_mask" in framed:
        mask = framed["segmentation_mask"]
        # tf.image.resize does not take booleans.
        numbers = tf.cast(mask, tf.uint8) if mask.dtype == tf.bool else mask
        numbers = tf.image.resize(numbers[..., None], size, method="nearest")[..., 0]
        framed["segmentation_mask"] = tf.cast(numbers, mask.dtype)
    return framed


def _centred_window(shape: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Return top, left, height, width and the image's height, width, in pixels."""
    height, width = shape[0], shape[1]
    crop_height = tf.minimum(height, tf.maximum(1, width * size[0] // size[1]))
    crop_width = tf.minimum(width, tf.maximum(1, height * size[1] // size[0]))
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    return tf.stack([top, left, crop_height, crop_width, height, width])


def _cut(pixels: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    top, left, height, width = tf.unstack(_centred_window(tf.shape(pixels), size)[:4])
    return pixels[top : top + height, left : left + width]


def _to_window(points: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """Return relative (..., 2) points (y, x) relative to the window instead."""
    window = tf.cast(window, tf.float32)
    return (points * window[4:6] - window[0:2]) / window[2:4]


def _move_boxes(boxes: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    boxes = tf.convert_to_tensor(boxes, tf.float32)
    low = tf.clip_by_value(_to_window(boxes[..., :2], window), 0.0, 1.0)
    high = tf.clip_by_value(_to_window(boxes[..., 2:], window), 0.0, 1.0)
    inside = tf.reduce_all(high > low, axis=-1, keepdims=True)
    return tf.where(inside, tf.concat([low, high], axis=-1), 0.0)


def _move_parts(parts: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    points = _to_window(parts[:, :2], window)
    inside = tf.reduce_all((points >= 0) & (points <= 1), axis=-1)
    visible = inside & (parts[:, 2] > 0)
    moved = tf.concat([points, tf.ones_like(parts[:, 2:])], axis=-1)
    return tf.where(visible[:, None], moved, 0.0)
