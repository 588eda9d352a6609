"""What EmbeddingCAMLogger adds to an epoch, in runs of `predict` over its examples."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.cost.plan import Plan, compile_forward, make_images, make_network
from benchmarks.cost.results import Row, single
from benchmarks.cost.timing import alternate, compare, timer
from keras_embcam.callbacks import EmbeddingCAMLogger
from keras_embcam.layers import Proxies
from keras_embcam.losses import ProxyAnchorLoss

# Of the time that an update adds to an epoch / predict. Class means take a run over
# the examples of their own.
TARGETS = {"single_point": 1.1, "trained": 1.1, "class_mean": 2.1}
NUM_PICTURES = 16
IMAGES_PER_CLASS = 20


def measure(plan: Plan) -> Iterator[Row]:
    """Yield the costs with few and with many examples."""
    few, many = plan.num_examples
    network = plan.small_network
    model = make_network(network, plan.small_size)
    similarities = Proxies(num_classes=-(-many // IMAGES_PER_CLASS))(model.output)
    model = keras.Model(model.input, similarities)
    model.compile("sgd", ProxyAnchorLoss())
    subject = f"{network}, {plan.small_size} x {plan.small_size}"
    yield from _measure(model, subject, many, list(TARGETS), plan, judged=True)
    yield from _measure(model, subject, few, list(TARGETS)[:1], plan, judged=False)


def _measure(
    model: keras.Model,
    subject: str,
    num_examples: int,
    proxies: list[str],
    plan: Plan,
    judged: bool,
) -> Iterator[Row]:
    examples = make_examples(num_examples, plan.small_size)
    # A short training: what the logger adds does not depend on its length.
    training = examples["image"][:16], examples["label"][:16]

    def train(*callbacks: keras.callbacks.Callback) -> None:
        model.fit(*training, batch_size=16, verbose=0, callbacks=list(callbacks))

    with tempfile.TemporaryDirectory() as folder:
        loggers = {
            proxy: EmbeddingCAMLogger(
                Path(folder) / proxy,
                examples,
                embedding_layer="embedding",
                proxy=proxy,
                num_images=NUM_PICTURES,
                strict=True,
            )
            for proxy in proxies
        }
        forward = compile_forward(model)
        batches = [
            tf.constant(examples["image"][start : start + 32])
            for start in range(0, num_examples, 32)
        ]
        runs: dict[str, Any] = {
            "predict": lambda: model.predict(examples["image"], verbose=0),
            "forward": lambda: [forward(batch).numpy() for batch in batches],
            "plain": train,
        }
        for proxy, logger in loggers.items():
            runs[proxy] = lambda logger=logger: train(logger)
        num_warm_ups = 1
        seconds = alternate(
            {name: timer(run) for name, run in runs.items()},
            plan.num_pairs,
            num_warm_ups,
        )
        num_epochs = plan.num_pairs + num_warm_ups
        log_bytes = _count_bytes(Path(folder) / proxies[0]) / num_epochs
    subject = f"{subject}, {num_examples:,} examples, {NUM_PICTURES} pictures"
    for proxy in proxies:
        added = [a - b for a, b in zip(seconds[proxy], seconds["plain"], strict=True)]
        yield Row(
            f"{subject}, {proxy}",
            "time added to an epoch / predict over the examples",
            compare(added, seconds["predict"]),
            plan.num_pairs,
            TARGETS[proxy] if judged else None,
        )
        ratio = compare(added, seconds["forward"])
        quantity = "time added to an epoch / compiled forward passes over the examples"
        yield Row(f"{subject}, {proxy}", quantity, ratio, plan.num_pairs)
    ratio = compare(seconds[proxies[0]], seconds["plain"])
    yield Row(
        f"{subject}, {proxies[0]}",
        "epoch with / without logger",
        ratio,
        plan.num_pairs,
        note="an epoch of one training step on 16 images",
    )
    kilobytes = single(log_bytes / 1000)
    yield Row(subject, "log an epoch", kilobytes, unit="kB")


def make_examples(num_examples: int, size: int) -> dict[str, np.ndarray]:
    """Return validation examples with labels and boxes."""
    random = np.random.default_rng(2)
    corners = random.uniform(0, 0.5, (num_examples, 2))
    # Smooth as photographs are: noise does not compress, and the log would be large.
    coarse = make_images(num_examples, max(size // 8, 1))
    return {
        "image": tf.image.resize(coarse, (size, size)).numpy(),
        "label": np.arange(num_examples) // IMAGES_PER_CLASS,
        "bbox": np.concatenate([corners, corners + 0.4], axis=1).astype("float32"),
    }


def _count_bytes(folder: Path) -> int:
    return sum(x.stat().st_size for x in folder.rglob("*") if x.is_file())
