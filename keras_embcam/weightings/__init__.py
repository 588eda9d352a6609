"""Weightings: how much each channel, or each position of it, counts.

Each is a pure function ``(activations, gradients) -> weights``, both inputs
(n, h, w, k) float32, the result broadcastable to them. A user's own function of
the same form serves wherever a name does.

Example: one image of one row with two positions of one channel.

>>> import numpy as np
>>> activations = np.float32([[[[1], [3]]]])
>>> gradients = np.float32([[[[-1], [2]]]])
>>> for name, weighting in WEIGHTINGS.items():
...     print(name, np.asarray(weighting(activations, gradients)).ravel())
gradcam [0.5]
gradcam++ [0.2]
layercam [0. 2.]
hirescam [-1.  2.]
xgradcam [1.25]
"""

from keras_embcam.weightings.by_gradient import (
    gradcam,
    gradcam_plus_plus,
    hirescam,
    layercam,
    xgradcam,
)
from keras_embcam.weightings.registry import WEIGHTINGS, Weighting, get_weighting
from keras_embcam.weightings.top_channels import check_top_channels, keep_top_channels

__all__ = [
    "WEIGHTINGS",
    "Weighting",
    "check_top_channels",
    "get_weighting",
    "gradcam",
    "gradcam_plus_plus",
    "hirescam",
    "keep_top_channels",
    "layercam",
    "xgradcam",
]
