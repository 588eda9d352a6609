"""`explain` against the compiled forward pass; the first call; how often it traces."""

import time
from collections.abc import Iterator

import keras
import tensorflow as tf

from benchmarks.cost.plan import Plan, compile_forward, make_images, make_network
from benchmarks.cost.results import Row, single
from benchmarks.cost.timing import alternate, compare, find_spread, timer
from keras_embcam import explain
from keras_embcam.running.compiled_functions import list_compiled

# Of explain / forward pass, by batch size.
TARGETS = {1: 1.08, 32: 1.03}
NUM_CALLS = 10


def measure(plan: Plan) -> Iterator[Row]:
    """Yield the rows of each network, and what a call costs by itself."""
    for name in plan.networks:
        model = make_network(name, plan.image_size)
        yield from _measure_first_call(name, model, plan)
        for batch_size in plan.batch_sizes:
            target = TARGETS.get(batch_size) if name == plan.networks[0] else None
            yield from _measure_ratio(name, model, batch_size, target, plan)
        yield _count_traces(name, model, plan)
    yield _measure_call(plan)


def _measure_first_call(name: str, model: keras.Model, plan: Plan) -> Iterator[Row]:
    images = make_images(1, plan.image_size)
    start = time.perf_counter()
    compile_forward(model)(tf.constant(images))
    forward = time.perf_counter() - start
    start = time.perf_counter()
    explain(model, images)
    seconds = time.perf_counter() - start
    note = f"the compiled forward pass takes {forward:.1f} s at its first call"
    yield Row(name, "first call", single(seconds), unit="s", note=note)


def _measure_ratio(
    name: str, model: keras.Model, batch_size: int, target: float | None, plan: Plan
) -> Iterator[Row]:
    images = make_images(batch_size, plan.image_size)
    tensor = tf.constant(images)
    forward = compile_forward(model)
    # Short runs are noisy, and cheap to repeat.
    num_pairs = plan.num_pairs * (4 if batch_size == 1 else 1)
    seconds = alternate(
        {
            "forward": timer(lambda: forward(tensor).numpy()),
            "explain": timer(lambda: explain(model, images, batch_size=batch_size)),
        },
        num_pairs,
    )
    subject = f"{name}, batch {batch_size}"
    milliseconds = [1000 * x for x in seconds["forward"]]
    yield Row(subject, "forward pass", find_spread(milliseconds), num_pairs, unit="ms")
    ratio = compare(seconds["explain"], seconds["forward"])
    yield Row(subject, "explain / forward pass", ratio, num_pairs, target)


def _measure_call(plan: Plan) -> Row:
    """Return what remains where the network has next to nothing to do."""
    model = make_network("toy", plan.image_size)
    images = make_images(1, plan.image_size)
    forward, tensor = compile_forward(model), tf.constant(images)
    num_pairs = plan.num_pairs * 4
    seconds = alternate(
        {
            "forward": timer(lambda: forward(tensor).numpy()),
            "explain": timer(lambda: explain(model, images)),
        },
        num_pairs,
    )
    rounds = zip(seconds["explain"], seconds["forward"], strict=True)
    milliseconds = [1000 * (a - b) for a, b in rounds]
    return Row(
        "three small convolutions, batch 1",
        "explain minus forward pass",
        find_spread(milliseconds),
        num_pairs,
        unit="ms",
        note="the fixed cost of a call, whatever the network",
    )


def _count_traces(name: str, model: keras.Model, plan: Plan) -> Row:
    for num_images in range(1, NUM_CALLS + 1):
        explain(model, make_images(num_images, plan.image_size))
    num_traces = sum(x.num_traces for x in list_compiled(model))
    note = f"of {NUM_CALLS} calls with 1 to {NUM_CALLS} images, the first one included"
    return Row(name, "traces", single(num_traces), target=1, note=note)
