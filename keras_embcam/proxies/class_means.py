"""Class means: one proxy for each class of a labelled set."""

import warnings
from typing import Any

import numpy as np
from keras import ops

from keras_embcam.proxies.elementary import single_point

# More rows than that for each image are no numbers of classes.
MAX_ROWS_PER_IMAGE = 1000


class RunningClassMean:
    """Class means of unit embeddings, gathered batch by batch.

    Needs (classes, d) numbers, whatever the size of the data set.

    Args:
        num_classes: labels are 0 to num_classes - 1.

    Example:

    >>> means = RunningClassMean(num_classes=2)
    >>> means.update([[3.0, 0.0], [0.0, 2.0]], labels=[1, 1])
    >>> means.update([[0.0, 5.0]], labels=[0])
    >>> means.result().round(3)
    array([[0.   , 1.   ],
           [0.707, 0.707]], dtype=float32)
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = np.zeros(num_classes, np.int64)
        self._sums: np.ndarray | None = None

    def update(self, embeddings: Any, labels: Any) -> None:
        """Add a batch of raw embeddings (n, d) with labels (n,).

        Raises:
            ValueError: for embeddings of another shape or with NaN or infinity, or
                labels that are not (n,) integers of 0 to num_classes - 1.
        """
        units, labels = self._check(embeddings, labels)
        if self._sums is None:
            self._sums = np.zeros((self.num_classes, units.shape[1]))
        np.add.at(self._sums, labels, units)
        np.add.at(self.counts, labels, 1)

    def result(self) -> np.ndarray:
        """Return the class proxies (classes, d), NaN for a class without images.

        Raises:
            ValueError: where there was no image at all.
        """
        return _unit_rows(self._check_sums(), self.counts, "classes")

    def leave_one_out(self, embeddings: Any, labels: Any) -> np.ndarray:
        """Return (n, d), for each image the mean of the other images of its class.

        Args:
            embeddings: (n, d) raw, among those that were added.
            labels: (n,).

        Returns:
            NaN for the only image of a class.
        """
        sums = self._check_sums()
        units, labels = self._check(embeddings, labels)
        return _unit_rows(sums[labels] - units, self.counts[labels] - 1, "images")

    def _check(self, embeddings: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
        units = ops.convert_to_numpy(single_point(embeddings))
        width = "d" if self._sums is None else self._sums.shape[1]
        if units.ndim != 2 or (self._sums is not None and units.shape[1] != width):
            raise ValueError(
                f"`embeddings` must have the shape (n, {width}). Received the shape "
                f"{units.shape}"
            )
        bad = np.flatnonzero(~np.isfinite(units).all(axis=1))
        if len(bad):
            raise ValueError(
                "`embeddings` must be finite. Not so for the images "
                f"{bad[:20].tolist()}"
            )
        return units, check_labels(labels, len(units), self.num_classes)

    def _check_sums(self) -> np.ndarray:
        if self._sums is None or not self.counts.any():
            raise ValueError("Class means need images: call `update` first.")
        return self._sums


def class_mean(
    embeddings: Any,
    labels: Any,
    *,
    num_classes: int | None = None,
    leave_one_out: bool = False,
) -> np.ndarray:
    """Return the unit mean of the unit embeddings of each class (Bachhawat, eq. 11).

    Args:
        embeddings: (n, d) raw.
        labels: (n,) integers, 0 to classes - 1; number others with `np.unique`.
        num_classes: by default the largest label plus 1.
        leave_one_out: return for each image the mean of the other images of its
            class instead. The paper averages over all, the explained one included.

    Returns:
        (classes, d) float32, one row a label; NaN for a class without images. With
        ``leave_one_out`` (n, d), NaN for the only image of a class.

    Raises:
        ValueError: for labels of another shape or out of range.

    Example:

    >>> class_mean([[3.0, 0.0], [0.0, 2.0]], labels=[0, 0]).round(3)
    array([[0.707, 0.707]], dtype=float32)
    """
    if num_classes is None:
        values = np.asarray(ops.convert_to_numpy(labels))
        are_integers = np.issubdtype(values.dtype, np.integer)
        # Of other labels `check_labels` says what they must be.
        num_classes = int(values.max(initial=0)) + 1 if are_integers else 1
        if num_classes > MAX_ROWS_PER_IMAGE * max(len(embeddings), 100):
            raise ValueError(
                "`labels` are the numbers of the rows that are returned, so they must "
                f"be 0 to classes - 1. Received {num_classes - 1} for {len(embeddings)}"
                " images. Number them with `classes, labels = np.unique(labels, "
                "return_inverse=True)`, or pass `num_classes`."
            )
    means = RunningClassMean(num_classes)
    means.update(embeddings, labels)
    return means.leave_one_out(embeddings, labels) if leave_one_out else means.result()


def check_labels(
    labels: Any, num_images: int, num_classes: int, name: str = "labels"
) -> np.ndarray:
    """Return labels (n,) as integers.

    Args:
        labels: (n,).
        num_images: n.
        num_classes: labels are 0 to num_classes - 1.
        name: of the argument, for messages.

    Raises:
        ValueError: for another shape, fractions, or labels out of range.
    """
    values = ops.convert_to_numpy(labels)
    if values.shape != (num_images,) or not np.issubdtype(values.dtype, np.integer):
        raise ValueError(
            f"`{name}` must be integers of the shape ({num_images},), one for each "
            f"image. Received the shape {values.shape} of {values.dtype}"
            f"{_hint(values)}"
        )
    wrong = np.unique(values[(values < 0) | (values >= num_classes)])
    if len(wrong):
        raise ValueError(
            f"`{name}` must lie between 0 and {num_classes - 1}, one for each of "
            f"{num_classes} classes. Received: {wrong[:10].tolist()}"
        )
    return values


def _hint(labels: np.ndarray) -> str:
    if labels.ndim == 2:
        column = "[:, 0]" if labels.shape[1] == 1 else ".argmax(axis=1)"
        return f". Pass `labels{column}`."
    if labels.dtype.kind in "OSU":
        return ". Number them with `np.unique(labels, return_inverse=True)[1]`."
    return ""


def _unit_rows(sums: np.ndarray, counts: np.ndarray, of_what: str) -> np.ndarray:
    # Where unit embeddings cancel each other, the rest is rounding of float32.
    cancel = (counts > 0) & (np.linalg.norm(sums, axis=1) < 1e-6 * counts)
    if cancel.any():
        sums = np.where(cancel[:, None], 0, sums)
        warnings.warn(
            "A class mean needs embeddings that do not cancel each other. Received: "
            f"those of the {of_what} {np.flatnonzero(cancel)[:10].tolist()} have the "
            "mean zero, so heatmaps for it are empty. Pass other proxies for these, "
            'as with proxy="single_point".',
            stacklevel=3,
        )
    units = ops.convert_to_numpy(single_point(sums))
    return np.where(counts[:, None] > 0, units, np.nan).astype("float32")
