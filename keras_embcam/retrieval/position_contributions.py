"""What each position of an image adds to its embedding."""

from collections.abc import Callable
from typing import Any

import keras

from keras_embcam.method import Method
from keras_embcam.network.inputs import check_model
from keras_embcam.retrieval.completeness import warn_of_errors
from keras_embcam.retrieval.contribution_reader import ContributionReader, Contributions
from keras_embcam.running.image_batches import ImageSource


def contributions(
    model: keras.Model,
    images: Any,
    *,
    conv_layer: Any = None,
    embedding_layer: Any = None,
    num_steps: int | None = None,
    token_grid: tuple[int, int] | None = None,
    num_prefix_tokens: int | None = None,
    preprocessing_function: str | Callable | None = None,
    image_size: tuple[int, int] | None = None,
    strict: bool = False,
    batch_size: int = 32,
    verbose: int = 0,
) -> Contributions:
    """Return what each position of each image adds to the image's embedding.

    ``y = sum over ij of C_ij`` for the raw embedding y (d,), where a head that reads
    the activations A (h, w, k) linearly has ``C_ij = J_ij A_ij`` with its Jacobian J,
    and any other ``C_ij = (integral of J_ij(t A) for t from 0 to 1) A_ij`` (integrated
    gradients over the head alone; Sundararajan et al., Axiomatic Attribution for Deep
    Networks, ICML 2017). What does not pass the activations, such as a bias, is spread
    evenly over the positions.

    No proxy is asked for: ``C @ p`` is the signed element-wise map of any proxy p, and
    of two images a and b ``C_a @ C_b.T / (|y_a| |y_b|)`` says which position of a
    matches which of b.

    Pooling and a linear map are recognised: one product of the activations with a
    matrix (d, k) then serves all images. Other heads take d gradients of the head for
    each step and batch. Held in memory beside the result are the activations of a
    batch and as many gradients (n, h, w, k) at a time as one number of the embedding
    needs; never those of all numbers.

    Args:
        model: any Keras model, see `EmbeddingCAM`.
        images: see `explain_batches`.
        conv_layer: one layer, see `EmbeddingCAM`.
        embedding_layer: see `EmbeddingCAM`.
        num_steps: of the integral, >= 1. None for as few as are exact, else 16.
        token_grid: see `EmbeddingCAM`.
        num_prefix_tokens: see `EmbeddingCAM`.
        preprocessing_function: see `explain_batches`.
        image_size: see `explain_batches`.
        strict: see `explain_batches`.
        batch_size: images at a time, >= 1.
        verbose: 1 for a progress bar.

    Raises:
        ValueError: for images or layers that do not fit, images of several sizes,
            several layers, or an embedding without a value at activations of zero.
        TypeError: for images of an unknown kind, or what is no Keras model.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 3)),
    ...     keras.layers.Conv2D(6, 3, activation="relu"),
    ...     keras.layers.GlobalAveragePooling2D(),
    ...     keras.layers.Dense(4),
    ... ])
    >>> found = contributions(model, np.ones((2, 8, 8, 3)))
    >>> found.values.shape, found.num_steps
    ((2, 6, 6, 4), 0)
    >>> bool(np.allclose(found.values.sum(axis=(1, 2)), found.embeddings, atol=1e-5))
    True
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
        joins_branches=False,
        token_grid=token_grid,
        num_prefix_tokens=num_prefix_tokens,
    )
    found = ContributionReader(model, method, num_steps).read_all(source, verbose)
    warn_of_errors(found.errors)
    return found
