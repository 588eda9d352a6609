"""The few images that slow measures look at, with the maps of every method."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from keras_embcam.evaluation.compared_method import ComparedMethod
from keras_embcam.evaluation.set_proxies import (
    EmbeddedSet,
    find_missing,
    make_targets,
)
from keras_embcam.evaluation.shared_runs import split
from keras_embcam.proxies import class_mean, single_point
from keras_embcam.running.labelled_examples import Examples


class Sample:
    """The few images that slow measures look at, with the maps of every method.

    Where an image has no proxy its map is NaN, and counts nowhere.

    Args:
        methods: m of them.
        embedded: the whole set.
        rows: (n,) numbers of the images in the set.
        examples: the images and what is known of them.
        proxies: m items, see `SetProxies.choose`.
        explain: ``(images, proxies) -> numbers of the methods with their maps``.

    Attributes:
        rows: (n,) numbers of the images in the set.
        examples: the images and what is known of them.
        images: (n, H, W, c) as the model takes them, but float32.
        labels: (n,) as in `EmbeddedSet`, None for none.
        embeddings: (n, d) raw.
        single_points: (n, d) the images' own unit embeddings.
        targets: m arrays (n, d), the unit vectors that embeddings are compared with:
            the method's proxy; the image's own unit embedding for methods without one
            and for directions, which are at right angles to it.
        maps: m arrays (n, H, W).
    """

    def __init__(
        self,
        methods: Sequence[ComparedMethod],
        embedded: EmbeddedSet,
        rows: np.ndarray,
        examples: Examples,
        proxies: Sequence[Any],
        explain: Callable[..., Iterator[tuple[int, np.ndarray]]],
    ) -> None:
        self._embedded, self._proxies, self._explain = embedded, proxies, explain
        self.rows, self.examples = rows, examples
        self.images = examples["image"].astype("float32")
        self.labels = None if embedded.labels is None else embedded.labels[rows]
        self.embeddings = embedded.embeddings[rows]
        self.single_points = np.asarray(single_point(self.embeddings))
        self.targets = [
            make_targets(
                vectors if method.has_proxy and not method.is_direction else None,
                self.embeddings,
                self.single_points,
            )
            for vectors, method in zip(proxies, methods, strict=True)
        ]
        self.maps = self.explain(self.images)

    def explain(self, images: np.ndarray) -> list[np.ndarray]:
        """Return the maps of each method for the same images, changed or not."""
        parts: list[list[np.ndarray]] = [[] for _ in self._proxies]
        for rows in split(len(images)):
            # Methods that share one object of proxies go on sharing one.
            shared = {
                id(x): x[rows] if isinstance(x, np.ndarray) else x
                for x in self._proxies
            }
            proxies = [shared[id(x)] for x in self._proxies]
            for number, maps in self._explain(images[rows], proxies):
                parts[number].append(maps)
        found = [np.concatenate(several) for several in parts]
        for maps, proxies in zip(found, self._proxies, strict=True):
            maps[find_missing(proxies, len(maps))] = np.nan
        return found

    @cached_property
    def other_class_means(self) -> np.ndarray:
        """Class means of all other images of the set: (C, d), NaN where none is."""
        embedded = self._embedded
        if embedded.labels is None or embedded.classes is None:
            raise ValueError("Class means need labels.")
        others = np.setdiff1d(np.arange(len(embedded.labels)), self.rows)
        num_classes = len(embedded.classes)
        if not len(others):
            width = embedded.embeddings.shape[1]
            return np.full((num_classes, width), np.nan, "float32")
        return class_mean(
            embedded.embeddings[others],
            embedded.labels[others],
            num_classes=num_classes,
        )


def choose_images(
    num_there: int, labels: np.ndarray | None, num_images: int, seed: int
) -> np.ndarray:
    """Choose images, as many of each class as there is room for.

    Args:
        num_there: how many there are.
        labels: (num_there,), or None.
        num_images: how many to choose, at most.
        seed: of the choice within a class, and of the classes that get one more.

    Returns:
        Their numbers, ascending.

    Example:

    >>> labels = np.array([0, 0, 0, 0, 1, 2])
    >>> rows = choose_images(6, labels, num_images=3, seed=0)
    >>> labels[rows].tolist()
    [0, 1, 2]
    """
    order = np.random.default_rng(seed).permutation(num_there)
    if labels is not None:
        # The rank of each image within its class, in a random order.
        rank = np.zeros(num_there, int)
        for label in np.unique(labels):
            members = order[labels[order] == label]
            rank[members] = np.arange(len(members))
        order = order[np.argsort(rank[order], kind="stable")]
    return np.sort(order[:num_images])
