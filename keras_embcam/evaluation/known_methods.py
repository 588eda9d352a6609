"""The methods of explanation that are known by name."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from keras import ops

from keras_embcam.evaluation.baselines import (
    activation_sum,
    central_box,
    centred_gaussian,
    find_edges,
    uniform,
)
from keras_embcam.evaluation.compared_method import ComparedMethod

METHODS: dict[str, ComparedMethod] = {
    method.name: method
    for method in (
        ComparedMethod("uniform", heatmaps=uniform),
        ComparedMethod("centred_gaussian", heatmaps=centred_gaussian),
        ComparedMethod("central_box", heatmaps=central_box(0.7)),
        ComparedMethod("edges", heatmaps=find_edges),
        # Any proxy would do, and this one needs no gradient.
        ComparedMethod("activation_sum", ops.ones_like, weighting=activation_sum),
        ComparedMethod("single_point"),
        ComparedMethod("single_point_top_50", top_channels=50),
        ComparedMethod("class_mean", "class_mean"),
        ComparedMethod("class_mean_top_50", "class_mean", top_channels=50),
        ComparedMethod("class_mean_leave_one_out", "class_mean_leave_one_out"),
        ComparedMethod("triplet", "triplet"),
        ComparedMethod("triplet_top_50", "triplet", top_channels=50),
        ComparedMethod("distance_difference", "distance_difference"),
        ComparedMethod("pairwise_distance", "pairwise_distance"),
        ComparedMethod("localize", preset="localize"),
        ComparedMethod("localize_class_mean", "class_mean", preset="localize"),
        # What `explain` does for transformers.
        ComparedMethod("tokens", preset="tokens"),
        ComparedMethod("tokens_class_mean", "class_mean", preset="tokens"),
        # Others for transformers: of the last two, any proxy would do.
        ComparedMethod("gradient_length", preset="gradient_length"),
        ComparedMethod("attention_gradient", preset="attention_gradient"),
        ComparedMethod("legrad", preset="legrad"),
        ComparedMethod("rollout", preset="rollout"),
        ComparedMethod("last_attention", preset="last_attention"),
        ComparedMethod("gradcam++", weighting="gradcam++"),
        ComparedMethod("layercam", weighting="layercam"),
        ComparedMethod("hirescam", weighting="hirescam"),
        ComparedMethod("xgradcam", weighting="xgradcam"),
    )
}
"""Methods by name. Rows that explain nothing come first: what a method has to beat."""

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
"""Those of `evaluate` where none are named."""


def get_methods(methods: Iterable[str | ComparedMethod]) -> list[ComparedMethod]:
    """Return the methods of these names, or the objects themselves.

    Args:
        methods: keys of `METHODS` and `evaluation.Method` objects, each name once.

    Raises:
        ValueError: for none at all, an unknown name or a name that comes twice.
        TypeError: for what is neither a name nor a `Method`.

    Example:

    >>> [method.name for method in get_methods(["uniform", ComparedMethod("mine")])]
    ['uniform', 'mine']
    """
    if isinstance(methods, str | ComparedMethod):
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


def _get_method(method: Any) -> ComparedMethod:
    if isinstance(method, ComparedMethod):
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


def prepare_methods(
    methods: Any, conv_layer: Any, embedding_layer: Any, keys: set[str]
) -> tuple[list[ComparedMethod], list[str]]:
    """Return the methods with their layers, and notes on the default ones left out.

    Args:
        methods: see `get_methods`.
        conv_layer: of the methods that name none and have no preset.
        embedding_layer: of the methods that name none.
        keys: what the examples have.

    Raises:
        ValueError: for methods that need labels where there are none, or that name
            different embeddings.
    """
    found, notes = get_methods(methods), []
    unlabelled = [method.name for method in found if method.needs_labels]
    if unlabelled and "label" not in keys:
        if {method.name for method in found} != set(DEFAULT_METHODS):
            raise ValueError(
                'These methods need examples with a "label" (n,): '
                f"{unlabelled}. Add it, or leave these methods out. Received examples "
                f"with {sorted(keys)}"
            )
        found = [method for method in found if not method.needs_labels]
        notes = [f"Left out, as the examples have no labels: {unlabelled}"]
    found = [_with_layers(method, conv_layer, embedding_layer) for method in found]
    embeddings = {x.embedding_layer for x in found if x.explains_proxy}
    if len(embeddings) > 1:
        raise ValueError(
            "Methods are compared on one embedding: pass `embedding_layer` once, to "
            f"`evaluate`. Received: {sorted(map(str, embeddings))}"
        )
    return found, notes


def _with_layers(
    method: ComparedMethod, conv_layer: Any, embedding_layer: Any
) -> ComparedMethod:
    if not method.explains_proxy:
        return method
    if method.conv_layer is None and method.preset is None:
        method = replace(method, conv_layer=conv_layer)
    if method.embedding_layer is None:
        method = replace(method, embedding_layer=embedding_layer)
    return method
