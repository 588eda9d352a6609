"""Method: what is explained and how, checked once and passed whole."""

from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from keras_embcam.network.feature_maps import AllBranches
from keras_embcam.network.tokens import check_token_options
from keras_embcam.network.trial_run import list_operations
from keras_embcam.network.view import ModelView
from keras_embcam.presets import LayerFusion, get_preset
from keras_embcam.weightings import (
    Weighting,
    check_top_channels,
    get_weighting,
    gradcam,
)

AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class Method:
    """What of a network is explained, and how its heatmaps are made.

    Checked when it is made. Functions pass these options on as one `Method` only, and
    it is the key of every cache: two methods are equal where they make the same maps of
    the same model and proxies. Proxies are no part of it: they belong to the images
    and are passed beside it.

    Args:
        weighting: see `EmbeddingCAM`, also for all others. "auto" is Grad-CAM for maps
            and the preset "tokens" for transformers.
        top_channels: how many channels to keep, None for all.
        conv_layer: a name, path or object of a layer, a list of several, or None.
        embedding_layer: a name, path or object of a layer, or None.
        preset: a name that stands for layers and weighting, or None.
        resize: whether heatmaps have the size of the images.
        normalize: whether each heatmap is divided by its maximum.
        token_grid: (h, w) of the patches among tokens, None to find it.
        num_prefix_tokens: tokens before the patches, None to find it.
        joins_branches: whether parallel branches are explained together where no layer
            is named; False for what needs a single layer.

    Raises:
        ValueError: for an unknown weighting or preset, a preset together with
            `weighting` or `top_channels`, a number of channels below 1, or a `resize`
            that is neither True nor False.

    Example:

    >>> Method(preset="localize").box_threshold
    'otsu_4th_root'
    >>> Method(conv_layer=["a", "b"]) == Method(conv_layer=("a", "b"))
    True
    """

    weighting: str | Weighting = "gradcam"
    top_channels: int | None = None
    conv_layer: Any = None
    embedding_layer: Any = None
    preset: str | None = None
    resize: bool = True
    normalize: bool = True
    token_grid: tuple[int, int] | None = None
    num_prefix_tokens: int | None = None
    joins_branches: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.conv_layer, list):
            object.__setattr__(self, "conv_layer", tuple(self.conv_layer))
        check_top_channels(self.top_channels)
        if not isinstance(self.resize, bool | np.bool_):
            raise ValueError(
                "`resize` must be True for maps of the size of the images, or False. "
                f"Received: {self.resize!r}. For another size pass False, and resize "
                "the maps with `keras_embcam.heatmaps.resize_heatmaps`."
            )
        tokens = check_token_options(self.token_grid, self.num_prefix_tokens)
        object.__setattr__(self, "token_grid", tokens.grid)
        object.__setattr__(self, "num_prefix_tokens", tokens.num_prefix)
        if self.weighting != AUTO:
            get_weighting(self.weighting)
        if self.preset is None:
            return
        get_preset(self.preset)
        if self.weighting not in (AUTO, "gradcam") or self.top_channels is not None:
            raise ValueError(
                f"`preset={self.preset!r}` states the weighting and the channels "
                "itself. Leave out `weighting` and `top_channels`. Received: "
                f"{self.weighting!r} and {self.top_channels!r}"
            )

    @property
    def layers(self) -> Any:
        """The layers to explain: those named, those of the preset, or the default."""
        if self.conv_layer is not None or not self.joins_branches:
            return self.conv_layer
        if self.preset is not None:
            return get_preset(self.preset).conv_layer
        return AllBranches(all_blocks=self.weighting == AUTO)

    @property
    def weigh(self) -> Weighting | LayerFusion:
        """The function that makes weights, or fused maps of several layers."""
        return self.weigh_for(False)

    def look(self, model: keras.Model, images: Any = None) -> ModelView:
        """Find what this method explains in a model.

        Args:
            model: any Keras model.
            images: a batch, or symbols of its shape, where the model leaves it open.
        """
        return ModelView(
            model,
            self.layers,
            self.embedding_layer,
            images,
            token_grid=self.token_grid,
            num_prefix_tokens=self.num_prefix_tokens,
        )

    def weigh_for(self, makes_tokens: bool) -> Weighting | LayerFusion:
        """Return the function that makes weights, or fused maps of several layers.

        Args:
            makes_tokens: whether the layers that are explained make tokens: "auto"
                depends on it. With `top_channels` it weighs channels in any case.
        """
        if self.preset is not None:
            preset = get_preset(self.preset)
            of_tokens = preset.of_tokens if makes_tokens else None
            return of_tokens or preset.weighting
        if self.weighting == AUTO:
            if makes_tokens and self.top_channels is None:
                return get_preset("tokens").weighting
            return gradcam
        return get_weighting(self.weighting)

    @property
    def box_threshold(self) -> float | str:
        """The threshold of `keras_embcam.heatmaps.find_boxes` for these maps."""
        return 0.2 if self.preset is None else get_preset(self.preset).box_threshold

    def bind(self, model: keras.Model) -> "Method":
        """Return the same method with layers named by their path in a model.

        A path is unique in a model, where two layers may share a name; and a cache
        whose key holds no layer keeps no model alive.

        Raises:
            ValueError: for an object that is no layer inside the model.
        """
        layers = self.conv_layer
        if isinstance(layers, tuple):
            layers = tuple(_path_of(model, x, "conv_layer") for x in layers)
        else:
            layers = _path_of(model, layers, "conv_layer")
        embedding = _path_of(model, self.embedding_layer, "embedding_layer")
        return replace(self, conv_layer=layers, embedding_layer=embedding)


def _path_of(model: keras.Model, layer: Any, argument: str) -> str | None:
    if layer is None or isinstance(layer, str):
        return layer
    for path, operation in list_operations(model).items():
        if operation is layer:
            return path
    raise ValueError(
        f"`{argument}` must be the name, the path or the object of a layer inside the "
        f"model. Received: {layer!r}"
    )
