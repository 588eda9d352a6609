"""Margin loss with distance-weighted sampling of the negatives."""

from typing import Any

import keras
from keras import ops

from keras_embcam.losses.batch_loss import check_positive
from keras_embcam.losses.pair_loss import PairLoss
from keras_embcam.losses.pairwise import average_active, measure_distances

# Nearer negatives are drawn as if they were at this distance: the bound λ of the paper.
NEAREST_DISTANCE = 0.5


@keras.saving.register_keras_serializable(package="keras_embcam")
class MarginLoss(PairLoss):
    """Margin loss on all positive pairs and on negatives sampled by distance.

    Wu et al., Sampling Matters in Deep Embedding Learning, ICCV 2017. With the boundary
    β and the margin α (section 4.2):

        positive pair: max(0, α + D - β)        negative pair: max(0, α + β - D)

    For each positive pair one negative of its anchor is drawn, with replacement, with
    probability proportional to ``min(λ, 1/q(D))`` (section 4.1), where q is the density
    of the distances of random unit vectors in d dimensions, ``q(D) = D^(d-2) (1 -
    D²/4)^((d-3)/2)``, and ``λ = 1/q(0.5)``. Negatives at ``D >= α + β`` cost nothing
    and are not drawn. The loss is the mean over the pairs that cost something,
    positives and drawn negatives together, and zero without any. β is fixed, not
    learned.

    Call it with ``y_true``, integer labels (n,) or (n, 1), and ``y_pred``, the raw
    embeddings (n, d), float; they are normalised inside. Memory grows with n³.

    Args:
        margin: float above 0, α.
        beta: float above 0, the boundary β between near and far, at most 2 makes sense.
        seed: int for a repeatable sequence of draws, or None for one that follows
            ``keras.utils.set_random_seed``. A loaded loss starts its sequence anew.
        name: the name of the loss.

    Raises:
        ValueError: if an argument or the shape of a tensor is not one of these.

    Example:
    >>> loss = MarginLoss(seed=0)
    >>> labels, embeddings = [0, 0, 1], [[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]
    >>> print(round(float(loss(labels, embeddings)), 4))  # √2 + 0.2 - 1.2
    0.4142
    """

    def __init__(
        self,
        margin: float = 0.2,
        beta: float = 1.2,
        seed: int | None = None,
        name: str = "margin_loss",
    ) -> None:
        super().__init__(name)
        self.margin = check_positive("margin", margin)
        self.beta = check_positive("beta", beta)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def compare(self, unit_embeddings: Any, positives: Any, negatives: Any) -> Any:
        distances = measure_distances(unit_embeddings)
        costs_something = distances < self.margin + self.beta
        candidates = ops.logical_and(negatives, costs_something)
        dimension = ops.shape(unit_embeddings)[-1]
        weights = weigh_negatives(distances, candidates, dimension)
        chosen = self.choose_negatives(weights)
        positive_costs = ops.relu(self.margin + distances - self.beta)
        chosen_distances = ops.take_along_axis(distances, chosen, axis=1)
        negative_costs = ops.relu(self.margin + self.beta - chosen_distances)
        # An anchor without candidates gets an arbitrary choice, which is left out here.
        is_drawn = ops.logical_and(
            positives, ops.take_along_axis(candidates, chosen, axis=1)
        )
        costs = [
            ops.where(positives, positive_costs, 0.0),
            ops.where(is_drawn, negative_costs, 0.0),
        ]
        return average_active(ops.stack(costs))

    def choose_negatives(self, weights: Any) -> Any:
        """Draw one negative for each pair (anchor, positive).

        Args:
            weights: (n, n), of each example (column) as negative of an anchor (row).

        Returns:
            Integer tensor (n, n): entry (a, p) is the negative drawn for that pair.
        """
        shape = ops.shape(weights)
        noise = keras.random.uniform(shape, dtype=self.dtype, seed=self.seed_generator)
        return draw_columns(weights, noise)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "margin": self.margin,
            "beta": self.beta,
            "seed": self.seed,
        }


def weigh_negatives(distances: Any, candidates: Any, dimension: Any) -> Any:
    """Weigh the negatives of each anchor by ``min(λ, 1/q(D))`` (Wu et al., 2017).

    Args:
        distances: tensor (n, n), in [0, 2].
        candidates: bool tensor (n, n), the negatives to draw from.
        dimension: int or integer scalar, the dimension d of the embeddings.

    Returns:
        Tensor (n, n) without gradient, zero outside the candidates, scaled so that the
        highest weight of a row is one.

    Example:
    >>> distances, candidates = ops.array([[0.5, 1.0, 1.0]]), [[True, True, False]]
    >>> print(weigh_negatives(distances, candidates, 4).numpy().round(4))  # 1/q: ~ 4.13
    [[1.     0.2795 0.    ]]
    """
    distances = ops.stop_gradient(distances)
    dimension = ops.cast(dimension, distances.dtype)

    def log_inverse_density(distance: Any) -> Any:
        distance = ops.clip(distance, NEAREST_DISTANCE, 1.999)  # q(2) = 0
        return (2.0 - dimension) * ops.log(distance) + (3.0 - dimension) / 2.0 * (
            ops.log(1.0 - ops.square(distance) / 4.0)
        )

    log_bound = log_inverse_density(
        ops.convert_to_tensor(NEAREST_DISTANCE, dtype=distances.dtype)
    )
    log_weights = ops.minimum(log_inverse_density(distances), log_bound)
    # In 512 dimensions weights overflow float32, so each row is divided by its highest.
    lowest = ops.min(log_weights)
    highest = ops.max(
        ops.where(candidates, log_weights, lowest), axis=-1, keepdims=True
    )
    return ops.where(candidates, ops.exp(ops.minimum(log_weights - highest, 0.0)), 0.0)


def draw_columns(weights: Any, noise: Any) -> Any:
    """Draw column indices, row by row, with probability proportional to the weights.

    Args:
        weights: tensor (n, m), non-negative.
        noise: tensor (n, k), uniform in [0, 1).

    Returns:
        Integer tensor (n, k), in [0, m).

    Example:
    >>> weights, noise = ops.array([[1.0, 0.0, 3.0]]), ops.array([[0.0, 0.2, 0.3, 0.9]])
    >>> print(draw_columns(weights, noise).numpy())
    [[0 0 2 2]]
    """
    cumulative = ops.cumsum(weights, axis=-1)
    thresholds = noise * cumulative[:, -1:]
    is_reached = cumulative[:, None, :] > thresholds[:, :, None]
    return ops.argmax(ops.cast(is_reached, "int32"), axis=-1)
