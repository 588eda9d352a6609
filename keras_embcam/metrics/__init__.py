"""What heatmaps and embeddings are worth: pure functions and Keras metrics."""

from keras_embcam.metrics.heatmap_figures import (
    ObjectFormat,
    measure_heatmaps,
    measure_uniform_heatmaps,
)
from keras_embcam.metrics.heatmap_ratio import (
    EmptyMapShare,
    HeatmapRatioInBoxes,
    HeatmapRatioInMasks,
    find_empty_maps,
    heatmap_ratio_in_boxes,
    heatmap_ratio_in_masks,
)
from keras_embcam.metrics.localization import (
    LocalizationAccuracy,
    box_overlaps,
    localization_accuracy,
)
from keras_embcam.metrics.pointing_game import (
    PointingGameInBoxes,
    PointingGameInMasks,
    pointing_game_in_boxes,
    pointing_game_in_masks,
)
from keras_embcam.metrics.retrieval import Retrieval, measure_retrieval

__all__ = [
    "EmptyMapShare",
    "HeatmapRatioInBoxes",
    "HeatmapRatioInMasks",
    "LocalizationAccuracy",
    "ObjectFormat",
    "PointingGameInBoxes",
    "PointingGameInMasks",
    "Retrieval",
    "box_overlaps",
    "find_empty_maps",
    "heatmap_ratio_in_boxes",
    "heatmap_ratio_in_masks",
    "localization_accuracy",
    "measure_heatmaps",
    "measure_retrieval",
    "measure_uniform_heatmaps",
    "pointing_game_in_boxes",
    "pointing_game_in_masks",
]
