"""Draw active triplets of an image and return their gradients, as proxies."""

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from keras_embcam.proxies.elementary import from_score, single_point
from keras_embcam.proxies.triplets import triplet

Tensor = Any
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]

# Smaller hinges of unit float32 embeddings are rounding errors.
ROUNDING = 1e-6
# For a user's loss, active triplets are found by trying this many candidates each.
CANDIDATES_PER_TRIPLET = 20


class TripletDraws:
    """Active triplets of each image of a labelled set, as proxies.

    Each image has a random generator of its own, from the seed and its number: what
    is drawn for it depends on nothing else.

    * The triplet loss (Chen et al., eq. 1): all active triplets of the image are
      counted, without listing them, and of those ``num_triplets`` are drawn, each
      equally likely and none twice; where there are fewer, all are taken.
    * A user's loss: of ``20 num_triplets`` random triplets the first
      ``num_triplets`` whose loss is not zero.

    Args:
        embeddings: (n, d) float32, raw, finite and not zero.
        labels: (n,) integers: positives are the other images of the class, negatives
            those of other classes. Or floats, with ``loss`` only: "positives" are
            the images with a lower number, "negatives" those with a higher one.
        num_triplets: of an image, at most, >= 1.
        margin: of the triplet loss, >= 0.
        sign: -1 or +1, a factor of the proxies.
        loss: see `GradWeightDatabase.fit`; None for the triplet loss.
        seed: >= 0.

    Raises:
        ValueError: for labels or embeddings that do not fit, fewer than two classes,
            or no class with two images.
    """

    def __init__(
        self,
        embeddings: np.ndarray,
        labels: Any,
        *,
        num_triplets: int,
        margin: float,
        sign: int,
        loss: Loss | None,
        seed: int,
    ) -> None:
        check_directions(embeddings)
        self.embeddings = embeddings
        self.unit_embeddings = ops.convert_to_numpy(single_point(self.embeddings))
        self.labels = check_triplet_labels(
            labels, len(self.embeddings), loss is not None
        )
        self.num_triplets = num_triplets
        self._margin = margin
        self._sign = sign
        self._loss = loss
        self._seed = seed
        self._nothing = np.empty((0, self.embeddings.shape[1]), "float32")

    def draw(self, anchor: int) -> np.ndarray:
        """Return the proxies (s, d) of single active triplets of one image.

        Args:
            anchor: the number of the image.

        Returns:
            float32; s is between 0 and ``num_triplets``.

        Raises:
            ValueError: for a loss of another shape, with NaN or without a gradient.
        """
        labels, label = self.labels, self.labels[anchor]
        if np.issubdtype(labels.dtype, np.floating):
            positives, negatives = labels < label, labels > label
        else:
            positives, negatives = labels == label, labels != label
            positives[anchor] = False
        if not (positives.any() and negatives.any()):
            return self._nothing
        triplets = (
            anchor,
            np.flatnonzero(positives),
            np.flatnonzero(negatives),
            np.random.default_rng([self._seed, anchor]),
        )
        if self._loss is None:
            return self._draw_of_hinge(*triplets)
        return self._draw_of_loss(self._loss, *triplets)

    def _draw_of_hinge(
        self,
        anchor: int,
        positives: np.ndarray,
        negatives: np.ndarray,
        generator: np.random.Generator,
    ) -> np.ndarray:
        similarities = self.unit_embeddings @ self.unit_embeddings[anchor]
        # 2 f.n - 2 f.p + margin > 0: a negative counts where it is above this.
        least = similarities[positives] - (self._margin - ROUNDING) / 2
        negatives = negatives[similarities[negatives] > least.min()]
        negatives = negatives[np.argsort(-similarities[negatives], kind="stable")]
        num_active = np.searchsorted(-similarities[negatives], -least, side="left")
        ends = np.cumsum(num_active)
        size = min(self.num_triplets, ends[-1])
        if not size:
            return self._nothing
        drawn = generator.choice(ends[-1], size, replace=False)
        # Active triplets are numbered by their positive; `ends` are cumulative counts.
        rows = np.searchsorted(ends, drawn, side="right")
        ranks = drawn - (ends - num_active)[rows]
        return triplet(
            np.repeat(self.embeddings[anchor][None], size, axis=0),
            self.embeddings[positives[rows]][:, None],
            self.embeddings[negatives[ranks]][:, None],
            margin=self._margin,
            sign=self._sign,
        ).proxies

    def _draw_of_loss(
        self,
        loss: Loss,
        anchor: int,
        positives: np.ndarray,
        negatives: np.ndarray,
        generator: np.random.Generator,
    ) -> np.ndarray:
        size = CANDIDATES_PER_TRIPLET * self.num_triplets
        rows = [
            np.full(size, anchor),
            generator.choice(positives, size),
            generator.choice(negatives, size),
        ]
        losses = ops.convert_to_numpy(loss(*[self._tensor(x) for x in rows]))
        if losses.shape != (size,) or not np.isfinite(losses).all():
            raise ValueError(
                "`loss` must return one finite number for each triplet, "
                f"({size},). Received the shape {losses.shape}, with "
                f"{np.sum(~np.isfinite(losses))} that are NaN or infinite, for the "
                f"anchor {anchor}."
            )
        active = np.flatnonzero(losses)[: self.num_triplets]
        if not len(active):
            return self._nothing
        anchors, *others = (self._tensor(x[active]) for x in rows)
        try:
            proxies = from_score(lambda y: loss(y, *others))(anchors)
        except ValueError as error:
            raise ValueError(
                "`loss` must be a differentiable function of the anchors, written "
                f"with keras.ops or TensorFlow. Received: {loss!r}"
            ) from error
        gradients = ops.convert_to_numpy(proxies)
        if not np.isfinite(gradients).all():
            raise ValueError(
                "`loss` must have a finite gradient at the anchors (a square root has "
                f"none at zero). Received: {loss!r}"
            )
        return self._sign * gradients

    def _tensor(self, rows: np.ndarray) -> Tensor:
        return ops.convert_to_tensor(self.embeddings[rows])


def check_triplet_labels(labels: Any, num_images: int, has_loss: bool) -> np.ndarray:
    """Return labels that allow triplets, as an array (n,).

    Args:
        labels: (n,) integers, or floats to rank by where there is a loss for them.
        num_images: n.
        has_loss: whether the user brought a loss.

    Raises:
        ValueError: for other shapes or kinds, fewer than two classes, or no class
            with two images.
    """
    values = np.asarray(labels)
    is_float = values.dtype.kind == "f"
    kinds = "iuf" if has_loss else "iu"
    if values.shape != (num_images,) or values.dtype.kind not in kinds:
        raise ValueError(
            f"`labels` must be integers of the shape ({num_images},), one for each "
            "image (or, with a `loss`, numbers to rank by). Received the shape "
            f"{values.shape} of {values.dtype}"
        )
    if is_float and not np.isfinite(values).all():
        raise ValueError("`labels` must be finite. Received NaN or infinity.")
    num_classes = len(np.unique(values))
    if num_classes < 2:
        raise ValueError(
            "A triplet needs an image of another class, so `labels` must have at "
            f"least two classes. Received {num_classes} in {num_images} images."
        )
    if not is_float and num_classes == num_images:
        raise ValueError(
            "A triplet needs two images of one class. Received labels of "
            f"{num_images} images that all differ."
        )
    return values


def check_directions(embeddings: np.ndarray) -> None:
    """Check that raw embeddings (n, d) have a direction.

    Raises:
        ValueError: for rows that are zero, NaN or infinite.
    """
    has_direction = np.isfinite(embeddings).all(axis=1) & embeddings.any(axis=1)
    bad = np.flatnonzero(~has_direction)
    if len(bad):
        raise ValueError(
            "Embeddings must be finite and not zero, to have a direction. Not so for "
            f"the rows {bad[:20].tolist()}"
        )
