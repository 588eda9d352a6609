"""Labelled examples: dicts of image, label, bbox and segmentation_mask."""

from keras_embcam.datasets.cub200 import cub200
from keras_embcam.datasets.digit_scenes import digit_scenes
from keras_embcam.datasets.tfds import from_tfds

__all__ = ["cub200", "digit_scenes", "from_tfds"]
