"""Look at a model once: run it on noise and see what each operation makes."""

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from keras_embcam.keras_private import flatten_layers
from keras_embcam.network.calls import Call, record_calls
from keras_embcam.network.inputs import refuse_channels_first
from keras_embcam.network.noise_images import make_noise_images

NUM_LISTED = 20


class TrialRun:
    """What one run of a model on noise shows.

    Args:
        model: a built Keras model.
        images: see `make_noise_images`.

    Attributes:
        operations: every operation of the model at any depth, by its path
            (``"backbone/conv5_block3_out"``).
        layers: the same and the model itself, by the path ``""``.
        compiled: the paths of those whose call is compiled with ``tf.function``.
        probe: the noise, in the structure of the model's inputs.
        outputs: what the model returned.
        calls: every recorded call, in order of completion.
        layer_norms: the last layer normalisations, with what went in and came out.

    Raises:
        ValueError: for a channels_first model, or as `make_noise_images` does.
    """

    def __init__(self, model: keras.Model, images: Any = None) -> None:
        self.operations = list_operations(model)
        self.layers = {"": model, **self.operations}
        self._paths = {id(op): path for path, op in self.operations.items()}
        refuse_channels_first(self.operations)
        self.probe = make_noise_images(model, images)
        recorded = record_calls(model, self.operations.values(), self.probe)
        self.outputs, self.calls, self.layer_norms = recorded
        self._num_calls = Counter(id(call.operation) for call in self.calls)
        self.compiled = {
            path
            for path, operation in self.layers.items()
            if isinstance(operation.call, tf.types.experimental.PolymorphicFunction)
        }

    def path(self, operation: Any) -> str:
        """Return the path of an operation within the model."""
        return self._paths[id(operation)]

    def num_calls(self, operation: Any) -> int:
        """Return how often one run of the model calls the operation."""
        return self._num_calls[id(operation)]

    def first_call(self, operation: Any) -> Call:
        """Return the first call of an operation that was called."""
        return next(call for call in self.calls if call.operation is operation)

    def find_operation(self, identifier: Any, argument: str, *ranks: int) -> Any:
        """Find an operation by name, by path or by itself.

        Args:
            identifier: a name at any depth, a path ``"outer/inner"``, or the layer.
            argument: the argument that the user has to change after an error.
            *ranks: the ranks of the outputs that an error lists as candidates.

        Raises:
            ValueError: where it is unknown, ambiguous, not called, called more than
                once, or hidden inside a call compiled with ``tf.function``.
        """
        if isinstance(identifier, str):
            operation = self._find_name(identifier, argument, ranks)
        elif id(identifier) in self._paths:
            operation = identifier
        else:
            raise ValueError(
                f"`{argument}` must be the name, the path or the object of a layer "
                f"inside the model. Received: {identifier!r}. "
                f"Candidates:\n{self.list_candidates(*ranks)}"
            )
        self._check_called_once(operation, argument)
        return operation

    def _find_name(self, name: str, argument: str, ranks: tuple[int, ...]) -> Any:
        if name in self.operations:
            return self.operations[name]
        plain = {path: re.sub(r"#\d+", "", path) for path in self.operations}
        paths = [path for path in plain if plain[path] == name] or [
            path for path in plain if f"/{path}/{plain[path]}".endswith("/" + name)
        ]
        if len(paths) == 1:
            return self.operations[paths[0]]
        if paths:
            listed = "\n".join(self._describe(path) for path in paths)
            raise ValueError(
                f"`{argument}={name!r}` is ambiguous. Pass the layer itself, or one "
                f"of these paths:\n{listed}"
            )
        names = {path.rsplit("/", 1)[-1] for path in self.operations}
        close = difflib.get_close_matches(name, names, n=3)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ValueError(
            f"`{argument}` must name a layer of the model. Received: {name!r}.{hint} "
            f"Candidates:\n{self.list_candidates(*ranks)}"
        )

    def _check_called_once(self, operation: Any, argument: str) -> None:
        path = self.path(operation)
        num_calls = self.num_calls(operation)
        if num_calls > 1:
            raise ValueError(
                f"The layer {path!r} is called {num_calls} times in one run of the "
                "model (a siamese network?), so it has no single output. Pass the "
                "branch model that makes one embedding of one image instead: "
                "`model.get_layer(NAME)`, or `keras.Model(model.inputs[0], "
                "model.get_layer(NAME).output)` where NAME is no model itself. Of a "
                "layer that is shared inside one branch, pass as `conv_layer` one in "
                "front that is called once."
            )
        compiled = [outer for outer in enclosing_paths(path) if outer in self.compiled]
        if num_calls == 0 and compiled:
            owner = repr(compiled[0]) if compiled[0] else "the model"
            raise ValueError(
                f"`{argument}`: the output of {path!r} cannot be recorded: it runs "
                f"inside the `call` of {owner}, which is compiled with `tf.function`. "
                "Remove that decorator: Keras and keras_embcam compile the whole model "
                "anyway."
            )
        if num_calls == 0:
            raise ValueError(
                f"`{argument}`: the output of {path!r} cannot be recorded: the model "
                "did not call it on inference, or only inside a `tf.function`, a "
                "branch or a loop of its own. Pass a layer that the model calls "
                "directly."
            )

    def list_candidates(
        self,
        *ranks: int,
        outside: Iterable[str] = (),
        keep: Callable[[Call], bool] = lambda call: True,
        num_listed: int | None = NUM_LISTED,
    ) -> str:
        """List paths and shapes of the outputs of these ranks, the last ones first.

        Args:
            *ranks: of the outputs.
            outside: paths of layers whose insides are left out.
            keep: of each call, whether its layer is a candidate.
            num_listed: how many at most, or None for all.
        """
        paths = [
            self.path(call.operation)
            for call in reversed(self.calls)
            if call.shape is not None and len(call.shape) in ranks and keep(call)
        ]
        paths = [
            path
            for path in dict.fromkeys(paths)
            if not set(outside).intersection(enclosing_paths(path))
        ]
        lines = [self._describe(path) for path in paths[:num_listed]]
        if len(paths) > len(lines):
            lines.append(f"  ... and {len(paths) - len(lines)} more before these")
        return "\n".join(lines) if lines else "  (none)"

    def _describe(self, path: str) -> str:
        for call in self.calls:
            if call.operation is self.operations[path] and call.shape is not None:
                return f"  {path} {(None, *call.shape[1:])}"
        return f"  {path}"


def list_operations(model: keras.Model) -> dict[str, Any]:
    """Return every operation of the model at any depth, by path.

    Functional models have operations that are not layers (``keras.ops``). What is
    reachable by several paths is listed under the first. Where one layer has several
    of the same name inside, they are ``"name#1"``, ``"name#2"``.

    Example:

    >>> conv = keras.layers.Conv2D(4, 3, name="conv")
    >>> inner = keras.Sequential([conv], name="inner")
    >>> model = keras.Sequential([inner, keras.layers.ReLU(name="relu")])
    >>> list(list_operations(model))
    ['inner', 'inner/conv', 'relu']
    """
    found: dict[str, Any] = {}
    seen = {id(model)}

    def visit(parent: Any, prefix: str) -> None:
        children = parent.operations if isinstance(parent, keras.Function) else []
        children += flatten_layers(parent, include_self=False, recursive=False)
        fresh = {id(x): x for x in children if id(x) not in seen}
        seen.update(fresh)
        num_named = Counter(child.name for child in fresh.values())
        numbers: Counter[str] = Counter()
        for child in fresh.values():
            path = prefix + child.name
            # Subclassed models may have layers of one name side by side.
            if num_named[child.name] > 1:
                numbers[child.name] += 1
                path += f"#{numbers[child.name]}"
            found[path] = child
            if isinstance(child, keras.layers.Layer):
                visit(child, path + "/")

    visit(model, "")
    return found


def enclosing_paths(path: str) -> list[str]:
    """Return the paths of the layers around this one, the model (``""``) last.

    Example:

    >>> enclosing_paths("outer/inner/conv")
    ['outer/inner', 'outer', '']
    """
    names = path.split("/")[:-1]
    return ["/".join(names[:depth]) for depth in range(len(names), -1, -1)]
