"""Triplet losses: an example should be nearer to its own class than to others."""

from typing import Any

import keras
from keras import ops

from keras_embcam.losses.batch_loss import check_positive
from keras_embcam.losses.pair_loss import PairLoss
from keras_embcam.losses.pairwise import (
    average_active,
    check_distance_metric,
    measure_distances,
)

# Farther than any negative. Not infinity, which tf.debugging.enable_check_numerics
# reports as an error.
FAR_AWAY = 1e9


class TripletLoss(PairLoss):
    """The base of the triplet losses: a subclass says which triplets count."""

    def __init__(self, margin: float, distance_metric: str, name: str) -> None:
        super().__init__(name)
        self.margin = check_positive("margin", margin)
        self.distance_metric = check_distance_metric(distance_metric)

    def compare(self, unit_embeddings: Any, positives: Any, negatives: Any) -> Any:
        distances = measure_distances(unit_embeddings, self.distance_metric)
        return self.average_triplets(distances, positives, negatives)

    def average_triplets(self, distances: Any, positives: Any, negatives: Any) -> Any:
        """Return the mean over the triplets that count, a scalar.

        Args:
            distances: (n, n), of each anchor (row) to each example.
            positives: (n, n), bool: the pairs of one class.
            negatives: (n, n), bool: the pairs of different classes.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "margin": self.margin,
            "distance_metric": self.distance_metric,
        }


@keras.saving.register_keras_serializable(package="keras_embcam")
class TripletSemiHardLoss(TripletLoss):
    """Triplet loss with the nearest negative that is farther away than the positive.

    For each positive pair (a, p) the negative n is the nearest one beyond the positive,
    ``D(a, n) > D(a, p)``, or the farthest one where all are nearer (Schroff et al.,
    FaceNet, CVPR 2015, section 3.2):

        loss = mean over (a, p) of max(0, D(a, p) - D(a, n) + margin)

    The mean runs over all positive pairs whose anchor has a negative in the batch.
    Without any, the loss is zero. Name and defaults are those of tensorflow-addons,
    which expects embeddings of unit length; here they are normalised inside.

    Call it with ``y_true``, integer labels (n,) or (n, 1), and ``y_pred``, the raw
    embeddings (n, d), float. Memory grows with n³.

    Args:
        margin: float above 0, by how much nearer the positive should be.
        distance_metric: "L2", "squared-L2" or "angular" (one minus the cosine).
        name: the name of the loss.

    Raises:
        ValueError: if an argument or the shape of a tensor is not one of these.

    Example:
    >>> loss = TripletSemiHardLoss()
    >>> labels, embeddings = [0, 0, 1], [[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]
    >>> print(round(float(loss(labels, embeddings)), 4))  # (√2 - 2 + 1 + 1) / 2
    0.7071
    """

    def __init__(
        self,
        margin: float = 1.0,
        distance_metric: str = "L2",
        name: str = "triplet_semi_hard_loss",
    ) -> None:
        super().__init__(margin, distance_metric, name)

    def average_triplets(self, distances: Any, positives: Any, negatives: Any) -> Any:
        to_positive, to_negative = distances[:, :, None], distances[:, None, :]
        is_beyond = ops.logical_and(negatives[:, None, :], to_negative > to_positive)
        nearest_beyond = ops.min(ops.where(is_beyond, to_negative, FAR_AWAY), axis=-1)
        # Distances are never negative, so zero can stand for "no negative".
        farthest = ops.max(ops.where(negatives, distances, 0.0), axis=-1, keepdims=True)
        chosen = ops.where(ops.any(is_beyond, axis=-1), nearest_beyond, farthest)
        counts = ops.logical_and(positives, ops.any(negatives, axis=-1, keepdims=True))
        return average_hinges(distances - chosen + self.margin, counts)


@keras.saving.register_keras_serializable(package="keras_embcam")
class TripletHardLoss(TripletLoss):
    """Triplet loss with the farthest positive and the nearest negative of each anchor.

    "Batch hard" of Hermans et al. (In Defense of the Triplet Loss, 2017, equation 5):

        loss = mean over a of max(0, max_p D(a, p) - min_n D(a, n) + margin)

    and with ``soft=True`` the softplus ``log(1 + exp(·))`` of the difference, without a
    margin. The mean runs over the anchors that have a positive and a negative in the
    batch. Without any, the loss is zero. Names and defaults are those of
    tensorflow-addons, which expects embeddings of unit length (here they are normalised
    inside) and lets anchors without a positive or negative into the mean.

    Call it with ``y_true``, integer labels (n,) or (n, 1), and ``y_pred``, the raw
    embeddings (n, d), float.

    Args:
        margin: float above 0, by how much nearer the positive should be.
        soft: bool, the softplus instead of the margin.
        distance_metric: "L2", "squared-L2" or "angular" (one minus the cosine).
        name: the name of the loss.

    Raises:
        ValueError: if an argument or the shape of a tensor is not one of these.

    Example:
    >>> loss = TripletHardLoss()
    >>> labels, embeddings = [0, 0, 1], [[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]
    >>> print(round(float(loss(labels, embeddings)), 4))  # (√2 - 2 + 1 + 1) / 2
    0.7071
    """

    def __init__(
        self,
        margin: float = 1.0,
        soft: bool = False,
        distance_metric: str = "L2",
        name: str = "triplet_hard_loss",
    ) -> None:
        super().__init__(margin, distance_metric, name)
        self.soft = soft

    def average_triplets(self, distances: Any, positives: Any, negatives: Any) -> Any:
        farthest_positive = ops.max(ops.where(positives, distances, 0.0), axis=-1)
        nearest_negative = ops.min(ops.where(negatives, distances, FAR_AWAY), axis=-1)
        differences = farthest_positive - nearest_negative
        counts = ops.logical_and(
            ops.any(positives, axis=-1), ops.any(negatives, axis=-1)
        )
        if self.soft:
            return average_hinges(ops.softplus(differences), counts)
        return average_hinges(differences + self.margin, counts)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "soft": self.soft}


@keras.saving.register_keras_serializable(package="keras_embcam")
class TripletAllLoss(TripletLoss):
    """Triplet loss over all triplets of the batch that still cost something.

    "Batch all" of Hermans et al. (In Defense of the Triplet Loss, 2017, equation 6),
    averaged over the active triplets (their "BA≠0"), since the many that are satisfied
    would wash out the rest:

        loss = mean over {(a, p, n): t > 0} of t,   t = D(a, p) - D(a, n) + margin

    Without any active triplet the loss is zero. The name and the defaults go with those
    of ``TripletSemiHardLoss`` and ``TripletHardLoss``.

    Call it with ``y_true``, integer labels (n,) or (n, 1), and ``y_pred``, the raw
    embeddings (n, d), float; they are normalised inside. Memory grows with n³.

    Args:
        margin: float above 0, by how much nearer the positive should be.
        distance_metric: "L2", "squared-L2" or "angular" (one minus the cosine).
        name: the name of the loss.

    Raises:
        ValueError: if an argument or the shape of a tensor is not one of these.

    Example:
    >>> loss = TripletAllLoss()
    >>> labels, embeddings = [0, 0, 1], [[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]
    >>> print(round(float(loss(labels, embeddings)), 4))  # (√2 - 2 + 1 + 1) / 2
    0.7071
    """

    def __init__(
        self,
        margin: float = 1.0,
        distance_metric: str = "L2",
        name: str = "triplet_all_loss",
    ) -> None:
        super().__init__(margin, distance_metric, name)

    def average_triplets(self, distances: Any, positives: Any, negatives: Any) -> Any:
        differences = distances[:, :, None] - distances[:, None, :]
        is_triplet = ops.logical_and(positives[:, :, None], negatives[:, None, :])
        hinges = ops.relu(differences + self.margin)
        return average_active(ops.where(is_triplet, hinges, 0.0))


def average_hinges(terms: Any, counts: Any) -> Any:
    """Average max(0, term) over the terms that count; zero where none does.

    Args:
        terms: float tensor of any shape, finite.
        counts: bool tensor of the same shape.

    Returns:
        A scalar.

    Example:
    >>> counts = ops.array([True, True, False])
    >>> print(float(average_hinges(ops.array([-1.0, 3.0, 7.0]), counts)))
    1.5
    """
    num_counted = ops.sum(ops.cast(counts, terms.dtype))
    total = ops.sum(ops.where(counts, ops.relu(terms), 0.0))
    return total / ops.maximum(num_counted, 1.0)
