"""The base of the losses that compare labels and embeddings pair by pair."""

from typing import Any

from keras import ops

from keras_embcam.losses.batch_loss import BatchLoss, flatten_labels
from keras_embcam.losses.pairwise import mask_pairs
from keras_embcam.unit_vectors import normalize_rows


class PairLoss(BatchLoss):
    """Normalises the embeddings and pairs the labels; a subclass adds ``compare``."""

    def compare(self, unit_embeddings: Any, positives: Any, negatives: Any) -> Any:
        """Return the loss, a scalar.

        Args:
            unit_embeddings: (n, d), of length one (zero where an embedding is zero).
            positives: (n, n), bool: the pairs of one class.
            negatives: (n, n), bool: the pairs of different classes.
        """
        raise NotImplementedError

    def compute(self, labels: Any, predictions: Any) -> Any:
        return self.compare(normalize_rows(predictions), *mask_pairs(labels))

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        embeddings = ops.convert_to_tensor(y_pred, dtype=self.dtype)
        labels = flatten_labels(ops.convert_to_tensor(y_true), embeddings)
        return super().__call__(number_labels(labels), embeddings, sample_weight)


def number_labels(labels: Any) -> Any:
    """Replace each label by the position of its first occurrence in the batch.

    Keras casts labels to float32, which cannot tell 16777216 from 16777217; a product
    or person number may well be that large.

    Args:
        labels: tensor (n,), compared for equality only.

    Returns:
        Integer tensor (n,), values in [0, n).

    Example:
    >>> print(number_labels(ops.array([16777216, 16777217, 16777216])).numpy())
    [0 1 0]
    """
    is_same_class = labels[:, None] == labels[None, :]
    return ops.argmax(ops.cast(is_same_class, "int32"), axis=1)
