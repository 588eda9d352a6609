"""Compare methods of explanation: tables, curves and faithfulness."""

from keras_embcam.evaluation.baselines import central_box
from keras_embcam.evaluation.compared_method import ComparedMethod
from keras_embcam.evaluation.comparison import evaluate
from keras_embcam.evaluation.known_methods import (
    DEFAULT_METHODS,
    METHODS,
    get_methods,
)
from keras_embcam.evaluation.report import Report
from keras_embcam.evaluation.sensitivity import sensitivity_to_channels
from keras_embcam.evaluation.several_models import average_reports, join_reports

# What notebooks write: a method to compare.
Method = ComparedMethod

__all__ = [
    "DEFAULT_METHODS",
    "METHODS",
    "Method",
    "Report",
    "average_reports",
    "central_box",
    "evaluate",
    "get_methods",
    "join_reports",
    "sensitivity_to_channels",
]
