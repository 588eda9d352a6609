"""Whether the masks of a set have the value that is said to be the object."""

import warnings
from collections.abc import Collection

import numpy as np

# Values named in a message.
NUM_NAMED = 20
# Of each image: objects that cover so much of it tell nothing about maps.
LARGEST_SHARE = 0.99


class MaskCheck:
    """Looks at masks batch by batch, and says in the end what cannot be right.

    Args:
        foreground: the value of the object in integer masks, None for bool masks.
        name: of the argument that holds them, for messages.
        ignored: the value of pixels that do not count, None for none.

    Example:

    >>> check = MaskCheck(7, "examples")
    >>> check.update(np.uint8([[[0, 255]]]))
    >>> check.finish()
    Traceback (most recent call last):
    ...
    ValueError: No mask of `examples` has the value of the object. Received: \
mask_foreground=7 and masks with the values [0, 255]. Pass one of them.
    """

    def __init__(
        self, foreground: int | None, name: str, ignored: int | None = None
    ) -> None:
        self._foreground = foreground
        self._name = name
        self._ignored = ignored
        self._values: set[int] = set()
        self._smallest: float | None = None

    def update(self, masks: np.ndarray) -> None:
        """Add a batch.

        Args:
            masks: (n, H, W), bool or integers.
        """
        value = True if self._foreground is None else self._foreground
        shares = np.mean(np.equal(masks, value), axis=(1, 2))
        known = 1.0 if self._smallest is None else self._smallest
        self._smallest = float(shares.min(initial=known))
        if masks.dtype == bool:
            self._values.update({False, bool(masks.any())})
        elif masks.dtype.kind in "iu":  # others are refused elsewhere
            self._values.update(np.unique(masks).tolist())

    def finish(self) -> None:
        """Check what was seen.

        Warns where the object covers all of each image, and of values that count as
        background beside another one.

        Raises:
            ValueError: where there are masks and none has the value.
        """
        if self._foreground is None:
            if self._values == {False}:
                raise ValueError(
                    f"The masks of `{self._name}` must hold an object. Received: bool "
                    'masks that are all False. Leave out "segmentation_mask", or pass '
                    "masks that are True on the object."
                )
        elif self._values and self._foreground not in self._values:
            raise ValueError(
                f"No mask of `{self._name}` has the value of the object. Received: "
                f"mask_foreground={self._foreground!r} and masks with the values "
                f"{_name(self._values)}. Pass one of them."
            )
        if self._smallest is not None and self._smallest > LARGEST_SHARE:
            advice = (
                "Bool masks that were made of trimaps (1, 2, 3) are all True: pass the "
                "trimaps themselves with `mask_foreground=1`"
                if self._foreground is None
                else f"Received mask_foreground={self._foreground!r}: pass another one"
            )
            warnings.warn(
                f"The masks of `{self._name}` say that the object covers the whole of "
                "each image, so the heatmap ratio is 1.000 whatever the heatmaps are. "
                f"{advice}, or leave the masks out.",
                stacklevel=3,
            )
        further = sorted(self._values - {self._foreground, self._ignored})[1:]
        if further and self._foreground is not None:
            warnings.warn(
                f"The masks of `{self._name}` hold further values, counted as "
                f"background: {_name(further)}. Received: mask_foreground="
                f"{self._foreground!r}, mask_ignored={self._ignored!r}. Where one is "
                "neither object nor background, pass it, as in "
                f"mask_ignored={further[-1]}; resize masks to the nearest value only.",
                stacklevel=2,
            )


def _name(values: Collection[int]) -> str:
    """Return the first of some values in words."""
    named = str(sorted(values)[:NUM_NAMED])
    return f"{named[:-1]}, ...]" if len(values) > NUM_NAMED else named
