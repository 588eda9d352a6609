"""How much of the heat of each example lies on its object."""

import numpy as np
import tensorflow as tf

from keras_embcam.metrics import (
    ObjectFormat,
    measure_heatmaps,
    measure_uniform_heatmaps,
)
from keras_embcam.running.labelled_examples import Examples


class ObjectFigures:
    """Figures of each example with a box or a mask.

    Args:
        objects: how boxes and masks are stated.
    """

    def __init__(self, objects: ObjectFormat) -> None:
        self._objects = objects
        # Compiled: eagerly, the figures took as long as the maps of small images.
        self._measure = tf.function(
            lambda objects_of, heatmaps: measure_heatmaps(
                heatmaps, objects_of, objects
            ),
            autograph=False,
            reduce_retracing=True,
        )

    def measure(
        self, examples: Examples, heatmaps: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Return each image's figures, (n,), but for those of the box that is found."""
        found = self._measure(_objects_of(examples), heatmaps)
        return {name: np.asarray(x) for name, x in found.items()}

    def measure_uniform(self, examples: Examples) -> dict[str, np.ndarray]:
        """Return the same figures (n,) of maps that are as hot everywhere."""
        shape_of_maps = np.broadcast_to(np.float32(1), examples["image"].shape[:3])
        found = measure_uniform_heatmaps(
            shape_of_maps, _objects_of(examples), self._objects
        )
        return {name: np.asarray(x) for name, x in found.items()}


def _objects_of(examples: Examples) -> Examples:
    keys = ("bbox", "segmentation_mask")
    return {key: examples[key] for key in keys if key in examples}
