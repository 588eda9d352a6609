"""Gradients at the images, with other rules for ReLUs and no change to the model.

TensorFlow lets a graph replace the gradient of a type of operation. The replacement
belongs to the graph that is being traced, not to the layers: threads do not disturb
each other, nothing has to be restored, and every ReLU is met wherever it stands, also
in the code of a subclassed model. Only ``tf.gradients`` honours it, no tape does.
"""

from contextlib import AbstractContextManager
from typing import Any

import tensorflow as tf
from keras import ops

Tensor = Any

RELU_TYPES = ("Relu", "Relu6")
GUIDED = "KerasEmbcamGuidedRelu"
DECONVNET = "KerasEmbcamDeconvnetRelu"
_SEEN = "keras_embcam_relus"


def replace_relu_gradients(rule: str | None) -> AbstractContextManager:
    """Return a scope in whose graph ReLUs have another gradient; None for their own.

    Compute in this scope what `differentiate` is called for.
    """
    graph = tf.compat.v1.get_default_graph()
    return graph.gradient_override_map(dict.fromkeys(RELU_TYPES, rule) if rule else {})


def differentiate(
    embeddings: Tensor, images: Tensor, cotangents: Tensor, rule: str | None
) -> Tensor:
    """Return the gradient of ``embeddings . cotangents`` at the images.

    Args:
        embeddings: (n, d), computed inside `replace_relu_gradients(rule)`.
        images: (n, H, W, c).
        cotangents: (n, d).
        rule: GUIDED, DECONVNET, or None for the ReLUs' own gradient.

    Raises:
        ValueError: where no gradient reaches the images, or, with a rule, where there
            is no ReLU between the images and the embedding, or one whose gradient
            cannot be replaced.
    """
    path = _find_path(images, embeddings)
    if rule is not None:
        _refuse_hidden_relus([x for x in path if _hides_relu(x)])
    try:
        (gradients,) = tf.gradients(embeddings, images, cotangents)
        reason = ""
    except LookupError as error:  # an operation that has no gradient at all
        gradients, reason = None, f" TensorFlow says: {error}"
    if gradients is None:
        raise ValueError(
            "No gradient reaches the images from the embedding: there is a step "
            "without a gradient between them, such as an integer type, rounding, or "
            "a preprocessing layer. Pass the part of the model behind that step, and "
            f"what goes into it as images. The images here are {images.dtype.name}."
            f"{reason}"
        )
    if rule is not None:
        relus = [x for x in path if x.type in RELU_TYPES and not _is_half(x)]
        if not relus:
            raise ValueError(
                "Guided back-propagation and deconvnet change the gradient of ReLUs, "
                "and there is no `relu` or `relu6` between the images and the "
                "embedding (the halves of a PReLU are none). Use `saliency`, or a "
                f"model with ReLUs. Found: {sorted({x.type for x in path})}"
            )
        seen = embeddings.graph.get_collection(_SEEN)
        _refuse_hidden_relus([x for x in relus if x not in seen])
    return gradients


@tf.RegisterGradient(GUIDED)
def _pass_guided(operation: tf.Operation, gradient: Tensor) -> Tensor:
    return _pass(operation, gradient, (gradient > 0) & _is_open(operation))


@tf.RegisterGradient(DECONVNET)
def _pass_deconvnet(operation: tf.Operation, gradient: Tensor) -> Tensor:
    return _pass(operation, gradient, gradient > 0)


def _pass(operation: tf.Operation, gradient: Tensor, where: Tensor) -> Tensor:
    if _is_half(operation):
        where = _is_open(operation)
    operation.graph.add_to_collection(_SEEN, operation)
    # Multiplied, not selected with `where`: NaN must stay NaN.
    return gradient * ops.cast(where, gradient.dtype)


def _is_open(relu: tf.Operation) -> Tensor:
    x = relu.inputs[0]
    return (x > 0) & (x < 6) if relu.type == "Relu6" else x > 0


def _is_half(relu: tf.Operation) -> bool:
    """Tell a ReLU from one half of ``relu(x) - slope * relu(-x)``, a leaky ReLU.

    Keras writes PReLU this way, and ReLU with a slope and a maximum.
    """
    x = relu.inputs[0]
    if x.op.type == "Neg":
        return any(other.type in RELU_TYPES for other in x.op.inputs[0].consumers())
    negated = [y.outputs[0] for y in x.consumers() if y.type == "Neg"]
    return any(z.type in RELU_TYPES for y in negated for z in y.consumers())


def _find_path(start: Tensor, end: Tensor) -> list[tf.Operation]:
    """Return the operations that the gradient passes from the end to the start."""
    after: set[tf.Operation] = set()
    todo = list(start.consumers())
    while todo:
        operation = todo.pop()
        if operation not in after:
            after.add(operation)
            todo += [x for output in operation.outputs for x in output.consumers()]
    between: set[tf.Operation] = set()
    tensors = [end]
    while tensors:
        tensor = tensors.pop()
        operation = tensor.op
        if operation not in after or operation in between:
            continue
        if tensor.dtype.is_floating and operation.type != "StopGradient":
            between.add(operation)
            tensors += operation.inputs
    return list(between)


def _hides_relu(operation: tf.Operation) -> bool:
    """Tell whether a function that the operation calls has a ReLU in it."""
    graph = operation.graph
    names = _called_functions(operation.node_def)
    if not names:
        return False
    library = {
        function.signature.name: function.node_def
        for function in graph.as_graph_def().library.function
    }
    while names:
        for node in library.get(names.pop(), []):
            if node.op in RELU_TYPES:
                return True
            names += _called_functions(node)
    return False


def _called_functions(node: Any) -> list[str]:
    values = node.attr.values()
    functions = [x.func for x in values] + [y for x in values for y in x.list.func]
    return [function.name for function in functions if function.name]


def _refuse_hidden_relus(operations: list[tf.Operation]) -> None:
    if operations:
        raise ValueError(
            "Guided back-propagation and deconvnet cannot change the gradient of the "
            f"ReLUs in {sorted(x.name for x in operations)}: they are inside a "
            "`tf.function`, a loop or a condition of TensorFlow, a `keras.RematScope` "
            "or a `tf.custom_gradient`. Build the model without it (the weights fit "
            "unchanged), or use `saliency`."
        )
