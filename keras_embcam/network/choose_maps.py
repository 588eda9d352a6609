"""Choose what of a model is explained: the first candidate that makes honest maps."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_embcam.network.branches import Branches
from keras_embcam.network.embedding_source import EmbeddingSource
from keras_embcam.network.feature_maps import (
    AllBranches,
    FeatureMap,
    FeatureMaps,
    Scales,
    TokenBlocks,
)
from keras_embcam.network.gradient_checks import (
    is_of_one_position,
    is_worth_explaining,
    random_directions,
    reaches_positions,
)
from keras_embcam.network.locality import Locality
from keras_embcam.network.measured_gradients import Measured, measure_gradients
from keras_embcam.network.noise_runs import run_on_noise
from keras_embcam.network.positions import Positions
from keras_embcam.network.recording import NoGradientError, pull_back_between
from keras_embcam.network.told_of_maps import (
    check_layers,
    tell_of_branches,
    tell_of_moved,
)
from keras_embcam.network.trial_run import TrialRun
from keras_embcam.network.unreached import check_gradient, describe_flat, describe_hash

# Layers to try by default before the gradient of an embedding is taken to be zero.
MAX_FLAT = 3


class Chosen(NamedTuple):
    """What is explained of a model.

    Attributes:
        maps: as they were found or named.
        length_gradient: of the embedding at the last of them, see `length_gradient`.
    """

    maps: list[FeatureMap]
    length_gradient: float


class MapChooser:
    """Tries candidates by their gradient.

    Args:
        model: that was tried.
        trial: of the model.
        features: of the model.
        source: of its embedding.
        positions: of the trial.
    """

    def __init__(
        self,
        model: keras.Model,
        trial: TrialRun,
        features: FeatureMaps,
        source: EmbeddingSource,
        positions: Positions,
    ) -> None:
        self._model = model
        self._trial = trial
        self._features = features
        self._source = source
        self._positions = positions
        self._locality: Locality | None = None
        self._branches = Branches(model, trial, source)
        self._maps: list[FeatureMap] = []
        self._found: Any = None
        self._ratio = 0.0

    def choose(self, conv_layer: Any) -> Chosen:
        """Return the maps to explain, the first one found or named first.

        Args:
            conv_layer: see `ModelView`.

        Raises:
            ValueError: as `FeatureMaps.find` does, where no gradient reaches a layer,
                and where none is found.
        """
        if isinstance(conv_layer, list | tuple):
            return self._choose_named(check_layers(conv_layer))
        is_default = isinstance(conv_layer, TokenBlocks | AllBranches | Scales)
        last = self._choose_named([None if is_default else conv_layer])
        has_tokens = last.maps[0].layout is not None
        if isinstance(conv_layer, TokenBlocks) or (
            isinstance(conv_layer, Scales) and has_tokens
        ):
            return self._choose_blocks(last)
        if isinstance(conv_layer, AllBranches):
            if not has_tokens:
                return self._join_branches(last)
            return self._choose_blocks(last) if conv_layer.all_blocks else last
        if conv_layer is None or is_default:
            tell_of_branches(self._trial, last.maps, self._find_branches())
        if isinstance(conv_layer, Scales):
            for _ in range(conv_layer.num_scales - 1):
                # Where the model has no finer map, those found so far serve.
                finer = self._features.find_finer(self._maps[-1])
                self._add_map(finer, None)
            return Chosen(self._maps, self._ratio)
        return last

    def _choose_named(self, named: list[Any]) -> Chosen:
        self._maps = []
        for name in named:
            if not self._add_map(self._features.find(name), name):
                raise ValueError(
                    "No layer with a 4-D output (n, h, w, k) of more than one position "
                    f"reaches the embedding ({self._source.description})"
                    + (", and no tokens in rows" if self._features.has_tokens else "")
                    + ". Pass `conv_layer` and `embedding_layer`, "
                    + ("`token_grid=(h, w)`, " if self._features.has_tokens else "")
                    + "or images that are large enough. Layers with a 4-D output"
                    + (" or tokens" if self._features.has_tokens else "")
                    + f":\n{self._features.list_candidates()}\n"
                    + describe_hash(self._trial)
                )
        return Chosen(self._maps, self._ratio)

    def _choose_blocks(self, last: Chosen) -> Chosen:
        [default] = last.maps
        if default.layout is None:
            raise ValueError(
                "This explains transformers. The layer that is explained of this "
                f"model, {self._trial.path(default.operation)!r}, makes no tokens: "
                "pass another `preset` or `weighting`."
            )
        found = self._features.find_blocks(default)
        measured = self._measure(found)
        worth = [
            candidate
            for candidate, x, y in zip(
                found, measured.outputs, measured.gradients, strict=True
            )
            if is_worth_explaining(x, y, candidate.patches)
        ]
        return Chosen(worth, last.length_gradient) if worth else last

    def _find_branches(self) -> list[Any]:
        """Return the layer that was chosen and those of parallel branches."""
        [chosen] = self._maps
        if self._features.has_tokens:
            return [chosen.operation]
        return self._branches.find_beside(chosen.operation, self._found)

    def _join_branches(self, last: Chosen) -> Chosen:
        """Return the last maps of all parallel branches that show whole images."""
        found = whole = self._find_branches()
        if len(found) > 1:
            whole = self._branches.show_whole_images(found)
        # In the order of their calls, whichever of them was found first.
        explained = [FeatureMap(x) for x in reversed(whole)] or last.maps
        tell_of_branches(self._trial, explained, found)
        if last.maps[0] in explained:
            return Chosen(explained, last.length_gradient)
        return Chosen(explained, self._measure(explained).length_gradient)

    def _add_map(self, candidates: Iterator[FeatureMap], conv_layer: Any) -> bool:
        """Take the first candidate that a gradient reaches; tell if there is one."""
        others = self._maps
        moved: list[tuple[FeatureMap, Measured]] = []
        num_flat = 0
        for candidate in candidates:
            if any(candidate.operation is other.operation for other in others):
                raise ValueError(
                    "A list as `conv_layer` must name no layer twice. Received "
                    f"{self._trial.path(candidate.operation)!r} and again "
                    f"{conv_layer!r}"
                )
            try:
                measured = self._measure([*others, candidate])
            except NoGradientError:
                check_gradient(self._trial, candidate.operation, conv_layer)
                continue
            if measured.is_flat:
                # Behind a sign or a rounding, all layers are; a dead one may be alone.
                num_flat += 1
                if conv_layer is not None or num_flat == MAX_FLAT:
                    raise ValueError(describe_flat(self._trial, self._source))
                continue
            values = measured.outputs[-1]
            if conv_layer is None and candidate.layout is None:
                gradients = measured.gradients[-1]
                if self._branches.is_gate(candidate.operation, values, gradients):
                    continue
            has_tokens = self._features.has_tokens
            if has_tokens and not self._is_right(measured, candidate, conv_layer):
                continue
            if self._is_moved(candidate):
                moved.append((candidate, measured))
                if conv_layer is None:
                    continue
            self._take(candidate, measured, moved)
            if candidate.layout is not None and conv_layer is None and not others:
                self._prefer_map(candidate)
            return True
        if moved:
            self._take(*moved[0], moved[:1])
        elif num_flat:
            raise ValueError(describe_flat(self._trial, self._source))
        return bool(moved)

    def _take(
        self, candidate: FeatureMap, measured: Measured, moved: list[Any]
    ) -> None:
        """Explain one more layer, and tell of those whose places are others."""
        self._maps = [*self._maps, candidate]
        self._found = measured
        self._ratio = measured.length_gradient
        if moved:
            tell_of_moved(self._trial, moved[0][0], candidate)

    def _is_moved(self, candidate: FeatureMap) -> bool:
        """Tell whether a map shows other places of the images than it is drawn at.

        One more run, which networks of layers that are known are spared.
        """
        operation = candidate.operation
        if self._features.has_tokens or self._positions.is_sure(operation):
            return False
        if self._locality is None:
            self._locality = Locality(self._model, self._trial)
        return not self._locality.shows_places(operation)

    def _is_right(
        self, measured: Measured, candidate: FeatureMap, conv_layer: Any
    ) -> bool:
        """Tell whether the patches of a layer in a model with tokens have gradients."""
        activations, gradients = (
            x[-1].reshape(len(measured.embeddings), -1, x[-1].shape[-1])
            for x in (measured.outputs, measured.gradients)
        )
        if conv_layer is None:
            return is_worth_explaining(activations, gradients, candidate.patches)
        if not reaches_positions(gradients[:, candidate.patches]):
            path = self._trial.path(candidate.operation)
            raise ValueError(
                f"No gradient reaches the patches of {path!r} from the embedding: "
                "what follows this layer takes the class token alone. Pass as "
                "`conv_layer` a layer before the last attention, such as the "
                "normalisation in front of it, or None."
            )
        return True

    def _prefer_map(self, tokens: FeatureMap) -> None:
        """Take the last map of a convolutional network that only pools by attention.

        A token that comes from one position of it says no more than the map. The
        embedding of patches is a single map, and linear: no such network.
        """
        maps = list(self._features.find_maps())
        if len(maps) < 2 or tokens.layout is None:
            return
        both = [maps[0].operation, tokens.operation]
        paths = [self._trial.path(x) for x in both]
        shape = self._trial.first_call(tokens.operation).shape or ()
        one = np.zeros(shape, "float32")
        one[:, tokens.layout.patches.start] = random_directions((1, shape[2]))

        def pull_back(images: Any, cotangents: Any) -> Any:
            return pull_back_between(
                self._model, images, both, paths, self._source, cotangents
            )

        gradients = run_on_noise(pull_back, self._trial.probe, one)
        if gradients is None:
            return
        rows = ops.convert_to_numpy(ops.cast(gradients, "float32"))
        if not is_of_one_position(rows.reshape(shape[0], -1, rows.shape[-1])):
            return
        if self._is_right(self._measure([maps[0]]), maps[0], None):
            self._maps = [maps[0]]

    def _measure(self, maps: list[FeatureMap]) -> Measured:
        operations = [found.operation for found in maps]
        paths = [self._trial.path(x) for x in operations]
        return measure_gradients(
            self._model, self._trial.probe, operations, paths, self._source
        )
