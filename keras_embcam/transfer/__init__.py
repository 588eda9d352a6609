"""Weights of training images that explain new images by a forward pass alone.

Chen et al., Adapting Grad-CAM for Embedding Networks, WACV 2020, sections 3.2 and 3.3.
"""

from keras_embcam.transfer.database import GradWeightDatabase
from keras_embcam.transfer.lent_heatmaps import TransferExplanation

__all__ = ["GradWeightDatabase", "TransferExplanation"]
