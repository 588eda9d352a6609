"""Record the attention of transformers, which Keras never shows.

It is made again of the queries, keys and values that a run makes,
``A = softmax(q k^T / sqrt(width))``. Whether a layer attends in this way is checked by
what it does: ``A v`` must be among what goes into its layers or comes out of it. A
mask, rotary positions, a window or a gate show by that, whatever they are called.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_embcam.keras_private import flatten_layers
from keras_embcam.network.attention import find_attention
from keras_embcam.network.block_ends import find_block_ends
from keras_embcam.network.embedding_source import EmbeddingSource
from keras_embcam.network.gradient_checks import random_directions
from keras_embcam.network.hooks import leave_unchanged, observe
from keras_embcam.network.noise_images import find_images
from keras_embcam.network.recording import Run, run_and_read_out, run_and_trace
from keras_embcam.network.trial_run import TrialRun

Tensor = Any

ROLES = ("query", "key", "value")
_ROLE = re.compile(r"(?:^|_)(query|key|value|[qkv])(?:_|$)", re.IGNORECASE)
# What may differ, as a share of what the attention does: of the distance from the mean
# value, which an even attention returns. And the rounding error of the values.
MAX_ERROR = 0.01
ROUNDING = {"float32": 1e-6, "float16": 2e-3, "bfloat16": 2e-2}


class AttentionParts(NamedTuple):
    """What has to be recorded of one attention layer.

    Attributes:
        path: of the layer.
        operations: that make queries, keys and values, and the one that takes or makes
            attention times values.
        takes: whether the last one takes it, as an output projection does.
        num_heads: of the queries.
    """

    path: str
    operations: tuple[Any, Any, Any, Any]
    takes: bool
    num_heads: int


class AttentionBlocks:
    """The attention layers behind the first tokens of a model, found once.

    Args:
        model: that was tried.
        trial: of the model.
        source: of its embedding.
        num_tokens: t, of the tokens that attend to each other.
        read_out: see `AttentionLayers`.

    Attributes:
        paths: of the attention layers, in the order of their calls.

    Raises:
        ValueError: where there is none, the attention of one cannot be made of
            queries, keys and values, or a score cannot be read out behind a block.
    """

    def __init__(
        self,
        model: keras.Model,
        trial: TrialRun,
        source: EmbeddingSource,
        num_tokens: int,
        read_out: bool = False,
    ) -> None:
        layers = find_attention(trial)
        layers = _that_count(model, trial, source, layers)
        if not layers:
            raise ValueError(
                "This explains transformers by their attention, and no attention "
                "layer that the embedding depends on was seen in this model. "
                + _INSTEAD
            )
        calls = _watch(model, trial, layers)
        self._parts = [
            find_parts(path, layer, calls[path], num_tokens)
            for path, layer in layers.items()
        ]
        self.paths = [parts.path for parts in self._parts]
        self._ends = []
        if read_out and len(layers) > 1:  # behind a single block, it is the embedding
            self._ends = find_block_ends(model, trial, source, layers, num_tokens)

    def run(self, model: keras.Model, images: Any, source: EmbeddingSource) -> Run:
        """Run the model once; see `run_and_read_out`.

        Returns:
            The attention of each block (n, heads, t, t) float32 as outputs, and a
            function that returns the gradient at each.
        """
        operations = [x for parts in self._parts for x in parts.operations]
        names = [f"{parts.path}: {x.name}" for parts in self._parts for x in parts[1]]
        taken = [parts.operations[3] for parts in self._parts if parts.takes]
        run = run_and_read_out(
            model, images, operations, names, source, self._ends, taken
        )
        heads = [parts.num_heads for parts in self._parts]
        blocks = [run.outputs[i : i + 3] for i in range(0, len(run.outputs), 4)]
        split = [
            [split_heads(x, number) for x in block]
            for block, number in zip(blocks, heads, strict=True)
        ]

        def pull_back(cotangents: Tensor) -> list[Tensor]:
            gradients = run.pull_back(cotangents)[3::4]
            return [
                attention_slope(values, split_heads(gradient, number))
                for (_, _, values), gradient, number in zip(
                    split, gradients, heads, strict=True
                )
            ]

        attentions = [attention_matrix(query, key) for query, key, _ in split]
        return Run(attentions, run.embeddings, pull_back)


_INSTEAD = (
    'Pass `weighting="auto"` or `preset="tokens"`, which take any transformer whatever '
    "its attention."
)


def split_heads(tensor: Tensor, num_heads: int) -> Tensor:
    """Return (n, t, heads, width) float32 of the same or of (n, t, heads * width).

    Grouped keys and values are repeated for the queries that share them.
    """
    tensor = ops.cast(tensor, "float32")
    if len(tensor.shape) == 3:
        n, t, width = ops.shape(tensor)
        return ops.reshape(tensor, (n, t, num_heads, width // num_heads))
    repeats = num_heads // tensor.shape[2]
    return tensor if repeats == 1 else ops.repeat(tensor, repeats, axis=2)


def attention_matrix(queries: Tensor, keys: Tensor) -> Tensor:
    """Return the attention (n, heads, t, t), whose rows sum to one.

    Args:
        queries: (n, t, heads, width) float32.
        keys: the same shape; of fewer queries, as where tokens are pooled, too.
    """
    logits = ops.einsum("nqhd,nkhd->nhqk", queries, keys)
    return ops.softmax(logits / ops.sqrt(ops.cast(queries.shape[-1], logits.dtype)))


def attention_slope(values: Tensor, gradients: Tensor) -> Tensor:
    """Return the gradient of a score by the attention, (n, heads, t, t).

    With ``o = A v`` it is ``dS/dA[h, i, j] = <dS/do[i, h], v[j, h]>``.

    Args:
        values: (n, t, heads, width) float32.
        gradients: of the score by o, the same shape.
    """
    return ops.einsum("nqhd,nkhd->nhqk", gradients, values)


class _Seen(NamedTuple):
    """One call of a layer inside an attention, with its first argument."""

    operation: Any
    taken: Any
    output: Any


def _that_count(
    model: keras.Model,
    trial: TrialRun,
    source: EmbeddingSource,
    layers: dict[str, Any],
) -> dict[str, Any]:
    """Return the attention layers that the embedding depends on."""
    for path, layer in layers.items():
        if trial.num_calls(layer) != 1 or trial.first_call(layer).shape is None:
            raise ValueError(
                f"The attention of {path!r} cannot be recorded: the layer is called "
                f"{trial.num_calls(layer)} times in one run, or returns more than its "
                f"tokens. {_INSTEAD}"
            )
    operations, paths = list(layers.values()), list(layers)
    trace = run_and_trace(
        model, trial.probe, operations, paths, source, lambda operation, y: y
    )
    directions = random_directions((len(find_images(trial.probe)), source.width))
    gradients = trace.gradients_of_embedding(directions)
    return {
        path: layer
        for (path, layer), gradient in zip(layers.items(), gradients, strict=True)
        if gradient is not None
    }


def _watch(
    model: keras.Model, trial: TrialRun, layers: dict[str, Any]
) -> dict[str, list[_Seen]]:
    """Return the calls inside each attention layer and its own, in order."""
    owners: dict[int, str] = {}
    operations = []
    for path, layer in layers.items():
        for operation in flatten_layers(layer):
            owners[id(operation)] = path
            operations.append(operation)
    calls: dict[str, list[_Seen]] = {path: [] for path in layers}

    def see(operation: Any, arguments: Any, outputs: Any) -> None:
        args, kwargs = arguments
        taken = next(iter((*args, *kwargs.values())), None)
        calls[owners[id(operation)]].append(_Seen(operation, taken, outputs))

    with observe(operations, see), leave_unchanged(model):
        model(trial.probe, training=False)
    return calls


def find_parts(
    path: str, layer: Any, calls: Sequence[Any], num_tokens: int
) -> AttentionParts:
    """Return what to record of an attention layer, checked on one run.

    Args:
        path: of the layer.
        layer: the layer.
        calls: of the layers inside it and its own, each with `operation`, `taken` and
            `output`.
        num_tokens: that attend to each other.

    Raises:
        ValueError: where no queries, keys and values are seen, or they do not make
            what the layer returns.
    """
    attributes = {id(x): name for name, x in vars(layer).items()}
    found: dict[str, Any] = {}
    for call in calls:
        for name in (call.operation.name, attributes.get(id(call.operation), "")):
            match = _ROLE.search(name)
            if match and call.operation is not layer and ops.is_tensor(call.output):
                role = match[1].lower()
                role = next(x for x in ROLES if x.startswith(role))
                found[role] = call  # of several, such as a normalisation, the last
                break
    if len(found) < len(ROLES):
        missing = [role for role in ROLES if role not in found]
        raise ValueError(
            f"The attention of {path!r} cannot be recorded: no layer inside it has a "
            f"name that says it makes the {' and '.join(missing)}. Name them "
            f'"query", "key" and "value", or: {_INSTEAD}'
        )
    parts = [found[role].output for role in ROLES]
    is_4d = len(parts[0].shape) == 4
    num_heads = parts[0].shape[2] if is_4d else getattr(layer, "num_heads", 1)
    attends, *attended = (x.shape[1] for x in parts)
    # Fewer attend where tokens are pooled; more keep to windows or to a coarser grid.
    if attended == [num_tokens] * 2 and attends <= num_tokens:
        place = _find_mixed(calls, parts, num_heads)
        if place is not None:
            operations = tuple(found[role].operation for role in ROLES)
            return AttentionParts(path, (*operations, place[0]), place[1], num_heads)
    raise ValueError(
        f"The attention of {path!r} cannot be recorded: the softmax of queries times "
        "keys, times values, is not what it makes. It may have a mask, rotary or "
        "relative positions, a window, fewer keys than tokens, a gate or a scale of "
        f"its own. {_INSTEAD}"
    )


def _find_mixed(
    calls: Sequence[Any], parts: list[Any], num_heads: int
) -> tuple[Any, bool] | None:
    """Return the operation that takes (True) or makes attention times values."""
    query, key, value = (split_heads(x, num_heads) for x in parts)
    mixed = ops.einsum("nhqk,nkhd->nqhd", attention_matrix(query, key), value)
    even = ops.convert_to_numpy(ops.mean(value, axis=1, keepdims=True))
    expected = ops.convert_to_numpy(mixed)
    dtype = keras.backend.standardize_dtype(parts[0].dtype)
    rounding = ROUNDING.get(dtype, 1e-6) * np.abs(expected).max()
    allowed = MAX_ERROR * np.abs(expected - even).max() + rounding
    for call in calls:
        for takes, tensor in ((True, call.taken), (False, call.output)):
            if ops.is_tensor(tensor) and np.prod(tensor.shape) == expected.size:
                values = ops.convert_to_numpy(ops.cast(tensor, "float32"))
                if np.abs(values.reshape(expected.shape) - expected).max() <= allowed:
                    return call.operation, takes
    return None
