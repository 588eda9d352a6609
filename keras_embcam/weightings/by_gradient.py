"""Weightings by the gradient of the score, of each channel or of each position."""

from typing import Any

from keras import ops

Tensor = Any


def gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Return mean gradients of channels (Selvaraju et al., eq. 1): (n, 1, 1, k)."""
    return ops.mean(gradients, axis=(1, 2), keepdims=True)


def gradcam_plus_plus(activations: Tensor, gradients: Tensor) -> Tensor:
    """Return the weights of Grad-CAM++ (Chattopadhay et al.): (n, 1, 1, k), >= 0.

    ``sum over positions of relu(G) / (2 + G * sum(A))``, where G > 0 and the
    denominator is positive; other positions count nothing. The score is not
    exponentiated. Not homogeneous in the gradient: twice the proxy is another map.
    """
    total = ops.sum(activations, axis=(1, 2), keepdims=True)
    denominator = 2.0 + gradients * total
    counts = ops.logical_and(gradients > 0, denominator > 0)
    quotient = gradients / ops.where(counts, denominator, 1.0)
    return ops.sum(ops.where(counts, quotient, 0.0), axis=(1, 2), keepdims=True)


def layercam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Return positive gradients of positions (Jiang et al.): (n, h, w, k), >= 0."""
    return ops.relu(gradients)


def hirescam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Return the gradients of positions (Draelos and Carin): (n, h, w, k)."""
    return gradients


def xgradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Return the gradient averaged by activation (Fu et al.): (n, 1, 1, k).

    ``sum(G * A) / sum(A)``; a channel whose activations sum to zero counts nothing.
    """
    total = ops.sum(activations, axis=(1, 2), keepdims=True)
    product = ops.sum(gradients * activations, axis=(1, 2), keepdims=True)
    empty = ops.equal(total, 0)
    return ops.where(empty, 0.0, product / ops.where(empty, 1.0, total))
