"""Find the layers of a tried model whose activations can be explained."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras

from keras_embcam.network.attention import find_attention, is_inside
from keras_embcam.network.call_kinds import (
    adds,
    makes_features,
    makes_tokens,
    normalizes,
)
from keras_embcam.network.calls import Call
from keras_embcam.network.feature_map import FeatureMap
from keras_embcam.network.locality import MIN_AGREEMENT, Locality, agreement
from keras_embcam.network.tokens import TokenFinder, TokenOptions
from keras_embcam.network.trial_run import TrialRun, enclosing_paths

_RANKS = (3, 4)
_NOTHING_SAID = TokenOptions()


@dataclass(frozen=True)
class Scales:
    """In place of the name of a layer: the default one, and finer ones.

    Attributes:
        num_scales: how many layers in all. Each further one is the last with larger
            maps than the one before: of a backbone with maps of 56, 28, 14 and 7
            positions a side and ``num_scales=3``, the last one of 7, 14 and 28.
    """

    num_scales: int


@dataclass(frozen=True)
class AllBranches:
    """In place of the name of a layer: the default one, and those of parallel branches.

    Attributes:
        all_blocks: whether a transformer is explained by all its blocks, see
            `TokenBlocks`; else by the default layer.
    """

    all_blocks: bool = False


@dataclass(frozen=True)
class TokenBlocks:
    """In place of the name of a layer: what enters the attentions of a transformer.

    The normalisations in front of them, with as many tokens as what is explained by
    default, or that where there are none. A model without tokens is an error.
    """


@dataclass(frozen=True)
class AttentionLayers:
    """In place of the name of a layer: the attention that the embedding depends on.

    What is explained are not activations but who attends to whom, in each block.

    Attributes:
        read_out: whether the gradient of each attention is that of the score read out
            behind its own block, in place of the last one.
    """

    read_out: bool = False


class FeatureMaps:
    """Finds what can be explained of a tried model.

    Args:
        model: a built Keras model.
        trial: of the model.
        options: what the user says about tokens.

    Attributes:
        has_tokens: whether the model makes sequences of tokens. The maps of all others
            are what they look like.
    """

    def __init__(
        self, model: keras.Model, trial: TrialRun, options: TokenOptions = _NOTHING_SAID
    ) -> None:
        self._trial = trial
        self._first_tokens = next(
            (i for i, call in enumerate(trial.calls) if makes_tokens(call)), None
        )
        self.has_tokens = self._first_tokens is not None
        self._attention = find_attention(trial) if self.has_tokens else {}
        # One more run, which convolutional networks are spared.
        self._locality = Locality(model, trial) if self.has_tokens else None
        if self._locality is not None:
            self._tokens = TokenFinder(trial, self._locality, options)

    def find(self, conv_layer: Any = None) -> Iterator[FeatureMap]:
        """Yield what to explain, best first; the embedding may not use it.

        Args:
            conv_layer: name, path or object of a layer whose output is a map or a
                sequence of tokens; None for all that make activations of more than one
                position. Of a model without tokens the last one comes first; else
                normalised tokens and maps behind tokens, then other tokens, then the
                maps that tokens are made of.

        Raises:
            ValueError: where a layer is not found, ambiguous, called more than once,
                hidden inside a call compiled with ``tf.function``, inside an attention
                layer, or neither a map nor tokens that show where they come from.

        Example:

        >>> model = keras.Sequential([
        ...     keras.Input((8, 8, 3)),
        ...     keras.layers.Conv2D(4, 3, name="first"),
        ...     keras.layers.Conv2D(4, 3, name="second"),
        ...     keras.layers.MaxPooling2D(),
        ... ])
        >>> maps = FeatureMaps(model, TrialRun(model))
        >>> [found.operation.name for found in maps.find()]
        ['second', 'first']
        """
        if conv_layer is not None:
            yield self._find_named(conv_layer)
            return
        _refuse_hidden_convolution(self._trial, "")
        if self.has_tokens:
            yield from self._find_tokens(normalizes, with_maps=True)
            yield from self._find_tokens(adds, with_maps=False)
        yield from self.find_maps()

    def find_finer(self, found: FeatureMap) -> Iterator[FeatureMap]:
        """Yield those of `find` that come after one of them and have larger maps."""
        is_before = False
        height, width = found.map_size(self._trial)
        for candidate in self.find():
            is_before = is_before or candidate.operation is found.operation
            rows, columns = candidate.map_size(self._trial)
            if is_before and rows * columns > height * width:
                yield candidate

    def find_maps(self) -> Iterator[FeatureMap]:
        """Yield maps, the last one first; of a model with tokens those before them."""
        for call in reversed(self._trial.calls[: self._first_tokens]):
            if not makes_features(call):
                path = self._trial.path(call.operation)
                _refuse_hidden_convolution(self._trial, path)
            # One ReLU may serve many places; with weights it is a siamese network.
            elif self._is_turned(call):
                continue
            elif self._is_called_once(call) or _weights(call.operation):
                yield FeatureMap(
                    self._trial.find_operation(call.operation, "conv_layer", *_RANKS)
                )

    def find_blocks(self, last: FeatureMap) -> list[FeatureMap]:
        """Return the normalised tokens in front of attentions, up to some tokens.

        With the layout of the last ones. Where no attention is known, all normalised
        tokens; where there are none, the last ones.
        """
        found: list[FeatureMap] = []
        waiting: FeatureMap | None = None
        for call in self._trial.calls[self._first_tokens :]:
            path = self._trial.path(call.operation)
            if path in self._attention and waiting is not None:
                found.append(waiting)
                if waiting.operation is last.operation:
                    break
                waiting = None
            is_norm = makes_tokens(call) and normalizes(call.operation)
            if is_norm and self._is_called_once(call) and not call.repeats:
                if not is_inside(path, self._attention):
                    layout = self._tokens.find(call.operation)
                    if layout is not None and layout == last.layout:
                        waiting = FeatureMap(call.operation, layout)
                        if not self._attention:
                            found.append(waiting)
        return found or [last]

    def _find_tokens(
        self, fits: Callable[[Any], bool], with_maps: bool
    ) -> Iterator[FeatureMap]:
        for call in reversed(self._trial.calls[self._first_tokens :]):
            path = self._trial.path(call.operation)
            if not self._is_called_once(call) or is_inside(path, self._attention):
                continue
            if with_maps and makes_features(call) and self._is_map(call):
                yield FeatureMap(call.operation)
            elif makes_tokens(call) and not call.repeats and fits(call.operation):
                if path not in self._attention:
                    layout = self._tokens.find(call.operation)
                    if layout is not None:
                        yield FeatureMap(call.operation, layout)

    def _is_map(self, call: Call) -> bool:
        """Tell whether a 4-D output behind tokens is a map, and not heads or pairs."""
        locality = self._locality
        if locality is None or not locality.knows(call.operation):
            return False
        moved = locality.moved(call.operation)
        return min(moved.shape[2:]) > 1 and agreement(moved) >= MIN_AGREEMENT

    def _is_turned(self, call: Call) -> bool:
        """Tell whether a map in front of tokens is known to show other places."""
        locality = self._locality
        if locality is None or not locality.knows(call.operation):
            return False
        return agreement(locality.moved(call.operation)) < MIN_AGREEMENT

    def _is_called_once(self, call: Call) -> bool:
        return self._trial.num_calls(call.operation) == 1

    def _find_named(self, conv_layer: Any) -> FeatureMap:
        trial = self._trial
        operation = trial.find_operation(conv_layer, "conv_layer", *_RANKS)
        call, path = trial.first_call(operation), trial.path(operation)
        rank = len(call.shape or ())
        if rank not in _RANKS:
            raise ValueError(
                "`conv_layer` must name a layer with a 4-D output (n, h, w, k), or "
                f"with tokens (n, t, k). The output of {path!r} is "
                f"{call.shape or 'not one tensor'}. "
                f"Candidates:\n{trial.list_candidates(*_RANKS)}"
            )
        if is_inside(path, self._attention):
            raise ValueError(
                f"The layer {path!r} is part of an attention layer, whose tensors look "
                "like images and are none. Pass a layer before or behind it as "
                f"`conv_layer`. Candidates:\n{self.list_candidates()}"
            )
        if rank == 3:
            layout = self._tokens.find(operation) if self.has_tokens else None
            if layout is None:
                raise ValueError(self.unknown_grid(path))
            return FeatureMap(operation, layout)
        is_behind = self._is_behind_tokens(call)
        if not self._is_map(call) if is_behind else self._is_turned(call):
            raise ValueError(
                f"The output of {path!r} is {(None, *(call.shape or ())[1:])}, but it "
                "is no map of the image: changing a part of the image does not move "
                "that part of it most. Pass another `conv_layer`. Candidates:\n"
                + self.list_candidates()
            )
        return FeatureMap(operation)

    def _is_behind_tokens(self, call: Call) -> bool:
        return self.has_tokens and any(
            x is call for x in self._trial.calls[self._first_tokens :]
        )

    def list_candidates(self) -> str:
        """List the layers that `find` accepts by name, the last ones first."""
        trial = self._trial
        return trial.list_candidates(*_RANKS, outside=self._attention)

    def unknown_grid(self, path: str) -> str:
        """Return what to tell a user whose tokens show no grid."""
        call = self._trial.first_call(self._trial.operations[path])
        return (
            f"The tokens of {path!r}, {(None, *(call.shape or ())[1:])}, do not stand "
            "for parts of the image row by row, as far as changing its parts shows: "
            "they may be in windows, or mixed. If you know better, pass "
            "`token_grid=(h, w)`, and `num_prefix_tokens` where some stand behind the "
            "patches; else another `conv_layer`."
        )


def _weights(operation: Any) -> list[Any]:
    return getattr(operation, "weights", [])  # not every operation is a layer


def _refuse_hidden_convolution(trial: TrialRun, path: str) -> None:
    """Refuse a compiled layer that holds a convolution, seen by its 4-D weight."""
    if path not in trial.compiled:
        return
    for inner, operation in trial.operations.items():
        is_inside = path in enclosing_paths(inner)
        if is_inside and any(len(x.shape) == 4 for x in _weights(operation)):
            trial.find_operation(operation, "conv_layer", *_RANKS)  # raises
