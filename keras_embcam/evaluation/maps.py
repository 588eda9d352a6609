"""The heatmaps of many methods, with as few runs of the model as they allow."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_embcam import method as core
from keras_embcam.evaluation.method import Method
from keras_embcam.heatmaps import resize_heatmaps, scale_heatmaps
from keras_embcam.network.view import ModelView, Recording
from keras_embcam.presets import LayerFusion, apply_preset
from keras_embcam.running.compiled_functions import run_once
from keras_embcam.running.one_batch import compute_heatmaps, resolve_proxies
from keras_embcam.weightings import Weighting, get_weighting

Tensor = Any


class MapPlan(NamedTuple):
    """What a compiled run makes for one method; hashable.

    Attributes:
        proxy: the first and the last but one of its proxies among those passed; a
            function of the embeddings; or None for the single point.
        average: whether each proxy has weights of its own, to be averaged.
        weighting: ``(activations, gradients) -> weights``, or a `LayerFusion`.
        top_channels: see `EmbeddingCAM`.
    """

    proxy: Any
    average: bool
    weighting: Weighting | LayerFusion
    top_channels: int | None


def explain_with_all(
    model: keras.Model,
    methods: Sequence[Method],
    images: np.ndarray,
    proxies: Sequence[Any],
    embedding_layer: Any = None,
    normalize: bool = True,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number of each method with its heatmaps, one method at a time.

    The model runs once for all methods on one `conv_layer`, compiled once for them.

    Args:
        model: see `explain`.
        methods: m of them.
        images: (n, H, W, c) as the model takes them.
        proxies: m items, see `ProxySet.choose`. Where one is NaN the map means
            nothing.
        embedding_layer: see `explain`.
        normalize: see `explain`; False leaves maps in the units of the score, but
            those of `heatmaps` functions and of databases have none.

    Yields:
        Numbers 0 to m - 1, in any order, with (n, H, W) float32 maps in [0, 1].

    Raises:
        ValueError: for a method's own maps of another shape, or below zero.
    """
    families: dict[Any, list[int]] = {}
    for number, method in enumerate(methods):
        if method.heatmaps is not None or method.database is not None:
            yield number, _make_own_maps(model, method, images)
        else:
            conv_layer = find_layers(method)
            key = tuple(conv_layer) if isinstance(conv_layer, list) else conv_layer
            families.setdefault(key, []).append(number)
    for numbers in families.values():
        plans, vectors = _make_plans(
            [methods[x] for x in numbers], [proxies[x] for x in numbers]
        )
        first = methods[numbers[0]]
        layers = core.Method(
            conv_layer=first.conv_layer,
            preset=first.preset,
            embedding_layer=embedding_layer,
        )
        (maps,) = run_once(model, images, layers, compute_maps, plans, proxies=vectors)
        for column, number in enumerate(numbers):
            # One method at a time: fifty at full size would not fit into memory.
            yield number, _finish(maps[:, column], images, normalize)


def find_layers(method: Method) -> Any:
    """Return what a method passes as `conv_layer`: its own, or that of its preset."""
    return apply_preset(
        method.preset, method.conv_layer, method.weighting, method.top_channels
    )[0]


def compute_maps(
    view: ModelView,
    images: Any,
    proxies: Any,
    method: core.Method,
    plans: tuple[MapPlan, ...],
) -> tuple[Tensor]:
    """Return the raw maps of all plans from one run of the model; in graph code.

    Args:
        view: of the model.
        images: as the model takes them.
        proxies: (n, number of vectors, d) float32, or None.
        method: names the layers.
        plans: m of them.

    Returns:
        A tuple of one tensor, (n, m, h, w) float32, >= 0, at the size of the
        activations.
    """
    recording = view.record(images)
    made: dict[Any, tuple[Tensor, Tensor]] = {}
    maps = []
    weighting: Any
    for plan in plans:
        if plan.average:
            several = proxies[:, slice(*plan.proxy)]
            weighting = _average_over(recording, several, plan.weighting)
            run, vectors = recording, several[:, 0]
        else:
            if plan.proxy not in made:
                vectors = _find_vectors(view, recording, proxies, plan.proxy)
                made[plan.proxy] = vectors, recording.pull_back(vectors)
            vectors, gradients = made[plan.proxy]
            run = recording._replace(pull_back=_return(gradients))
            weighting = plan.weighting
        maps.append(compute_heatmaps(run, vectors, weighting, plan.top_channels))
    return (ops.stack(maps, axis=1),)


def _return(gradients: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a pull-back whose result is known."""
    return lambda _: gradients


def _find_vectors(
    view: ModelView, recording: Recording, proxies: Tensor, proxy: Any
) -> Tensor:
    if isinstance(proxy, tuple):
        return proxies[:, proxy[0]]
    return resolve_proxies(view, recording, proxy)


def _average_over(recording: Recording, proxies: Tensor, weighting: Any) -> Weighting:
    """Return the weighting whose weights are the mean of those of several proxies.

    Channels are ranked after that (Chen et al.), and a proxy of zeros is none.
    """

    def average(activations: Tensor, _: Tensor) -> Tensor:
        def weigh(one: Tensor) -> Tensor:
            gradients = ops.reshape(recording.pull_back(one), ops.shape(activations))
            is_there = ops.any(one != 0, axis=-1)[:, None, None, None]
            return ops.where(is_there, weighting(activations, gradients), 0.0)

        weights = ops.map(weigh, ops.swapaxes(proxies, 0, 1))
        # The number of proxies differs by image, and a factor is no matter here.
        return ops.mean(weights, axis=0)

    return average


def _make_plans(
    methods: Sequence[Method], proxies: Sequence[Any]
) -> tuple[tuple[MapPlan, ...], np.ndarray | None]:
    """Return the plans, and the vectors (n, number, d) that they point into."""
    columns: list[np.ndarray] = []
    places: dict[int, tuple[int, int]] = {}
    plans = []
    for method, vectors in zip(methods, proxies, strict=True):
        place = vectors
        if isinstance(vectors, np.ndarray):
            if id(vectors) not in places:
                start = sum(column.shape[1] for column in columns)
                filled = np.where(np.isnan(vectors), 0, vectors)
                columns.append(filled.reshape(len(vectors), -1, vectors.shape[-1]))
                places[id(vectors)] = start, start + columns[-1].shape[1]
            place = places[id(vectors)]
        average = isinstance(vectors, np.ndarray) and vectors.ndim == 3
        if average and isinstance(method.conv_layer, list):
            raise ValueError(
                f"The method {method.name!r} averages the weights of sampled triplets, "
                "which goes with one layer. Pass one `conv_layer`, or a weighting that "
                "is linear in the gradient. Received: "
                f"conv_layer={method.conv_layer!r}, weighting={method.weighting!r}"
            )
        _, weighting = apply_preset(
            method.preset, None, method.weighting, method.top_channels
        )
        if not isinstance(weighting, LayerFusion):
            weighting = get_weighting(weighting)
        plans.append(MapPlan(place, average, weighting, method.top_channels))
    return tuple(plans), np.concatenate(columns, axis=1) if columns else None


def _make_own_maps(
    model: keras.Model, method: Method, images: np.ndarray
) -> np.ndarray:
    if method.database is not None:
        maps = method.database.explain(model, images, **method.options)
    else:
        maps = method.heatmaps(images) if method.heatmaps is not None else None
    maps = np.asarray(maps, "float32")
    if maps.shape != images.shape[:3] or not np.all(maps >= 0):
        raise ValueError(
            f"The maps of the method {method.name!r} must have the shape "
            f"{images.shape[:3]}, one at the size of each image, and be >= 0. "
            f"Received the shape {maps.shape}, the least value {maps.min(initial=0)}"
        )
    return ops.convert_to_numpy(scale_heatmaps(maps))


def _finish(maps: np.ndarray, images: np.ndarray, normalize: bool) -> np.ndarray:
    resized = resize_heatmaps(maps, images.shape[1:3])
    return ops.convert_to_numpy(scale_heatmaps(resized) if normalize else resized)
