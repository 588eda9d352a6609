"""Where the raw embedding of a model can be tapped while the model runs."""

from typing import Any, NamedTuple

from keras import ops, tree

from keras_embcam.network.layer_norms import undo_scale
from keras_embcam.network.normalized_parts import Part

Tensor = Any


class EmbeddingSource(NamedTuple):
    """Where the raw embedding can be tapped while the model runs.

    Attributes:
        operation: the operation to watch, or None for the model's own output.
        tap: "output" or "input" of the operation, "logits" for what a Dense layer
            passes to its softmax, or "scaled" for what a layer normalisation scales.
        position: among the flattened inputs or outputs.
        width: d.
        description: for people.
        token: of the operation's output, where that is a sequence of tokens.
        head: path of the layer behind it that was stepped over, which compares it with
            one vector for each class; None where there is none.
        parts: where the embedding is joined from normalised vectors: the vectors before
            that, each to be divided by its length, which is held constant.
        number: which call of the operation, from 0.
        num_calls: how often a run calls it.
    """

    operation: Any
    tap: str
    position: int
    width: int
    description: str
    token: int | None = None
    head: str | None = None
    parts: tuple[Part, ...] = ()
    number: int = 0
    num_calls: int = 1

    def value(self, arguments: Any, outputs: Any) -> Tensor:
        """Return the raw embedding (n, d) from one call of the operation."""
        if self.tap == "logits":
            inputs = tree.flatten(arguments)[self.position]
            logits = ops.matmul(inputs, self.operation.kernel)
            bias = self.operation.bias
            return logits if bias is None else logits + bias
        if self.tap == "scaled":
            inputs = tree.flatten(arguments)[self.position]
            if self.token is not None:
                inputs = inputs[:, self.token]
            inputs = ops.reshape(inputs, (-1, self.width))
            return undo_scale(self.operation, inputs)
        tensors = tree.flatten(outputs if self.tap == "output" else arguments)
        return ops.reshape(tensors[self.position], (-1, self.width))
