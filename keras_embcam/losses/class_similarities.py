"""What the losses on the similarities of a ``Proxies`` layer share."""

from typing import Any

from keras import ops

from keras_embcam.losses.batch_loss import flatten_labels


def mask_own_class(y_true: Any, similarities: Any) -> tuple[Any, Any]:
    """Say which similarity of each example is the one to its own class.

    Args:
        y_true: tensor (n,) or (n, 1), integer labels in [0, num_classes).
        similarities: tensor (n, num_classes).

    Returns:
        A boolean mask (n, num_classes), and the similarities with NaN for each example
        whose label is out of range: a compiled graph cannot raise, and leaving such an
        example out would go unnoticed.

    Raises:
        ValueError: if a shape is another one.

    Example:
    >>> labels, similarities = ops.array([1, 2]), ops.array([[0.5, 0.25], [0.5, 0.25]])
    >>> is_own_class, kept = mask_own_class(labels, similarities)
    >>> print(is_own_class.numpy().tolist(), kept.numpy().tolist())
    [[False, True], [False, False]] [[0.5, 0.25], [nan, nan]]
    """
    labels = ops.cast(flatten_labels(y_true, similarities), "int32")
    num_classes = ops.shape(similarities)[1]
    is_own_class = labels[:, None] == ops.arange(num_classes, dtype="int32")[None, :]
    is_in_range = ops.any(is_own_class, axis=1, keepdims=True)
    return is_own_class, ops.where(is_in_range, similarities, float("nan"))
