"""The base of the losses that compare the examples of a batch with each other."""

import math
import numbers
from typing import Any

import keras
from keras import ops


class BatchLoss(keras.losses.Loss):
    """Owns what every loss over a whole batch shares; a subclass adds ``compute``.

    Such a loss is one number for a batch: it has no value per example, hence no
    ``reduction`` argument and no sample weights. Under ``tf.distribute`` each replica
    compares the examples of its own share of the batch, and the replicas are averaged
    (from Keras 3.8 on; before, Keras summed the replicas of every loss). It is computed
    in float32 (float64 where that is Keras's default), whatever the dtype policy of the
    model.

    Args:
        name: the name of the loss in logs and configurations.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name=name, dtype=choose_dtype())

    def compute(self, labels: Any, predictions: Any) -> Any:
        """Return the loss, a scalar.

        Args:
            labels: (n,), what the user passed as ``y_true``.
            predictions: (n, d), the user's ``y_pred`` in the dtype of the loss.
        """
        raise NotImplementedError

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        if sample_weight is not None:
            raise ValueError(
                f"{type(self).__name__} compares the examples of a batch with each "
                "other and has no loss per example to be weighted. Received: "
                f"sample_weight={sample_weight}. Leave out sample_weight and "
                "class_weight, and balance the classes with "
                "keras_embcam.sampling.sample_balanced_batches instead."
            )
        return super().__call__(y_true, y_pred)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        y_pred = ops.convert_to_tensor(y_pred)
        labels = flatten_labels(ops.convert_to_tensor(y_true), y_pred)
        # Keras divides what it reduces by the number of replicas, which makes their
        # sum a mean, but leaves scalars as they are: hence the axis of length one.
        return ops.reshape(self.compute(labels, y_pred), (1,))

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name}


def choose_dtype() -> str:
    """Return the dtype to compute a loss in: Keras's default, at least float32."""
    return keras.backend.result_type(keras.config.floatx(), "float32")


def flatten_labels(y_true: Any, y_pred: Any) -> Any:
    """Return the labels as (n,) after checking the shapes of both arguments.

    Args:
        y_true: tensor (n,) or (n, 1), the integer labels.
        y_pred: tensor (n, d), the embeddings or similarities.

    Returns:
        The labels, (n,), in the dtype they came in.

    Raises:
        ValueError: if a shape is another one, or the two lengths differ.
    """
    if len(y_pred.shape) != 2:
        raise ValueError(
            "y_pred must hold one vector for each example, with shape (n, d). "
            f"Received: y_pred with shape {tuple(y_pred.shape)}. Let the model end in "
            "a Dense, a global pooling or a Flatten layer."
        )
    if len(y_true.shape) != 1 and tuple(y_true.shape[1:]) not in [(1,), (None,)]:
        raise ValueError(
            "y_true must hold one integer label for each example, with shape (n,) or "
            f"(n, 1). Received: y_true with shape {tuple(y_true.shape)}. Pass "
            "keras.ops.argmax(y_true, axis=-1) where the labels are one-hot."
        )
    if None not in (y_true.shape[0], y_pred.shape[0]) and (
        y_true.shape[0] != y_pred.shape[0]
    ):
        raise ValueError(
            "y_true and y_pred must be of the same length. Received: y_true with shape "
            f"{tuple(y_true.shape)} and y_pred with shape {tuple(y_pred.shape)}. Pass "
            "one label for each vector."
        )
    return ops.reshape(y_true, (-1,))


def check_positive(name: str, value: float) -> float:
    """Return an argument as a float after checking that it is above zero.

    Raises:
        ValueError: if the value is no finite number above zero.
    """
    is_number = isinstance(value, numbers.Real) and math.isfinite(value)
    if not is_number or value <= 0:
        raise ValueError(
            f"{name} must be a finite number above 0. Received: {name}={value!r}. "
            "Pass a positive float, or leave it out for the default."
        )
    return float(value)
