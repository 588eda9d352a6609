"""A method of explanation to compare, and the ones that are known by name."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from keras import ops

from keras_embcam.evaluation.baselines import (
    activation_sum,
    central_box,
    centred_gaussian,
    find_edges,
    uniform,
)
from keras_embcam.presets import apply_preset, get_preset
from keras_embcam.weightings import Weighting, check_top_channels, get_weighting

# Proxies that take the labels, and the embeddings of the whole set beforehand.
SET_PROXIES = (
    "class_mean",
    "class_mean_leave_one_out",
    "triplet",
    "distance_difference",
    "pairwise_distance",
)
PROXIES = ("single_point", *SET_PROXIES)


@dataclass(frozen=True, eq=False)
class Method:
    """One way to make a heatmap of each image: a row of the table.

    Methods on the same `conv_layer` share one run of the model, and those with the
    same proxy its gradient too.

    Args:
        name: of the row.
        proxy: "single_point"; "class_mean" or "class_mean_leave_one_out" of the
            evaluated images; "triplet", the mean direction of active triplets among
            them (Chen et al.), "distance_difference" of triplets active or not, or
            "pairwise_distance" to images of the class; an array (classes, d) of class
            proxies; or a function of the embeddings (n, d) that returns (n, d).
        weighting: see `EmbeddingCAM`.
        top_channels: see `EmbeddingCAM`.
        conv_layer: see `EmbeddingCAM`; a list of layers too.
        preset: see `EmbeddingCAM`; in place of `weighting` and `top_channels`.
        box_threshold: share of the maximum that boxes are found above, or "otsu", to
            be measured beside the thresholds of all; None for the preset's own.
        num_triplets: how many triplets or pairs of each image are sampled, at most.
        margin: of the triplets, >= 0.
        sign: of the triplet and pair scores; -1 for what makes the image like its
            class, +1 for the loss itself.
        database: a `keras_embcam.transfer.GradWeightDatabase` that lends the weights
            instead; of the arguments above it takes none.
        heatmaps: a function that makes the maps instead: images as the model takes
            them, preprocessed, (n, H, W, c) float -> (n, H, W), >= 0.
        options: arguments of the database's `explain`.

    Raises:
        ValueError: for an unknown proxy, weighting or number, or where `database`
            and `heatmaps` are both given.

    Example:

    >>> Method("top 50", "class_mean", top_channels=50).needs_labels
    True
    """

    name: str
    proxy: Any = "single_point"
    weighting: str | Weighting = "gradcam"
    top_channels: int | None = None
    conv_layer: Any = None
    preset: str | None = None
    box_threshold: float | str | None = None
    num_triplets: int = 50
    margin: float = 0.2
    sign: int = -1
    database: Any = None
    heatmaps: Callable[[np.ndarray], Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        get_weighting(self.weighting)
        apply_preset(self.preset, None, self.weighting, self.top_channels)
        check_top_channels(self.top_channels)
        is_name = isinstance(self.proxy, str)
        is_known = self.proxy in PROXIES if is_name else callable(self.proxy)
        if not is_known and (is_name or np.ndim(self.proxy) != 2):
            raise ValueError(
                f"`proxy` must be one of {PROXIES}, an array (classes, d) or a "
                f"function of the embeddings. Received: {self.proxy!r}"
            )
        if self.num_triplets < 1:
            raise ValueError(
                f"`num_triplets` must be at least 1. Received: {self.num_triplets!r}"
            )
        if self.database is not None and self.heatmaps is not None:
            raise ValueError(
                "Pass one of `database` and `heatmaps`: both make the maps. Received "
                f"both for the method {self.name!r}."
            )

    @property
    def explains_proxy(self) -> bool:
        """Whether the maps are made from activations, gradients and a proxy."""
        return self.database is None and self.heatmaps is None

    @property
    def has_proxy(self) -> bool:
        """Whether there is a proxy that the maps depend on."""
        return self.explains_proxy and self.weighting is not activation_sum

    @property
    def is_direction(self) -> bool:
        """Whether the proxy is at right angles to the embedding: of triplets, pairs."""
        return isinstance(self.proxy, str) and self.proxy in SET_PROXIES[2:]

    @property
    def has_scores(self) -> bool:
        """Whether maps that are not scaled are in the units of the score."""
        is_fused = self.preset is not None or isinstance(self.conv_layer, list)
        return self.explains_proxy and not is_fused

    @property
    def needs_set(self) -> bool:
        """Whether the proxy takes the embeddings of all images beforehand."""
        named = isinstance(self.proxy, str) and self.proxy in SET_PROXIES
        return named and self.explains_proxy

    @property
    def needs_labels(self) -> bool:
        """Whether the proxy takes the labels of the images."""
        is_array = not isinstance(self.proxy, str) and not callable(self.proxy)
        return self.needs_set or (is_array and self.explains_proxy)

    def find_box_threshold(self) -> float | str | None:
        """Return the method's own threshold for boxes, if it has one."""
        if self.box_threshold is None and self.preset is not None:
            return get_preset(self.preset).box_threshold
        return self.box_threshold

    def describe_proxy(self) -> str:
        """Return what the map explains, for a table."""
        if not self.has_proxy:
            return "none" if self.database is None else "transferred"
        if not isinstance(self.proxy, str):
            return "a function" if callable(self.proxy) else "given for each class"
        if self.is_direction:
            return f"{self.proxy}, {self.num_triplets} an image, sign {self.sign:+d}"
        return self.proxy

    def describe_weights(self) -> str:
        """Return weighting and channels, for a table."""
        if self.heatmaps is not None:
            return "none"
        if self.database is not None:
            return "of the database"
        if self.preset is not None:
            return f"preset {self.preset}"
        name = getattr(self.weighting, "__name__", str(self.weighting))
        return name + (f", top {self.top_channels}" if self.top_channels else "")


# Rows that explain nothing come first: what a method has to beat.
METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("uniform", heatmaps=uniform),
        Method("centred_gaussian", heatmaps=centred_gaussian),
        Method("central_box", heatmaps=central_box(0.7)),
        Method("edges", heatmaps=find_edges),
        # Any proxy would do, and this one needs no gradient.
        Method("activation_sum", ops.ones_like, activation_sum),
        Method("single_point"),
        Method("single_point_top_50", top_channels=50),
        Method("class_mean", "class_mean"),
        Method("class_mean_top_50", "class_mean", top_channels=50),
        Method("class_mean_leave_one_out", "class_mean_leave_one_out"),
        Method("triplet", "triplet"),
        Method("triplet_top_50", "triplet", top_channels=50),
        Method("distance_difference", "distance_difference"),
        Method("pairwise_distance", "pairwise_distance"),
        Method("localize", preset="localize"),
        Method("localize_class_mean", "class_mean", preset="localize"),
        Method("gradcam++", weighting="gradcam++"),
        Method("layercam", weighting="layercam"),
        Method("hirescam", weighting="hirescam"),
        Method("xgradcam", weighting="xgradcam"),
    )
}
DEFAULT_METHODS: tuple[str, ...] = (
    "uniform",
    "centred_gaussian",
    "edges",
    "activation_sum",
    "single_point",
    "class_mean",
    "gradcam++",
    "layercam",
)


def get_methods(methods: Iterable[str | Method]) -> list[Method]:
    """Return the methods of these names, or the objects themselves.

    Args:
        methods: keys of `METHODS` and `Method` objects, each name once.

    Raises:
        ValueError: for none at all, an unknown name or a name that comes twice.
        TypeError: for what is neither a name nor a `Method`.

    Example:

    >>> [method.name for method in get_methods(["uniform", Method("mine")])]
    ['uniform', 'mine']
    """
    if isinstance(methods, str | Method):
        methods = [methods]
    found = [_get_method(method) for method in methods]
    names = [method.name for method in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise ValueError(
            "`methods` must hold at least one method, each name once. Received: "
            f"{twice or names}"
        )
    return found


def _get_method(method: Any) -> Method:
    if isinstance(method, Method):
        return method
    if not isinstance(method, str):
        raise TypeError(
            "`methods` must hold names and `Method` objects. Received: "
            f"{method!r} (of type {type(method).__name__})"
        )
    if method not in METHODS:
        raise ValueError(
            f"`methods` must be among {list(METHODS)}, or `Method` objects. Received: "
            f"{method!r}"
        )
    return METHODS[method]
