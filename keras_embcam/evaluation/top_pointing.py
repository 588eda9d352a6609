"""The pointing game over the classes that the network takes to be there."""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_embcam.evaluation.measure import FAITHFULNESS, Column, Measured, fills
from keras_embcam.evaluation.measure_input import Context
from keras_embcam.evaluation.shared_runs import split
from keras_embcam.metrics import measure_heatmaps
from keras_embcam.metrics.statistics import mean_of

Tensor = Any

NUM_PREDICTED = 5


@fills(
    FAITHFULNESS,
    Column("top_5_pointing", "top-5 pointing"),
    Column("top_5_pointed", "pointed"),
    Column("top_5_rejected", "rejected"),
)
def measure_top_5_pointing(context: Context) -> Measured:
    """Measure the pointing game over the five classes that an image is most like.

    The threshold below which a map rejects its class is chosen on every other image
    and reported on the rest. For methods whose maps are in the units of the score.
    """
    sample = context.sample
    measured = Measured([{} for _ in context.methods])
    if sample.labels is None:
        return measured
    means = sample.other_class_means
    classes = np.flatnonzero(np.isfinite(means).all(axis=1))
    is_placed = not {"bbox", "segmentation_mask"}.isdisjoint(sample.examples)
    if len(sample.rows) < 2 or len(classes) < 2 or not is_placed:
        measured.notes.append("No top-5 pointing: it takes boxes or masks, two classes")
        return measured
    num_predicted = min(NUM_PREDICTED, len(classes))
    ranked = classes[rank_classes(sample.embeddings, means[classes], num_predicted)]
    maxima, hits = _point_at_classes(context, means, ranked)
    chosen, other = np.s_[::2], np.s_[1::2]
    for number, method in enumerate(context.methods):
        is_counted = ~np.isnan(hits[number][chosen]).any(axis=1)
        if not method.has_scores or not is_counted.any():
            continue
        threshold = choose_rejection_threshold(
            maxima[number][chosen],
            hits[number][chosen],
            ranked[chosen],
            sample.labels[chosen],
        )
        result = top_5_pointing(
            maxima[number][other],
            hits[number][other],
            ranked[other],
            sample.labels[other],
            threshold,
        )
        measured.columns[number] = {
            "top_5_pointing": mean_of(result.accuracy),
            "top_5_pointed": mean_of(result.pointed),
            "top_5_rejected": mean_of(result.rejected),
        }
    measured.notes.append(
        f"Top-{num_predicted} pointing: on every other one of these images, with the "
        "threshold of rejection chosen on the rest"
    )
    return measured


def _point_at_classes(
    context: Context, class_means: np.ndarray, ranked: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the maxima of the maps of each class, and whether they are on the object.

    Two arrays (m, n, number of classes) for m methods.
    """
    sample = context.sample
    maxima = np.full((len(context.methods), *ranked.shape), np.nan)
    hits = np.full_like(maxima, np.nan)
    for rows in split(len(sample.rows)):
        examples = {key: values[rows] for key, values in sample.examples.items()}
        for place, classes in enumerate(ranked[rows].T):
            for number, heatmaps in context.explain(
                examples["image"],
                [class_means[classes]] * len(context.methods),
                normalize=False,
            ):
                maxima[number, rows, place] = heatmaps.max(axis=(1, 2))
                hits[number, rows, place] = measure_heatmaps(
                    heatmaps, examples, context.objects, ["pointing_game"]
                )["pointing_game"]
    return maxima, hits


def rank_classes(
    embeddings: Tensor, class_proxies: Tensor, num_classes: int = 5
) -> np.ndarray:
    """Return the classes whose proxies are most like each embedding, best first.

    Args:
        embeddings: (n, d) float, compared by cosine.
        class_proxies: (classes, d) float.
        num_classes: how many, >= 1, at most as many as there are.

    Returns:
        (n, num_classes) int rows of `class_proxies`; the lower of equal ones first.

    Raises:
        ValueError: for shapes that do not fit or another number of classes.

    Example:

    >>> class_proxies = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    >>> rank_classes(np.array([[0.1, 0.5]]), class_proxies, 3).tolist()
    [[1, 0, 2]]
    """
    embeddings = np.asarray(ops.convert_to_numpy(embeddings))
    class_proxies = np.asarray(ops.convert_to_numpy(class_proxies))
    shapes = embeddings.shape, class_proxies.shape
    if not len(shapes[0]) == len(shapes[1]) == 2 or shapes[0][1] != shapes[1][1]:
        raise ValueError(
            "`embeddings` must have the shape (n, d) and `class_proxies` "
            f"(classes, d). Received: {shapes[0]} and {shapes[1]}"
        )
    if not 1 <= num_classes <= len(class_proxies):
        raise ValueError(
            "`num_classes` must be at least 1 and at most the number of "
            f"`class_proxies`. Received: {num_classes!r} of {len(class_proxies)}"
        )
    # An embedding's own length does not change the order of its classes.
    similarities = embeddings @ keras.utils.normalize(class_proxies, axis=1).T
    return np.argsort(-similarities, axis=1, kind="stable")[:, :num_classes]


class TopPointing(NamedTuple):
    """What ``top_5_pointing`` returns: (n,) float64 each, in [0, 1] or NaN.

    Attributes:
        accuracy: share of the predicted classes that are hits.
        pointed: of those that are there, the share of hits; NaN where none is there.
        rejected: of those that are not, the share of hits; NaN where all are there.
    """

    accuracy: np.ndarray
    pointed: np.ndarray
    rejected: np.ndarray


def top_5_pointing(
    maxima: Any, hits: Any, ranked_classes: Any, labels: Any, threshold: float
) -> TopPointing:
    """Return the pointing game over the best five predictions, with rejection.

    The pointing game asks only for classes that are in the image. Selvaraju et al.
    ("Grad-CAM", ICCV 2017 and IJCV 2020, under "Pointing Game") ask for the five that
    the network predicts, whether they are there or not, and let a map reject its
    class by staying below a threshold everywhere. A prediction is a hit where

        its class is there, its map reaches the threshold, and its maximum lies on an
        object of that class; or
        its class is not there and its map stays below the threshold,

    and a miss otherwise. Accuracy is ``hits / (hits + misses)`` over all predictions
    of all images, which is the mean of `accuracy`. The paper says that this measures
    recall too; a class that is there but not among the five plays no part in it. How
    the threshold was chosen it does not say: choose it on another set
    (``choose_rejection_threshold``).

    Where an image shows one class, rejecting everything scores at least 0.8. Report
    the means of `pointed` and `rejected` beside it, which are 0 and 1 then.

    Args:
        maxima: (n, 5) maxima of the maps before scaling (``normalize=False``), in
            units of the score; 0 for an empty map. Any number of predictions will do.
        hits: (n, 5) whether the map's maximum lies on an object of its class: 1, 0, or
            NaN where the image has no box, as ``pointing_game_in_boxes`` returns it.
            Not looked at where the class is not there.
        ranked_classes: (n, 5) the predicted classes, from ``rank_classes``.
        labels: (n,) the class of each image, or (n, m) several, padded with -1.
        threshold: a map whose maximum is below it rejects its class.

    Returns:
        Shares for each image. `accuracy` and `pointed` are NaN for an image whose
        class was predicted and that has no box.

    Raises:
        ValueError: for shapes that do not fit.

    Example:

    >>> classes, hits, maxima = [[7, 4, 2]], [[1, 0, 0]], [[9, 5, 1]]
    >>> pointing = top_5_pointing(maxima, hits, classes, labels=[7], threshold=3)
    >>> [share.round(2).tolist() for share in pointing]  # 4 was not rejected
    [[0.67], [1.0], [0.5]]
    """
    maxima, if_shown, is_there = _check(maxima, hits, ranked_classes, labels)
    right = np.where(maxima >= threshold, if_shown, np.where(is_there, 0.0, 1.0))
    right = np.where(np.isnan(if_shown), np.nan, right)
    return TopPointing(
        right.mean(axis=1), _mean_where(is_there, right), _mean_where(~is_there, right)
    )


def choose_rejection_threshold(
    maxima: Any, hits: Any, ranked_classes: Any, labels: Any
) -> float:
    """Return the threshold of ``top_5_pointing`` with the highest mean accuracy.

    The lowest of equal ones. Choose it on one set and report on another.

    Args:
        maxima: see ``top_5_pointing``.
        hits: see ``top_5_pointing``.
        ranked_classes: see ``top_5_pointing``.
        labels: see ``top_5_pointing``.

    Returns:
        One of the maxima, or just above the largest where it is best to reject all.

    Raises:
        ValueError: for shapes that do not fit, or where no image can be counted.

    Example:

    >>> classes, hits, maxima = [[7, 4, 2]], [[1, 0, 0]], [[9, 5, 1]]
    >>> choose_rejection_threshold(maxima, hits, classes, labels=[7])
    9.0
    """
    maxima, if_shown, is_there = _check(maxima, hits, ranked_classes, labels)
    counted = ~np.isnan(if_shown).any(axis=1)
    maxima, if_shown, is_there = (
        x[counted].ravel() for x in (maxima, if_shown, is_there)
    )
    if not maxima.size:
        raise ValueError(
            "A threshold can only be chosen on images with boxes. Received: "
            f"{len(counted)} images, none of them with one"
        )
    order = np.argsort(maxima)
    # How many hits are gained by rejecting the lowest maps, one after the other.
    gains = np.where(is_there, 0.0, 1.0)[order] - if_shown[order]
    won = np.concatenate([[0], gains.cumsum()])
    candidates, num_below = np.unique(maxima[order], return_index=True)
    candidates = np.append(candidates, np.nextafter(candidates[-1], np.inf))
    return float(candidates[won[np.append(num_below, len(order))].argmax()])


def _mean_where(where: np.ndarray, values: np.ndarray) -> np.ndarray:
    count = where.sum(axis=1)
    total = np.where(where, values, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _check(
    maxima: Any, hits: Any, ranked_classes: Any, labels: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return maxima, what counts if the map is shown, and which classes are there."""
    maxima, hits = np.asarray(maxima, "float64"), np.asarray(hits, "float64")
    ranked_classes, labels = np.asarray(ranked_classes), np.asarray(labels)
    shapes = maxima.shape, hits.shape, ranked_classes.shape
    if maxima.ndim != 2 or len(set(shapes)) > 1 or not maxima.shape[1]:
        raise ValueError(
            "`maxima`, `hits` and `ranked_classes` must have the same shape (n, 5), "
            f"one column for each predicted class. Received: {shapes}"
        )
    if labels.ndim not in (1, 2) or len(labels) != len(maxima):
        raise ValueError(
            "`labels` must have the shape (n,), one class for each image, or (n, m), "
            f"several. Received: labels.shape={labels.shape} for {len(maxima)} images"
        )
    labels = labels.reshape(len(labels), 1, -1)
    is_there = (ranked_classes[..., None] == labels).any(axis=-1)
    return maxima, np.where(is_there, hits, 0.0), is_there
