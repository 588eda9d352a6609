"""What a logger is told about how to explain, checked before the training starts."""

from collections.abc import Callable
from typing import Any, NamedTuple

from keras_embcam.presets import apply_preset, box_threshold
from keras_embcam.weightings import Weighting

PROXIES = ("single_point", "class_mean", "trained")


class Settings(NamedTuple):
    """How to explain and to read the examples; see `EmbeddingCAMLogger`."""

    proxy: str | Callable
    class_proxies: Any
    proxy_layer: str | None
    conv_layer: Any
    embedding_layer: Any
    weighting: str | Weighting
    top_channels: int | None
    preset: str | None
    bounding_box_format: str
    mask_foreground: int | None
    mask_ignored: int | None

    def check(self, keys: set[str]) -> None:
        """Check what does not depend on the model.

        Args:
            keys: what the examples have.

        Raises:
            ValueError: for an unknown proxy, weighting or preset, two proxies, or
                proxies by class without labels.
        """
        if not callable(self.proxy) and self.proxy not in PROXIES:
            raise ValueError(
                f"`proxy` must be one of {PROXIES}, or a function of the embeddings; "
                f"fixed vectors go into `class_proxies`. Received: {self.proxy!r}"
            )
        if self.class_proxies is not None and self.proxy != "single_point":
            raise ValueError(
                f"Pass `class_proxies` or `proxy`, not both. Received: {self.proxy!r}"
            )
        by_class = self.proxy in ("class_mean", "trained")
        if (self.class_proxies is not None or by_class) and "label" not in keys:
            raise ValueError(
                "Proxies by class need labels in `validation_examples`. Received "
                f"{sorted(keys)}"
            )
        apply_preset(self.preset, self.conv_layer, self.weighting, self.top_channels)

    @property
    def box_threshold(self) -> float | str:
        """Of `find_boxes`."""
        return box_threshold(self.preset)


def check_count(name: str, value: Any, least: int, other: str | None = None) -> None:
    """Check that an argument is an integer, or the word that may stand for one.

    Raises:
        ValueError: for anything else.
    """
    if other is not None and value == other:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        words = "" if other is None else f'"{other}" or '
        raise ValueError(
            f"`{name}` must be {words}an integer >= {least}. Received: {value!r}"
        )
