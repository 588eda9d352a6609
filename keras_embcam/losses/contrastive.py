"""Contrastive loss: one class together, different classes a margin apart."""

from typing import Any

import keras
from keras import ops

from keras_embcam.losses.batch_loss import check_positive
from keras_embcam.losses.pair_loss import PairLoss
from keras_embcam.losses.pairwise import average_active, measure_distances


@keras.saving.register_keras_serializable(package="keras_embcam")
class ContrastiveLoss(PairLoss):
    """Contrastive loss over all pairs of the batch.

    The pair costs of Hadsell et al. (Dimensionality Reduction by Learning an Invariant
    Mapping, CVPR 2006, equation 4, without their factors of one half):

        loss = mean over positive pairs of D²
             + mean over negative pairs of max(0, margin - D)²

    Each mean runs over the pairs that cost something and is zero where there are none;
    two means, since in a batch of P classes the negatives outnumber the positives P
    times. Name, margin and pair costs are those of tensorflow-addons, whose loss takes
    the distances of given pairs; this one takes labels and embeddings, as the other
    losses here do.

    Call it with ``y_true``, integer labels (n,) or (n, 1), and ``y_pred``, the raw
    embeddings (n, d), float; they are normalised inside, so that 0 <= D <= 2.

    Args:
        margin: float above 0, the distance beyond which a negative pair costs nothing.
        name: the name of the loss.

    Raises:
        ValueError: if an argument or the shape of a tensor is not one of these.

    Example:
    >>> loss = ContrastiveLoss()
    >>> labels, embeddings = [0, 0, 1], [[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]
    >>> print(round(float(loss(labels, embeddings)), 4))  # √2² + mean of (1 - D)²
    2.0731
    """

    def __init__(self, margin: float = 1.0, name: str = "contrastive_loss") -> None:
        super().__init__(name)
        self.margin = check_positive("margin", margin)

    def compare(self, unit_embeddings: Any, positives: Any, negatives: Any) -> Any:
        # Not the square of the distances: their square root has no slope at zero.
        squared_distances = measure_distances(unit_embeddings, "squared-L2")
        gaps = ops.relu(self.margin - measure_distances(unit_embeddings))
        together = average_active(ops.where(positives, squared_distances, 0.0))
        return together + average_active(ops.where(negatives, ops.square(gaps), 0.0))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "margin": self.margin}
