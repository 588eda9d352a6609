"""Functions of batches of images, compiled once for a model and kept as long as it."""

import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops, tree

from keras_embcam.network.view import ModelView, find_images
from keras_embcam.proxies import single_point
from keras_embcam.running.chosen_proxies import ProxyChooser
from keras_embcam.running.image_batches import Batch, ImageSource

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

    All replicas of a `tf.distribute.MirroredStrategy` share each batch. As in Keras's
    own `predict`, each has the statistics of batch normalisation that it trained.

    Args:
        model: as in `explain`; its strategy is the one that it was made under.
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
        self,
        view: ModelView,
        strategy: tf.distribute.Strategy,
        function: Callable[..., Any],
        *options: Any,
    ) -> None:
        self.view = view
        self.num_traces = 0

        # Keras does not convert the code of its models with autograph either.
        @tf.function(autograph=False)
        def run(images: Any, proxies: Any) -> Any:
            self.num_traces += 1
            if not _has_replicas(strategy):
                return function(view, images, proxies, *options)
            return _share_out(
                strategy, lambda x, p: function(view, x, p, *options), images, proxies
            )

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
        # Called as it was traced: for tensors alone TensorFlow first prints them.
        return [x.numpy() for x in concrete(images, proxies)]


def _has_replicas(strategy: tf.distribute.Strategy) -> bool:
    """Tell whether there are several here, not in other processes as of a cluster."""
    mirrored = isinstance(strategy, tf.distribute.MirroredStrategy)
    return mirrored and strategy.num_replicas_in_sync > 1


def _share_out(
    strategy: tf.distribute.Strategy,
    function: Callable[..., Any],
    images: Any,
    proxies: Any,
) -> tuple:
    """Return ``function(images, proxies)``, each replica doing a share of the images.

    Works in the graph of a `tf.function`.
    """
    num_images = tf.shape(tree.flatten(images)[0])[0]
    share = -(-num_images // strategy.num_replicas_in_sync)

    def put_together(tensor: Any) -> Any:
        parts = strategy.experimental_local_results(tensor)
        return tf.concat(parts, axis=0)[:num_images]

    def choose_all(_: Any, embeddings: Any) -> Any:
        # Called for all replicas at once: it may look at all embeddings of the batch.
        chosen = ops.convert_to_tensor(proxies(put_together(embeddings)))
        if len(chosen.shape) == 1:
            return chosen
        right = tf.debugging.assert_equal(
            tf.shape(chosen)[0],
            num_images,
            "`proxies` must have one row for each image.",
        )
        with tf.control_dependencies([right]):
            return tf.identity(chosen)  # no row is gathered before the check

    def explain_share() -> Any:
        replica = tf.distribute.get_replica_context()
        first = share * replica.replica_id_in_sync_group
        # The last image again where the shares do not come out even: none is empty,
        # and it stands behind all others when they are put together.
        rows = tf.minimum(first + tf.range(share), num_images - 1)

        def choose(embeddings: Any) -> Any:
            chosen = replica.merge_call(choose_all, args=(embeddings,))
            return tf.gather(chosen, rows) if len(chosen.shape) > 1 else chosen

        if isinstance(proxies, tf.Tensor):
            mine = tf.gather(proxies, rows)
        else:
            of_one_image = proxies is None or proxies is single_point
            mine = proxies if of_one_image else choose
        return function(tree.map_structure(lambda x: tf.gather(x, rows), images), mine)

    return tuple(put_together(x) for x in strategy.run(explain_share))


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
    several = conv_layer if isinstance(conv_layer, list) else [conv_layer]
    names = [
        weakref.ref(x) if isinstance(x, keras.Operation) else repr(x)
        for x in (embedding_layer, *several)
    ]
    # A Sequential model may have other layers than the last time.
    layers = tuple(weakref.ref(x) for x in model._flatten_layers(include_self=False))
    strategy = model.distribute_strategy
    key = (shapes, layers, tuple(names), strategy, function, *options)
    with _lock:
        kept = _explainers.setdefault(model, {})
        # Each new function of the embeddings is one more trace of an explainer.
        if key not in kept or kept[key].num_traces > MAX_COMPILED:
            view = ModelView(model, conv_layer, embedding_layer, images)
            if len(kept) == MAX_COMPILED:
                del kept[next(iter(kept))]
            kept[key] = _Explainer(view, strategy, function, *options)
        return kept[key]
