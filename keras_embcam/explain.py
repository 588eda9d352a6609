"""explain(): heatmaps of arrays, files and data sets in one call."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, overload

import keras
import numpy as np
from keras import tree

from keras_embcam.network.inputs import check_model
from keras_embcam.presets import apply_preset
from keras_embcam.running.chosen_proxies import ProxyChooser
from keras_embcam.running.compiled_functions import run_batches
from keras_embcam.running.image_batches import ImageSource
from keras_embcam.running.one_batch import embed_images, explain_images
from keras_embcam.weightings import Weighting, check_top_channels


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


@overload
def explain(
    model: keras.Model, images: Any, *, details: Literal[False] = ..., **options: Any
) -> np.ndarray: ...


@overload
def explain(
    model: keras.Model, images: Any, *, details: Literal[True], **options: Any
) -> Explanation: ...


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
    if len(batches) == 1:  # maps may be large, and need no other copy
        (whole,) = batches
        if not details:
            return whole.heatmaps
        # Of the images a copy: they may be views of the caller's array.
        return whole._replace(images=tree.map_structure(np.array, whole.images))
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
    preset: str | None = None,
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
        preset: see `EmbeddingCAM`.
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
    conv_layer, weigh = apply_preset(preset, conv_layer, weighting, top_channels)
    options = (weigh, top_channels, resize, normalize)

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


def embed(
    model: keras.Model,
    images: Any,
    *,
    conv_layer: Any = None,
    embedding_layer: Any = None,
    preprocessing_function: Any = None,
    batch_size: int = 32,
) -> np.ndarray:
    """Return the raw embeddings that `explain` explains, without its heatmaps.

    Args:
        model: as in `explain`, also for the other arguments.
        images: as in `explain_batches`.
        conv_layer: see `EmbeddingCAM`.
        embedding_layer: see `EmbeddingCAM`.
        preprocessing_function: see `explain_batches`.
        batch_size: images at a time, >= 1.

    Returns:
        (n, d) float32, before any L2 normalisation; for `class_mean` and `pair`.

    Raises:
        ValueError: for images or layers that do not fit.
        TypeError: for images of an unknown kind.
    """
    check_model(model)
    source = ImageSource(images, model, batch_size, preprocessing_function)
    chooser = ProxyChooser(None, None, None, None, source.num_images)
    batches = run_batches(
        model, source, chooser, conv_layer, embedding_layer, embed_images
    )
    return np.concatenate([embeddings for _, (embeddings,) in batches])
