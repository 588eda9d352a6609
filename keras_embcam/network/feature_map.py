"""One thing that can be explained: a map, or tokens as a map."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from keras import ops

from keras_embcam.network.tokens import TokenLayout
from keras_embcam.network.trial_run import TrialRun


class FeatureMap(NamedTuple):
    """What can be explained: a convolution's output, or tokens with their grid.

    Attributes:
        operation: the layer.
        layout: of its tokens, None where the output is 4-D.
    """

    operation: Any
    layout: TokenLayout | None = None

    @property
    def patches(self) -> slice:
        """The positions that belong to the image."""
        return slice(None) if self.layout is None else self.layout.patches

    @property
    def has_other_tokens(self) -> bool:
        """Whether there are tokens that are no patches, such as a class token."""
        if self.layout is None:
            return False
        return math.prod(self.layout.grid) < self.layout.num_tokens

    def arrange(self, tensor: Any, image_size: Any) -> Any:
        """Return the output of the layer, or what has its shape, as (n, h, w, k)."""
        if self.layout is None:
            return tensor
        return self.layout.at(image_size, tensor.shape[1]).arrange(tensor)

    def put_back(self, tensor: Any, activations: Any, image_size: Any) -> Any:
        """Return the output of the layer with others in place of its activations.

        What is no activation, such as the class token, stays.

        Args:
            tensor: the output of the layer.
            activations: (n, h, w, k), as of `arrange`.
            image_size: (H, W) of the images.
        """
        activations = ops.cast(activations, tensor.dtype)
        if self.layout is None:
            return activations
        patches = self.layout.at(image_size, tensor.shape[1]).patches
        shape = ops.shape(activations)
        rows = ops.reshape(activations, (shape[0], -1, shape[-1]))
        parts = [tensor[:, : patches.start], rows, tensor[:, patches.stop :]]
        return ops.concatenate(parts, axis=1)

    def map_size(self, trial: TrialRun) -> tuple[int, int]:
        """Return (h, w) of the map that the trial run made."""
        if self.layout is not None:
            return self.layout.grid
        _, height, width, _ = trial.first_call(self.operation).shape or (0, 0, 0, 0)
        return height, width


def share_on_other_tokens(
    maps: Sequence[FeatureMap], gradients: Sequence[Any], image_size: Any
) -> Any:
    """Return the share of the gradient's length on tokens that are no patches.

    ``sum |G_t| over these / sum |G_t| over all tokens``, the mean over layers.

    Args:
        maps: what is explained, tokens.
        gradients: of the score, (n, t, k) of each of them.
        image_size: (H, W) of the images.

    Returns:
        (n,) float32 in [0, 1]; 0 where there is no gradient at all.
    """
    shares = []
    for found, gradient in zip(maps, gradients, strict=True):
        if found.layout is None:
            continue
        lengths = ops.norm(gradient, axis=-1)
        layout = found.layout.at(image_size, gradient.shape[1])
        total = ops.sum(lengths, axis=1)
        of_others = total - ops.sum(lengths[:, layout.patches], axis=1)
        shares.append(of_others / ops.where(total > 0, total, 1.0))
    return sum(shares) / len(shares)
