"""Pictures of pairs and of search results, made to be shown to a colleague."""

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from keras_embcam.drawing import add_caption, overlay_heatmap, to_uint8
from keras_embcam.retrieval.pair_maps import Correspondences

TILE = 224  # pixels: height of an image in a picture
GAP = 10  # white pixels between tiles
FRAME = 6
TEXT = 22  # height of a line of text; the logger makes pictures smaller
RIGHT, WRONG = (30, 160, 60), (205, 40, 40)
# Of the lines, from the strongest on; they can be told apart by people who see no red
# or no green (Okabe and Ito, Color Universal Design, 2008).
LINES = (
    (255, 255, 255),
    (240, 228, 66),
    (86, 180, 233),
    (230, 159, 0),
    (204, 121, 167),
)
OUTLINE = (20, 20, 20)


def draw_pair(
    image_a: Any,
    image_b: Any,
    heatmap_a: np.ndarray,
    heatmap_b: np.ndarray,
    lines: Correspondences,
    similarity: float,
) -> np.ndarray:
    """Draw both images, below them their heat with lines between what matches.

    Args:
        image_a: (H, W, c) of any range that `to_uint8` knows.
        image_b: the same.
        heatmap_a: (h, w) in [0, 1].
        heatmap_b: (h, w) in [0, 1].
        lines: correspondences of the one pair.
        similarity: the cosine.

    Returns:
        (height, width, 3) uint8.
    """
    images = [enlarge(to_uint8(x)) for x in (image_a, image_b)]
    heat = [
        overlay_heatmap(image, heatmap)
        for image, heatmap in zip(images, (heatmap_a, heatmap_b), strict=True)
    ]
    height = max(image.shape[0] for image in heat)
    width = heat[0].shape[1] + 4 * GAP + heat[1].shape[1]
    canvas = np.full((height, width, 3), 255, np.uint8)
    offsets = [(0, 0), (0, heat[0].shape[1] + 4 * GAP)]
    plain = canvas.copy()
    for (top, left), image, warm in zip(offsets, images, heat, strict=True):
        plain[top : top + len(image), left : left + image.shape[1]] = image
        canvas[top : top + len(warm), left : left + warm.shape[1]] = warm
    draw_lines(canvas, lines, offsets, [x.shape[:2] for x in heat])
    share = float(lines.values.sum())
    caption = f"similarity {similarity:.2f}; the lines add {share:.2f} to it"
    return np.concatenate(
        [
            plain,
            np.full((GAP, width, 3), 255, np.uint8),
            add_caption(canvas, caption, TEXT),
        ]
    )


def draw_result(
    query: Any,
    matches: Sequence[Any],
    heat: Sequence[tuple[np.ndarray, np.ndarray]],
    lines: Sequence[Correspondences],
    captions: Sequence[str],
    is_right: Sequence[bool] | None,
    extra: Sequence[tuple[Any, np.ndarray | None, str]] = (),
    title: str = "query",
) -> np.ndarray:
    """Draw a query, its matches in a row, the heat on both sides and lines between.

    Args:
        query: (H, W, c) of any range that `to_uint8` knows.
        matches: images of the k matches.
        heat: of each match, the heatmap on the query and the one on the match.
        lines: correspondences of each match.
        captions: of each match.
        is_right: whether each match is of the query's class, for its frame; None
            where that is not known.
        extra: up to two more tiles below the query: image, heatmap or None, caption.
        title: the caption of the query.

    Returns:
        (height, width, 3) uint8: a column for the query and for each match; in the
        first row the images, below them the query's heat for this match, below that
        the heat of the match.
    """
    base = enlarge(to_uint8(query))
    columns = [_stack_first_column(base, extra, title)]
    for number, match in enumerate(matches):
        image = enlarge(to_uint8(match))
        on_query = overlay_heatmap(base, heat[number][0])
        on_match = overlay_heatmap(image, heat[number][1])
        width = max(image.shape[1], base.shape[1]) + 2 * FRAME
        color = None
        if is_right is not None:
            color = RIGHT if is_right[number] else WRONG
        head = add_caption(_frame(image, width, color), captions[number], TEXT)
        first, second = _centre(on_query, width), _centre(on_match, width)
        body = np.full((2 * TILE + GAP, width, 3), 255, np.uint8)
        body[:TILE], body[TILE + GAP :] = first, second
        offsets = [
            (0, (width - on_query.shape[1]) // 2),
            (TILE + GAP, (width - on_match.shape[1]) // 2),
        ]
        sizes = [on_query.shape[:2], on_match.shape[:2]]
        draw_lines(body, lines[number], offsets, sizes)
        columns.append(_join([head, body], axis=0))
    return _join(columns, axis=1)


def _stack_first_column(
    base: np.ndarray,
    extra: Sequence[tuple[Any, np.ndarray | None, str]],
    title: str,
) -> np.ndarray:
    width = base.shape[1] + 2 * FRAME
    tiles = [add_caption(_frame(base, width, None), title, TEXT)]
    if not extra:
        notes = ("heat on the query", "heat on the match")
        for note in notes:
            blank = np.full((TILE - TEXT, width, 3), 255, np.uint8)
            tiles.append(add_caption(blank, note, TEXT))
    for image, heatmap, caption in extra:
        picture = enlarge(to_uint8(image))
        if heatmap is not None:
            picture = overlay_heatmap(picture, heatmap)
        wide = max(width, picture.shape[1])
        tiles.append(add_caption(_centre(picture, wide), caption, TEXT))
    return _join(tiles, axis=0)


def draw_lines(
    canvas: np.ndarray,
    lines: Correspondences,
    offsets: Sequence[tuple[int, int]],
    sizes: Sequence[tuple[int, int]],
) -> None:
    """Draw correspondences between two images on a canvas, in place.

    The strongest pair is white; the stronger one is, the thicker its line.

    Args:
        canvas: (height, width, 3) uint8 with both images on it.
        lines: of the pair of images.
        offsets: top and left of each image on the canvas.
        sizes: height and width of each image on the canvas.
    """
    strongest = float(lines.values.max(initial=0))
    for number in reversed(range(len(lines.values))):  # the strongest on top
        value = float(lines.values[number])
        if value <= 0:
            continue
        ends = [
            _place(position[number], *place)
            for position, *place in zip(lines[:2], offsets, sizes, strict=True)
        ]
        thickness = max(1, round(2 * math.sqrt(value / strongest)))
        for color, extra in ((OUTLINE, 2), (LINES[number % len(LINES)], 0)):
            cv2.line(canvas, ends[0], ends[1], color, thickness + extra, cv2.LINE_AA)
            for end in ends:
                radius = thickness + 2 + extra // 2
                cv2.circle(canvas, end, radius, color, -1, cv2.LINE_AA)


def _place(
    position: np.ndarray, offset: tuple[int, int], size: tuple[int, int]
) -> tuple[int, int]:
    """Return x and y on a canvas of a relative position (y, x) in an image."""
    y = round(offset[0] + float(position[0]) * size[0])
    return round(offset[1] + float(position[1]) * size[1]), y


def enlarge(image: np.ndarray) -> np.ndarray:
    """Return an image (H, W, 3) uint8 at the height of a tile."""
    height, width = image.shape[:2]
    size = max(1, round(width * TILE / height)), TILE
    # Small images keep their pixels visible; large ones lose none to aliasing.
    method = cv2.INTER_AREA if height > TILE else cv2.INTER_CUBIC
    return image if height == TILE else cv2.resize(image, size, interpolation=method)


def _frame(
    image: np.ndarray, width: int, color: tuple[int, int, int] | None
) -> np.ndarray:
    """Return an image in a frame, white where there is no color, of a given width."""
    framed = cv2.copyMakeBorder(
        image,
        FRAME,
        FRAME,
        FRAME,
        FRAME,
        cv2.BORDER_CONSTANT,
        value=(255, 255, 255) if color is None else color,
    )
    return _centre(framed, width)


def _centre(image: np.ndarray, width: int) -> np.ndarray:
    left = (width - image.shape[1]) // 2
    right = width - image.shape[1] - left
    return np.pad(image, [(0, 0), (left, right), (0, 0)], constant_values=255)


def _join(pictures: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """Set pictures one behind the other, from the top left, with a gap."""
    other = 1 - axis
    length = max(picture.shape[other] for picture in pictures)
    padded = []
    for number, picture in enumerate(pictures):
        margins = [(0, 0)] * 3
        margins[other] = (0, length - picture.shape[other])
        margins[axis] = (0, GAP if number < len(pictures) - 1 else 0)
        padded.append(np.pad(picture, margins, constant_values=255))
    return np.concatenate(padded, axis=axis)
