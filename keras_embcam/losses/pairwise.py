"""Distances between the embeddings of a batch, with gradients that stay finite."""

from typing import Any

from keras import ops

DISTANCE_METRICS = ("L2", "squared-L2", "angular")


def check_distance_metric(distance_metric: str) -> str:
    """Return the name of a distance after checking it.

    Raises:
        ValueError: if the name is not one of ``DISTANCE_METRICS``.
    """
    if distance_metric not in DISTANCE_METRICS:
        raise ValueError(
            f"distance_metric must be one of {DISTANCE_METRICS}. Received: "
            f"distance_metric={distance_metric!r}. Pass one of these names."
        )
    return distance_metric


def measure_distances(unit_embeddings: Any, distance_metric: str = "L2") -> Any:
    """Measure the distance of each embedding to each other one.

    ``|a - b|² = |a|² + |b|² - 2 a·b``, from one matrix product. Moving the batch's mean
    to the origin first changes no distance and keeps the digits that would otherwise
    cancel while the embeddings still lie close together. What is left below the
    rounding error counts as zero, with a zero gradient, so that no square root is
    differentiated at zero.

    Args:
        unit_embeddings: tensor (n, d), float32 or float64.
        distance_metric: "L2", "squared-L2", or "angular": one minus the cosine, which
            for unit embeddings is half the squared distance.

    Returns:
        The distances, (n, n), zero on the diagonal.

    Example:
    >>> print(measure_distances(ops.array([[1.0, 0.0], [0.6, 0.8]]), "angular").numpy())
    [[0.  0.4]
     [0.4 0. ]]
    """
    # The distances do not depend on the mean, so it need not be differentiated.
    mean = ops.stop_gradient(ops.mean(unit_embeddings, axis=0, keepdims=True))
    centred = unit_embeddings - mean
    squared_lengths = ops.sum(ops.square(centred), axis=-1)
    sums = squared_lengths[:, None] + squared_lengths[None, :]
    squared = sums - 2.0 * ops.matmul(centred, ops.transpose(centred))
    is_apart = squared > 1e-6 * sums
    if distance_metric == "L2":
        # The inner where keeps the square root from dividing by zero in its gradient.
        return ops.where(is_apart, ops.sqrt(ops.where(is_apart, squared, 1.0)), 0.0)
    squared = ops.where(is_apart, squared, 0.0)
    return squared if distance_metric == "squared-L2" else squared / 2.0


def mask_pairs(labels: Any) -> tuple[Any, Any]:
    """Say which pairs of a batch are of the same class and which of different ones.

    Args:
        labels: tensor (n,), compared for equality only.

    Returns:
        Two boolean tensors (n, n): the positives (same class, an example with itself
        left out) and the negatives (another class).

    Example:
    >>> positives, negatives = mask_pairs(ops.array([4, 4, 7]))
    >>> print(positives.numpy().astype(int))
    [[0 1 0]
     [1 0 0]
     [0 0 0]]
    """
    is_same_class = labels[:, None] == labels[None, :]
    positions = ops.arange(ops.shape(labels)[0])
    is_other_example = positions[:, None] != positions[None, :]
    return (
        ops.logical_and(is_same_class, is_other_example),
        ops.logical_not(is_same_class),
    )


def average_active(terms: Any) -> Any:
    """Average the terms above zero; zero where there are none.

    Args:
        terms: tensor of any shape, non-negative, zero where a term does not count.

    Returns:
        A scalar.

    Example:
    >>> print(float(average_active(ops.array([0.0, 1.0, 3.0]))))
    2.0
    """
    num_active = ops.sum(ops.cast(terms > 0, terms.dtype))
    return ops.sum(terms) / ops.maximum(num_active, 1.0)
