"""Gates and parallel branches: what stands beside the layer that is chosen."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_embcam.network.call_kinds import makes_features
from keras_embcam.network.locality import MIN_AGREEMENT, Locality, agreement
from keras_embcam.network.raw_embedding import EmbeddingSource
from keras_embcam.network.recording import Trace, run_and_record, run_and_trace
from keras_embcam.network.trial_run import Call, TrialRun

# With the chosen maps held fixed, embeddings of different images still differ by more
# than this share where something reaches them around those maps. Low, since a branch
# that hardly counts before training may count behind it.
_MIN_SPREAD = 1e-5
# Gradients that differ by less than this share are the same.
_SAME = 1e-3
# What a gate multiplies is made shortly before it. Each costs memory.
_NUM_GATED = 8


class Branches:
    """Looks for gates and parallel branches of a tried model.

    Args:
        model: that was tried.
        trial: of the model.
        source: of its embedding.
    """

    def __init__(
        self, model: keras.Model, trial: TrialRun, source: EmbeddingSource
    ) -> None:
        self._model = model
        self._trial = trial
        self._source = source

    def is_gate(self, operation: Any, values: Any) -> bool:
        """Tell whether the values of a layer weigh other maps.

        They do where they are one channel and the gradient at a wider map before them,
        which reaches the embedding around them, depends on them; or where they are all
        between 0 and 1 and no gradient reaches a map that is as wide when they are 0.

        Args:
            operation: the layer.
            values: (n, h, w, k), its output in the trial run.
        """
        if not _may_be_gate(values):
            return False
        before: list[Any] = []
        for call in self._candidates():
            if call.operation is operation:
                break
            if (call.shape or (0,))[-1] >= max(values.shape[-1], 2):
                before.append(call.operation)
        return self._weighs(operation, values, before[-_NUM_GATED:])

    def find_beside(self, chosen: Any, embeddings: Any) -> list[Any]:
        """Return the last layer of each parallel branch, latest first.

        A branch reaches the embedding; what is chosen does not depend on it, nor it on
        what is chosen: the blocks of a residual network are none. A branch that hardly
        changes the embedding is left out, also the chosen one where another counts.

        Args:
            chosen: the layer that is explained.
            embeddings: (n, d) of the trial run.
        """
        if not self._is_bypassed(chosen, embeddings):
            return [chosen]
        operations: list[Any] = []
        for call in self._candidates():
            operations.append(call.operation)
            if call.operation is chosen:
                break
        trace = self._trace(operations)
        reached = _norms(trace.gradients_of_embedding())
        beside = [len(operations) - 1]
        inside = trace.depends_on(beside[0])
        for i in reversed(range(len(operations) - 1)):
            if reached[i] == 0 or not np.isfinite(reached[i]) or inside[i]:
                continue
            inside = [x or y for x, y in zip(inside, trace.depends_on(i), strict=True)]
            values = trace.outputs[i]
            if _may_be_gate(values) and self._weighs(operations[i], values, [chosen]):
                continue
            beside.append(i)
        if len(beside) == 1:
            return [chosen]
        found = [operations[i] for i in beside]
        # Whichever of them was chosen: one that hardly counts is left out.
        return [x for x in found if self._counts(x, embeddings)] or [chosen]

    def show_whole_images(self, operations: list[Any]) -> list[Any]:
        """Return those of the layers whose maps show the images, place by place.

        Those of another input than the images do not, nor those of a part of them.
        """
        locality = Locality(self._model, self._trial)
        return [
            operation
            for operation in operations
            if locality.knows(operation)
            and len(locality.moved(operation).shape) == 4
            and agreement(locality.moved(operation)) >= MIN_AGREEMENT
        ]

    def _candidates(self) -> list[Call]:
        trial = self._trial
        return [
            call
            for call in trial.calls
            if makes_features(call) and trial.num_calls(call.operation) == 1
        ]

    def _is_bypassed(self, operation: Any, embeddings: Any) -> bool:
        """Tell whether embeddings differ when these maps are those of one image."""
        fixed = self._embed_fixed(operation)
        return _spread(fixed) > _MIN_SPREAD * _spread(_to_numpy(embeddings))

    def _counts(self, operation: Any, embeddings: Any) -> bool:
        """Tell whether embeddings are others when these maps are those of one image."""
        before = _to_numpy(embeddings)
        change = np.linalg.norm(self._embed_fixed(operation) - before)
        return bool(change > _MIN_SPREAD * _spread(before))

    def _embed_fixed(self, operation: Any) -> np.ndarray:
        fixed = run_and_record(
            self._model,
            self._trial.probe,
            [operation],
            [self._trial.path(operation)],
            self._source,
            lambda y: ops.repeat(y[:1], y.shape[0], axis=0),
        ).embeddings
        return _to_numpy(fixed)

    def _weighs(self, gate: Any, values: Any, others: list[Any]) -> bool:
        if not others:
            return False
        operations = [gate, *others]
        noise = np.random.default_rng(0).normal(size=tuple(values.shape))
        both = [
            self._trace(operations, fixed).gradients_of_embedding()[1:]
            for fixed in (np.zeros_like(noise), noise)
        ]
        is_wide = values.shape[-1] > 1
        for at_zero, at_noise in zip(*both, strict=True):
            if at_zero is None or at_noise is None:
                continue
            zero, other = (_to_numpy(x) for x in (at_zero, at_noise))
            difference = np.linalg.norm(zero if is_wide else zero - other)
            length = np.linalg.norm(other)
            if is_wide and length > 0 and difference <= _SAME * length:
                return True
            if not is_wide and difference > _SAME * length:
                return True
        return False

    def _trace(self, operations: list[Any], first: np.ndarray | None = None) -> Trace:
        """Run the model with other values in place of the first of these layers."""

        def replace(operation: Any, y: Any) -> Any:
            is_first = first is not None and operation is operations[0]
            return ops.convert_to_tensor(first, y.dtype) if is_first else y

        paths = [self._trial.path(x) for x in operations]
        return run_and_trace(
            self._model, self._trial.probe, operations, paths, self._source, replace
        )


def _may_be_gate(values: Any) -> bool:
    if values.shape[-1] == 1:
        return True
    numbers = _to_numpy(values)
    return bool(np.all((numbers >= 0) & (numbers <= 1)))


def _to_numpy(tensor: Any) -> np.ndarray:
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))


def _norms(tensors: Sequence[Any]) -> list[float]:
    return [0.0 if x is None else float(np.linalg.norm(_to_numpy(x))) for x in tensors]


def _spread(rows: np.ndarray) -> float:
    return float(np.linalg.norm(rows - rows.mean(axis=0)))
