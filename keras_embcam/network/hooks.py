"""Watch what the operations of a Keras model compute while the model runs.

Keras has no forward hooks. Splitting the Functional graph instead fails for
nested, shared and subclassed models; replacing ``call`` works for all.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

import keras

from keras_embcam.keras_private import keep_traces_of_calls

# Called as observer(operation, (args, kwargs), outputs). What it returns takes the
# place of the outputs, unless it is None.
Observer = Callable[[Any, tuple[tuple, dict], Any], Any]

_ABSENT = object()
_lock = threading.Lock()
_num_users: dict[int, int] = {}  # by id: a layer need not be hashable
_before: dict[int, tuple[str, Any]] = {}
# Threads share the operations but not what they watch: each sees its own runs.
_observers: ContextVar[tuple[Observer, ...]] = ContextVar("_observers", default=())


class Stop(BaseException):
    """Ends a run early. No `Exception`: Keras would make another one of it."""


@contextlib.contextmanager
def observe(operations: Iterable[Any], observer: Observer) -> Iterator[None]:
    """Tell the observer of each call of these operations by this thread.

    The operations are as they were before when the last ``with`` block that
    watches them ends, also by an exception. No lock is held in between.

    Args:
        operations: layers, or operations of a Functional graph.
        observer: called after each call, in order of completion. What it returns, if
            it is not None, goes on in place of the outputs.

    Example:

    >>> layer = keras.layers.ReLU()
    >>> with observe([layer], lambda layer, arguments, outputs: print(outputs.numpy())):
    ...     outputs = layer(keras.ops.array([-1.0, 2.0]))
    [0. 2.]
    """
    operations = list(operations)
    installed = []
    try:
        for operation in operations:
            _install(operation)
            installed.append(operation)
        # An operation may be watched for another thread or by an outer block too.
        watched = {id(operation) for operation in operations}

        def tell(operation: Any, arguments: Any, outputs: Any) -> Any:
            if id(operation) in watched:
                return observer(operation, arguments, outputs)
            return None

        token = _observers.set((*_observers.get(), tell))
        try:
            yield
        finally:
            _observers.reset(token)
    finally:
        for operation in installed:
            _uninstall(operation)


@contextlib.contextmanager
def leave_unchanged(model: keras.Model) -> Iterator[None]:
    """Keep a run of a built model from leaving traces in it.

    What layers assign (statistics, random seeds) goes into the scope and is
    dropped; the losses that a run clears, which belong to the trainer, come back,
    and so does the mark of a model that was never called.

    Args:
        model: all layers in it are kept.

    Example:

    >>> norm = keras.layers.BatchNormalization()
    >>> model = keras.Sequential([keras.Input((1,)), norm])
    >>> with leave_unchanged(model):
    ...     outputs = model(keras.ops.array([[5.0], [7.0]]), training=True)
    >>> norm.moving_mean.numpy()
    array([0.], dtype=float32)
    """
    with keep_traces_of_calls(model), keras.StatelessScope():
        yield


def _install(operation: Any) -> None:
    with _lock:
        if id(operation) in _num_users:
            _num_users[id(operation)] += 1
            return
        quantized = getattr(operation, "quantization_mode", None) is not None
        name = "quantized_call" if quantized else "call"
        original = getattr(operation, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            outputs = original(*args, **kwargs)
            for tell in _observers.get():
                replacement = tell(operation, (args, kwargs), outputs)
                outputs = outputs if replacement is None else replacement
            return outputs

        _before[id(operation)] = (name, vars(operation).get(name, _ABSENT))
        _num_users[id(operation)] = 1
        # Past Keras's __setattr__, which tracks and locks attributes.
        vars(operation)[name] = call


def _uninstall(operation: Any) -> None:
    with _lock:
        _num_users[id(operation)] -= 1
        if _num_users[id(operation)]:
            return
        del _num_users[id(operation)]
        name, previous = _before.pop(id(operation))
        if previous is _ABSENT:
            del vars(operation)[name]
        else:
            vars(operation)[name] = previous
