"""The tables of the two papers on embedding networks, beside our own figures."""

from keras_embcam.benchmark.cub import run_cub
from keras_embcam.benchmark.options import Options

__all__ = ["Options", "run_cub"]
