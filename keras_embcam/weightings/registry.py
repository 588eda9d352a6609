"""The weightings that are known by name."""

from collections.abc import Callable
from typing import Any

from keras_embcam.weightings.by_gradient import (
    gradcam,
    gradcam_plus_plus,
    hirescam,
    layercam,
    xgradcam,
)

Tensor = Any
Weighting = Callable[[Tensor, Tensor], Tensor]
"""``(activations (n, h, w, k), gradients) -> weights``, broadcastable to both."""

WEIGHTINGS: dict[str, Weighting] = {
    "gradcam": gradcam,
    "gradcam++": gradcam_plus_plus,
    "layercam": layercam,
    "hirescam": hirescam,
    "xgradcam": xgradcam,
}
"""Weightings by name."""


def get_weighting(identifier: str | Weighting) -> Weighting:
    """Return the weighting of this name, or the function itself.

    Args:
        identifier: a key of ``WEIGHTINGS``, or a function
            ``(activations, gradients) -> weights``.

    Raises:
        ValueError: for an unknown name.

    Example:

    >>> get_weighting("gradcam") is gradcam
    True
    """
    if callable(identifier):
        return identifier
    if not isinstance(identifier, str) or identifier not in WEIGHTINGS:
        raise ValueError(
            f"`weighting` must be one of {sorted(WEIGHTINGS)} or a function "
            f"(activations, gradients) -> weights. Received: {identifier!r}"
        )
    return WEIGHTINGS[identifier]
