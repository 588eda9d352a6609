"""A method of explanation to compare: a row of the table."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import Any

import numpy as np

from keras_embcam.evaluation.baselines import activation_sum
from keras_embcam.method import AUTO, Method
from keras_embcam.presets import get_preset

# Directions away from other images, at right angles to the embedding itself.
DIRECTIONS = ("triplet", "distance_difference", "pairwise_distance")
# Proxies that take the labels and embeddings of the whole set beforehand.
SET_PROXIES = ("class_mean", "class_mean_leave_one_out", *DIRECTIONS)
PROXIES = ("single_point", *SET_PROXIES)


@dataclass(frozen=True, eq=False)
class ComparedMethod(Method):
    """One way to make a heatmap of each image: a row of the table.

    A `keras_embcam.method.Method` with a name and a proxy, exported as
    `keras_embcam.evaluation.Method`. Methods on the same `conv_layer` share one run of
    the model, and those with the same proxy its gradient too. Two of them are never
    equal, even if all of their options are.

    Args:
        name: of the row.
        proxy: "single_point"; "class_mean" or "class_mean_leave_one_out" of the
            evaluated images; "triplet", the mean direction of active triplets among
            them (Chen et al.), "distance_difference" of triplets active or not, or
            "pairwise_distance" to images of the class; an array (classes, d) of class
            proxies; or a function of the embeddings (n, d) that returns (n, d).
        weighting: name or function of a weighting, see `EmbeddingCAM`.
        top_channels: how many channels to keep, None for all.
        conv_layer: name, path or object of a layer, a list of several, or None.
        embedding_layer: name, path or object of a layer, or None.
        preset: a name that stands for layers and weighting, in place of `weighting`
            and `top_channels`; or None.
        token_grid: (h, w) of the patches among a transformer's tokens; None to find it.
        num_prefix_tokens: tokens before the patches; None to find it.
        resize: must be True: maps are measured at the size of the images.
        normalize: must be True: maps are measured divided by their maximum.
        box_threshold: share of the maximum that boxes are found above, or a rule;
            None for that of the preset, or 0.2.
        num_triplets: how many triplets or pairs of each image are sampled, at most.
        margin: of the triplets, >= 0.
        sign: of the triplet and pair scores; -1 for what makes the image like its
            class, +1 for the loss itself.
        database: a `keras_embcam.transfer.GradWeightDatabase` that lends the weights
            instead; of the arguments above it takes only the name and `box_threshold`.
        heatmaps: a function that makes the maps instead: images as the model takes
            them, preprocessed, (n, H, W, c) -> (n, H, W), >= 0.
        options: arguments of the database's `explain`.

    Raises:
        ValueError: for the weighting "auto", an unknown proxy, weighting, preset or
            number, for maps of another size or scale, or where `database` and
            `heatmaps` are both given.

    Example:

    >>> ComparedMethod("top 50", "class_mean", top_channels=50).needs_labels
    True
    """

    name: str
    proxy: Any = "single_point"
    _: KW_ONLY
    box_threshold: Any = None
    num_triplets: int = 50
    margin: float = 0.2
    sign: int = -1
    database: Any = None
    heatmaps: Callable[[np.ndarray], Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    # The equality of `Method` looks at its own fields alone: two proxies would be one.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weighting == AUTO:
            raise ValueError(
                'A compared method states what it is; `weighting="auto"` depends on '
                'the model. Pass "gradcam" for maps, or `preset="tokens"` for the '
                f"tokens of a transformer. Received: {self.name!r}"
            )
        is_name = isinstance(self.proxy, str)
        is_known = self.proxy in PROXIES if is_name else callable(self.proxy)
        if not is_known and (is_name or np.ndim(self.proxy) != 2):
            raise ValueError(
                f"`proxy` must be one of {PROXIES}, an array (classes, d) or a "
                f"function of the embeddings. Received: {self.proxy!r}"
            )
        if not (self.resize and self.normalize):
            raise ValueError(
                "Compared maps are measured at the size of the images and divided by "
                "their maximum: leave `resize` and `normalize` at True. Received: "
                f"resize={self.resize!r}, normalize={self.normalize!r}"
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
    def core(self) -> Method:
        """What is explained and how, without a name and a proxy; can be compared."""
        return Method(**{x.name: getattr(self, x.name) for x in fields(Method)})

    @property
    def place(self) -> Hashable:
        """Layers, embedding and tokens: methods with the same ones share a run."""
        tokens = self.token_grid, self.num_prefix_tokens
        return self.layers, self.embedding_layer, *tokens

    @property
    def explains_proxy(self) -> bool:
        """Whether the maps are made from activations, gradients and a proxy."""
        return self.database is None and self.heatmaps is None

    @property
    def has_proxy(self) -> bool:
        """Whether there is a proxy that the maps depend on."""
        if self.preset is not None and not get_preset(self.preset).follows_proxy:
            return False
        return self.explains_proxy and self.weighting is not activation_sum

    @property
    def is_direction(self) -> bool:
        """Whether the proxy is at right angles to the embedding."""
        return isinstance(self.proxy, str) and self.proxy in DIRECTIONS

    @property
    def has_scores(self) -> bool:
        """Whether maps that are not scaled are in the units of the score."""
        is_fused = self.preset is not None or isinstance(self.conv_layer, tuple)
        return self.explains_proxy and not is_fused

    @property
    def needs_set(self) -> bool:
        """Whether the proxy takes the embeddings of all images beforehand."""
        is_named = isinstance(self.proxy, str) and self.proxy in SET_PROXIES
        return is_named and self.explains_proxy

    @property
    def needs_labels(self) -> bool:
        """Whether the proxy takes the labels of the images."""
        is_array = not isinstance(self.proxy, str) and not callable(self.proxy)
        return self.needs_set or (is_array and self.explains_proxy)

    def find_box_threshold(self) -> float | str:
        """Return the threshold above which boxes are found in these maps."""
        if self.box_threshold is not None:
            return self.box_threshold
        return self.core.box_threshold

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
