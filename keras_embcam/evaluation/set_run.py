"""One run over a set: every method's figures, and what the methods explain."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import tree

from keras_embcam import method as core
from keras_embcam.evaluation.maps import explain_with_all, find_layers
from keras_embcam.evaluation.measures import (
    THRESHOLDS,
    Measures,
    Regions,
    measure_uniform,
)
from keras_embcam.evaluation.method import DEFAULT_METHODS, Method, get_methods
from keras_embcam.evaluation.vectors import ProxySet, find_missing
from keras_embcam.network.feature_maps import Scales
from keras_embcam.network.view import ModelView
from keras_embcam.running.compiled_functions import run_once
from keras_embcam.running.labelled_examples import ExampleStream
from keras_embcam.running.one_batch import embed_images


class SetRun(NamedTuple):
    """What a run over a set found.

    Attributes:
        measures: m of them, one a method.
        proxies: of the set.
        num_images: that were measured.
        embeddings: (n, d) float32 raw, None where nothing asked for them.
        labels: (n,), None where the set has none or nothing asked for them.
    """

    measures: list[Measures]
    proxies: ProxySet
    num_images: int
    embeddings: np.ndarray | None
    labels: np.ndarray | None


def measure_set(
    model: keras.Model,
    stream: ExampleStream,
    methods: Sequence[Method],
    metrics: tuple[str, ...],
    regions: Regions,
    *,
    embedding_layer: Any = None,
    seed: int = 0,
    embed_first: bool = False,
    thresholds: tuple[float, ...] = THRESHOLDS,
) -> SetRun:
    """Measure all methods on a set, batch by batch.

    The model runs once an image for each layer that is explained; once more before
    that where a proxy takes the embeddings of the whole set.

    Args:
        model: see `explain`.
        stream: of the set.
        methods: m of them.
        metrics: see `Measures`, also for the next.
        regions: how the objects are stated.
        embedding_layer: see `explain`.
        seed: of sampled triplets.
        embed_first: True to have the embeddings even where no proxy needs them.
        thresholds: see `Measures`.

    Returns:
        A `SetRun`.

    Raises:
        ValueError: for examples that do not fit, have no labels where a proxy needs
            them, or come in another order each time.
    """
    unlabelled = [method.name for method in methods if method.needs_labels]
    if unlabelled and "label" not in stream.keys:
        raise ValueError(
            'These methods need examples with a "label" (n,): '
            f"{unlabelled}. Add it, or leave these methods out. Received examples "
            f"with {sorted(stream.keys)}"
        )
    embeddings = labels = None
    if embed_first or any(method.needs_set for method in methods):
        conv_layer = find_single_layer(methods)
        embeddings, labels = _embed_set(model, stream, conv_layer, embedding_layer)
    proxies = ProxySet(embeddings, labels, seed)
    measures = [
        Measures(metrics, regions, thresholds, method.find_box_threshold())
        for method in methods
    ]
    num_images = 0
    for batch in stream:
        images = batch["image"]
        rows = np.arange(num_images, num_images + len(images))
        num_images += len(images)
        if labels is not None and not np.array_equal(
            labels[rows[0] :][: len(rows)], batch["label"]
        ):
            raise ValueError(
                "`examples` must come in the same order each time, for class means "
                "and triplets take a run of their own. The labels of the images "
                f"{rows[0]} to {rows[-1]} differ from those of the first run. Leave "
                "out shuffling."
            )
        vectors = proxies.choose(methods, rows, batch.get("label"))
        uniform = measure_uniform(batch, regions)
        for number, heatmaps in explain_with_all(
            model, methods, images, vectors, embedding_layer
        ):
            missing = find_missing(vectors[number], len(images))
            measures[number].update(heatmaps, batch, uniform, missing)
    return SetRun(measures, proxies, num_images, embeddings, labels)


def choose_methods(
    methods: Any, conv_layer: Any, keys: set[str]
) -> tuple[list[Method], list[str]]:
    """Return the methods, and notes on what was left out of the default ones.

    Args:
        methods: see `get_methods`.
        conv_layer: of the methods that name none and have no preset.
        keys: what the examples have.
    """
    found, notes = get_methods(methods), []
    unlabelled = [method.name for method in found if method.needs_labels]
    if unlabelled and "label" not in keys and methods is DEFAULT_METHODS:
        found = [method for method in found if not method.needs_labels]
        notes = [f"Left out, as the examples have no labels: {unlabelled}"]
    if conv_layer is not None:
        found = [
            replace(method, conv_layer=conv_layer)
            if method.conv_layer is None
            and method.preset is None
            and method.explains_proxy
            else method
            for method in found
        ]
    return found, notes


def make_embedder(model: keras.Model, conv_layer: Any, embedding_layer: Any) -> Any:
    """Return a function of images (n, H, W, c) that gives raw embeddings (n, d)."""

    def embed(images: np.ndarray) -> np.ndarray:
        method = core.Method(conv_layer=conv_layer, embedding_layer=embedding_layer)
        (embeddings,) = run_once(model, images, method, embed_images)
        return embeddings

    return embed


def find_single_layer(methods: Sequence[Method]) -> Any:
    """Return a layer that one of the methods names, to view the model at."""
    layers = [find_layers(method) for method in methods if method.explains_proxy]
    return next((x for x in layers if not isinstance(x, list | tuple | Scales)), None)


class LayerFacts(NamedTuple):
    """What a table says of the layers that a method explains.

    Attributes:
        names: their paths.
        shapes: (h, w, k) of the activations of each.
        embedding: what is taken for the raw embedding.
        width: d of the embedding.
    """

    names: list[str]
    shapes: list[tuple[int, ...]]
    embedding: str
    width: int


def look_at_layers(
    model: keras.Model,
    methods: Sequence[Method],
    embedding_layer: Any,
    images: np.ndarray,
) -> list[LayerFacts | None]:
    """Return the facts of each method's layers, None for a method that has none."""
    known: dict[str, LayerFacts] = {}
    facts: list[LayerFacts | None] = []
    for method in methods:
        conv_layer = find_layers(method)
        key = repr(conv_layer)
        if method.explains_proxy and key not in known:
            view = ModelView(model, conv_layer, embedding_layer, images)
            activations = tree.flatten(view.record(images[:1]).activations)
            known[key] = LayerFacts(
                tree.flatten(view.conv_layer),
                [tuple(x.shape[1:]) for x in activations],
                view.embedding,
                view.embedding_width,
            )
        facts.append(known[key] if method.explains_proxy else None)
    return facts


def _embed_set(
    model: keras.Model, stream: ExampleStream, conv_layer: Any, embedding_layer: Any
) -> tuple[np.ndarray, np.ndarray | None]:
    embed = make_embedder(model, conv_layer, embedding_layer)
    embeddings, labels = [], []
    for batch in stream:
        embeddings.append(embed(batch["image"]))
        if "label" in batch:
            labels.append(batch["label"])
    return np.concatenate(embeddings), np.concatenate(labels) if labels else None
