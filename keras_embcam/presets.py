"""Named combinations of layers, weightings and box rule, each measured.

``localize`` was chosen on the classes 1-10 of CUB-200-2011. docs/choose.md has its
figures on other classes, and says where it loses. ``tokens`` is the default for
transformers, ``attention_gradient`` and ``legrad`` are the methods of Chefer et al. and
Bousselham et al. for them, and ``gradient_length``, ``rollout`` and ``last_attention``
are baselines, which do not follow the proxy: docs/transformers.md compares them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from keras import ops

from keras_embcam.heatmaps import (
    Field,
    combine_channels,
    fuse_heatmaps,
    reconstruct_heatmaps,
    resize_heatmaps,
    scale_heatmaps,
)
from keras_embcam.network.feature_maps import AttentionLayers, Scales, TokenBlocks
from keras_embcam.weightings import by_attention, gradcam, hirescam, layercam

Tensor = Any

# Heat flows from where the product of both maps is at least this share of its maximum.
# Any value from 0.7 to 0.9 does as well.
MARKED = 0.8
# Where that map opens the gate by half, and the power of the gate: with a larger one
# the heat follows the proxy more, and fewer boxes are found.
HALF_OPEN = 0.3
GATE_POWER = 0.3
NEIGHBOURHOOD = 3
# Of "tokens": added to each block's map, so that no block alone can empty a patch, and
# the power of what they agree on.
NOT_ALONE = 0.01
SHARPNESS = 3


@dataclass(frozen=True)
class LayerFusion:
    """A weighting for several layers at once.

    Attributes:
        combine: ``(activations, gradients) -> heatmaps``, from lists of (n, h, w, k)
            float32, the smallest maps first, to (n, h', w') float32, >= 0. Of
            `AttentionLayers`, attentions and their gradients (n, heads, t, t), to the
            relevance of each token (n, t).
        uses_frames: whether it takes also ``frames``, the places of the maps of each
            layer where these differ, see `fuse_heatmaps`.
    """

    combine: Callable[..., Tensor]
    uses_frames: bool = False


class Preset(NamedTuple):
    """What a name of `PRESETS` stands for.

    Attributes:
        weighting: of the layers.
        conv_layer: where the user names none.
        box_threshold: for `keras_embcam.heatmaps.find_boxes`.
        follows_proxy: False for a baseline, which makes the same map of any proxy.
        of_tokens: takes the place of `weighting` for the blocks of a transformer.
    """

    weighting: LayerFusion
    conv_layer: Any
    box_threshold: float | str
    follows_proxy: bool = True
    of_tokens: LayerFusion | None = None


def localize(
    activations: Sequence[Tensor],
    gradients: Sequence[Tensor],
    frames: Sequence[Field | None] | None = None,
) -> Tensor:
    """Return what is connected with the place that the last layer shows (our own).

    ``H = R**2 * (C**2 / (C**2 + 0.3**2)) ** 0.3``. C is the Grad-CAM map of the last
    layer, each value averaged with its neighbours (3 x 3), resized and divided by its
    maximum: it follows the proxy, and is coarse and peaky. F is the mean of the
    LayerCAM maps of finer layers, each divided by its maximum, which show how far the
    object reaches (Jiang et al., LayerCAM, IEEE TIP 2021, who fuse layers by their
    maximum) and hardly follow the proxy. R is the morphological reconstruction of F
    from where F C is at least 0.8 of its maximum: heat flows from there through what is
    connected in F (Vincent, see `keras_embcam.heatmaps.reconstruct_heatmaps`). The
    gate favours what the last layer shows too, and the square makes less of the
    background. No prior of position: a shifted image has a shifted map.

    Args:
        activations: of each layer (n, h, w, k) float32, the last layer first. A
            single one gives its Grad-CAM map.
        gradients: of the score, the same shapes.
        frames: see `fuse_heatmaps`.

    Returns:
        (n, h, w) float32, >= 0, of the size of the finest layer.

    Example: one row; behind the gap, where both maps are zero, nothing is reached.

    >>> import numpy as np
    >>> coarse = np.float32([[[[3], [1], [1], [0], [0]]]])
    >>> fine = np.float32([[[[1], [1], [1], [0], [1]]]])
    >>> gradients = [np.ones_like(coarse), np.ones_like(fine)]
    >>> heatmaps = np.asarray(localize([coarse, fine], gradients))
    >>> np.rint(100 * heatmaps).astype(int).tolist()
    [[[97, 96, 84, 0, 0]]]
    """
    coarse = combine_channels(activations[0], gradcam(activations[0], gradients[0]))
    finer = [
        combine_channels(a, layercam(a, g))
        for a, g in zip(activations[1:], gradients[1:], strict=True)
    ]
    if not finer:
        return coarse
    first, *others = frames or [None] * len(activations)
    return _spread(_average(coarse), fuse_heatmaps(finer, others), first)


def localize_tokens(
    activations: Sequence[Tensor], gradients: Sequence[Tensor]
) -> Tensor:
    """Return `localize` for a transformer, whose blocks have maps of one size.

    With F of `explain_tokens`, where all blocks agree on the proxy, in place of the map
    of the last layer, and with its L, the length of the gradient, in place of the finer
    maps: like these it shows how far the object reaches and hardly follows the proxy.

    Args:
        activations: of each block (n, h, w, k) float32.
        gradients: of the score, the same shapes.

    Returns:
        (n, h, w) float32, >= 0.
    """
    masks = gradient_length(activations, gradients)
    return _spread(_agree(activations, gradients), masks)


def _spread(coarse: Tensor, masks: Tensor, frame: Field | None = None) -> Tensor:
    """Return the masks (n, h, w) as far as they are connected with the coarse map."""
    coarse = scale_heatmaps(resize_heatmaps(coarse, ops.shape(masks)[1:3], frame))
    is_marked = scale_heatmaps(masks * coarse) >= MARKED
    reached = reconstruct_heatmaps(ops.where(is_marked, masks, 0.0), masks)
    gate = coarse**2 / (coarse**2 + HALF_OPEN**2)
    return reached**2 * gate**GATE_POWER


def explain_tokens(
    activations: Sequence[Tensor], gradients: Sequence[Tensor]
) -> Tensor:
    """Return where all blocks of a transformer agree on the proxy (our own).

    ``H = F**3 * L``. F is the geometric mean over the blocks of the element-wise maps
    ``relu(sum_k A_k G_k)`` of what enters their attention, each value averaged with its
    neighbours (3 x 3) and each map divided by its maximum: it follows the proxy. A
    block's map has peaks of its own, which the others do not share. L is the mean of
    the lengths of the gradient at the same places, likewise: it does not follow the
    proxy, and says where the embedding would change. A channel's mean gradient says
    little on tokens, which do not share their channels' meaning.

    Args:
        activations: of each block (n, h, w, k) float32, the first block first.
        gradients: of the score, the same shapes.

    Returns:
        (n, h, w) float32 in [0, 1].

    Example: two patches in a row of which the second one speaks for the proxy.

    >>> import numpy as np
    >>> activations = np.float32([[[[1, 2], [2, 1]]]])
    >>> gradients = np.float32([[[[0, -1], [3, 4]]]])
    >>> heatmaps = np.asarray(explain_tokens([activations], [gradients]))
    >>> np.rint(10 * heatmaps).astype(int).tolist()
    [[[2, 10]]]
    """
    agreed = _agree(activations, gradients)
    return agreed**SHARPNESS * gradient_length(activations, gradients)


def _agree(activations: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Return F of `explain_tokens`, (n, h, w)."""
    elements = [
        _average(combine_channels(a, hirescam(a, g)))
        for a, g in zip(activations, gradients, strict=True)
    ]
    size = ops.shape(elements[-1])[1:3]
    stacked = ops.stack([scale_heatmaps(resize_heatmaps(x, size)) for x in elements])
    agreed = ops.exp(ops.mean(ops.log(stacked + NOT_ALONE), axis=0)) - NOT_ALONE
    # Where all are zero there must be no rounding error either.
    return ops.where(ops.any(stacked > 0, axis=0), ops.relu(agreed), 0.0)


def _average(heatmaps: Tensor) -> Tensor:
    """Return each value averaged with its neighbours."""
    return ops.average_pool(
        heatmaps[..., None], NEIGHBOURHOOD, 1, "same", data_format="channels_last"
    )[..., 0]


def gradient_length(
    activations: Sequence[Tensor], gradients: Sequence[Tensor]
) -> Tensor:
    """Return how much the embedding would change by each token: a baseline.

    The mean over the blocks of the length of the gradient at what enters their
    attention, each divided by its maximum: (n, h, w). It hardly follows the proxy.
    """
    return fuse_heatmaps([ops.norm(g, axis=-1) for g in gradients])


def _of_attention(
    combine: Callable, follows_proxy: bool = True, read_out: bool = False
) -> Preset:
    layers = AttentionLayers(read_out)
    return Preset(LayerFusion(combine), layers, 0.2, follows_proxy)


PRESETS: dict[str, Preset] = {
    "localize": Preset(
        LayerFusion(localize, uses_frames=True),
        Scales(3),
        "otsu_4th_root",
        of_tokens=LayerFusion(localize_tokens),
    ),
    "tokens": Preset(LayerFusion(explain_tokens), TokenBlocks(), 0.2),
    "gradient_length": Preset(LayerFusion(gradient_length), TokenBlocks(), 0.2),
    "attention_gradient": _of_attention(by_attention.attention_gradient),
    "legrad": _of_attention(by_attention.legrad, read_out=True),
    "rollout": _of_attention(by_attention.rollout, follows_proxy=False),
    "last_attention": _of_attention(by_attention.last_attention, follows_proxy=False),
}


def get_preset(name: str) -> Preset:
    """Return the preset of this name.

    Raises:
        ValueError: for an unknown name.

    Example:

    >>> get_preset("localize").box_threshold
    'otsu_4th_root'
    """
    if name not in PRESETS:
        raise ValueError(
            f"`preset` must be one of {sorted(PRESETS)}, or None. Received: {name!r}"
        )
    return PRESETS[name]
