"""Where in an image the maps of a model belong."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_embcam.network.feature_map import FeatureMap
from keras_embcam.network.front import OPEN_SIZES, Fronts
from keras_embcam.network.positions import Positions, Reach
from keras_embcam.resizing import Field

# Maps are drawn where their positions look rather than evenly over the image where
# that differs by more than half a position, this share of a side and some pixels. The
# networks of `keras.applications` stay below one of these at their own image size, so
# that their maps are those of other packages.
MIN_SHIFT = 0.07
MIN_PIXELS = 2
WHOLE = (0.0, 0.0, 1.0, 1.0)


class Places:
    """The rectangles of images that maps show, for images of any size.

    Args:
        fronts: of the model.
        positions: of the trial run.
        maps: that are explained.
    """

    def __init__(
        self, fronts: Fronts, positions: Positions, maps: Sequence[FeatureMap]
    ) -> None:
        self._fronts = fronts
        self._positions = positions
        self._numbers = [
            positions.find(x.operation)
            if x.layout is None
            else positions.find_before(x.operation, x.layout.grid)
            for x in maps
        ]
        self._found: dict[tuple[int, int], list[Field | None]] = {}

    def field(self, image_size: tuple[int | None, int | None]) -> Field | None:
        """Return the rectangle of the image that the heatmap shows.

        That of one map, or of several that lie in one place. Others are brought to the
        place of the network's input by `frames`, whose rectangle this is then.

        Args:
            image_size: (H, W), None where a graph leaves them open.

        Returns:
            Four or eight numbers, see `resize_heatmaps`; None for the whole image.

        Raises:
            ValueError: as `Fronts.field`, and where the place depends on an open size.
        """
        field = self._fronts.field(image_size)
        frames = self._frames_at(image_size)
        if frames[0] is None or frames.count(frames[0]) < len(frames):
            return field
        if field is None:
            return frames[0]
        placed = [
            field[i % 2] + x * (field[2 + i % 2] - field[i % 2])
            for i, x in enumerate(frames[0])
        ]
        # What the network does not see of the image is no part of what it looks at.
        return *placed[:4], *_intersect(field, placed[4:])

    def frames(
        self, image_size: tuple[int | None, int | None]
    ) -> list[Field | None] | None:
        """Return where in the network's input several maps lie, to join them.

        None where they lie in one place.
        """
        if len(self._numbers) == 1:
            return None
        frames = self._frames_at(image_size)
        return None if frames.count(frames[0]) == len(frames) else frames

    def _frames_at(
        self, image_size: tuple[int | None, int | None]
    ) -> list[Field | None]:
        height, width = image_size
        if height is not None and width is not None:
            size = height, width
            if size not in self._found:
                self._found[size] = [self._frame(x, size) for x in self._numbers]
            return self._found[size]
        for size in OPEN_SIZES:
            frames = self._frames_at((height or size[0], width or size[1]))
            if any(frames):
                raise ValueError(
                    "Convolutions of this model do not look beyond the border, or "
                    "parts of its maps are cut off or padded, so where its maps lie "
                    f"depends on the size of the images, which is {image_size} here. "
                    "State the size, as with "
                    "`EmbeddingCAM.as_model(input_shape=(H, W, c))`, or pass "
                    "`resize=False`."
                )
        return [None] * len(self._numbers)

    def _frame(self, number: int | None, image_size: tuple[int, int]) -> Field | None:
        front = self._fronts.at(image_size)
        if number is None or front.input_size is None:
            return None
        reaches = self._positions.reach(number, front.input_size)
        if reaches is None:
            return None
        sides = [
            _place(reach, length, consumed)
            for reach, length, consumed in zip(
                reaches, front.input_size, front.consumed, strict=True
            )
        ]
        if sides == [None, None]:
            return None
        (top, bottom, *rows), (left, right, *columns) = (
            x or (0.0, 1.0, 0.0, 1.0) for x in sides
        )
        return top, left, bottom, right, rows[0], columns[0], rows[1], columns[1]


def _place(
    reach: Reach, length: int, consumed: tuple[int, int]
) -> tuple[float, float, float, float] | None:
    """Return the ends of the map, and of what it looks at, as shares of an axis.

    None where its positions look at about where they are drawn without it.

    Args:
        reach: of the positions, (n, 2).
        length: of the input of the first convolution.
        consumed: of this, what is padding at both ends.

    Example: 32 pixels, of which four positions look at the inner sixteen.

    >>> pixels = np.arange(32)[:, None] + [[0, 0]]
    >>> _place(pixels[8:24:4] + [[0, 3]], 32, (0, 0))
    (0.25, 0.75, 0.25, 0.75)
    >>> _place(pixels[0:32:8] + [[0, 7]], 32, (0, 0))
    """
    number = len(reach)
    if number < 2:
        return None
    shares = (reach + [[0, 1]] - consumed[0]) / (length - sum(consumed))
    centres = shares.mean(axis=1)
    step = (centres[-1] - centres[0]) / (number - 1)
    shift = np.abs(centres - (np.arange(number) + 0.5) / number).max()
    if shift <= max(MIN_SHIFT, 0.5 * step, MIN_PIXELS / length):
        return None
    ends = centres[0] - step / 2, centres[-1] + step / 2
    first, last, start, end = map(float, (*ends, shares.min(), shares.max()))
    return first, last, max(0.0, start), min(1.0, end)


def _intersect(one: Any, other: Any) -> Any:
    """Return the part of two rectangles that lies in both; either may be turned."""
    axes = [[sorted(x[i::2]) for x in (one, other)] for i in (0, 1)]
    highest = (max(start for start, _ in axis) for axis in axes)
    lowest = (min(end for _, end in axis) for axis in axes)
    return *highest, *lowest
