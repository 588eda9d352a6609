"""The proxies that methods explain, from the embeddings of the evaluated set."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_embcam.evaluation.compared_method import DIRECTIONS, ComparedMethod
from keras_embcam.proxies import (
    RunningClassMean,
    check_labels,
    distance_difference,
    pairwise_distance,
)
from keras_embcam.proxies.triplet_draws import TripletDraws
from keras_embcam.weightings import get_weighting, gradcam, hirescam, xgradcam

# Linear in the gradient: the mean of many gradients is that of their mean proxy.
LINEAR_WEIGHTINGS = (gradcam, hirescam, xgradcam)


class EmbeddedSet(NamedTuple):
    """A set of images, embedded.

    Attributes:
        embeddings: (n, d) float32, raw.
        labels: (n,) integers, the places of the labels in `classes`; None for none.
        classes: (C,) the labels as the examples have them, each once, sorted.
    """

    embeddings: np.ndarray
    labels: np.ndarray | None
    classes: np.ndarray | None


class SetProxies:
    """The proxies of a set of images, method by method.

    Args:
        embeddings: (n, d) raw, None where no method needs them.
        labels: (n,) integers >= 0, None where no method needs them.
        seed: of the sampled triplets; image i draws the same ones whatever is asked
            before it.

    Raises:
        ValueError: for labels of another shape or below 0.
    """

    def __init__(
        self, embeddings: np.ndarray | None, labels: np.ndarray | None, seed: int
    ) -> None:
        self._seed = seed
        self._draws: dict[Any, TripletDraws] = {}
        if embeddings is None or labels is None:
            return
        num_classes = int(np.max(labels, initial=0)) + 1
        self._embeddings = embeddings
        self._labels = check_labels(labels, len(embeddings), num_classes)
        self._means = RunningClassMean(num_classes)
        self._means.update(embeddings, labels)
        self._class_means = self._means.result()

    def choose(
        self,
        methods: Sequence[ComparedMethod],
        rows: np.ndarray,
        labels: np.ndarray | None,
    ) -> list[Any]:
        """Return what each method explains on some images.

        Args:
            methods: m of them.
            rows: (b,) numbers of the images within the set.
            labels: (b,) of the same images, for class proxies.

        Returns:
            m items: None for the images' own embeddings; a function of the
            embeddings; (b, d) float32; or (b, s, d), for several whose weights are
            averaged. NaN for an image that has none, zeros where it has fewer than
            s. One object serves all methods that share it.

        Raises:
            ValueError: for labels that have no class proxy, or allow no triplet.
        """
        made: dict[Any, Any] = {}
        chosen = []
        for method in methods:
            key = _key_of(method)
            if key not in made:
                made[key] = self._choose_one(method, rows, labels)
            chosen.append(made[key])
        return chosen

    def _choose_one(self, method: ComparedMethod, rows: np.ndarray, labels: Any) -> Any:
        proxy = method.proxy
        if not method.explains_proxy:
            return None
        if callable(proxy):
            return proxy
        if not isinstance(proxy, str):
            proxies = np.asarray(proxy, "float32")
            return proxies[check_labels(labels, len(rows), len(proxies))]
        if proxy == "single_point":
            return None
        if proxy == "class_mean":
            return self._class_means[self._labels[rows]]
        if proxy == "class_mean_leave_one_out":
            return self._means.leave_one_out(self._embeddings[rows], self._labels[rows])
        sampled = [self._sample(method, row) for row in rows]
        if _is_linear(method):
            return np.stack([_mean_or_nan(x) for x in sampled])
        return np.stack([_fill_up(x, method.num_triplets) for x in sampled])

    def _sample(self, method: ComparedMethod, row: int) -> np.ndarray:
        """Return the directions (s, d) of sampled triplets or pairs of one image."""
        if method.proxy == "triplet":
            key = (method.num_triplets, method.margin, method.sign)
            if key not in self._draws:
                self._draws[key] = TripletDraws(
                    self._embeddings,
                    self._labels,
                    num_triplets=method.num_triplets,
                    margin=method.margin,
                    sign=method.sign,
                    loss=None,
                    seed=self._seed,
                )
            return self._draws[key].draw(row)
        random = np.random.default_rng([self._seed, row])
        similar = self._labels == self._labels[row]
        negatives = np.flatnonzero(~similar)
        similar[row] = False
        positives = np.flatnonzero(similar)
        if not len(positives) or not len(negatives):
            return np.empty((0, self._embeddings.shape[1]), "float32")
        others: tuple[np.ndarray, ...]
        if method.proxy == "pairwise_distance":
            number = min(method.num_triplets, len(positives))
            others = (random.choice(positives, number, replace=False),)
        else:
            number = method.num_triplets
            others = tuple(random.choice(x, number) for x in (positives, negatives))
        direction = distance_difference if len(others) == 2 else pairwise_distance
        return direction(
            np.repeat(self._embeddings[row][None], number, axis=0),
            *[self._embeddings[x][:, None] for x in others],
            sign=method.sign,
        )


def make_targets(
    proxies: Any, embeddings: np.ndarray, single_points: np.ndarray
) -> np.ndarray:
    """Return the unit vector that each image's embedding is compared with: (n, d).

    Args:
        proxies: an item of `SetProxies.choose`; of several, the mean counts.
        embeddings: (n, d) raw.
        single_points: (n, d), for images that have no proxy.

    Example:

    >>> points = np.float32([[1, 0], [0, 1]])
    >>> make_targets(np.float32([[3, 4], [np.nan, 0]]), points, points).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 1.0]]
    """
    if callable(proxies):
        proxies = np.asarray(proxies(embeddings))
    if proxies is None:
        return single_points
    if proxies.ndim == 1:
        proxies = np.broadcast_to(proxies, single_points.shape)
    if proxies.ndim == 3:
        proxies = proxies.mean(axis=1)
    is_there = np.isfinite(proxies).all(axis=1) & proxies.any(axis=1)
    units = keras.utils.normalize(proxies, axis=1)
    return np.where(is_there[:, None], units, single_points)


def find_missing(proxies: Any, num_images: int) -> np.ndarray:
    """Tell which images have no proxy: (n,) bool.

    Args:
        proxies: an item of `SetProxies.choose`.
        num_images: n.

    Example:

    >>> find_missing(np.float32([[1, 2], [np.nan, 0]]), 2).tolist()
    [False, True]
    """
    if not isinstance(proxies, np.ndarray):
        return np.zeros(num_images, bool)
    is_missing = np.isnan(proxies.reshape(num_images, -1))
    return np.asarray(is_missing.any(axis=1))


def _key_of(method: ComparedMethod) -> Any:
    """Return what methods that share their proxies have in common."""
    if not method.explains_proxy or not isinstance(method.proxy, str):
        return id(method.proxy)
    if method.proxy in DIRECTIONS:
        sampling = (method.num_triplets, method.margin, method.sign)
        return (method.proxy, *sampling, _is_linear(method))
    return method.proxy


def _is_linear(method: ComparedMethod) -> bool:
    return get_weighting(method.weighting) in LINEAR_WEIGHTINGS


def _mean_or_nan(proxies: np.ndarray) -> np.ndarray:
    """Return the mean of (s, d), NaN of none."""
    if len(proxies):
        return proxies.mean(axis=0)
    return np.full(proxies.shape[1], np.nan, "float32")


def _fill_up(proxies: np.ndarray, length: int) -> np.ndarray:
    """Return (s, d) as (length, d), with zeros behind; all NaN for none."""
    value = 0 if len(proxies) else np.nan
    filled = np.full((length, proxies.shape[1]), value, "float32")
    filled[: len(proxies)] = proxies
    return filled
