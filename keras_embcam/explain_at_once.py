"""explain(): heatmaps of arrays, files and data sets in one call."""

from collections.abc import Callable
from typing import Any, Literal, overload

import keras
import numpy as np
from keras import tree

from keras_embcam.explain_in_batches import explain_batches
from keras_embcam.explanation import Explanation
from keras_embcam.running.image_batches import join_rows
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
    token_grid: tuple[int, int] | None = ...,
    num_prefix_tokens: int | None = ...,
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
    token_grid: tuple[int, int] | None = ...,
    num_prefix_tokens: int | None = ...,
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
    weighting: str | Weighting = "auto",
    top_channels: int | None = None,
    preset: str | None = None,
    resize: bool = True,
    normalize: bool = True,
    token_grid: tuple[int, int] | None = None,
    num_prefix_tokens: int | None = None,
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
    `EmbeddingCAM`. Compiled once and kept as long as the model. New values of weights,
    other variables, layers and activation functions, LoRA and quantisation take effect;
    after another change of a layer, such as of its strides, pass a new model, for
    example ``keras.Model(model.inputs, model.outputs)``.

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
            a list of several; None for the last one with more than one position, or
            the last of each of several parallel branches.
        embedding_layer: name, path or object of the layer that makes the embedding;
            None for the model's output, before an L2 normalisation or a softmax.
        weighting: "auto", which is Grad-CAM for maps and the preset "tokens" for
            transformers; "gradcam", "gradcam++", "layercam", "hirescam", "xgradcam",
            or a function ``(activations, gradients) -> weights``.
        top_channels: how many channels to keep, those with the highest weights; None
            for all.
        preset: a name that stands for layers and weighting, such as "localize"; None
            for the arguments above.
        resize: True for maps of the size of the images (bilinear), False for the size
            of the activations.
        normalize: True to divide each map by its maximum.
        token_grid: (h, w) of the patches among the tokens of a transformer; None to
            find it by changing parts of noise images.
        num_prefix_tokens: class, distillation and register tokens before the patches;
            None to find it.
        details: True to return embeddings, scores, images and the share of the
            gradient on class and register tokens too, see `Explanation`.
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
            token_grid=token_grid,
            num_prefix_tokens=num_prefix_tokens,
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
        None
        if batches[0].prefix_shares is None
        else np.concatenate([batch.prefix_shares for batch in batches]),
    )
