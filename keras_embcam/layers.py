"""The trainable proxies that proxy losses compare embeddings with."""

import numbers
from typing import Any

import keras
from keras import ops

from keras_embcam.unit_vectors import normalize_rows


@keras.saving.register_keras_serializable(package="keras_embcam")
class Proxies(keras.layers.Layer):
    """One trainable proxy for each class, and the similarity of embeddings to them.

    Maps embeddings y (n, d) to the cosine similarities ``y·p / (|y| |p|)`` with the
    proxies p, shape (n, num_classes): what ``ProxyNCALoss`` and ``ProxyAnchorLoss`` of
    ``keras_embcam.losses`` take (Movshovitz-Attias et al., No Fuss Distance Metric
    Learning using Proxies, ICCV 2017). The proxies are a weight of the layer: they are
    trained, counted and saved with the model, and read as ``layer.proxies``
    (num_classes, d).

    Unless ``dtype`` says otherwise, the layer works in float32 under any dtype policy:
    a proxy loss multiplies the similarities by 18 or 32, so that the rounding of
    float16 would show. A zero embedding has no direction: its similarities and its
    gradient are zero.

    Only the direction of a proxy counts, so the initial length sets how fast it turns:
    proxies drawn ten times shorter turn about ten times faster under Adam. The papers
    train their proxies with a higher learning rate than the network; Keras has one rate
    for all weights, and a shorter initial length does the same.

    Args:
        num_classes: int above 0.
        initializer: Keras initializer of the proxies. The default draws them with the
            standard deviation ``sqrt(2 / num_classes)`` of the authors of Proxy-Anchor.
        name: the name of the layer.
        dtype: the dtype or dtype policy of the layer.
        **kwargs: further arguments of ``keras.layers.Layer``.

    Raises:
        ValueError: if ``num_classes`` is no integer above 0, or the input not (n, d).

    Example:
    >>> layer = Proxies(2)
    >>> layer.build((None, 2))
    >>> _ = layer.proxies.assign([[2.0, 0.0], [0.0, 3.0]])
    >>> print(layer(ops.array([[3.0, 4.0]])).numpy())
    [[0.6 0.8]]
    """

    def __init__(
        self,
        num_classes: int,
        initializer: Any = "he_normal",
        name: str | None = None,
        dtype: Any = None,
        **kwargs: Any,
    ) -> None:
        if dtype is None:
            dtype = keras.backend.result_type(keras.config.floatx(), "float32")
        super().__init__(name=name, dtype=dtype, **kwargs)
        is_integer = isinstance(num_classes, numbers.Integral)
        if not is_integer or isinstance(num_classes, bool) or num_classes < 1:
            raise ValueError(
                "num_classes must be an integer above 0. Received: "
                f"num_classes={num_classes!r}. Pass the number of training classes."
            )
        self.num_classes = int(num_classes)
        self.initializer = keras.initializers.get(initializer)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        if len(input_shape) != 2 or input_shape[-1] is None:
            raise ValueError(
                "Proxies takes embeddings (n, d) with a known d. Received: input of "
                f"shape {tuple(input_shape)}. Put a Dense, a global pooling or a "
                "Flatten layer before it."
            )
        self.proxies = self.add_weight(
            shape=(self.num_classes, input_shape[-1]),
            initializer=self.initializer,
            name="proxies",
        )

    def call(self, embeddings: Any) -> Any:
        unit_proxies = normalize_rows(ops.convert_to_tensor(self.proxies))
        return ops.matmul(normalize_rows(embeddings), ops.transpose(unit_proxies))

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> tuple[int | None, int]:
        return (input_shape[0], self.num_classes)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "initializer": keras.initializers.serialize(self.initializer),
        }
