"""Proxy-Anchor: each proxy gathers its class of the batch and repels the others."""

from typing import Any

import keras
from keras import ops

from keras_embcam.losses.batch_loss import BatchLoss, check_positive
from keras_embcam.losses.class_similarities import mask_own_class


@keras.saving.register_keras_serializable(package="keras_embcam")
class ProxyAnchorLoss(BatchLoss):
    """Proxy-Anchor on the similarities that the ``Proxies`` layer gives.

    Kim et al., Proxy Anchor Loss for Deep Metric Learning, CVPR 2020, equation 4. With
    the similarities s, the scale α and the margin δ:

        loss = mean over the classes in the batch of log(1 + Σ_own exp(-α (s - δ)))
             + mean over all classes of log(1 + Σ_others exp(α (s + δ)))

    where Σ_own runs over the examples of the class and Σ_others over all others.

    Call it with ``y_true``, integer labels (n,) or (n, 1) in [0, num_classes), and
    ``y_pred``, the cosine similarities (n, num_classes), float. Any other label makes
    the loss NaN.

    Args:
        margin: float above 0, δ.
        scale: float above 0, α.
        name: the name of the loss.

    Raises:
        ValueError: if an argument or the shape of a tensor is not one of these.

    Example:
    >>> loss = ProxyAnchorLoss(margin=0.5, scale=1.0)
    >>> print(round(float(loss([0], [[0.5, -0.5]])), 4))  # log 2 + (0 + log 2) / 2
    1.0397
    """

    def __init__(
        self,
        margin: float = 0.1,
        scale: float = 32.0,
        name: str = "proxy_anchor_loss",
    ) -> None:
        super().__init__(name)
        self.margin = check_positive("margin", margin)
        self.scale = check_positive("scale", scale)

    def compute(self, labels: Any, predictions: Any) -> Any:
        is_own_class, similarities = mask_own_class(labels, predictions)
        pulls = sum_exponentials(
            -self.scale * (similarities - self.margin), is_own_class
        )
        pushes = sum_exponentials(
            self.scale * (similarities + self.margin), ops.logical_not(is_own_class)
        )
        # A class without an example in the batch has a pull of log(1) = 0.
        is_present = ops.cast(ops.any(is_own_class, axis=0), pulls.dtype)
        num_present = ops.maximum(ops.sum(is_present), 1.0)
        return ops.sum(pulls) / num_present + ops.mean(pushes)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "margin": self.margin, "scale": self.scale}


def sum_exponentials(exponents: Any, counts: Any) -> Any:
    """Return log(1 + Σ exp(exponents)) of each column, over the entries that count.

    Args:
        exponents: tensor (n, num_classes).
        counts: bool tensor (n, num_classes).

    Returns:
        Tensor (num_classes,), non-negative.

    Example:
    >>> print(sum_exponentials(ops.array([[0.0], [5.0]]), [[True], [False]]).numpy())
    [0.6931472]
    """
    counted = ops.where(counts, exponents, -1e30)  # exp(-1e30) = 0
    one = ops.zeros_like(exponents[:1])  # the 1 of log(1 + ...), as exp(0)
    return ops.logsumexp(ops.concatenate([one, counted], axis=0), axis=0)
