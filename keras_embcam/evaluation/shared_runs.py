"""The heatmaps of many methods, with as few runs of the model as they allow."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_embcam.evaluation.compared_method import ComparedMethod
from keras_embcam.heatmaps import resize_heatmaps, scale_heatmaps
from keras_embcam.method import Method
from keras_embcam.network.recorded import Recording
from keras_embcam.network.view import ModelView
from keras_embcam.running.compiled_functions import run_once
from keras_embcam.running.one_batch import (
    compute_heatmaps,
    fields_of,
    read_field,
    resolve_proxies,
)
from keras_embcam.weightings import Weighting

Tensor = Any

# Of images that are changed or put together, beside those of the stream.
BATCH_SIZE = 32


class MapPlan(NamedTuple):
    """What a compiled run makes for one method; hashable.

    Attributes:
        proxy: a pair (start, stop), the places of its proxies among those passed; a
            function of the embeddings; or None for the single point.
        is_averaged: whether each proxy has weights of its own, to be averaged.
        method: how the map is made.
    """

    proxy: Any
    is_averaged: bool
    method: Method


def explain_with_all(
    model: keras.Model,
    methods: Sequence[ComparedMethod],
    images: np.ndarray,
    proxies: Sequence[Any],
    normalize: bool = True,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number of each method with its heatmaps, one method at a time.

    The model runs once for all methods on the same layers, compiled once for them.

    Args:
        model: see `explain`.
        methods: m of them.
        images: (n, H, W, c) as the model takes them.
        proxies: m items, see `SetProxies.choose`. Where one is NaN the map means
            nothing.
        normalize: see `explain`; False leaves maps in the units of the score, but
            those of `heatmaps` functions and of databases have none.

    Yields:
        Numbers 0 to m - 1, in any order, with (n, H, W) float32 maps in [0, 1].

    Raises:
        ValueError: for a method's own maps of another shape, or below zero.
    """
    families: dict[Any, list[int]] = {}
    for number, method in enumerate(methods):
        if method.explains_proxy:
            families.setdefault(method.place, []).append(number)
        else:
            yield number, _make_own_maps(model, method, images)
    for numbers in families.values():
        plans, vectors = _make_plans(
            [methods[x] for x in numbers], [proxies[x] for x in numbers]
        )
        first = methods[numbers[0]]
        layers = Method(
            conv_layer=first.conv_layer,
            embedding_layer=first.embedding_layer,
            preset=first.preset,
            token_grid=first.token_grid,
            num_prefix_tokens=first.num_prefix_tokens,
        )
        maps, fields = run_once(
            model, images, layers, compute_maps, plans, proxies=vectors
        )
        for column, number in enumerate(numbers):
            # One method at a time: fifty at full size would not fit into memory.
            yield number, _finish(maps[:, column], images, fields, normalize)


def compute_maps(
    view: ModelView,
    images: Any,
    proxies: Any,
    layers: Method,
    plans: tuple[MapPlan, ...],
) -> tuple[Tensor, Tensor]:
    """Return the raw maps of all plans from one run of the model; in graph code.

    Args:
        view: of the model.
        images: as the model takes them.
        proxies: (n, number of vectors, d) float32, or None.
        layers: the method whose layers the view is of.
        plans: m of them.

    Returns:
        (n, m, h, w) float32, >= 0, at the size of the activations, and what
        `fields_of` the images says.
    """
    recording = view.record(images)
    made: dict[Any, tuple[Tensor, Tensor]] = {}
    maps = []
    for place, is_averaged, method in plans:
        weigh: Any = method.weigh_for(view.makes_tokens)
        if is_averaged:
            several = proxies[:, slice(*place)]
            run, vectors = recording, several[:, 0]
            weigh = _average_over(recording, several, weigh)
        else:
            if place not in made:
                vectors = _find_vectors(view, recording, proxies, place)
                made[place] = vectors, recording.pull_back(vectors)
            vectors, gradients = made[place]
            run = recording._replace(pull_back=_return(gradients))
        maps.append(compute_heatmaps(run, vectors, weigh, method.top_channels))
    return ops.stack(maps, axis=1), fields_of(view, images)


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

    Channels are ranked by this mean (Chen et al.). A proxy of zeros adds nothing.
    """

    def average(activations: Tensor, _: Tensor) -> Tensor:
        def weigh(one: Tensor) -> Tensor:
            gradients = ops.reshape(recording.pull_back(one), ops.shape(activations))
            is_there = ops.any(one != 0, axis=-1)[:, None, None, None]
            return ops.where(is_there, weighting(activations, gradients), 0.0)

        weights = ops.map(weigh, ops.swapaxes(proxies, 0, 1))
        # Images have different numbers of proxies. The mean over all of them differs
        # from the right one by a factor, which scaling the map removes.
        return ops.mean(weights, axis=0)

    return average


def _make_plans(
    methods: Sequence[ComparedMethod], proxies: Sequence[Any]
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
        is_averaged = isinstance(vectors, np.ndarray) and vectors.ndim == 3
        if is_averaged and isinstance(method.layers, tuple):
            raise ValueError(
                f"The method {method.name!r} averages the weights of sampled triplets, "
                "which goes with one layer. Pass one `conv_layer`, or a weighting that "
                "is linear in the gradient. Received: "
                f"conv_layer={method.conv_layer!r}, weighting={method.weighting!r}"
            )
        # Without its layers, which would keep the model alive: the plan is a key of
        # what is compiled.
        how = replace(method.core, conv_layer=None, embedding_layer=None)
        plans.append(MapPlan(place, is_averaged, how))
    return tuple(plans), np.concatenate(columns, axis=1) if columns else None


def _make_own_maps(
    model: keras.Model, method: ComparedMethod, images: np.ndarray
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


def _finish(
    maps: np.ndarray, images: np.ndarray, fields: np.ndarray, normalize: bool
) -> np.ndarray:
    resized = resize_heatmaps(maps, images.shape[1:3], read_field(fields))
    return ops.convert_to_numpy(scale_heatmaps(resized) if normalize else resized)


def split(num_images: int, batch_size: int = BATCH_SIZE) -> list[slice]:
    """Return the rows of each batch of images.

    Example:

    >>> split(5, 3)
    [slice(0, 3, None), slice(3, 5, None)]
    """
    starts = range(0, num_images, batch_size)
    return [slice(x, min(x + batch_size, num_images)) for x in starts]
