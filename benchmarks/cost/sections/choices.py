"""What the choices cost: many proxies, finer layers, weightings, precision, eager."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.cost.counting import count
from benchmarks.cost.plan import (
    LAYERS,
    Plan,
    compile_forward,
    make_images,
    make_network,
    make_vectors,
)
from benchmarks.cost.results import Row
from benchmarks.cost.timing import alternate, compare, find_spread, timer
from keras_embcam import EmbeddingCAM, explain
from keras_embcam.weightings import WEIGHTINGS

# Of all explanations of an image together / forward pass.
PROXIES_TARGET = 1.3


def measure_proxies(plan: Plan) -> Iterator[Row]:
    """Yield the cost of several explanations of each image."""
    model = make_network(plan.networks[0], plan.image_size)
    images = make_images(plan.batch_sizes[-1], plan.image_size)
    runs: dict[str, Callable[[], Any]] = {"forward": _forward(model, images)}
    for m in plan.num_proxies:
        vectors = make_vectors(len(images), m)
        runs[str(m)] = _explain(model, images, proxies=vectors)
    seconds = alternate(_timers(runs), plan.num_pairs, num_warm_ups=1)
    subject = f"{plan.networks[0]}, batch {len(images)}, pooling + Dense behind"
    for m in plan.num_proxies:
        yield Row(
            subject,
            f"{m} explanations of each image / forward pass",
            compare(seconds[str(m)], seconds["forward"]),
            plan.num_pairs,
            PROXIES_TARGET if m == 50 else None,
        )
    for m in plan.num_proxies[1:]:
        ratio = compare(seconds[str(m)], seconds[str(plan.num_proxies[0])])
        quantity = f"{m} explanations of each image / {plan.num_proxies[0]}"
        yield Row(subject, quantity, ratio, plan.num_pairs)
    yield _measure_further_proxy(model, plan)


def _measure_further_proxy(model: keras.Model, plan: Plan) -> Row:
    """Return the cost of one more proxy where the head holds convolutions."""
    conv_layer = LAYERS[plan.networks[0]][1]
    images = make_images(plan.medium_batch, plan.image_size)
    one, several = 1, 11
    runs = {"forward": _forward(model, images)}
    for m in (one, several):
        vectors = make_vectors(len(images), m)
        runs[str(m)] = _explain(model, images, proxies=vectors, conv_layer=conv_layer)
    seconds = alternate(_timers(runs), plan.num_pairs)
    rounds = zip(*[seconds[str(m)] for m in (one, several)], strict=True)
    further = [(more - less) / (several - one) for less, more in rounds]
    counted = count(model, conv_layer).floor - 1
    return Row(
        f"{plan.networks[0]}, batch {len(images)}, {conv_layer}",
        "each further explanation / forward pass",
        compare(further, seconds["forward"]),
        plan.num_pairs,
        note="one block of convolutions is behind this layer; by counting "
        f"multiplications {counted:.3f}",
    )


def measure_layers(plan: Plan) -> Iterator[Row]:
    """Yield the cost of finer layers, and of the preset that joins three of them."""
    layers = LAYERS[plan.networks[0]][0]
    variants: dict[str, dict[str, Any]] = {x: {"conv_layer": x} for x in layers}
    variants['preset "localize"'] = {"preset": "localize"}
    model = make_network(plan.networks[0], plan.image_size)
    floors = {name: count(model, name).floor for name in layers}
    # It goes back to the finest of the three once.
    floors['preset "localize"'] = max(floors.values())
    notes = {x: f"by counting multiplications {y:.3f}" for x, y in floors.items()}
    yield from _measure_variants(variants, plan, notes)


def measure_weightings(plan: Plan) -> Iterator[Row]:
    """Yield the cost of each weighting at the last layer."""
    variants: dict[str, dict[str, Any]] = {x: {"weighting": x} for x in WEIGHTINGS}
    # The toy has only 8 channels.
    top_channels = 50 if plan.networks[0] != "toy" else 5
    variants[f"gradcam, top {top_channels} channels"] = {"top_channels": top_channels}
    yield from _measure_variants(variants, plan, {})


def measure_precision(plan: Plan) -> Iterator[Row]:
    """Yield `explain` and the eager layer, in float32 and bfloat16."""
    images = make_images(plan.medium_batch, plan.image_size)
    before = keras.config.dtype_policy()
    for policy in ("float32", "mixed_bfloat16"):
        keras.config.set_dtype_policy(policy)
        try:
            model = make_network(plan.networks[0], plan.image_size)
        finally:
            keras.config.set_dtype_policy(before)
        cam = EmbeddingCAM(model)
        tensor = tf.constant(images)
        seconds = alternate(
            _timers(
                {
                    "forward": _forward(model, images),
                    "explain": _explain(model, images),
                    "eager forward": functools.partial(model, tensor, training=False),
                    "eager layer": functools.partial(cam.__call__, tensor),
                }
            ),
            plan.num_pairs,
            num_warm_ups=1,
        )
        subject = f"{plan.networks[0]}, batch {len(images)}, {policy}"
        milliseconds = find_spread([1000 * x for x in seconds["forward"]])
        yield Row(subject, "forward pass", milliseconds, plan.num_pairs, unit="ms")
        for quantity, one, other in (
            ("explain / forward pass", "explain", "forward"),
            (
                "EmbeddingCAM, eager / eager forward pass",
                "eager layer",
                "eager forward",
            ),
        ):
            ratio = compare(seconds[one], seconds[other])
            yield Row(subject, quantity, ratio, plan.num_pairs)


def _measure_variants(
    variants: dict[str, dict[str, Any]], plan: Plan, notes: dict[str, str]
) -> Iterator[Row]:
    model = make_network(plan.networks[0], plan.image_size)
    images = make_images(plan.medium_batch, plan.image_size)
    runs = {name: _explain(model, images, **x) for name, x in variants.items()}
    seconds = alternate(
        _timers({"forward": _forward(model, images), **runs}), plan.num_pairs
    )
    for name in variants:
        yield Row(
            f"{plan.networks[0]}, batch {len(images)}, {name}",
            "explain / forward pass",
            compare(seconds[name], seconds["forward"]),
            plan.num_pairs,
            note=notes.get(name, ""),
        )


def _forward(model: keras.Model, images: np.ndarray) -> Callable[[], Any]:
    forward, tensor = compile_forward(model), tf.constant(images)
    return lambda: forward(tensor).numpy()


def _explain(
    model: keras.Model, images: np.ndarray, **options: Any
) -> Callable[[], Any]:
    return lambda: explain(model, images, batch_size=len(images), **options)


def _timers(runs: dict[str, Callable[[], Any]]) -> dict[str, Callable[[], float]]:
    return {name: timer(run) for name, run in runs.items()}
