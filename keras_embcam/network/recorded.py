"""Recording: what one run of a model shows of the layers that are explained."""

from collections.abc import Callable
from typing import Any, NamedTuple

from keras_embcam.resizing import Field

Tensor = Any


class Recording(NamedTuple):
    """One run of a model.

    Attributes:
        activations: (n, h, w, k) float32, the feature map that is explained: the
            output of a convolution, or the patches among the tokens of a layer. A
            list of them where several are chosen.
        embeddings: (n, d) float32, raw.
        pull_back: maps a float32 cotangent (n, d) on the embeddings to its gradient
            at the activations, of their shape and structure. Differentiates only
            the part of the model behind the layers; may be called many times.
        pull_back_and_share: the same, with the share (n,) of the gradient's length on
            tokens that are no patches; None where there are none.
        place: None, or, where attention is explained and activations are the
            attention of each block (n, heads, t, t), what makes maps (n, h, w) of the
            relevance of each token (n, t).
        adds_up: whether several maps are those of parallel branches, which add to the
            score side by side.
        frames: where in the network's input each of several maps lies, see
            `resize_heatmaps`; None where they lie in one place.
    """

    activations: Any
    embeddings: Tensor
    pull_back: Callable[[Tensor], Any]
    pull_back_and_share: Callable[[Tensor], tuple[Any, Tensor]] | None = None
    place: Callable[[Tensor], Tensor] | None = None
    adds_up: bool = False
    frames: list[Field | None] | None = None
