"""The evaluation harness: tables, curves and faithfulness of explanations."""

from keras_embcam.evaluation.baselines import central_box
from keras_embcam.evaluation.harness import evaluate
from keras_embcam.evaluation.method import (
    DEFAULT_METHODS,
    METHODS,
    Method,
    get_methods,
)
from keras_embcam.evaluation.report import Report
from keras_embcam.evaluation.sensitivity import sensitivity_to_channels

__all__ = [
    "DEFAULT_METHODS",
    "METHODS",
    "Method",
    "Report",
    "central_box",
    "evaluate",
    "get_methods",
    "sensitivity_to_channels",
]
