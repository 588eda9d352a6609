"""Functions of image batches, compiled once for a model and kept with the model."""

import dataclasses
import functools
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops, tree

from keras_embcam.keras_private import flatten_layers
from keras_embcam.method import Method
from keras_embcam.network.noise_images import find_images
from keras_embcam.network.pixel_range import warn_of_pixel_range
from keras_embcam.network.view import ModelView
from keras_embcam.running.batch_mates import PLACES, warn_of_batch_mates
from keras_embcam.running.chosen_proxies import ProxyChooser
from keras_embcam.running.image_batches import Batch, ImageSource
from keras_embcam.running.replicas import has_replicas, share_out

# Compiled functions that are kept for each model; those used last stay.
MAX_COMPILED = 64

# Results of more numbers than this are not copied.
MIN_SHARED = 2**16

Tensor = Any

# Returns tensors for one batch, called as function(view, images, proxies, method,
# *options) in the graph of a `tf.function`.
BatchFunction = Callable[..., Any]


def run_batches(
    model: keras.Model,
    source: Iterable[Batch],
    method: Method,
    function: BatchFunction,
    *options: Any,
    chooser: ProxyChooser | None = None,
) -> Iterator[tuple[Batch, list[np.ndarray]]]:
    """Yield each batch with what a compiled function makes of it.

    All replicas of a `tf.distribute.MirroredStrategy` share each batch. As in Keras's
    own `predict`, each has the statistics of batch normalisation that it trained.

    Args:
        model: as in `explain`; its strategy is the one that it was made under.
        source: batches of images, such as an `ImageSource`.
        method: names the layers to look at.
        function: such as `explain_images`; compiled once for a model and method.
        *options: further arguments of the function, hashable.
        chooser: of the images' proxies; the function gets None without it.

    Raises:
        ValueError: for images, layers or proxies that do not fit.
    """
    method = method.bind(model)
    num_images = 0
    for batch in source:
        inputs = tree.map_structure(ops.convert_to_tensor, batch.inputs)
        compiled = _get_compiled(model, inputs, method, function, *options)
        if chooser is not None and chooser.explains_classes:
            head = compiled.view.cosine_head
            if head is not None:  # the classes are what it makes of the embedding
                method = dataclasses.replace(method, embedding_layer=head)
                compiled = _get_compiled(model, inputs, method, function, *options)
        size = len(find_images(inputs))
        proxies = None
        if chooser is not None:
            width = compiled.view.embedding_width
            proxies = chooser.choose(batch.start, size, batch.labels, width)
        found = compiled(inputs, proxies, batch.activations)
        if batch.activations is None and not callable(proxies):
            place = PLACES.get(getattr(function, "__name__", ""))
            if place is not None:
                _check_once(model, compiled, inputs, proxies, found, place)
        if not num_images:
            pixels = compiled.view.images_of(inputs)
            front = compiled.view.fronts.at(tuple(pixels.shape[1:3]))
            is_rows = found[0].shape == (size, compiled.view.embedding_width)
            embeddings = found[0] if is_rows else None
            if compiled.view.image_input.is_first:
                warn_of_pixel_range(model, front, batch.inputs, embeddings)
        num_images = batch.start + size
        yield batch, found
    if chooser is not None:
        # Files that could not be read count too: there are proxies for them.
        known = source.num_images if isinstance(source, ImageSource) else None
        chooser.check_end(known or num_images)


def run_once(
    model: keras.Model,
    images: np.ndarray,
    method: Method,
    function: BatchFunction,
    *options: Any,
    proxies: Any = None,
) -> list[np.ndarray]:
    """Return what a compiled function makes of one batch; see `run_batches`.

    Args:
        model: see `run_batches`, also for the other arguments.
        images: (n, H, W, c) as the model takes them.
        method: see `run_batches`.
        function: see `run_batches`.
        *options: see `run_batches`.
        proxies: (d,), (n, d), (n, m, d), a function of the embeddings, or None.

    Raises:
        ValueError: for images, layers or proxies that do not fit.
    """
    source = ImageSource(images, model, len(images))
    chooser = ProxyChooser(proxies, num_images=len(images))
    [(_, found)] = run_batches(
        model, source, method, function, *options, chooser=chooser
    )
    return found


class _Compiled:
    """A compiled function of one model; does not keep the model alive."""

    def __init__(
        self,
        view: ModelView,
        strategy: tf.distribute.Strategy,
        kept_alive: list[Any],
        function: BatchFunction,
        *options: Any,
    ) -> None:
        self.view = view
        self.num_traces = 0
        # Variables and activations: their ids are in the key, and nothing else may get
        # them.
        self._kept_alive = kept_alive

        # Keras does not convert the code of its models with autograph either.
        @tf.function(autograph=False)
        def run(given: Any, proxies: Any) -> Any:
            self.num_traces += 1

            def compute(given: Any, proxies: Any) -> Any:
                images, activations = given
                return function(view, images, proxies, *options, **activations)

            if not has_replicas(strategy):
                return compute(given, proxies)
            return share_out(strategy, compute, given, proxies)

        self._run = run
        self._concrete: dict[Any, Any] = {}

    def __call__(
        self, images: Any, proxies: Any, activations: np.ndarray | None
    ) -> list[np.ndarray]:
        kept = {} if activations is None else {"activations": activations}
        given = images, tree.map_structure(tf.convert_to_tensor, kept)
        if isinstance(proxies, np.ndarray):
            proxies = tf.convert_to_tensor(proxies)
        # One trace serves batches of any length, the shorter last one too.
        specifications = tree.map_structure(_describe_rows, given)
        is_tensor = isinstance(proxies, tf.Tensor)
        specification = _describe_rows(proxies) if is_tensor else proxies
        # TensorFlow takes as long to find a trace as a small network to run.
        key = type(images), *tree.flatten(specifications), specification
        concrete = None if callable(proxies) else self._concrete.get(key)
        if concrete is None:
            concrete = self._run.get_concrete_function(specifications, specification)
            if not callable(proxies):  # a function is kept by nobody else
                self._concrete[key] = concrete
        # Call with the traced structure; otherwise TensorFlow formats the arguments
        # first.
        return [_to_numpy(x) for x in concrete(given, proxies)]


class _Result:
    """Owns the memory of a tensor for the array that shows it."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        shown = np.asarray(memoryview(tensor)).__array_interface__
        # Writable: nobody but the caller has this result of a compiled function.
        self.__array_interface__ = {**shown, "data": (shown["data"][0], False)}


def _to_numpy(tensor: Tensor) -> np.ndarray:
    """Return what a compiled function computed, without a copy of large results.

    `Tensor.numpy` copies, which for many maps takes as long as computing them.
    """
    is_large = tensor.dtype == tf.float32 and tensor.shape.num_elements() > MIN_SHARED
    if is_large and "CPU" in tensor.device:
        return np.asarray(_Result(tensor))
    return tensor.numpy()


def _describe_rows(tensor: Any) -> tf.TensorSpec:
    """Return the specification of a tensor with any number of rows."""
    return tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype)


class _Kept:
    """The functions compiled for one model, in the order of their last use."""

    def __init__(self) -> None:
        self.functions: OrderedDict[Any, _Compiled] = OrderedDict()
        # Whether embeddings were seen to depend on their images alone, or not to.
        self.is_checked = False
        # One for each model, so that a look at one does not hold up the others.
        self.lock = threading.Lock()


_lock = threading.Lock()
_kept: weakref.WeakKeyDictionary[keras.Model, _Kept] = weakref.WeakKeyDictionary()


def list_compiled(model: keras.Model) -> list["_Compiled"]:
    """Return what is compiled for a model now, to be counted."""
    return list(_kept[model].functions.values()) if model in _kept else []


def _check_once(
    model: keras.Model,
    compiled: _Compiled,
    inputs: Any,
    proxies: np.ndarray | None,
    found: list[np.ndarray],
    place: int,
) -> None:
    """Warn at the first batch of a model whose embeddings depend on other images."""
    kept = _kept[model]
    # Each replica may have statistics of its own.
    if kept.is_checked or has_replicas(model.distribute_strategy):
        return
    kept.is_checked = True
    layers = flatten_layers(model, include_self=False)
    dtypes = {str(layer.compute_dtype) for layer in layers}
    warn_of_batch_mates(
        functools.partial(compiled, activations=None),
        inputs,
        proxies,
        found[place],
        place,
        not dtypes.isdisjoint(("float16", "bfloat16")),
    )


def _get_compiled(
    model: keras.Model,
    images: Any,
    method: Method,
    function: BatchFunction,
    *options: Any,
) -> _Compiled:
    shapes = tuple(tuple(x.shape[1:]) for x in tree.flatten(images))
    # A Sequential model may have other layers than the last time, and a layer other
    # weights: `enable_lora`, `quantize` and assigned attributes replace variables.
    # Other attributes are too many to look at in each call.
    layers = flatten_layers(model, include_self=False)
    quantized = [getattr(layer, "quantization_mode", None) for layer in layers]
    variables = model.variables
    activations = [vars(layer).get("activation") for layer in layers]
    structure = (
        tuple(weakref.ref(layer) for layer in layers),
        tuple(quantized),
        tuple(map(id, variables)),
        tuple(map(id, activations)),
    )
    strategy = model.distribute_strategy
    key = (shapes, structure, strategy, function, method, *options)
    with _lock:
        kept = _kept.setdefault(model, _Kept())
    with kept.lock:
        found = kept.functions.get(key)
        # Each new function as proxies adds a trace: after many of them start anew.
        if found is None or found.num_traces > MAX_COMPILED:
            view = method.look(model, images)
            # Layers among them are told apart as layers.
            plain = [x for x in activations if not isinstance(x, keras.layers.Layer)]
            kept_alive = [*variables, *plain]
            found = _Compiled(view, strategy, kept_alive, function, method, *options)
            kept.functions[key] = found
        kept.functions.move_to_end(key)
        if len(kept.functions) > MAX_COMPILED:
            kept.functions.popitem(last=False)
        return found
