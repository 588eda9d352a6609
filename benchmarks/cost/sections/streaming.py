"""A long stream of images: how fast, and how much memory.

Run as a program it explains one stream and prints what it took: the peak of the memory
of a process never falls again.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import keras
import tensorflow as tf

from benchmarks.cost.plan import Plan, compile_forward, make_network
from benchmarks.cost.results import Row, single
from benchmarks.cost.timing import alternate, compare, timer
from keras_embcam import explain_batches

MEMORY_TARGET = 1.05


def measure(plan: Plan) -> Iterator[Row]:
    """Yield speed against `predict`, and the growth of the peak."""
    size = plan.stream_size
    few, many = plan.num_streamed
    network = plan.stream_network
    subject = f"{network}, {size} x {size}, tf.data"
    model = make_network(network, size)
    dataset = make_stream(few, size)
    forward = compile_forward(model)
    seconds = alternate(
        {
            "forward pass": timer(lambda: [forward(x).numpy() for x in dataset]),
            "predict": timer(lambda: model.predict(dataset, verbose=0)),
            "explain": timer(lambda: consume(model, dataset)),
        },
        plan.few_pairs,
    )
    for other in ("predict", "forward pass"):
        yield Row(
            f"{subject}, {few:,} images",
            f"images a second, explain_batches / {other}",
            compare(seconds[other], seconds["explain"]),
            plan.few_pairs,
            note="here more is better; the others return embeddings only",
        )
    found = {n: _run_alone(network, n, size) for n in (few, many)}
    yield Row(
        f"{subject}, {many:,} images",
        "images a second, explain_batches / predict",
        single(found[many]["predict"] / found[many]["seconds"]),
        note="once each, one after the other",
    )
    rate = many / found[many]["seconds"]
    yield Row(
        f"{subject}, {many:,} images",
        "images a second, explain_batches",
        single(rate),
        unit="images/s",
    )
    for n in (few, many):
        yield Row(
            f"{subject}, {n:,} images",
            "peak memory of the process",
            single(found[n]["kibibytes"] / 1024),
            unit="MiB",
        )
    yield Row(
        subject,
        f"peak memory over {many:,} images / over {few:,}",
        single(found[many]["kibibytes"] / found[few]["kibibytes"]),
        target=MEMORY_TARGET,
    )


def make_stream(num_images: int, size: int) -> tf.data.Dataset:
    """Return a data set of batches of 32 images of noise, made when asked for."""

    def make_image(index: tf.Tensor) -> tf.Tensor:
        return tf.random.stateless_uniform((size, size, 3), tf.stack([index, 0]))

    images = tf.data.Dataset.range(num_images).map(make_image)
    return images.batch(32).prefetch(2)


def consume(model: keras.Model, dataset: tf.data.Dataset) -> int:
    """Explain all images, keep none, and return how many there were."""
    return sum(len(batch.heatmaps) for batch in explain_batches(model, dataset))


def _run_alone(network: str, num_images: int, size: int) -> dict[str, float]:
    command = [sys.executable, "-m", __name__, network, str(num_images), str(size)]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parents[3],
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def find_peak() -> int:
    """Return the most memory that this process has held, in KiB (Linux).

    `resource.getrusage` would tell that of the process it was forked from, if more.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(peak)


def main() -> None:
    """Explain one stream in this process; print seconds, peak memory, `predict`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("network")
    parser.add_argument("num_images", type=int)
    parser.add_argument("size", type=int)
    options = parser.parse_args()
    model = make_network(options.network, options.size)
    consume(model, make_stream(64, options.size))  # compiles
    start = time.perf_counter()
    consume(model, make_stream(options.num_images, options.size))
    found = {
        "seconds": time.perf_counter() - start,
        "kibibytes": find_peak(),
    }
    model.predict(make_stream(64, options.size), verbose=0)
    start = time.perf_counter()
    model.predict(make_stream(options.num_images, options.size), verbose=0)
    found["predict"] = time.perf_counter() - start
    print(json.dumps(found))


if __name__ == "__main__":
    main()
