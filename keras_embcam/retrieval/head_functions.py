"""What becomes of activations behind the chosen layer: in graphs, for `run_batches`.

Each function takes ``(view, images, proxies, method, *options)`` and returns tensors
whose first axis is that of the images.
"""

from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops, tree

from keras_embcam.network.view import ModelView
from keras_embcam.running.one_batch import fields_of

Tensor = Any

# Gradients of unit vectors that are in memory at a time, in bytes.
MAX_GRADIENT_BYTES = 2**25


def find_field(
    view: ModelView, images: Any, proxies: None, *options: Any
) -> tuple[Tensor]:
    """Return what each map shows of its image, (n, 8): see `fields_of`."""
    return (fields_of(view, images),)


def record_parts(
    view: ModelView, images: Any, proxies: None, *options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Return activations, embeddings, and embeddings with the activations at zero.

    Returns:
        (n, h, w, k), (n, d) and (n, d), all float32.
    """
    recording = view.record(images)
    nothing = ops.zeros_like(recording.activations)
    rest = view.record(images, nothing).embeddings
    return recording.activations, recording.embeddings, rest


def read_scaled_head(
    view: ModelView, images: Any, proxies: None, *options: Any
) -> tuple[Tensor, Tensor]:
    """Return the factors of a head that only pools, and scales each channel.

    Behind pooling alone the embedding is as wide as there are channels; a gradient for
    each of its thousand numbers would take long. Such a head is known by two: that of
    all ones is its factors, and that of random numbers must be these times them.

    Args:
        view: of the model.
        images: one image.
        proxies: not used.
        *options: not used.

    Returns:
        The factors (1, k) float32, and how far the second gradient differs from what
        it should be (1,), relative to the largest factor; infinity where the embedding
        is not as wide.
    """
    width = view.embedding_width
    activations = view.record(images).activations
    num_channels = activations.shape[-1]
    if num_channels != width:
        return ops.zeros((1, num_channels)), ops.full((1,), np.inf)
    recording = view.record(images, ops.zeros_like(activations))
    noise = np.random.default_rng(0).uniform(-1, 1, (1, width)).astype("float32")
    ones = recording.pull_back(ops.ones((1, width)))
    factors = ops.mean(ones, axis=(1, 2))
    expected = (factors * noise)[:, None, None]
    differences = ops.abs(recording.pull_back(tf.constant(noise)) - expected)
    largest = ops.maximum(ops.max(ops.abs(factors)), 1e-30)
    return factors, ops.max(differences, axis=(1, 2, 3)) / largest


def read_pooled_head(
    view: ModelView, images: Any, proxies: None, *options: Any
) -> tuple[Tensor, Tensor]:
    """Return the matrix of a head that weighs all positions alike.

    The gradient of each number of the embedding at activations of zero, for copies of
    one image: where the head is pooling and a linear map, that is all there is to know.

    Args:
        view: of the model.
        images: one image.
        proxies: not used.
        *options: not used.

    Returns:
        The means over the positions (1, d, k) float32, and how far some positions
        differ, (1, d), relative to the largest gradient. Only a few of the gradients
        (d, h, w, k) are in memory at a time.
    """
    width = view.embedding_width
    activations = view.record(images).activations
    num_channels = activations.shape[-1]
    num_bytes = 4 * int(np.prod([size or 1 for size in activations.shape[1:]]))
    num_copies = max(1, min(width, MAX_GRADIENT_BYTES // num_bytes))
    num_chunks = -(-width // num_copies)
    copies = tree.map_structure(lambda x: tf.repeat(x[:1], num_copies, axis=0), images)
    # Of a known shape, so that no graph computes activations to learn theirs.
    nothing = ops.zeros((num_copies, *ops.shape(activations)[1:]))
    recording = view.record(copies, nothing)
    units = np.zeros((num_chunks * num_copies, width), "float32")
    units[np.arange(width), np.arange(width)] = 1

    def look(cotangents: Tensor) -> tuple[Tensor, Tensor]:
        # Inside this loop a graph may not know the shape any more.
        gradients = ops.reshape(recording.pull_back(cotangents), ops.shape(nothing))
        means = ops.mean(gradients, axis=(1, 2))
        # At three positions: whether the matrix serves is judged by the sums it makes.
        rows, columns = ops.shape(gradients)[1:3]
        some = ((0, 0), (rows // 2, columns // 2), (rows - 1, columns - 1))
        differences = [ops.abs(gradients[:, i, j] - means) for i, j in some]
        return means, ops.max(ops.stack(differences), axis=(0, 2))

    means, differences = tf.map_fn(
        look,
        tf.constant(units.reshape(num_chunks, num_copies, width)),
        fn_output_signature=(
            tf.TensorSpec((num_copies, num_channels)),
            tf.TensorSpec((num_copies,)),
        ),
    )
    means = ops.reshape(means, (-1, num_channels))[:width]
    differences = ops.reshape(differences, (-1,))[:width]
    largest = ops.max(ops.abs(means))
    return means[None], (differences / ops.maximum(largest, 1e-30))[None]


def integrate_head(
    view: ModelView, images: Any, proxies: Tensor | None, method: Any, num_steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return contributions by integrating the head's Jacobian from zero activations.

    ``C_ij = integral over t in [0, 1] of J_ij(t A) A_ij``, by Gauss and Legendre's
    rule: for each step as many gradients of the head as there are proxies, or numbers
    of the embedding, one in memory at a time.

    Args:
        view: of the model.
        images: as the model takes them.
        proxies: (n, m, d) float32 to multiply the contributions with; None for the
            contributions themselves.
        method: not used.
        num_steps: of the rule, >= 1; one step is exact where the head is linear.

    Returns:
        The contributions without what does not pass the activations, (n, h, w, d), or
        their products with the proxies (n, h, w, m); embeddings (n, d); embeddings
        with the activations at zero, (n, d).
    """
    width = view.embedding_width
    activations, embeddings, rest = record_parts(view, images, None)
    nodes, weights = np.polynomial.legendre.leggauss(num_steps)
    nodes = tf.constant((nodes + 1) / 2, "float32")
    weights = tf.constant(weights / 2, "float32")
    num_images, height, columns = ops.shape(activations)[:3]
    num_maps = width if proxies is None else proxies.shape[1]

    def one_step(step: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        recording = view.record(images, activations * nodes[step])

        def one_number(number: Tensor) -> Tensor:
            if proxies is None:
                unit = tf.one_hot(number, width)
                cotangents = tf.tile(unit[None], (num_images, 1))
            else:
                cotangents = proxies[:, number]
            gradients = recording.pull_back(cotangents)
            gradients = ops.reshape(gradients, ops.shape(activations))
            # A root or a length has no gradient at zero, and zero adds nothing.
            gradients = ops.where(activations == 0, 0.0, gradients)
            return ops.sum(gradients * activations, axis=-1)

        maps = tf.map_fn(one_number, tf.range(num_maps), fn_output_signature=tf.float32)
        return step + 1, total + weights[step] * maps

    total = tf.zeros((num_maps, num_images, height, columns))
    _, total = tf.while_loop(
        lambda step, _: step < num_steps,
        one_step,
        (tf.constant(0), total),
        shape_invariants=(
            tf.TensorShape(()),
            tf.TensorShape((num_maps, None, None, None)),
        ),
    )
    return ops.transpose(total, (1, 2, 3, 0)), embeddings, rest
