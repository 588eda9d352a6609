"""How one digit scene is drawn: light, strokes, ink and the digit itself."""

import cv2
import numpy as np

# Hues of the ten classes, in tenths of the colour circle. Each of the classes
# 6-9 lies between two of the classes 0-5: a network that learns to read the
# hue from 0-5 can tell 6-9 apart too.
CUE_POSITIONS = (0, 2, 3, 5, 7, 8, 1, 4, 6, 9)
# The shares of red, green and blue (Rec. 601).
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
BOX_SHARE = (0.15, 0.25)  # of the image, the bounds of the digit's box
LARGEST_EXTENT = 0.9  # of the image's height and width
NUM_STROKES = (1, 3)
STROKE_WIDTH = (0.02, 0.035)  # of the shorter side; a digit's is about twice that
GAP = 0.06  # of the shorter side, between a digit and the strokes
INK_LUMINANCE = (0.7, 0.85)
INK_CHROMA = 0.2  # at most
LIGHT_CHROMA = 0.5
OWN_COLOUR = 0.05  # share of its colours that a photograph keeps beside the light
SUPERSAMPLING = 4


def draw_scene(
    rng: np.random.Generator,
    regions: list[np.ndarray],
    digits: np.ndarray,
    label: int,
    size: tuple[int, int],
    shortcut: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scene.

    Args:
        rng: what is random is drawn from it.
        regions: photographs (h, w, 3) uint8 to take the background from.
        digits: (n, 10, 10) float32 in [0, 1], all of the class `label`.
        label: the class, 0-9.
        size: (H, W) of the scene in pixels.
        shortcut: probability that the light has the hue of the class.

    Returns:
        The scene (H, W, 3) uint8, and its mask (H, W) bool: the pixels of which the
        digit covers more than half.

    Example:

    >>> grey = np.full((99, 99, 3), 128, np.uint8)
    >>> digits = np.pad(np.ones((1, 8, 2), np.float32), ((0, 0), (1, 1), (4, 4)))
    >>> rng = np.random.default_rng(0)
    >>> image, mask = draw_scene(rng, [grey], digits, 1, (64, 64), 0.0)
    >>> image.shape, mask.shape, bool(image[mask].mean() > image[~mask].mean())
    ((64, 64, 3), (64, 64), True)
    """
    # Both random numbers are always drawn, so that scenes with another shortcut differ
    # in their light alone.
    tells, other = rng.random() < shortcut, int(rng.integers(10))
    cue = label if tells else other
    photograph = _crop(rng, regions[rng.integers(len(regions))], size)
    luminance = photograph @ LUMINANCE
    canvas = _light(rng, photograph, luminance, cue)
    digit = digits[rng.integers(len(digits))]
    coverage = _digit_coverage(rng, digit, size)
    # Strokes stop short of the digit: it is always whole and touches nothing.
    gap = max(1, round(GAP * min(size)))
    halo = cv2.dilate(coverage, np.ones((2 * gap + 1, 2 * gap + 1), np.uint8))
    for _ in range(rng.integers(NUM_STROKES[0], NUM_STROKES[1] + 1)):
        stroke = _stroke_coverage(rng, size) * (1 - halo)
        canvas = _paint(canvas, stroke, _ink(rng))
    canvas = _paint(canvas, coverage, _ink(rng))
    image = np.clip(np.rint(canvas * 255), 0, 255).astype(np.uint8)
    return image, coverage > 0.5


def _crop(
    rng: np.random.Generator, region: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Return a random crop (H, W, 3) in [0, 1], a third to all of the region."""
    height, width = size
    largest = min(region.shape[0] / height, region.shape[1] / width)
    scale = largest * rng.uniform(1 / 3, 1)
    crop_height = max(1, int(height * scale))
    crop_width = max(1, int(width * scale))
    top = rng.integers(region.shape[0] - crop_height + 1)
    left = rng.integers(region.shape[1] - crop_width + 1)
    crop = region[top : top + crop_height, left : left + crop_width]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    method = cv2.INTER_AREA if scale > 1 else cv2.INTER_CUBIC
    resized = cv2.resize(
        np.ascontiguousarray(crop), (width, height), interpolation=method
    )
    return resized.astype(np.float32) / 255


def _light(
    rng: np.random.Generator, photograph: np.ndarray, luminance: np.ndarray, cue: int
) -> np.ndarray:
    """Return the photograph, paler and flatter, in light of the cue's hue."""
    hue = CUE_POSITIONS[cue] / 10 + rng.uniform(-0.02, 0.02)
    light = 1 + LIGHT_CHROMA * _chroma(hue)
    own_colours = OWN_COLOUR * (photograph - luminance[..., None])
    return _flat(luminance)[..., None] * light + own_colours


def _flat(luminance: np.ndarray) -> np.ndarray:
    """Return darker and flatter luminances, on which ink stands out."""
    return 0.1 + 0.4 * luminance


def _chroma(hue: float) -> np.ndarray:
    """Return a colour (3,) of the given hue, length 1 and luminance 0."""
    colour = np.clip(
        np.abs((hue + np.array([0, 2, 1], np.float32) / 3) % 1 * 6 - 3) - 1, 0, 1
    )
    chroma = colour - colour @ LUMINANCE
    return (chroma / np.linalg.norm(chroma)).astype(np.float32)


def _ink(rng: np.random.Generator) -> np.ndarray:
    """Return a random colour (3,), lighter than any background."""
    chroma = rng.uniform(0, INK_CHROMA) * _chroma(rng.random())
    return rng.uniform(*INK_LUMINANCE) + chroma


def _paint(canvas: np.ndarray, coverage: np.ndarray, ink: np.ndarray) -> np.ndarray:
    return canvas + coverage[..., None] * (ink - canvas)


def _digit_coverage(
    rng: np.random.Generator, digit: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Return the share (H, W) of each pixel that the enlarged digit covers."""
    height, width = size
    top, left, bottom, right = tightest_box(_enlarge(digit, 160))
    share = rng.uniform(*BOX_SHARE)
    extent = np.sqrt(share * height * width / ((bottom - top) * (right - left)))
    extent = min(
        extent,
        LARGEST_EXTENT * height / (bottom - top),
        LARGEST_EXTENT * width / (right - left),
    )
    side = round(extent)
    fine = _enlarge(digit, side * SUPERSAMPLING).astype(np.float32)
    patch = cv2.resize(fine, (side, side), interpolation=cv2.INTER_AREA)
    rows = np.flatnonzero(patch.any(axis=1))
    columns = np.flatnonzero(patch.any(axis=0))
    patch = patch[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    top = rng.integers(height - patch.shape[0] + 1)
    left = rng.integers(width - patch.shape[1] + 1)
    coverage = np.zeros(size, np.float32)
    coverage[top : top + patch.shape[0], left : left + patch.shape[1]] = patch
    return coverage


def _enlarge(digit: np.ndarray, side: int) -> np.ndarray:
    """Return a padded digit as a smooth black-and-white shape (side, side)."""
    return cv2.resize(digit, (side, side), interpolation=cv2.INTER_CUBIC) > 0.5


def _stroke_coverage(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Return the share (H, W) of each pixel that a random bent stroke covers."""
    extent = np.array(size[::-1], np.float64)
    start = rng.uniform(0.1, 0.9, 2)
    offsets = rng.uniform(-0.35, 0.35, (2, 2))
    t = np.linspace(0, 1, 16)[:, None]
    # A quadratic Bezier curve through start, bent by the first offset.
    points = (start + 2 * t * (1 - t) * offsets[0] + t**2 * offsets[1]) * extent
    thickness = max(1, round(rng.uniform(*STROKE_WIDTH) * min(size)))
    drawn = np.zeros(size, np.uint8)
    # Coordinates carry 4 bits after the point: shift=4.
    polyline = np.rint(points * 16).astype(np.int32)
    cv2.polylines(drawn, [polyline], False, (255,), thickness, cv2.LINE_AA, shift=4)
    return drawn.astype(np.float32) / 255


def tightest_box(mask: np.ndarray) -> np.ndarray:
    """Return the tightest box around the pixels of a mask.

    Args:
        mask: (H, W) bool, with at least one pixel.

    Returns:
        (4,) float32 as rel_yxyx; a pixel reaches from its index to the next.

    Example:

    >>> mask = np.zeros((4, 8), np.bool_)
    >>> mask[1, 2] = mask[2, 6] = True
    >>> tightest_box(mask).tolist()
    [0.25, 0.25, 0.75, 0.875]
    """
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    pixels = np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1], np.float32)
    return pixels / np.array([*mask.shape, *mask.shape], np.float32)
