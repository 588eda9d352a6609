"""Which proxies a logger explains, checked before the training starts."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_embcam.proxies import trained

PROXIES = {
    "single_point": "each image's own unit embedding",
    "class_mean": "the mean of its class among the examples",
    "trained": "the trained proxy of its label",
}


class ExplainedProxies(NamedTuple):
    """What is explained of each example; see `EmbeddingCAMLogger`."""

    proxy: str | Callable = "single_point"
    class_proxies: Any = None
    proxy_layer: str | None = None

    def check(self, keys: set[str]) -> None:
        """Check what does not depend on the model.

        Args:
            keys: what the examples have.

        Raises:
            ValueError: for an unknown proxy, two proxies, or proxies by class without
                labels.
        """
        if not callable(self.proxy) and self.proxy not in PROXIES:
            raise ValueError(
                f"`proxy` must be one of {list(PROXIES)}, or a function of the "
                "embeddings; fixed vectors go into `class_proxies`. "
                f"Received: {self.proxy!r}"
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

    def find_rows(self, *models: keras.Model) -> np.ndarray | None:
        """Return proxies (classes, d); an example's own label is the number of its row.

        None for others than `class_proxies` and trained ones.

        Args:
            *models: searched in this order for the layer of trained proxies.

        Raises:
            ValueError: where trained proxies are asked for and no model has them.
        """
        if self.class_proxies is not None:
            return np.asarray(self.class_proxies)
        if self.proxy != "trained":
            return None
        for model in models[:-1]:
            try:
                return trained(model, self.proxy_layer)
            except ValueError:
                continue  # the branch of a siamese network may not have them
        return trained(models[-1], self.proxy_layer)

    def describe(self) -> str:
        """Return what is explained, for people."""
        if self.class_proxies is not None:
            return "class_proxies, the given vector of its label"
        if callable(self.proxy):
            name = getattr(self.proxy, "__name__", type(self.proxy).__name__)
            return f"{name}, a function of the embeddings"
        return f"{self.proxy}, {PROXIES[self.proxy]}"
