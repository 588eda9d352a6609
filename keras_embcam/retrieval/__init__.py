"""Retrieval explained: why two images match, and what a search found instead."""

from keras_embcam.retrieval.context import ContextRatio, CoveredRecall, context_ratio
from keras_embcam.retrieval.contribution_reader import Contributions
from keras_embcam.retrieval.neighbor_explanation import NeighborExplanation
from keras_embcam.retrieval.neighbors import explain_neighbors
from keras_embcam.retrieval.pair_maps import Correspondences
from keras_embcam.retrieval.pairs import PairExplanation, explain_pair
from keras_embcam.retrieval.position_contributions import contributions

__all__ = [
    "ContextRatio",
    "Contributions",
    "Correspondences",
    "CoveredRecall",
    "NeighborExplanation",
    "PairExplanation",
    "context_ratio",
    "contributions",
    "explain_neighbors",
    "explain_pair",
]
