"""Whether the masks of a set have the value that is said to be the object."""

import numpy as np

# Values named in a message.
NUM_NAMED = 20


class MaskCheck:
    """Looks at masks batch by batch, and says in the end what cannot be right.

    Args:
        foreground: the value of the object in integer masks, None for bool masks.
        name: of the argument that holds them, for messages.

    Example:

    >>> check = MaskCheck(7, "examples")
    >>> check.update(np.uint8([[[0, 255]]]))
    >>> check.finish()
    Traceback (most recent call last):
    ...
    ValueError: No mask of `examples` has the value of the object. Received: \
mask_foreground=7 and masks with the values [0, 255]. Pass one of them.
    """

    def __init__(self, foreground: int | None, name: str) -> None:
        self._foreground = foreground
        self._name = name
        self._values: set[int] = set()

    def update(self, masks: np.ndarray) -> None:
        """Add a batch."""
        if self._foreground is not None and self._foreground not in self._values:
            self._values.update(np.unique(masks).tolist())

    def finish(self) -> None:
        """Check what was seen.

        Raises:
            ValueError: where there are masks and none has the value.
        """
        if self._values and self._foreground not in self._values:
            values = sorted(self._values)
            named = str(values[:NUM_NAMED])
            if len(values) > NUM_NAMED:
                named = f"{named[:-1]}, ...]"
            raise ValueError(
                f"No mask of `{self._name}` has the value of the object. Received: "
                f"mask_foreground={self._foreground!r} and masks with the values "
                f"{named}. Pass one of them."
            )
