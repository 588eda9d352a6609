"""Tests of keras_embcam.network.hooks."""

import doctest
import threading
import time
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from keras_embcam.network import hooks as module
from keras_embcam.network.hooks import leave_unchanged, observe


class Doubling(layers.Layer):
    """Doubles; slow enough for threads to meet in the middle; fails on demand."""

    seconds = 0.0
    broken = False

    def call(self, x: Any) -> Any:
        if self.broken:
            raise RuntimeError("broken")
        time.sleep(self.seconds)
        return x * 2


def no_observer(operation: Any, arguments: Any, outputs: Any) -> None:
    """Observe nothing."""


def test_the_examples_run() -> None:
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


# observe


def test_an_observer_sees_operation_arguments_and_outputs() -> None:
    layer = Doubling()
    seen: list[Any] = []
    with observe([layer], lambda *call: seen.append(call)):
        result = layer(np.float32([1, 2]))
    [(operation, (args, kwargs), outputs)] = seen
    assert operation is layer and outputs is result
    assert np.asarray(args[0]).tolist() == [1, 2] and kwargs == {}
    assert np.asarray(outputs).tolist() == [2, 4]


def test_calls_are_seen_in_order_of_completion_inner_ones_first() -> None:
    inner = keras.Sequential([keras.Input((2,)), Doubling(name="a")], name="inner")
    model = keras.Sequential([keras.Input((2,)), inner, Doubling(name="b")])
    seen: list[str] = []
    operations = [*model.layers, *inner.layers]
    with observe(operations, lambda operation, *_: seen.append(operation.name)):
        model(np.ones((1, 2), "float32"))
    assert seen == ["a", "inner", "b"]


def test_an_operation_of_a_graph_that_is_no_layer_is_seen() -> None:
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.ops.relu(inputs))
    [relu] = [x for x in model.operations if not isinstance(x, layers.Layer)]
    seen: list[Any] = []
    with observe([relu], lambda *call: seen.append(call[2])):
        model(np.float32([[-1, 1]]))
    assert np.asarray(seen[0]).tolist() == [[0, 1]]
    assert "call" not in vars(relu)


def test_nothing_is_seen_before_and_after() -> None:
    layer = Doubling()
    seen: list[Any] = []
    layer(np.ones(1))
    with observe([layer], lambda *call: seen.append(call)):
        pass
    layer(np.ones(1))
    assert seen == []


def test_a_layer_is_as_before_afterwards() -> None:
    layer = Doubling()
    layer(np.ones(1))
    before = dict(vars(layer))
    with observe([layer], no_observer):
        assert "call" in vars(layer)
        layer(np.ones(1))
    assert vars(layer) == before


def test_a_layer_is_as_before_after_an_error_inside_it() -> None:
    layer = Doubling()
    layer(np.ones(1))
    layer.broken = True
    before = dict(vars(layer))
    with (
        pytest.raises(RuntimeError, match="broken"),
        observe([layer], no_observer),
    ):
        layer(np.ones(1))
    assert vars(layer) == before


def test_what_was_hooked_is_unhooked_where_a_later_operation_cannot_be() -> None:
    layer = Doubling()
    with pytest.raises(AttributeError), observe([layer, object()], no_observer):
        pass
    assert "call" not in vars(layer)
    with observe([layer], no_observer):
        assert "call" in vars(layer)
    assert "call" not in vars(layer)


def test_a_call_that_was_replaced_on_the_instance_comes_back() -> None:
    layer = Doubling()

    def triple(x: Any) -> Any:
        return x * 3

    layer.call = triple
    seen: list[Any] = []
    with observe([layer], lambda *call: seen.append(call[2])):
        assert float(layer(np.float32(1))) == 3
    assert len(seen) == 1
    assert layer.call is triple


def test_nested_blocks_see_only_what_each_watches() -> None:
    first, second = Doubling(), Doubling()
    outer: list[Any] = []
    inner: list[Any] = []
    with observe([first], lambda *call: outer.append(call[0])):
        with observe([first, second], lambda *call: inner.append(call[0])):
            first(np.ones(1))
            second(np.ones(1))
        assert "call" in vars(first) and "call" not in vars(second)
        first(np.ones(1))
    assert outer == [first, first]
    assert inner == [first, second]
    assert "call" not in vars(first)


def test_the_quantized_call_is_seen() -> None:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    [dense] = model.layers
    dense.quantize("int8")
    seen: list[Any] = []
    before = dict(vars(dense))
    with observe([dense], lambda *call: seen.append(call[2])):
        result = dense(np.ones((1, 4), "float32"))
    assert seen[0] is result
    assert vars(dense) == before


def test_threads_see_their_own_calls_and_no_others() -> None:
    layer = Doubling()
    layer(np.ones(1))
    layer.seconds = 0.002
    barrier = threading.Barrier(4)
    seen: dict[int, list[float]] = {number: [] for number in range(4)}

    def work(number: int) -> None:
        barrier.wait()
        for step in range(25):
            with observe([layer], lambda *call: seen[number].append(float(call[2]))):
                layer(np.float32(100 * number + step))

    threads = [threading.Thread(target=work, args=[number]) for number in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, values in seen.items():
        assert values == [2 * (100 * number + step) for step in range(25)]
    assert "call" not in vars(layer)


def test_threads_run_the_layer_at_the_same_time() -> None:
    layer = Doubling()
    meeting = threading.Barrier(2, timeout=20)
    errors: list[Exception] = []

    def work() -> None:
        try:
            # Both observers are told only once both threads are inside.
            with observe([layer], lambda *call: meeting.wait()):
                layer(np.ones(1))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


# leave_unchanged


class Restless(layers.Layer):
    """Changes all its state whenever it is called."""

    def build(self, shape: Any) -> None:
        self.counter = self.add_weight(shape=(), initializer="zeros", trainable=False)
        self.seed = keras.random.SeedGenerator(7)
        self.norm = layers.BatchNormalization()
        self.norm.build(shape)

    def call(self, x: Any) -> Any:
        self.counter.assign_add(1.0)
        self.add_loss(keras.ops.sum(x))
        x = self.norm(x, training=True)
        return x + keras.random.normal(keras.ops.shape(x), seed=self.seed)


@pytest.fixture
def restless() -> keras.Model:
    """Return a model that changes with each call, called once."""
    model = keras.Sequential([keras.Input((3,)), Restless()])
    model(np.eye(3, dtype="float32"))
    return model


def test_a_restless_model_does_change_without_the_scope(restless: Any) -> None:
    before = [np.asarray(x) for x in restless.layers[0].variables]
    restless(np.eye(3, dtype="float32"))
    after = [np.asarray(x) for x in restless.layers[0].variables]
    changed = [not np.array_equal(x, y) for x, y in zip(before, after, strict=True)]
    # gamma and beta stay; counter, seed, moving mean and moving variance do not.
    assert sum(changed) == 4


@pytest.mark.parametrize("fails", [False, True])
def test_weights_statistics_seeds_and_losses_stay(restless: Any, fails: bool) -> None:
    before = [np.asarray(x) for x in restless.layers[0].variables]
    losses = list(restless.losses)
    assert len(losses) == 1
    try:
        with leave_unchanged(restless):
            restless(np.eye(3, dtype="float32"))
            restless(np.eye(3, dtype="float32"))
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert fails
    after = [np.asarray(x) for x in restless.layers[0].variables]
    np.testing.assert_equal(after, before)
    assert len(restless.losses) == 1 and restless.losses[0] is losses[0]


def test_losses_stay_where_the_runs_of_two_threads_overlap(restless: Any) -> None:
    [loss] = restless.losses
    entered, leave = threading.Event(), threading.Event()

    def work() -> None:
        with leave_unchanged(restless):
            restless(np.eye(3, dtype="float32"))
            entered.set()
            leave.wait(20)

    thread = threading.Thread(target=work)
    with leave_unchanged(restless):
        restless(np.eye(3, dtype="float32"))  # clears the losses of the last run
        thread.start()
        assert entered.wait(20)
    leave.set()
    thread.join()
    assert len(restless.losses) == 1 and restless.losses[0] is loss
