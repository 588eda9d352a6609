"""explain_batches() and embed(): a stream of images, a batch at a time."""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from keras_embcam.explanation import Explanation
from keras_embcam.method import Method
from keras_embcam.network.inputs import check_model
from keras_embcam.running.chosen_proxies import ProxyChooser
from keras_embcam.running.compiled_functions import run_batches
from keras_embcam.running.details import explain_in_detail
from keras_embcam.running.finite_check import FiniteCheck
from keras_embcam.running.image_batches import ImageSource
from keras_embcam.running.one_batch import embed_images
from keras_embcam.weightings import Weighting


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
    weighting: str | Weighting = "auto",
    top_channels: int | None = None,
    preset: str | None = None,
    resize: bool = True,
    normalize: bool = True,
    token_grid: tuple[int, int] | None = None,
    num_prefix_tokens: int | None = None,
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
        token_grid: (h, w) of the patches among a transformer's tokens, or None.
        num_prefix_tokens: tokens before the patches, or None.
        preprocessing_function: applied to each batch of images before the model, or
            its name.
        image_size: (H, W) that files are resized to, or None.
        strict: True to raise at a file that cannot be read.
        batch_size: images at a time, >= 1, where they are not batched.
        verbose: 1 for a progress bar.

    Yields:
        An `Explanation` of at most ``batch_size`` images, in their order.

    Raises:
        ValueError: for images, layers, labels or proxies that do not fit, or a batch
            of which no embedding is finite.
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
        token_grid=token_grid,
        num_prefix_tokens=num_prefix_tokens,
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
    batches = run_batches(model, source, method, explain_in_detail, chooser=chooser)

    def explanations() -> Iterator[Explanation]:
        bar = keras.utils.Progbar(source.num_images, verbose=verbose, unit_name="image")
        num_seen = 0
        check = FiniteCheck()
        for batch, (embeddings, heatmaps, scores, *shares) in batches:
            check.update(embeddings, heatmaps, num_seen)
            num_seen += len(embeddings)
            bar.update(num_seen)
            yield Explanation(
                heatmaps, embeddings, scores, batch.images, batch.files, *shares
            )
        if source.num_images != num_seen:  # unknown, or some could not be read
            bar.update(num_seen, finalize=True)
        check.finish()

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

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 3)),
    ...     keras.layers.Conv2D(4, 3),
    ...     keras.layers.GlobalAveragePooling2D(),
    ...     keras.layers.UnitNormalization(),
    ... ])
    >>> embeddings = embed(model, np.ones((2, 8, 8, 3)))
    >>> embeddings.shape, bool(np.allclose(np.linalg.norm(embeddings, axis=1), 1))
    ((2, 4), False)
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
    method = Method(
        conv_layer=conv_layer,
        embedding_layer=embedding_layer,
    )
    batches = run_batches(model, source, method, embed_images)
    return np.concatenate([embeddings for _, (embeddings,) in batches])
