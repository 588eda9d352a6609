"""Pictures: heat over an image, boxes, captions and grids, all uint8 RGB arrays."""

import math
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

Array = Any  # whatever np.asarray takes: arrays, tensors, nested lists
Range = tuple[float, float]
GAP = 4  # white pixels between the pictures of a grid
# OpenCV's own colour maps, as many as the installed version has.
COLORMAPS: dict[str, int] = {
    name.removeprefix("COLORMAP_").lower(): getattr(cv2, name)
    for name in sorted(dir(cv2))
    if name.startswith("COLORMAP_")
}


def to_uint8(images: Array, value_range: Range | None = None) -> np.ndarray:
    """Return images of any usual range as uint8 RGB.

    The range is judged once, by the smallest and the largest value of the whole
    batch. uint8 is kept and booleans are 0 and 1. Integers from 0 to 255 are 0..255;
    floats from 0 to 1 are 0..1, up to 2 they are 0..maximum (noise was added, say), up
    to 255 they are 0..255, from -1 to 1 they are -1..1, and 5 % beyond either end is
    clipped as the overshoot of a resize. Anything else (a mean was subtracted, say) is
    stretched. Pass `value_range` for a batch that fills a part of its range.

    Args:
        images: (H, W), (H, W, 1), (H, W, 3) or (n, H, W, c), finite. Of a batch, other
            than 1 or 3 channels are averaged to grey.
        value_range: the values of black and of white, instead of the rules above.

    Returns:
        (H, W, 3) or (n, H, W, 3) uint8; uint8 RGB comes back without a copy.

    Raises:
        ValueError: for another shape, NaN or infinity, or a range that does not rise.

    Example:
    >>> to_uint8([[-1.0, 0.2, 1.0]])[..., 0].tolist()
    [[0, 153, 255]]
    >>> to_uint8([[0.0, 0.2]], value_range=(0, 255))[..., 0].tolist()
    [[0, 0]]
    """
    images = np.asarray(images)
    images = images[..., None] if images.ndim == 2 else images
    if images.ndim == 4 and images.size and images.shape[-1] not in (1, 3):
        grey, dtype = images.mean(axis=-1, keepdims=True), images.dtype
        images = grey if dtype.kind == "f" else np.rint(grey).astype(dtype)
    if images.ndim not in (3, 4) or images.shape[-1] not in (1, 3) or not images.size:
        raise ValueError(
            "images must be (H, W), (H, W, 1), (H, W, 3) or (n, H, W, c), not empty, "
            f"but their shape is {images.shape}. Pass grey batches as "
            "images[..., None], and RGBA as images[..., :3]."
        )
    if not np.isfinite(images).all():
        raise ValueError(
            "images must be finite, not NaN or infinity. Pass np.nan_to_num(images)."
        )
    if images.dtype != np.uint8 or value_range is not None:
        black, white = value_range or _guess_range(images)
        if not black < white:
            raise ValueError(
                "value_range must be (black, white) with black < white, but it is "
                f"{value_range}. Pass (0, 1), (-1, 1) or (0, 255), for example."
            )
        scaled = (images.astype(np.float32) - black) * (255 / (white - black))
        images = np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
    return np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images


def _guess_range(images: np.ndarray) -> Range:
    low, high = float(images.min()), float(images.max())
    is_small = high <= 2 and images.dtype.kind not in "iu"
    # Below zero by no more than a resize overshoots, relative to the largest value: -2
    # is an overshoot in -2..255, and half of the range in -2..2.
    if -0.05 * high <= low and high <= 1.05 * 255:
        return 0, (1 if high <= 1.05 else high) if is_small else 255
    if low >= -1.05 and is_small and high <= 1.05:
        return -1, 1
    return low, high if high > low else low + 1


def _to_picture(image: Array, value_range: Range | None = None) -> np.ndarray:
    picture = to_uint8(image, value_range)
    if picture.ndim != 3:
        raise ValueError(
            f"image must be one image, not a batch, but its shape is {picture.shape}. "
            "Pass the images of a batch one by one."
        )
    return picture


def overlay_heatmap(
    image: Array,
    heatmap: Array,
    *,
    colormap: str = "turbo",
    opacity: float = 0.7,
    value_range: Range | None = None,
) -> np.ndarray:
    """Lay a heatmap over an image so that the colour fades with the heat.

    With heat h, image I and the map's colour C(h), a pixel becomes
    ``(1 - opacity h) I + opacity h C(h)``: the `over` operator (Porter and Duff,
    "Compositing Digital Images", 1984) with the heat as coverage. Where there is no
    heat the image stays as it is, to the bit.

    Args:
        image: (H, W), (H, W, 1) or (H, W, 3) of any range that `to_uint8` knows. Let
            it convert a batch beforehand, so that the range is judged on the batch.
        heatmap: (h, w) float in [0, 1]; resized to the image bilinearly with pixel
            centres aligned, as `tf.image.resize` does.
        colormap: name of one of OpenCV's colour maps in small letters.
        opacity: share of the colour where the heat is 1, in [0, 1].
        value_range: as in `to_uint8`.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: for a batch, another shape or range, or an unknown colour map.

    Example:
    >>> image = np.full((1, 2), 100, np.uint8)
    >>> overlay_heatmap(image, [[0, 1]], colormap="hot", opacity=0.6).tolist()
    [[[100, 100, 100], [193, 193, 193]]]
    """
    picture = _to_picture(image, value_range)
    heat: np.ndarray = np.asarray(heatmap).astype(np.float32)
    low, high = heat.min(initial=np.inf), heat.max(initial=-np.inf)
    # A resize may leave [0, 1] by a rounding error; NaN and an empty map fail too.
    if heat.ndim != 2 or not -1e-4 <= low <= high <= 1 + 1e-4:
        raise ValueError(
            f"heatmap must be (h, w) and lie in [0, 1], but its shape is {heat.shape} "
            f"and it spans {low:.6g} to {high:.6g}. Pass one map with maximum 1."
        )
    if colormap not in COLORMAPS:
        raise ValueError(
            f"colormap must be one of OpenCV's, but it is {colormap!r}. Pass one of: "
            f"{', '.join(COLORMAPS)}."
        )
    if not 0 <= opacity <= 1:
        raise ValueError(
            f"opacity must lie in [0, 1], but it is {opacity}. Pass 1 to hide the "
            "image where the heat is 1."
        )
    heat = np.clip(cv2.resize(heat, picture.shape[1::-1]), 0, 1)  # bilinear
    levels = np.rint(heat * 255).astype(np.uint8)
    colors = cv2.applyColorMap(levels, COLORMAPS[colormap])[..., ::-1]  # from BGR
    base = picture.astype(np.float32)
    return np.rint(base + opacity * heat[..., None] * (colors - base)).astype(np.uint8)


def draw_boxes(
    image: Array, boxes: Array, color: Sequence[int] = (0, 255, 0), thickness: int = 2
) -> np.ndarray:
    """Draw the outlines of boxes on the outermost pixels inside each box.

    A box holds every pixel that it touches, so ``(0, 0, W, H)`` frames the image.
    What passes the border is clipped, and the outline then follows the border. Boxes
    without area, or wholly outside, leave no trace.

    Args:
        image: one image as in `overlay_heatmap`; it is not changed.
        boxes: (4,) or (n, 4) numbers x1, y1, x2, y2 in pixels ("xyxy").
        color: red, green and blue from 0 to 255.
        thickness: of the line in pixels, at least 1.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: for boxes that are not xyxy, or a thickness below 1.

    Example:
    >>> image = np.zeros((3, 4), np.uint8)
    >>> draw_boxes(image, (0, 0, 3, 3), (9, 9, 9), thickness=1)[..., 0].tolist()
    [[9, 9, 9, 0], [9, 0, 9, 0], [9, 9, 9, 0]]
    """
    picture = _to_picture(image).copy()
    corners = np.atleast_2d(np.asarray(boxes, np.float64))
    if not corners.size:
        return picture
    # Written so that NaN fails it too.
    if corners.shape[1:] != (4,) or not np.all(corners[:, :2] <= corners[:, 2:]):
        raise ValueError(
            "boxes must be (4,) or (n, 4) numbers x1, y1, x2, y2 with x1 <= x2 and "
            f"y1 <= y2, but they are {corners.tolist()}. Convert other formats first."
        )
    if thickness < 1:
        raise ValueError(
            f"thickness must be at least 1 pixel, but it is {thickness}. Pass 1 or 2."
        )
    for x1, y1, x2, y2 in np.clip(corners, 0, 2 * picture.shape[1::-1]):
        if x1 < x2 and y1 < y2:
            columns = slice(math.floor(x1), math.ceil(x2))
            inside = picture[math.floor(y1) : math.ceil(y2), columns]
            inside[:thickness] = inside[-thickness:] = color
            inside[:, :thickness] = inside[:, -thickness:] = color
    return picture


def add_caption(image: Array, text: str, height: int | None = None) -> np.ndarray:
    """Put a line of text on a white strip below an image.

    Text that is too long is cut: put first what matters. OpenCV's fonts know only
    ASCII: accents are dropped, other signs become "?".

    Args:
        image: one image as in `overlay_heatmap`; it is not changed.
        text: one line, which may be empty; line breaks become spaces.
        height: of the strip; None for 18 pixels, more below images wider than 432.

    Returns:
        (H + strip, W, 3) uint8.

    Raises:
        ValueError: for a batch of images.

    Example:
    >>> add_caption(np.zeros((100, 150, 3), np.uint8), "Cardinal, 0.61").shape
    (118, 150, 3)
    """
    picture = _to_picture(image)
    width = picture.shape[1]
    height = height or max(18, width // 24)
    style = cv2.FONT_HERSHEY_SIMPLEX, height / 45
    thickness = max(1, height // 30)
    signs = unicodedata.normalize("NFKD", " ".join(text.split()))
    signs = "".join(sign for sign in signs if not unicodedata.combining(sign))
    text = "".join(sign if " " <= sign <= "~" else "?" for sign in signs)

    def measure(line: str) -> int:
        return cv2.getTextSize(line, *style, thickness)[0][0]

    if measure(text) > width - 4:
        lines = [text[:length] + ".." for length in range(min(len(text), width))]
        num_fitting = bisect_right(lines, width - 4, key=measure)
        text = lines[num_fitting - 1] if num_fitting else ""
    strip = np.full((height, width, 3), 255, np.uint8)
    origin = (width - measure(text)) // 2, round(0.72 * height)
    cv2.putText(strip, text, origin, *style, (0, 0, 0), thickness, cv2.LINE_AA)
    return np.vstack([picture, strip])


def make_grid(
    images: Array, captions: Sequence[str] | None = None, num_columns: int | None = None
) -> np.ndarray:
    """Set pictures side by side or in rows and columns, each with its caption.

    Args:
        images: one or more as in `overlay_heatmap`, of any sizes: smaller ones stand at
            the bottom of a white cell. A batch is judged as a whole, a list one by one.
        captions: one for each image as in `add_caption`; None leaves out the strips.
        num_columns: pictures in a row; None makes the grid about square.

    Returns:
        (height, width, 3) uint8.

    Raises:
        ValueError: without images, for another number of captions, or no columns.

    Example:
    >>> photograph, overlay = np.zeros((20, 30, 3)), np.zeros((20, 30, 3))
    >>> make_grid([photograph, overlay], ["before", "after"], num_columns=2).shape
    (38, 64, 3)
    """
    if hasattr(images, "shape"):
        batch = to_uint8(images)
        images = batch.reshape(-1, *batch.shape[-3:])
    pictures = [_to_picture(image) for image in images]
    if not pictures or (captions is not None and len(captions) != len(pictures)):
        raise ValueError(
            "images must be at least one, and captions one text for each, but there "
            f"are {len(pictures)} images with captions={captions}. Pass '' to omit one."
        )
    if num_columns is None:
        num_columns = math.ceil(math.sqrt(len(pictures)))
    if num_columns < 1:
        raise ValueError(
            f"num_columns must be at least 1, but it is {num_columns}. Pass None or 4."
        )
    height, width = np.max([picture.shape[:2] for picture in pictures], axis=0)
    cells = []
    for index, picture in enumerate(pictures):
        cell = np.full((height, width, 3), 255, np.uint8)
        # At the bottom, next to the caption.
        left = (width - picture.shape[1]) // 2
        cell[height - len(picture) :, left : left + picture.shape[1]] = picture
        cells.append(cell if captions is None else add_caption(cell, captions[index]))
    margins = [(0, -len(cells) % num_columns), (0, GAP), (0, GAP), (0, 0)]
    tiles = np.pad(cells, margins, constant_values=255)
    rows = tiles.reshape(-1, num_columns, *tiles.shape[1:]).swapaxes(1, 2)
    return rows.reshape(-1, num_columns * tiles.shape[2], 3)[:-GAP, :-GAP]
