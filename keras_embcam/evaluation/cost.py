"""What a method looks at, and what it costs by itself."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_embcam.evaluation.baselines import activation_sum
from keras_embcam.evaluation.compared_method import ComparedMethod
from keras_embcam.evaluation.measure import Column, Measured, fills
from keras_embcam.evaluation.measure_input import Context
from keras_embcam.evaluation.shared_runs import explain_with_all


@fills(
    "What was compared",
    Column("proxy", "proxy", 0),
    Column("weights", "weighting", 0),
    Column("conv_layer", "layer", 0),
    Column("map_size", "map", 0),
)
def describe_methods(context: Context) -> Measured:
    """State what each method explains, and the embedding that all of them do."""
    rows: list[dict[str, Any]] = []
    settings: dict[str, Any] = {
        "image size": " x ".join(map(str, context.first_batch["image"].shape[1:3])),
        "parameters": context.model.count_params(),
    }
    for method, layer in zip(context.methods, context.layers, strict=True):
        row = {"proxy": method.describe_proxy(), "weights": method.describe_weights()}
        if layer is not None:
            row["conv_layer"] = ", ".join(layer.names)
            row["map_size"] = ", ".join(" x ".join(map(str, x)) for x in layer.shapes)
            settings["embedding"] = f"{layer.embedding}, width {layer.width}"
        rows.append(row)
    return Measured(rows, settings=settings)


@fills(
    "Cost",
    Column("seconds", "seconds an image", 4),
    Column("relative_time", "times the embedding", 2),
    Column("kilobytes", "kB an image", 0),
)
def measure_costs(context: Context, num_timings: int) -> Measured:
    """Time each method alone on one batch, beside the plain embedding of it.

    Medians, after a first run that compiles; the two take turns. Memory is counted and
    not measured, as TensorFlow does not tell it on a CPU: what an explanation holds
    beside the forward pass, the float32 activations and gradients and the map at the
    size of the image.

    Args:
        context: of the set.
        num_timings: whose median is taken, >= 1.
    """
    batch = context.first_batch
    images = batch["image"]
    proxies = context.proxies.choose(
        context.methods, np.arange(len(images)), context.labels_of(batch)
    )
    costs = []
    for method, vectors, layer in zip(
        context.methods, proxies, context.layers, strict=True
    ):

        def explain_once(
            method: ComparedMethod = method, vectors: Any = vectors
        ) -> Any:
            return list(explain_with_all(context.model, [method], images, [vectors]))

        seconds, seconds_to_embed = _time_both(
            explain_once, lambda: context.embed(images, len(images)), num_timings
        )
        cost = {
            "seconds": seconds / len(images),
            "relative_time": seconds / seconds_to_embed,
        }
        if method.heatmaps is not None or layer is not None:
            num_floats = float(np.prod(images.shape[1:3]))
            if layer is not None:
                num_tensors = 1 if method.weighting is activation_sum else 2
                num_floats += num_tensors * sum(map(np.prod, layer.shapes))
            cost["kilobytes"] = float(num_floats) * 4 / 1000
        costs.append(cost)
    return Measured(costs)


def _time_both(
    function: Callable[[], Any], other: Callable[[], Any], num_timings: int
) -> tuple[float, float]:
    """Return the median seconds of two functions that take turns.

    Whatever else keeps the machine busy then slows both down alike.
    """
    seconds = []
    for turn in range(num_timings + 1):
        times = [time.perf_counter()]
        for run in (function, other):
            run()
            times.append(time.perf_counter())
        if turn:  # the first one compiles
            seconds.append(np.diff(times))
    medians = np.median(seconds, axis=0)
    return float(medians[0]), float(medians[1])
