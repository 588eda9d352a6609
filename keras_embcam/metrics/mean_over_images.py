"""The stateful half that the per-image metrics share."""

from typing import Any

import keras
from keras import ops

Tensor = Any


class MeanOverImages(keras.metrics.Mean):
    """Weighted mean of a per-image value over the images where it is defined.

    A subclass writes ``measure(y_true, y_pred)``, which returns (n,) values with NaN
    where there is nothing to measure (no object, no heat); those images are left out
    of sum and count. ``result()`` is NaN until an image has counted: zero would be
    a measurement. Because only the sum and the count are kept, batches of any size
    give the mean over all images.

    Args:
        name: of the metric.
        dtype: of its state.
        **options: of what is measured. They are attributes of the metric and part of
            its configuration.
    """

    def __init__(self, name: str = "mean", dtype: Any = None, **options: Any) -> None:
        super().__init__(name=name, dtype=dtype)
        self._option_names = tuple(options)
        for option, value in options.items():
            setattr(self, option, value)

    @property
    def options(self) -> dict[str, Any]:
        """What is measured, by the names of the arguments."""
        return {name: getattr(self, name) for name in self._option_names}

    def get_config(self) -> dict[str, Any]:
        """Return what ``from_config`` needs."""
        return super().get_config() | self.options

    def measure(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the value of each image, (n,) float, NaN where undefined."""
        raise NotImplementedError(
            "A subclass of MeanOverImages must define `measure(y_true, y_pred)`. "
            f"Received: {type(self).__name__}"
        )

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        """Add a batch.

        Args:
            y_true: what is known of the images: boxes or masks.
            y_pred: heatmaps, (n, H, W) at input size, >= 0.
            sample_weight: (n,) weights of the images, or None for one each.
        """
        values = ops.convert_to_tensor(self.measure(y_true, y_pred))
        defined = ops.logical_not(ops.isnan(values))
        weight = ops.cast(defined, self.dtype)
        if sample_weight is not None:
            weight = weight * ops.cast(sample_weight, self.dtype)
        super().update_state(ops.where(defined, values, 0.0), weight)

    def result(self) -> Tensor:
        """Return the mean, NaN where no image has counted."""
        counted = self.count > 0
        mean = self.total / ops.where(counted, self.count, 1.0)
        return ops.where(counted, mean, float("nan"))
