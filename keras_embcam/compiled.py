"""Functions of batches of images, compiled once for a model and kept as long as it."""

import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops, tree

from keras_embcam.image_sources import Batch, ImageSource
from keras_embcam.model_view import ModelView, find_images
from keras_embcam.proxy_chooser import ProxyChooser

# Compiled functions that are kept for each model.
MAX_COMPILED = 16


def run_batches(
    model: keras.Model,
    source: ImageSource,
    chooser: ProxyChooser,
    conv_layer: Any,
    embedding_layer: Any,
    function: Callable[..., Any],
    *options: Any,
) -> Iterator[tuple[Batch, list[np.ndarray]]]:
    """Yield each batch with what a compiled function makes of it.

    Args:
        model: as in `explain`.
        source: of the images.
        chooser: of their proxies.
        conv_layer: see `EmbeddingCAM`.
        embedding_layer: see `EmbeddingCAM`.
        function: ``(view, images, proxies, *options) -> tensors``, such as
            `explain_images`; compiled once for a model.
        *options: of the function, hashable.
    """
    start = 0
    for batch in source:
        inputs = tree.map_structure(ops.convert_to_tensor, batch.inputs)
        explainer = _get_explainer(
            model, inputs, conv_layer, embedding_layer, function, *options
        )
        num_images = len(find_images(inputs))
        chosen = chooser.choose(
            start, num_images, batch.labels, explainer.view.embedding_width
        )
        start += num_images
        yield batch, explainer(inputs, chosen)
    chooser.check_end(start)


class _Explainer:
    """A compiled explanation of one model; does not keep the model alive."""

    def __init__(
        self, view: ModelView, function: Callable[..., Any], *options: Any
    ) -> None:
        self.view = view
        self.num_traces = 0

        # Keras does not convert the code of its models with autograph either.
        @tf.function(autograph=False)
        def run(images: Any, proxies: Any) -> Any:
            self.num_traces += 1
            return function(view, images, proxies, *options)

        self._run = run

    def __call__(self, images: Any, proxies: Any) -> list[np.ndarray]:
        if isinstance(proxies, np.ndarray):
            proxies = tf.convert_to_tensor(proxies)
        # One trace serves batches of any length, the shorter last one too.
        specifications = tree.map_structure(
            lambda x: tf.TensorSpec([None, *x.shape[1:]], x.dtype), images
        )
        if isinstance(proxies, tf.Tensor):
            specification = tf.TensorSpec([None, *proxies.shape[1:]], proxies.dtype)
        else:
            specification = proxies
        concrete = self._run.get_concrete_function(specifications, specification)
        tensors = tree.flatten(images)
        tensors += [proxies] if isinstance(proxies, tf.Tensor) else []
        return [x.numpy() for x in concrete(*tensors)]


_lock = threading.Lock()
_explainers: weakref.WeakKeyDictionary[keras.Model, dict[Any, _Explainer]] = (
    weakref.WeakKeyDictionary()
)


def _get_explainer(
    model: keras.Model,
    images: Any,
    conv_layer: Any,
    embedding_layer: Any,
    function: Callable[..., Any],
    *options: Any,
) -> _Explainer:
    shapes = tuple(tuple(x.shape[1:]) for x in tree.flatten(images))
    names = [
        weakref.ref(x) if isinstance(x, keras.Operation) else repr(x)
        for x in (conv_layer, embedding_layer)
    ]
    # A Sequential model may have other layers than the last time.
    layers = tuple(weakref.ref(x) for x in model._flatten_layers(include_self=False))
    key = (shapes, layers, *names, function, *options)
    with _lock:
        kept = _explainers.setdefault(model, {})
        # Each new function of the embeddings is one more trace of an explainer.
        if key not in kept or kept[key].num_traces > MAX_COMPILED:
            view = ModelView(model, conv_layer, embedding_layer, images)
            if len(kept) == MAX_COMPILED:
                del kept[next(iter(kept))]
            kept[key] = _Explainer(view, function, *options)
        return kept[key]
