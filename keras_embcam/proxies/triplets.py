"""Triplet and pair scores of Chen et al., as proxies."""

import warnings
from typing import Any, NamedTuple

import numpy as np
from keras import ops


class TripletProxies(NamedTuple):
    """Result of `triplet`.

    Attributes:
        proxies: (n, d) float32; NaN for an image without an active triplet.
        losses: (n,) float32, the mean hinge loss of the active triplets, else 0.
        num_active: (n,) integers, how many triplets of each image were active.
    """

    proxies: np.ndarray
    losses: np.ndarray
    num_active: np.ndarray


def triplet(
    embedding: Any,
    positives: Any,
    negatives: Any,
    *,
    margin: float = 0.2,
    sign: int = -1,
) -> TripletProxies:
    """Return the mean triplet direction (Chen et al., eq. 1, 5 and 6).

    The loss ``max(0, |f - f_p|^2 - |f - f_n|^2 + margin)`` of unit embeddings is
    ``2 f.n - 2 f.p + margin`` where active, so its mean over the active triplets has
    the gradient of ``f.q`` with ``q = 2 (mean n - mean p)``, and on the raw embedding
    that of ``y.proxy`` with ``proxy = (q - (q.f) f) / |y|`` held constant. The score
    ``y.proxy`` is zero by construction: report the loss instead. Averaging first is
    exact for weightings that are linear in the gradient (gradcam, hirescam,
    xgradcam); for the others explain single triplets (s = 1) and average the weights.

    Args:
        embedding: (n, d) raw anchors, or (d,).
        positives: (n, s, d) raw, or (s, d) with a single anchor; triplet i is the
            anchor with positive i and negative i.
        negatives: the same shape.
        margin: >= 0, of squared distances between unit embeddings.
        sign: -1 for what makes the image like its class; +1 for the loss itself, as
            in the paper.

    Returns:
        `TripletProxies`. Warns where images have no active triplet.

    Raises:
        ValueError: for shapes that do not fit, embeddings that are zero or not
            finite, a negative margin or another sign.

    Example:

    >>> result = triplet([1.0, 0.0], positives=[[0.0, 1.0]], negatives=[[0.6, 0.8]])
    >>> result.proxies.round(3) + 0.0, result.num_active
    (array([[0. , 0.4]], dtype=float32), array([1]))
    """
    if not margin >= 0:
        raise ValueError(f"`margin` must be >= 0. Received: {margin!r}")
    anchors, lengths, positive, negative = _check_triplets(
        embedding, positives, negatives, sign
    )
    differences = 2 * (negative - positive)
    hinge = np.einsum("nd,nsd->ns", anchors, differences) + margin
    active = hinge > 0
    num_active = active.sum(axis=1)
    if not num_active.all():
        missing = np.flatnonzero(num_active == 0).tolist()
        warnings.warn(
            f"{len(missing)} of {len(anchors)} images have no active triplet, so "
            f"their proxies are NaN: {missing[:20]}. Sample more triplets, or raise "
            f"`margin` ({margin}).",
            stacklevel=2,
        )
    with np.errstate(invalid="ignore"):
        direction = np.einsum("ns,nsd->nd", active, differences) / num_active[:, None]
        proxies = sign * _tangent(direction, anchors, lengths)
    losses = np.where(active, hinge, 0).sum(axis=1) / np.maximum(num_active, 1)
    return TripletProxies(
        proxies.astype("float32"), losses.astype("float32"), num_active
    )


def distance_difference(
    embedding: Any, positives: Any, negatives: Any, *, sign: int = -1
) -> np.ndarray:
    """Return the direction of the mean ``|f - f_p|^2 - |f - f_n|^2`` (Chen et al.).

    As `triplet` without margin and hinge: every triplet counts. The paper found it
    weaker than the triplet loss.

    Args:
        embedding: (n, d) raw anchors, or (d,).
        positives: (n, s, d) raw, or (s, d) with a single anchor.
        negatives: the same shape.
        sign: as in `triplet`.

    Returns:
        (n, d) float32.

    Raises:
        ValueError: as `triplet`.

    Example:

    >>> distance_difference([2.0, 0.0], [[0.0, 1.0]], [[1.0, 0.0]]) + 0.0
    array([[0., 1.]], dtype=float32)
    """
    anchors, lengths, positive, negative = _check_triplets(
        embedding, positives, negatives, sign
    )
    direction = 2 * (negative - positive).mean(axis=1)
    return (sign * _tangent(direction, anchors, lengths)).astype("float32")


def pairwise_distance(embedding: Any, others: Any, *, sign: int = -1) -> np.ndarray:
    """Return the direction of the mean ``|f - f_o|^2`` to other images (Chen et al.).

    The weakest of the three scores in the paper.

    Args:
        embedding: (n, d) raw anchors, or (d,).
        others: (n, s, d) raw, or (s, d) with a single anchor.
        sign: -1 for what makes them similar, +1 for what makes them differ.

    Returns:
        (n, d) float32.

    Raises:
        ValueError: as `triplet`.

    Example:

    >>> pairwise_distance([2.0, 0.0], [[0.0, 1.0]]) + 0.0
    array([[0., 1.]], dtype=float32)
    """
    anchors, lengths, other, _ = _check_triplets(embedding, others, others, sign)
    direction = -2 * other.mean(axis=1)
    return (sign * _tangent(direction, anchors, lengths)).astype("float32")


def _check_triplets(
    embedding: Any, positives: Any, negatives: Any, sign: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return unit anchors, their lengths (n, 1), unit positives and negatives."""
    if sign not in (-1, 1):
        raise ValueError(f"`sign` must be -1 or +1. Received: {sign!r}")
    anchors = np.atleast_2d(ops.convert_to_numpy(embedding).astype("float64"))
    others = [ops.convert_to_numpy(x).astype("float64") for x in (positives, negatives)]
    others = [x[None] if x.ndim == 2 else x for x in others]
    fits = all(
        x.ndim == 3 and x.shape[0] == len(anchors) and x.shape[2] == anchors.shape[1]
        for x in others
    )
    if anchors.ndim != 2 or not fits or others[0].shape != others[1].shape:
        raise ValueError(
            "Positives and negatives must both have the shape (n, s, d) for anchors "
            "(n, d), or (s, d) for one anchor (d,). Received the shapes "
            f"{others[0].shape} and {others[1].shape} for anchors {anchors.shape}"
        )
    if others[0].shape[1] == 0:
        raise ValueError("There must be at least one triplet (s >= 1). Received none.")
    lengths = [np.linalg.norm(x, axis=-1, keepdims=True) for x in (anchors, *others)]
    if not all(np.all((length > 0) & (length < np.inf)) for length in lengths):
        raise ValueError(
            "Embeddings of triplets must be finite and not zero, to have a direction. "
            "Received zero, NaN or infinity."
        )
    return (
        anchors / lengths[0],
        lengths[0],
        others[0] / lengths[1],
        others[1] / lengths[2],
    )


def _tangent(
    direction: np.ndarray, anchors: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """Pull a direction on unit embeddings back through the normalisation."""
    along = np.einsum("nd,nd->n", direction, anchors)[:, None]
    return (direction - along * anchors) / lengths
