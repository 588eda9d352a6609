"""Whether contributions add up to the embeddings that they are of."""

import warnings

import numpy as np

from keras_embcam.retrieval.pair_maps import measure_lengths

# Of the length of an embedding. With more missing, a map of the cosine may be another.
MAX_ERROR = 0.1


def measure_errors(values: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
    """Return the completeness errors (n,) float32; NaN where something is NaN.

    Args:
        values: (n, h, w, d), contributions.
        embeddings: (n, d), their sums if they are complete.

    Example:

    >>> measure_errors(np.float32([[[[3, 0], [0, 2]]]]), np.float32([[3, 4]])).tolist()
    [0.4000000059604645]
    """
    with np.errstate(invalid="ignore"):  # NaN is told of where it matters
        differences = values.sum(axis=(1, 2)) - embeddings
        # Of embeddings of zeros the length of the difference itself.
        lengths = measure_lengths(embeddings)[:, None]
        return np.linalg.norm(differences / lengths, axis=1).astype("float32")


def check_finite_maps(values: np.ndarray, embeddings: np.ndarray) -> None:
    """Refuse contributions that hold NaN where the embeddings are finite.

    Args:
        values: (n, ...), contributions or maps.
        embeddings: (n, d).

    Raises:
        ValueError: for a head that is not defined on the way from zero activations.
    """
    is_bad = np.isfinite(embeddings).all(axis=1)
    is_bad &= ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if is_bad.any():
        raise ValueError(
            "Contributions are integrated from activations of zero, so the embedding "
            "must be finite there and on the way. This one is NaN or infinite, as "
            "behind a logarithm or a division by a maximum, for "
            f"{np.count_nonzero(is_bad)} of {len(is_bad)} images. Pass "
            "`embedding_layer`, the layer whose output goes into that step; `explain` "
            "needs no such integral."
        )


def warn_of_errors(errors: np.ndarray) -> None:
    """Warn where contributions miss a good part of their embeddings.

    Args:
        errors: of any shape, see `measure_errors`.
    """
    largest = np.max(errors, initial=0)
    if largest > MAX_ERROR:
        warnings.warn(
            "The contributions of positions must add up to the embedding. The largest "
            f"completeness error (`errors`) is {largest:.2f} of its length, so these "
            "maps may be wrong: pass more `num_steps` (default 16), such as 256, or, "
            "where that does not help, `embedding_layer`, the layer in front of a "
            "normalisation or a logarithm.",
            stacklevel=3,
        )
