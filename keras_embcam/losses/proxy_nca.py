"""Proxy-NCA++: a softmax over the similarities to the proxies of all classes."""

from typing import Any

import keras
from keras import ops

from keras_embcam.losses.batch_loss import check_positive, choose_dtype
from keras_embcam.losses.class_similarities import mask_own_class


@keras.saving.register_keras_serializable(package="keras_embcam")
class ProxyNCALoss(keras.losses.Loss):
    """Proxy-NCA++ on the similarities that the ``Proxies`` layer gives.

    Teh et al., ProxyNCA++: Revisiting and Revitalizing Proxy Neighborhood Component
    Analysis, ECCV 2020: unlike Proxy-NCA with all proxies in the denominator ("proxy
    assignment probability") and with a temperature T. With the squared distance ``d =
    2 - 2 s`` of unit vectors:

        loss of an example = -log( exp(-d_own / T) / Σ_classes exp(-d_class / T) )

    Call it with ``y_true``, integer labels (n,) or (n, 1) in [0, num_classes), and
    ``y_pred``, the cosine similarities (n, num_classes), float. Any other label makes
    the loss NaN. Each example has its own loss: sample weights and class weights work.

    Args:
        temperature: float above 0, T. The paper's is 1/9.
        reduction: how Keras reduces the losses of the examples.
        name: the name of the loss.

    Raises:
        ValueError: if an argument or the shape of a tensor is not one of these.

    Example:
    >>> loss = ProxyNCALoss(temperature=2.0)
    >>> print(round(float(loss([0], [[1.0, 0.0]])), 4))  # log(1 + exp(-1))
    0.3133
    """

    def __init__(
        self,
        temperature: float = 1 / 9,
        reduction: str | None = "sum_over_batch_size",
        name: str = "proxy_nca_loss",
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=choose_dtype())
        self.temperature = check_positive("temperature", temperature)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        is_own_class, similarities = mask_own_class(
            ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        )
        # The 2 of d = 2 - 2 s is the same for all classes and cancels.
        log_shares = ops.log_softmax(2.0 * similarities / self.temperature, axis=-1)
        # A product, not a where: 0 times NaN keeps a label out of range visible.
        return -ops.sum(ops.cast(is_own_class, self.dtype) * log_shares, axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "temperature": self.temperature}
