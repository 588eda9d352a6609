"""Gates and parallel branches: what stands beside the layer that is chosen."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_embcam.network.call_kinds import makes_features
from keras_embcam.network.calls import Call
from keras_embcam.network.embedding_source import EmbeddingSource
from keras_embcam.network.gradient_checks import goes_into_softmax, random_directions
from keras_embcam.network.locality import MIN_AGREEMENT, Locality, agreement
from keras_embcam.network.measured_gradients import Measured
from keras_embcam.network.noise_images import NUM_PROBES
from keras_embcam.network.noise_runs import make_noise_run, run_on_noise
from keras_embcam.network.recording import (
    Run,
    Trace,
    run_and_record,
    run_and_trace,
)
from keras_embcam.network.trial_run import TrialRun

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

    def is_gate(
        self, operation: Any, values: np.ndarray, gradients: np.ndarray
    ) -> bool:
        """Tell whether the values of a layer weigh other maps.

        They do where they are one channel, or go into a softmax over the channels, and
        the gradient at a wider map before them, which reaches the embedding around
        them, depends on them; or where they are all between 0 and 1 and no gradient
        reaches a map that is as wide when they are 0.

        Args:
            operation: the layer.
            values: (n, h, w, k), its output in the trial run.
            gradients: of a random direction of the embedding there.
        """
        is_softmax = goes_into_softmax(values, gradients)
        if not is_softmax and not _may_be_gate(values):
            return False
        width = 2 if is_softmax else max(values.shape[-1], 2)
        before: list[Any] = []
        for call in self._candidates():
            if call.operation is operation:
                break
            if (call.shape or (0,))[-1] >= width:
                before.append(call.operation)
        before = before[-_NUM_GATED:]
        is_wide = values.shape[-1] > 1 and not is_softmax
        return self._weighs(operation, values.shape, before, is_wide)

    def find_beside(self, chosen: Any, measured: Measured) -> list[Any]:
        """Return the last layer of each parallel branch, latest first.

        A branch reaches the embedding; what is chosen does not depend on it, nor it on
        what is chosen: the blocks of a residual network are none. A branch that hardly
        changes the embedding is left out, also the chosen one where another counts.

        Args:
            chosen: the layer that is explained.
            measured: of this layer alone.
        """
        embeddings = measured.embeddings
        if not measured.goes_around or not self._is_bypassed(chosen, measured):
            return [chosen]
        operations: list[Any] = []
        for call in self._candidates():
            operations.append(call.operation)
            if call.operation is chosen:
                break
        beside = self._last_of_branches(operations, chosen)
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

    def _last_of_branches(self, operations: list[Any], chosen: Any) -> list[int]:
        """Return the numbers of the layers that no later one of them is made of.

        But the chosen one, the last, only of those that the embedding is made of too,
        and no gates of the chosen one.
        """
        left_out: set[int] = set()
        directions = self._directions()

        def follow(images: Any, directions: Any) -> list[Any]:
            trace = self._trace(images, operations)
            gradients = trace.gradients_of_embedding(directions)
            inside = [x is None for x in gradients]
            inside[-1] = False
            found.clear()
            for i in reversed(range(len(operations))):
                if not inside[i] and i not in left_out:
                    found.append(i)
                    inside = [
                        x or y for x, y in zip(inside, trace.depends_on(i), strict=True)
                    ]
            return [(gradients[i], trace.outputs[i]) for i in found[1:]]

        found: list[int] = []
        while True:
            measured = run_on_noise(follow, self._trial.probe, directions)
            before = len(left_out)
            for i, pair in zip(found[1:], measured, strict=True):
                gradients, values = map(_to_numpy, pair)
                length = np.sum(np.square(gradients, dtype="float64"))
                is_softmax = goes_into_softmax(values, gradients)
                if length == 0 or not np.isfinite(length):
                    left_out.add(i)
                elif is_softmax or _may_be_gate(values):
                    is_wide = values.shape[-1] > 1 and not is_softmax
                    if self._weighs(operations[i], values.shape, [chosen], is_wide):
                        left_out.add(i)
            if len(left_out) == before:
                return found

    def _is_bypassed(self, operation: Any, measured: Measured) -> bool:
        """Tell whether embeddings differ when these maps are those of one image."""
        fixed = self._embed_fixed(operation, measured.outputs[-1])
        return _spread(fixed) > _MIN_SPREAD * _spread(measured.embeddings)

    def _counts(self, operation: Any, embeddings: np.ndarray) -> bool:
        """Tell whether embeddings are others when these maps are those of one image."""

        def record(images: Any) -> Any:
            return self._record(images, operation).outputs[0]

        values = run_on_noise(record, self._trial.probe)
        change = np.linalg.norm(self._embed_fixed(operation, values) - embeddings)
        return bool(change > _MIN_SPREAD * _spread(embeddings))

    def _embed_fixed(self, operation: Any, values: Any) -> np.ndarray:
        def embed(images: Any, fixed: Any) -> Any:
            run = self._record(images, operation, lambda y: ops.cast(fixed, y.dtype))
            return run.embeddings

        fixed = ops.repeat(values[:1], NUM_PROBES, axis=0)
        return _to_numpy(run_on_noise(embed, self._trial.probe, fixed))

    def _record(self, images: Any, operation: Any, replace: Any = None) -> Run:
        path = self._trial.path(operation)
        return run_and_record(
            self._model, images, [operation], [path], self._source, replace
        )

    def _weighs(self, gate: Any, shape: Any, others: list[Any], is_wide: bool) -> bool:
        if not others:
            return False

        def follow(images: Any, directions: Any, fixed: Any) -> list[Any]:
            trace = self._trace(images, [gate, *others], fixed)
            return trace.gradients_of_embedding(directions)[1:]

        noise = np.random.default_rng(0).normal(size=shape).astype("float32")
        run = make_noise_run(follow, self._trial.probe)
        both = [run(self._directions(), x) for x in (np.zeros_like(noise), noise)]
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

    def _directions(self) -> np.ndarray:
        shape = (NUM_PROBES, self._source.width)
        return random_directions(shape).astype("float32")

    def _trace(self, images: Any, operations: list[Any], first: Any = None) -> Trace:
        """Run the model with other values in place of the first of these layers."""

        def replace(operation: Any, y: Any) -> Any:
            is_first = first is not None and operation is operations[0]
            return ops.cast(first, y.dtype) if is_first else y

        paths = [self._trial.path(x) for x in operations]
        return run_and_trace(
            self._model, images, operations, paths, self._source, replace
        )


def _may_be_gate(values: np.ndarray) -> bool:
    if values.shape[-1] == 1:
        return True
    return bool(np.all((values >= 0) & (values <= 1)))


def _to_numpy(tensor: Any) -> np.ndarray:
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))


def _spread(rows: np.ndarray) -> float:
    return float(np.linalg.norm(rows - rows.mean(axis=0)))
