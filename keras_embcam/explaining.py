"""explain(): heatmaps of arrays, files and data sets in one call."""

from collections.abc import Callable, Iterator
from typing import Any, Literal, overload

import keras
import numpy as np
from keras import tree

from keras_embcam.explanation import Explanation
from keras_embcam.method import Method
from keras_embcam.network.inputs import check_model
from keras_embcam.running.chosen_proxies import ProxyChooser
from keras_embcam.running.compiled_functions import run_batches
from keras_embcam.running.image_batches import ImageSource, join_rows
from keras_embcam.running.one_batch import embed_images, explain_images
from keras_embcam.weightings import Weighting


@overload
def explain(
    model: keras.Model,
    images: Any,
    *,
    proxies: Any = ...,
    labels: Any = ...,
    class_proxies: Any = ...,
    target_class: Any = ...,
    conv_layer: Any = ...,
    embedding_layer: Any = ...,
    weighting: str | Weighting = ...,
    top_channels: int | None = ...,
    preset: str | None = ...,
    resize: bool = ...,
    normalize: bool = ...,
    details: Literal[False] = ...,
    preprocessing_function: str | Callable[..., Any] | None = ...,
    image_size: tuple[int, int] | None = ...,
    strict: bool = ...,
    batch_size: int = ...,
    verbose: int = ...,
) -> np.ndarray: ...


@overload
def explain(
    model: keras.Model,
    images: Any,
    *,
    proxies: Any = ...,
    labels: Any = ...,
    class_proxies: Any = ...,
    target_class: Any = ...,
    conv_layer: Any = ...,
    embedding_layer: Any = ...,
    weighting: str | Weighting = ...,
    top_channels: int | None = ...,
    preset: str | None = ...,
    resize: bool = ...,
    normalize: bool = ...,
    details: Literal[True],
    preprocessing_function: str | Callable[..., Any] | None = ...,
    image_size: tuple[int, int] | None = ...,
    strict: bool = ...,
    batch_size: int = ...,
    verbose: int = ...,
) -> Explanation: ...


def explain(
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
    details: bool = False,
    preprocessing_function: str | Callable[..., Any] | None = None,
    image_size: tuple[int, int] | None = None,
    strict: bool = False,
    batch_size: int = 32,
    verbose: int = 0,
) -> np.ndarray | Explanation:
    """Return a heatmap of each image: where the model looks.

    The map is ``relu(sum_k W_k A_k)`` at one convolution, with weights W from the
    gradient of ``y . p``, raw embedding times proxy (Bachhawat, eq. 9, 10, 4, 5); see
    `EmbeddingCAM`. Compiled once and cached until the model is garbage-collected;
    changed weights and layers show.

    Args:
        model: any Keras model with channels_last images.
        images: (n, H, W, c) in the range that the model expects, a folder, a list of
            files or of Pillow images, or a `tf.data.Dataset` or `keras.utils.PyDataset`
            that fits into memory. Files are read in [0, 255], upright.
        proxies: what to explain: (d,) for all images, (n, d), (n, m, d) for m maps of
            each image, or a function of the embeddings; None for the image's own unit
            embedding (*single point*).
        labels: (n,) integers that choose among `class_proxies`; None for those of the
            data set.
        class_proxies: (classes, d); each image is explained by that of its label.
        target_class: the class of a classifier to explain (plain Grad-CAM, on the
            logits): an integer for all images, or (n,).
        conv_layer: name, path ``"outer/inner"`` or object of the layer to explain, or
            a list of several; None for the last one with more than one position.
        embedding_layer: name, path or object of the layer that makes the embedding;
            None for the model's output, before an L2 normalisation or a softmax.
        weighting: "gradcam", "gradcam++", "layercam", "hirescam", "xgradcam", or a
            function ``(activations, gradients) -> weights``.
        top_channels: how many channels to keep, those with the highest weights; None
            for all.
        preset: a name that stands for layers and weighting, such as "localize"; None
            for the arguments above.
        resize: True for maps of the size of the images (bilinear), False for the size
            of the activations.
        normalize: True to divide each map by its maximum.
        details: True to return embeddings, scores and images too.
        preprocessing_function: applied to each batch of images before the model, where
            that does not scale them itself, such as
            `keras.applications.mobilenet_v2.preprocess_input`, or by name:
            "mobilenet_v2" (any of `keras.applications`), "imagenet", "0,1", "-1,1".
        image_size: (H, W) that files are resized to, for a model of images of any size;
            None for the size of the model, else that of each file.
        strict: True to raise at a file that cannot be read; False to leave it out, with
            a warning that names it.
        batch_size: images at a time, >= 1, where they are not batched.
        verbose: 1 for a progress bar.

    Returns:
        (n, H, W) float32 in [0, 1], or (n, m, H, W) for m proxies an image (with
        ``normalize=False``: >= 0); with ``details`` an `Explanation`. A map without
        any heat is all zero. Where files have several sizes, a list of n maps.

    Raises:
        ValueError: for images, layers, labels or proxies that do not fit, or an
            embedding of fixed length whose raw vector is not found.
        TypeError: for images of an unknown kind, or what is no Keras model.

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
    batches = list(
        explain_batches(
            model,
            images,
            proxies=proxies,
            labels=labels,
            class_proxies=class_proxies,
            target_class=target_class,
            conv_layer=conv_layer,
            embedding_layer=embedding_layer,
            weighting=weighting,
            top_channels=top_channels,
            preset=preset,
            resize=resize,
            normalize=normalize,
            preprocessing_function=preprocessing_function,
            image_size=image_size,
            strict=strict,
            batch_size=batch_size,
            verbose=verbose,
        )
    )
    if len(batches) == 1:  # maps may be large, and need no other copy
        (whole,) = batches
        if not details:
            return whole.heatmaps
        # Of the images a copy: they may be views of the caller's array.
        return whole._replace(images=tree.map_structure(np.array, whole.images))
    heatmaps = join_rows(*[batch.heatmaps for batch in batches])
    if not details:
        return heatmaps
    has_files = batches[0].files is not None
    return Explanation(
        heatmaps,
        np.concatenate([batch.embeddings for batch in batches]),
        np.concatenate([batch.scores for batch in batches]),
        tree.map_structure(join_rows, *[batch.images for batch in batches]),
        [path for batch in batches for path in batch.files or ()]
        if has_files
        else None,
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
    preprocessing_function: str | Callable[..., Any] | None = None,
    image_size: tuple[int, int] | None = None,
    strict: bool = False,
    batch_size: int = 32,
    verbose: int = 0,
) -> Iterator[Explanation]:
    """Yield an `Explanation` of each batch; memory does not grow with their number.

    All is checked before the first batch is read. Arguments, errors and maps are those
    of `explain`; a function as `proxies` is compiled anew for each function object.

    Args:
        model: any Keras model with channels_last images.
        images: as in `explain`; a `tf.data.Dataset` may be of any size.
        proxies: (d,), (n, d), (n, m, d), a function, or None for the single point.
        labels: (n,) integers that choose among `class_proxies`.
        class_proxies: (classes, d).
        target_class: an integer, or (n,).
        conv_layer: the layer to explain, a list of several, or None for the last.
        embedding_layer: the layer that makes the embedding, or None for the output.
        weighting: a name, or ``(activations, gradients) -> weights``.
        top_channels: how many channels to keep, or None for all.
        preset: a name that stands for layers and weighting, or None.
        resize: True for maps of the size of the images.
        normalize: True to divide each map by its maximum.
        preprocessing_function: applied to each batch of images before the model, or
            its name.
        image_size: (H, W) that files are resized to, or None.
        strict: True to raise at a file that cannot be read.
        batch_size: images at a time, >= 1, where they are not batched.
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
    method = Method(
        weighting=weighting,
        top_channels=top_channels,
        conv_layer=conv_layer,
        embedding_layer=embedding_layer,
        preset=preset,
        resize=resize,
        normalize=normalize,
    )
    source = ImageSource(
        images,
        model,
        batch_size,
        preprocessing_function,
        image_size=image_size,
        strict=strict,
    )
    chooser = ProxyChooser(
        proxies, labels, class_proxies, target_class, source.num_images
    )
    batches = run_batches(model, source, method, explain_images, chooser=chooser)

    def explanations() -> Iterator[Explanation]:
        bar = keras.utils.Progbar(source.num_images, verbose=verbose, unit_name="image")
        num_seen = 0
        for batch, (embeddings, heatmaps, scores) in batches:
            num_seen += len(embeddings)
            bar.update(num_seen)
            yield Explanation(heatmaps, embeddings, scores, batch.images, batch.files)
        if source.num_images != num_seen:  # unknown, or some could not be read
            bar.update(num_seen, finalize=True)

    return explanations()


def embed(
    model: keras.Model,
    images: Any,
    *,
    conv_layer: Any = None,
    embedding_layer: Any = None,
    preprocessing_function: str | Callable[..., Any] | None = None,
    image_size: tuple[int, int] | None = None,
    strict: bool = False,
    batch_size: int = 32,
) -> np.ndarray:
    """Return the raw embeddings that `explain` explains, without its heatmaps.

    Args:
        model: any Keras model with channels_last images.
        images: an array (n, H, W, c), a list of files, a folder, or a
            `tf.data.Dataset`.
        conv_layer: the layer that `explain` is asked to explain, where that is not the
            default one.
        embedding_layer: the layer that makes the embedding, or None for the output.
        preprocessing_function: applied to each batch of images before the model, or
            its name.
        image_size: (H, W) that files are resized to, or None.
        strict: True to raise at a file that cannot be read.
        batch_size: images at a time, >= 1, where they are not batched.

    Returns:
        (n, d) float32, before any L2 normalisation; for `class_mean` and `pair`.

    Raises:
        ValueError: for images or layers that do not fit.
        TypeError: for images of an unknown kind, or what is no Keras model.
    """
    check_model(model)
    source = ImageSource(
        images,
        model,
        batch_size,
        preprocessing_function,
        image_size=image_size,
        strict=strict,
    )
    method = Method(conv_layer=conv_layer, embedding_layer=embedding_layer)
    batches = run_batches(model, source, method, embed_images)
    return np.concatenate([embeddings for _, (embeddings,) in batches])
