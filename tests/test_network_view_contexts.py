"""Tests of network/view.py: compiled, distributed, threaded, half precision."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_embcam.network.recorded import Recording
from keras_embcam.network.view import ModelView

# Graphs


def explain(recording: Recording, proxies: Any) -> tuple[Any, Any, Any]:
    """Return all that a recording gives."""
    gradients = recording.pull_back(proxies)
    return recording.activations, recording.embeddings, gradients


def check(results: Any, parts: Any) -> None:
    """Compare with a plain tape."""
    expected = parts.expect()
    assert np.abs(expected[2]).max() > 1e-4
    for result, value in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{}, {"autograph": False}, {"jit_compile": True}],
    ids=["function", "without autograph", "jit_compile"],
)
@pytest.mark.parametrize("first_look", ["before", "inside"])
def test_inside_a_function(parts: Any, options: dict, first_look: str) -> None:
    model = parts.functional()
    view = ModelView(model, "target") if first_look == "before" else None

    @tf.function(**options)
    def run(images: Any, proxies: Any) -> Any:
        found = view or ModelView(model, "target")
        return explain(found.record(images), proxies)

    check(run(parts.images, parts.proxies), parts)


def test_a_function_for_any_number_of_images(parts: Any) -> None:
    view = ModelView(parts.functional(), "target")

    @tf.function(
        input_signature=[tf.TensorSpec([None, 9, 8, 3]), tf.TensorSpec([None, 3])]
    )
    def run(images: Any, proxies: Any) -> Any:
        return explain(view.record(images), proxies)

    check(run(parts.images, parts.proxies), parts)
    repeated = run(np.repeat(parts.images, 2, axis=0), np.repeat(parts.proxies, 2, 0))
    check([x[::2] for x in repeated], parts)
    # The check comes before anything that would fail with another message.
    for _ in range(20):
        with pytest.raises(tf.errors.InvalidArgumentError, match="one proxy for each"):
            run(parts.images, parts.proxies[:1])


def test_a_first_look_inside_a_function_builds_the_model(parts: Any) -> None:
    model = keras.Sequential([layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()])

    @tf.function
    def run(images: Any) -> Any:
        symbols = keras.KerasTensor((2, 9, 8, 3))
        return ModelView(model, images=symbols).record(images).embeddings

    embeddings = run(parts.images)
    np.testing.assert_allclose(embeddings, model(parts.images), rtol=1e-5)


def test_an_outer_tape_sees_the_run(parts: Any) -> None:
    view = ModelView(parts.functional(), "target")
    images = tf.constant(parts.images)
    with tf.GradientTape() as tape:
        tape.watch(images)
        score = tf.reduce_sum(view.record(images).embeddings * parts.proxies)
    with tf.GradientTape() as plain:
        plain.watch(images)
        expected = tf.reduce_sum(parts.functional()(images) * parts.proxies)
    np.testing.assert_allclose(
        tape.gradient(score, images), plain.gradient(expected, images), rtol=1e-5
    )


def count_operations(function: Any, *arguments: Any) -> Counter[str]:
    """Count the operations of a traced function, those it calls included."""
    graph = function.get_concrete_function(*arguments).graph
    counts = Counter(operation.type for operation in graph.get_operations())
    for name in graph._functions:
        definition = graph._get_function(name).cached_definition
        counts.update(node.op for node in definition.node_def)
    return counts


def count_backward(model: keras.Model, parts: Any, num_proxies: int) -> Counter[str]:
    """Count the operations that only the way back needs."""
    view = ModelView(model, "target")

    @tf.function
    def forward(images: Any) -> Any:
        return view.record(images).embeddings

    @tf.function
    def both(images: Any, proxies: Any) -> Any:
        recording = view.record(images)
        return [recording.pull_back(proxies) for _ in range(num_proxies)]

    counts = count_operations(both, parts.images, parts.proxies)
    return counts - count_operations(forward, parts.images)


def nested(parts: Any) -> keras.Model:
    """Return the same layers with all convolutions in a nested model."""
    inputs = keras.Input((9, 8, 3))
    inner = keras.Sequential([inputs, *parts.body, *parts.head[:-2]])
    return keras.Sequential([keras.Input((9, 8, 3)), inner, *parts.head[-2:]])


@pytest.mark.parametrize("make", [lambda parts: parts.functional(), nested])
def test_only_the_head_is_differentiated(
    parts: Any, make: Callable[[Any], keras.Model]
) -> None:
    counts = count_backward(make(parts), parts, 1)
    # One convolution and one ReLU lie behind the target, and no batch normalisation.
    assert counts["Conv2DBackpropInput"] == 1
    assert counts["ReluGrad"] == 1
    # TensorFlow makes those two of a convolution together; compiling drops it again.
    assert counts["Conv2DBackpropFilter"] == 1
    assert not [x for x in counts if "BatchNormGrad" in x]


def test_nothing_of_the_backbone_is_differentiated(parts: Any) -> None:
    parts.head = [parts.pool, layers.Dense(3)]
    parts.all = parts.body + parts.head
    counts = count_backward(parts.functional(), parts, 1)
    assert counts["MatMul"] == 1
    # That of the Dense layer, which TensorFlow makes unasked.
    assert counts.pop("BiasAddGrad", 0) <= 1
    assert not [x for x in counts if "Backprop" in x or "Conv" in x or "Grad" in x]


def test_each_further_proxy_costs_the_head_again(parts: Any) -> None:
    counts = count_backward(parts.functional(), parts, 3)
    assert counts["Conv2DBackpropInput"] == 3
    assert counts["Conv2D"] == counts["FusedBatchNormV3"] == 0


def test_a_plain_tape_does_differentiate_the_backbone(parts: Any) -> None:
    # The counting finds what it looks for.
    model = parts.functional()

    @tf.function
    def run(images: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(images)
            embeddings = model(images)
        return tape.gradient(embeddings, [images, *model.trainable_weights])

    counts = count_operations(run, tf.constant(parts.images))
    assert counts["Conv2DBackpropInput"] == 3 and counts["Conv2DBackpropFilter"] == 3


# Devices and threads


def test_under_a_mirrored_strategy(make_parts: Any) -> None:
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        parts = make_parts()
        model = parts.functional()
    view = ModelView(model, "target")
    images = tf.data.Dataset.from_tensor_slices((parts.images, parts.proxies))
    [batch] = strategy.experimental_distribute_dataset(images.batch(2))

    def work(images: Any, proxies: Any) -> Any:
        # A first look and a later one, in the thread of the replica.
        found = ModelView(model, "target")
        for left, right in zip(
            explain(view.record(images), proxies),
            explain(found.record(images), proxies),
            strict=True,
        ):
            tf.debugging.assert_equal(left, right)
        return explain(view.record(images), proxies)

    @tf.function
    def run(images: Any, proxies: Any) -> Any:
        return strategy.run(work, (images, proxies))

    results = run(*batch)
    check(
        [tf.concat(strategy.experimental_local_results(x), 0) for x in results], parts
    )


def run_in_threads(work: Callable[[int], None], num_threads: int = 4) -> None:
    """Run work(0), work(1), ... at once and raise what they raise."""
    barrier = threading.Barrier(num_threads)
    errors: list[BaseException] = []

    def target(number: int) -> None:
        try:
            barrier.wait(60)
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=target, args=[i]) for i in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("first_look", ["before", "in each thread"])
def test_four_threads_at_once(parts: Any, compiled: bool, first_look: str) -> None:
    model = parts.functional()
    before = ModelView(model, "target") if first_look == "before" else None
    images = np.random.default_rng(5).random((4, 2, 9, 8, 3), "float32")
    expected = [parts.expect(x) for x in images]

    def work(number: int) -> None:
        view = before or ModelView(model, "target")

        def run(images: Any, proxies: Any) -> Any:
            return explain(view.record(images), proxies)

        run = tf.function(run) if compiled else run
        for _ in range(5):
            results = run(images[number], parts.proxies)
            for result, value in zip(results, expected[number], strict=True):
                np.testing.assert_allclose(result, value, rtol=1e-4, atol=1e-6)

    run_in_threads(work)
    assert not any("call" in vars(layer) for layer in model._flatten_layers())


def test_four_threads_build_a_model_once(parts: Any) -> None:
    conv = layers.Conv2D(4, 3)
    model = keras.Sequential([conv, layers.GlobalAveragePooling2D(), layers.Dense(3)])
    results: dict[int, Any] = {}

    def work(number: int) -> None:
        view = ModelView(model, images=parts.images)
        results[number] = explain(view.record(parts.images), parts.proxies)

    run_in_threads(work)
    assert len(model.weights) == 4
    for number in range(4):
        for result, value in zip(results[number], results[0], strict=True):
            np.testing.assert_allclose(result, value, rtol=1e-5)
    np.testing.assert_allclose(results[0][1], model(parts.images), rtol=1e-5)


# Half precision


# The rounding of each number, half of the distance to the next one.
ROUNDING = {"mixed_float16": 2**-11, "mixed_bfloat16": 2**-8}


def check_half(results: Any, parts: Any, policy: str) -> None:
    """Compare with float32: about twenty roundings, relative to the largest."""
    for result, value in zip(results, parts.expect(), strict=True):
        assert result.dtype == tf.float32
        difference = np.abs(result - value).max() / np.abs(value).max()
        assert 0 < difference < 20 * ROUNDING[policy]


@pytest.mark.parametrize("policy", ROUNDING)
@pytest.mark.parametrize("compiled", [False, True])
def test_mixed_precision(
    parts: Any, make_parts: Any, policy: str, compiled: bool
) -> None:
    half = make_parts(policy)
    assert half.target.compute_dtype == policy.removeprefix("mixed_")
    view = ModelView(half.functional(), "target")

    def run(images: Any, proxies: Any) -> Any:
        return explain(view.record(images), proxies)

    run = tf.function(run) if compiled else run
    check_half(run(half.images, half.proxies), parts, policy)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_cotangents_of_any_size_survive_float16_on_a_fine_map(size: float) -> None:
    # 100 x 100 positions: 1e-3 / 1e4 is below the smallest number of float16.
    inputs = keras.Input((100, 100, 1))
    x = layers.Conv2D(2, 1, dtype="mixed_float16", activation="relu")(inputs)
    x = layers.GlobalAveragePooling2D(dtype="mixed_float16")(x)
    dense = layers.Dense(3, dtype="mixed_float16", name="dense")
    model = keras.Model(inputs, dense(x))
    recording = ModelView(model).record(np.ones((2, 100, 100, 1), "float32"))
    proxies = size * np.float32([[1, 0.5, -0.2], [-0.1, 0.3, 0.7]])
    alpha = proxies @ dense.get_weights()[0].T / 1e4
    expected = np.broadcast_to(alpha[:, None, None], (2, 100, 100, 2))
    np.testing.assert_allclose(
        recording.pull_back(proxies), expected, rtol=0.01, atol=1e-7 * size
    )


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_a_normalisation_and_a_softmax_are_found_in_half_precision(
    policy: str,
) -> None:
    inputs = keras.Input((9, 8, 3))
    conv = layers.Conv2D(4, 3, dtype=policy)
    x = layers.GlobalAveragePooling2D(dtype=policy)(conv(inputs))
    x = layers.Dense(6, dtype=policy)(x)
    unit = layers.UnitNormalization(dtype=policy, name="unit")(x)
    assert ModelView(keras.Model(inputs, unit)).embedding == "input of 'unit'"
    softmax = layers.Activation("softmax", dtype="float32", name="softmax")(x)
    assert ModelView(keras.Model(inputs, softmax)).embedding == "input of 'softmax'"
    dense = layers.Dense(6, dtype=policy, activation="softmax", name="last")
    assert ModelView(keras.Model(inputs, dense(x))).embedding == "logits of 'last'"


@pytest.fixture
def bfloat16_everywhere() -> Iterator[None]:
    """Set the policy of layers that are made without one."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy(policy)


@pytest.mark.usefixtures("bfloat16_everywhere")
def test_a_policy_that_is_set_for_all_layers(make_parts: Any) -> None:
    half, exact = make_parts(), make_parts("float32")
    assert half.target.compute_dtype == "bfloat16"
    recording = ModelView(half.functional(), "target").record(half.images)
    check_half(explain(recording, half.proxies), exact, "mixed_bfloat16")
