"""explain(): heatmaps of arrays, files and data sets in one call."""

import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import ops, tree

from keras_embcam.image_sources import Batch, ImageSource
from keras_embcam.model_inputs import check_model
from keras_embcam.model_view import ModelView, find_images
from keras_embcam.pipeline import explain_images
from keras_embcam.proxy_chooser import ProxyChooser
from keras_embcam.weightings import Weighting, check_top_channels, get_weighting

# Compiled functions that are kept for each model.
MAX_COMPILED = 16


class Explanation(NamedTuple):
    """Heatmaps and what belongs to them, as numpy arrays.

    Attributes:
        heatmaps: (n, H, W) float32 in [0, 1], or (n, m, H, W); see `explain`.
        embeddings: (n, d) float32, raw.
        scores: (n,) float32, or (n, m): ``y . p``.
        images: (n, H, W, c) as given or read, before `preprocessing_function`.
    """

    heatmaps: np.ndarray
    embeddings: np.ndarray
    scores: np.ndarray
    images: Any


def explain(
    model: keras.Model, images: Any, *, details: bool = False, **options: Any
) -> np.ndarray | Explanation:
    """Return a heatmap of each image: where the model looks.

    Compiled once for a model and kept as long as it lives; changed weights show.

    Args:
        model: any Keras model with channels_last images; see `EmbeddingCAM`.
        images: an array or tensor (n, H, W, c), a list of files, or a folder; see
            `ImageSource`. Files are read in [0, 255].
        details: return embeddings, scores and images too.
        **options: see `explain_batches`.

    Returns:
        Heatmaps (n, H, W) float32 in [0, 1], or (n, m, H, W) for m proxies an image;
        with ``details`` an `Explanation`.

    Raises:
        ValueError: for images, layers, labels or proxies that do not fit.
        TypeError: for images of an unknown kind, or an unknown option.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([
    ...     keras.Input((32, 32, 3)),
    ...     keras.layers.Conv2D(8, 3, activation="relu"),
    ...     keras.layers.GlobalAveragePooling2D(),
    ...     keras.layers.Dense(4),
    ... ])
    >>> explain(model, np.ones((2, 32, 32, 3))).shape
    (2, 32, 32)
    """
    batches = list(explain_batches(model, images, **options))
    heatmaps = np.concatenate([batch.heatmaps for batch in batches])
    if not details:
        return heatmaps
    return Explanation(
        heatmaps,
        np.concatenate([batch.embeddings for batch in batches]),
        np.concatenate([batch.scores for batch in batches]),
        tree.map_structure(
            lambda *arrays: np.concatenate(arrays), *[batch.images for batch in batches]
        ),
    )


def explain_batches(
    model: keras.Model,
    images: Any,
    *,
    proxies: Any = None,
    labels: Any = None,
    class_proxies: Any = None,
    target_class: Any = None,
    conv_layer: Any = None,
    embedding_layer: Any = None,
    weighting: str | Weighting = "gradcam",
    top_channels: int | None = None,
    resize: bool = True,
    normalize: bool = True,
    preprocessing_function: Any = None,
    batch_size: int = 32,
    verbose: int = 0,
) -> Iterator[Explanation]:
    """Yield an `Explanation` of each batch; memory does not grow with their number.

    Args:
        model: as in `explain`.
        images: as in `explain`, or a `tf.data.Dataset` of any size.
        proxies: what to explain: (d,) for all images, (n, d), (n, m, d), or a
            function of the embeddings (compiled anew for each function object);
            None for the image's own unit embedding.
        labels: (n,) integers; by default those of the data set.
        class_proxies: (classes, d); each image is explained by that of its label.
        target_class: the class of a classifier to explain (plain Grad-CAM, on the
            logits), for all images or (n,).
        conv_layer: see `EmbeddingCAM`.
        embedding_layer: see `EmbeddingCAM`.
        weighting: see `EmbeddingCAM`.
        top_channels: see `EmbeddingCAM`.
        resize: see `EmbeddingCAM`.
        normalize: see `EmbeddingCAM`.
        preprocessing_function: applied to each batch of images before the model,
            where that does not scale them itself, such as
            `keras.applications.mobilenet_v2.preprocess_input`.
        batch_size: images at a time, >= 1.
        verbose: 1 for a progress bar.

    Raises:
        ValueError: for images, layers, labels or proxies that do not fit.
        TypeError: for images of an unknown kind, or what is no Keras model.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([
    ...     keras.Input((32, 32, 3)),
    ...     keras.layers.Conv2D(8, 3, activation="relu"),
    ...     keras.layers.GlobalAveragePooling2D(),
    ... ])
    >>> images = np.ones((5, 32, 32, 3))
    >>> for batch in explain_batches(model, images, batch_size=3):
    ...     print(batch.heatmaps.shape, batch.embeddings.shape)
    (3, 32, 32) (3, 8)
    (2, 32, 32) (2, 8)
    """
    check_model(model)
    check_top_channels(top_channels)
    source = ImageSource(images, model, batch_size, preprocessing_function)
    chooser = ProxyChooser(
        proxies, labels, class_proxies, target_class, source.num_images
    )
    options = (get_weighting(weighting), top_channels, resize, normalize)

    def batches() -> Iterator[Explanation]:
        bar = keras.utils.Progbar(source.num_images, verbose=verbose, unit_name="image")
        num_seen = 0
        for batch, (embeddings, heatmaps, scores) in run_batches(
            model,
            source,
            chooser,
            conv_layer,
            embedding_layer,
            explain_images,
            *options,
        ):
            num_seen += len(embeddings)
            bar.update(num_seen)
            yield Explanation(heatmaps, embeddings, scores, batch.images)
        if source.num_images is None:
            bar.update(num_seen, finalize=True)

    return batches()


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
