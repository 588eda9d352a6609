"""What a method costs by itself: time measured, memory counted."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_embcam.evaluation.baselines import activation_sum
from keras_embcam.evaluation.maps import explain_with_all
from keras_embcam.evaluation.method import Method
from keras_embcam.evaluation.set_run import LayerFacts, make_embedder


def measure_costs(
    model: keras.Model,
    methods: Sequence[Method],
    images: np.ndarray,
    proxies: Sequence[Any],
    layers: Sequence[LayerFacts | None],
    *,
    conv_layer: Any = None,
    embedding_layer: Any = None,
    num_timings: int = 3,
) -> list[dict[str, float]]:
    """Time each method alone on one batch, beside the plain embedding of it.

    Medians, after a first run that compiles; the two take turns. Memory is counted and
    not measured, as TensorFlow does not tell it on a CPU: what an explanation holds
    beside the forward pass, the float32 activations and gradients and the map at the
    size of the image.

    Args:
        model: see `explain`.
        methods: m of them.
        images: (n, H, W, c) as the model takes them.
        proxies: m items, see `ProxySet.choose`.
        layers: m items, what is known of their layers.
        conv_layer: any layer to view the model at, for the plain embedding.
        embedding_layer: see `explain`.
        num_timings: whose median is taken, >= 1.

    Returns:
        A dict for each method: "seconds" an image, "relative_time" to the embedding,
        and "kilobytes" an image where it can be counted.
    """
    embed = make_embedder(model, conv_layer, embedding_layer)
    costs = []
    for method, vectors, layer in zip(methods, proxies, layers, strict=True):

        def explain_once(method: Method = method, vectors: Any = vectors) -> Any:
            return list(
                explain_with_all(model, [method], images, [vectors], embedding_layer)
            )

        seconds, seconds_to_embed = _time_both(
            explain_once, lambda: embed(images), num_timings
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
    return costs


def _time_both(
    function: Callable[[], Any], other: Callable[[], Any], num_timings: int
) -> tuple[float, float]:
    """Return the median seconds of two functions that take turns.

    So that whatever else keeps the machine busy weighs on both alike.
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
