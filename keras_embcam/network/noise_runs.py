"""Run a function on noise images, with about the memory that `predict` takes."""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from keras import ops, tree

from keras_embcam.network.noise_images import find_images

Tensor = Any

# Up to this size all noise images are run at once and eagerly, which is faster.
MAX_EAGER_PIXELS = 128 * 128


def run_on_noise(function: Callable[..., Any], probe: Any, *rows: Any) -> Any:
    """Return what a function makes of noise images; see `make_noise_run`."""
    return make_noise_run(function, probe)(*rows)


def make_noise_run(function: Callable[..., Any], probe: Any) -> Callable[..., Any]:
    """Return a function's run on noise images, to be called with one or more rows.

    Small images all at once, eagerly. Large ones one at a time by a compiled function:
    a Functional model that runs eagerly keeps all activations until it has ended.

    Args:
        function: takes inputs of a model and a part of each of the rows, which are
            tensors with a row for each image. It returns any structure of tensors;
            those with a row for each image are joined, of others that of the first
            image is returned.
        probe: see `make_noise_images`.
    """
    _, height, width, _ = find_images(probe).shape
    if height * width <= MAX_EAGER_PIXELS:
        return functools.partial(function, probe)
    # Keras does not convert the code of its models with autograph either.
    compiled = tf.function(function, autograph=False)

    def run(*rows: Any) -> Any:
        arguments = tree.map_structure(ops.convert_to_tensor, (probe, *rows))
        specifications = tree.map_structure(
            lambda x: tf.TensorSpec([None, *x.shape[1:]], x.dtype), arguments
        )
        concrete = compiled.get_concrete_function(*specifications)
        found = [
            concrete(*tree.map_structure(lambda x: x[i : i + 1], arguments))  # noqa: B023
            for i in range(len(find_images(probe)))
        ]
        return tree.map_structure(_join, *found)

    return run


def current_graph() -> Any:
    """Return the graph that is being traced, None in eager code."""
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def is_in_graph(x: Any, graph: Any) -> bool:
    """Tell whether something is no tensor of another graph than this one.

    Such as one inside a call that is compiled with ``tf.function``.
    """
    return not tf.is_symbolic_tensor(x) or x.graph is graph


def _join(*parts: Any) -> Any:
    has_row = ops.is_tensor(parts[0]) and len(parts[0].shape) and len(parts[0]) == 1
    return ops.concatenate(parts, axis=0) if has_row else parts[0]
