"""Losses for metric learning, written with keras.ops.

The losses on pairs and triplets take integer labels and raw embeddings, and need
batches with several images of a class: see ``keras_embcam.sampling``. The proxy losses
take integer labels and the similarities of a ``keras_embcam.layers.Proxies`` layer.
"""

from keras_embcam.losses.contrastive import ContrastiveLoss
from keras_embcam.losses.margin import MarginLoss
from keras_embcam.losses.proxy_anchor import ProxyAnchorLoss
from keras_embcam.losses.proxy_nca import ProxyNCALoss
from keras_embcam.losses.triplet import (
    TripletAllLoss,
    TripletHardLoss,
    TripletSemiHardLoss,
)

__all__ = [
    "ContrastiveLoss",
    "MarginLoss",
    "ProxyAnchorLoss",
    "ProxyNCALoss",
    "TripletAllLoss",
    "TripletHardLoss",
    "TripletSemiHardLoss",
]
