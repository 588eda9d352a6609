"""The demo: train networks with the logger on, and see which of them cheats."""

from keras_embcam.demo.birds import run_birds
from keras_embcam.demo.digits import run_digits
from keras_embcam.demo.training import LOSSES

__all__ = ["LOSSES", "run_birds", "run_digits"]
