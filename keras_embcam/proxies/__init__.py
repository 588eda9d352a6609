"""Proxies: the vectors ``p`` of the score ``y . p`` that a heatmap explains.

``y`` (n, d) are raw embeddings, before any normalisation; ``f = y / |y|``. Proxies
are (n, d), one for each image, or (classes, d), one for each class; all float32.
"""

from keras_embcam.proxies.class_means import (
    RunningClassMean,
    check_labels,
    class_mean,
)
from keras_embcam.proxies.elementary import (
    check_proxies_shape,
    contrast,
    counterfactual,
    from_score,
    one_hot,
    pair,
    single_point,
    trained,
)
from keras_embcam.proxies.triplets import (
    TripletProxies,
    distance_difference,
    pairwise_distance,
    triplet,
)

__all__ = [
    "RunningClassMean",
    "TripletProxies",
    "check_labels",
    "check_proxies_shape",
    "class_mean",
    "contrast",
    "counterfactual",
    "distance_difference",
    "from_score",
    "one_hot",
    "pair",
    "pairwise_distance",
    "single_point",
    "trained",
    "triplet",
]
