"""Whether the boxes of a set can be what their format says, before time is lost."""

import warnings

import numpy as np
from keras.utils import bounding_boxes

from keras_embcam.metrics.regions import FORMATS, has_area, place_boxes

# Boxes that are kept to find the format that was meant.
NUM_KEPT = 1000
# By how much of a side a box may reach outside the image, as rounding and augmentation
# make it; and which share of the boxes may reach further.
TOLERATED = 0.05
TOLERATED_SHARE = 0.2
FAR_OUTSIDE = 0.5  # not even one


class BoxCheck:
    """Looks at boxes batch by batch, and says in the end what cannot be right.

    Args:
        bounding_box_format: that the user states for the boxes.
        name: of the argument that holds them, for messages.

    Attributes:
        num_boxes: how many were seen, padding left out.

    Example:

    >>> check = BoxCheck("rel_yxyx", "examples")
    >>> check.update(np.float32([[[10, 20, 30, 38]]]), image_size=(40, 40))
    >>> check.finish()
    Traceback (most recent call last):
    ...
    ValueError: No box of `examples` has an area inside its image. Received: values \
from 10 to 38 with bounding_box_format='rel_yxyx', whose values lie between 0 and 1. \
Did you mean bounding_box_format='yxyx'?
    """

    def __init__(self, bounding_box_format: str, name: str) -> None:
        self._format = bounding_box_format.lower()
        self._name = name
        self.num_boxes = 0
        self._num_with_area = 0
        self._num_outside = 0
        self._furthest = 0.0
        self._low, self._high = np.inf, -np.inf
        self._size = (0, 0)
        self._kept: list[np.ndarray] = []

    def update(self, boxes: np.ndarray, image_size: tuple[int, int]) -> None:
        """Add a batch.

        Args:
            boxes: (n, m, 4), padded with rows of 0 or -1.
            image_size: (H, W) of its images.

        Raises:
            ValueError: for an unknown format.
        """
        shape_of_maps = np.broadcast_to(np.float32(0), (len(boxes), *image_size))
        placed = np.asarray(place_boxes(boxes, self._format, shape_of_maps))
        is_padding = (boxes == 0).all(-1) | (boxes == -1).all(-1)
        is_finite = np.isfinite(boxes).all(-1)
        # Beside a box, rows of NaN are padding too.
        is_padding |= np.isnan(boxes).all(-1) & is_finite.any(-1, keepdims=True)
        is_box = ~is_padding & is_finite
        self._size = image_size
        self.num_boxes += int((~is_padding).sum())
        self._num_with_area += int((np.asarray(has_area(placed)) & is_box).sum())
        if is_box.any():
            self._low = min(self._low, float(boxes[is_box].min()))
            self._high = max(self._high, float(boxes[is_box].max()))
            corners = self._to_shares(boxes[is_box], self._format)
            outside = np.maximum(-corners, corners - 1).max(-1)
            self._num_outside += int((outside > TOLERATED).sum())
            self._furthest = max(self._furthest, float(outside.max()))
        if sum(map(len, self._kept)) < NUM_KEPT:
            self._kept.append(boxes[is_box])

    def finish(self) -> None:
        """Say what is wrong with the boxes that were seen.

        Warns of boxes without an area inside their image, and of pixels far outside.

        Raises:
            ValueError: where none has an area inside its image, or the values are
                pixels in a relative format, or the other way round.
        """
        if not self.num_boxes:
            raise ValueError(
                f"`{self._name}` has no box: all rows are padding. Leave out "
                '"bbox", or pass boxes.'
            )
        is_relative = self._format.startswith("rel_")
        largest = max(self._size)
        if is_relative:
            rule = "whose values lie between 0 and 1"
            is_other_unit = self._high > 2
        else:
            height, width = self._size
            rule = f"whose values are pixels of images of {height} x {width}"
            is_other_unit = self._high <= 1 and largest > 2
        values = f"from {self._low:.4g} to {self._high:.4g}"
        received = (
            f"values {'not finite' if self._low > self._high else values} with "
            f"bounding_box_format={self._format!r}, {rule}."
        )
        if not self._num_with_area or is_other_unit:
            what = (
                "cannot have this format"
                if self._num_with_area
                else "has an area inside its image"
            )
            which = "The boxes" if self._num_with_area else "No box"
            raise ValueError(
                f"{which} of `{self._name}` {what}. Received: {received}"
                f"{self._suggest()}"
            )
        num_without = self.num_boxes - self._num_with_area
        if num_without:
            warnings.warn(
                f"{num_without} of {self.num_boxes} boxes of `{self._name}` have no "
                "area inside their image, or are not finite, and do not count. "
                f"Received: {received}{self._suggest()}",
                stacklevel=2,
            )
        elif (
            self._num_outside > TOLERATED_SHARE * self.num_boxes
            or self._furthest > FAR_OUTSIDE
        ):
            other_size = " Were they stated for images of another size?"
            warnings.warn(
                f"{self._num_outside} of {self.num_boxes} boxes of `{self._name}` "
                "reach outside their images, by up to "
                f"{self._furthest:.0%} of a side. Received: {received}"
                f"{self._suggest() or other_size}",
                stacklevel=2,
            )

    def _suggest(self) -> str:
        """Return what may be wrong: another format that fits nearly all boxes."""
        swapped = ""
        boxes = np.concatenate(self._kept)
        if not len(boxes):
            return swapped
        has_corners = self._format.removeprefix("rel_") in ("yxyx", "xyxy")
        if has_corners and (boxes[:, 2:] < boxes[:, :2]).any(axis=1).mean() > 0.05:
            sorted_boxes = np.concatenate(
                [
                    np.minimum(boxes[:, :2], boxes[:, 2:]),
                    np.maximum(boxes[:, :2], boxes[:, 2:]),
                ],
                axis=1,
            )
            if self._share_inside(sorted_boxes, self._format) > 0.95:
                swapped = (
                    " Are their corners swapped? The one with the smaller numbers must "
                    "come first, as in (x_min, y_min, x_max, y_max)."
                )
        other = self._format.removeprefix("rel_")
        if other == self._format:
            other = f"rel_{other}"
        # Those with x first before those with y first, or the other way round.
        alike = sorted(FORMATS, key=lambda x: _axis_of(x) != _axis_of(self._format))
        for candidate in dict.fromkeys((other, *alike)):
            is_known = candidate in FORMATS and candidate != self._format
            if is_known and self._share_inside(boxes, candidate) > 0.95:
                return f" Did you mean bounding_box_format={candidate!r}?{swapped}"
        return swapped

    def _share_inside(self, boxes: np.ndarray, candidate: str) -> float:
        """Return the share of boxes that lie in their image with an area."""
        corners = self._to_shares(boxes, candidate)
        inside = (corners > -0.02).all(-1) & (corners < 1.02).all(-1)
        # A box of less than a pixel was stated in another unit.
        has_sides = (corners[:, 2:] - corners[:, :2] > 1 / max(self._size)).all(-1)
        return float((inside & has_sides).mean()) if len(boxes) else 0.0

    def _to_shares(self, boxes: np.ndarray, bounding_box_format: str) -> np.ndarray:
        """Return x1, y1, x2, y2 as shares of the image's sides, not clipped."""
        source = bounding_box_format.removeprefix("rel_")
        corners = np.asarray(bounding_boxes.convert_format(boxes, source, "xyxy"))
        height, width = (1, 1) if source != bounding_box_format else self._size
        return corners / np.array([width, height, width, height], "float32")


def _axis_of(bounding_box_format: str) -> str:
    """Return "x" or "y", the coordinate that a format begins with."""
    return bounding_box_format.removeprefix("rel_").removeprefix("center_")[0]
