"""Which images of a gallery a search returns, and whether they are right."""

import hashlib
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_embcam.method import Method
from keras_embcam.network.noise_images import find_images
from keras_embcam.retrieval.pair_maps import divide_by_length
from keras_embcam.retrieval.pairs import check_finite
from keras_embcam.running.compiled_functions import run_batches
from keras_embcam.running.example_values import read_labels
from keras_embcam.running.image_batches import ImageSource
from keras_embcam.running.one_batch import embed_images
from keras_embcam.vector_search import SEARCHES, find_nearest


class Embedded(NamedTuple):
    """The embeddings of queries or of a gallery.

    Attributes:
        embeddings: (n, d) float32, raw.
        labels: (n,) or None.
        digests: of the pixels that the model takes, one for each image; None where
            the embeddings were given.
    """

    embeddings: np.ndarray
    labels: np.ndarray | None
    digests: list[bytes] | None


class Ranking(NamedTuple):
    """What a search returns.

    Attributes:
        indices: (n, k) int64, rows of the gallery, the most similar first.
        similarities: (n, k) float32, cosines.
        is_right: (n, k) bool, whether each has the label of its query; None where
            there are no labels.
        best_right: (n,) int64, the most similar row of the query's label; -1 where the
            gallery has none, or there are no labels.
        best_right_similarities: (n,) float32, NaN where there is none.
    """

    indices: np.ndarray
    similarities: np.ndarray
    is_right: np.ndarray | None
    best_right: np.ndarray
    best_right_similarities: np.ndarray

    def take(self, queries: np.ndarray) -> "Ranking":
        """Return what was found for some of the queries."""
        return Ranking(
            self.indices[queries],
            self.similarities[queries],
            None if self.is_right is None else self.is_right[queries],
            self.best_right[queries],
            self.best_right_similarities[queries],
        )


def embed_source(
    model: keras.Model, source: ImageSource, method: Method, name: str, verbose: int
) -> Embedded:
    """Return embeddings, labels and digests of images of any kind.

    Raises:
        ValueError: for images that do not fit, or embeddings that are not finite.
    """
    bar = keras.utils.Progbar(source.num_images, verbose=verbose, unit_name="image")
    embeddings, labels, digests = [], [], []
    for batch, (found,) in run_batches(model, source, method, embed_images):
        embeddings.append(found)
        if batch.labels is not None:
            labels.append(batch.labels)
        for image in np.asarray(find_images(batch.inputs)):
            digests.append(hashlib.blake2b(image.tobytes(), digest_size=16).digest())
        bar.add(len(found))
    whole = np.concatenate(embeddings)
    check_finite(name, whole)
    return Embedded(whole, np.concatenate(labels) if labels else None, digests)


def check_labels_fit(
    name: str, labels: Any, found: Embedded, others: str
) -> np.ndarray | None:
    """Return the labels given, or else those that came with the images.

    Raises:
        ValueError: for another number than one for each image, one-hot rows, or what
            are neither whole numbers nor strings.
    """
    if labels is None and found.labels is None:
        return None
    labels = np.array(read_labels(found.labels if labels is None else labels, name))
    if labels.shape != (len(found.embeddings),):
        raise ValueError(
            f"`{name}` must hold one label for each image of `{others}`, "
            f"({len(found.embeddings)},). Received the shape {labels.shape}"
        )
    return labels


def check_gallery_embeddings(embeddings: Any, width: int) -> np.ndarray:
    """Return given embeddings as float32.

    Raises:
        TypeError: for what are no numbers.
        ValueError: for none, another width than the model's, NaN or infinity.
    """
    try:
        with np.errstate(over="ignore"):
            array: np.ndarray = np.asarray(embeddings).astype("float32")
    except (TypeError, ValueError) as error:
        raise TypeError(
            "`gallery_embeddings` must be an array (N, d) of numbers. Received: "
            f"{embeddings!r}"
        ) from error
    if array.ndim != 2 or not len(array):
        raise ValueError(
            "`gallery_embeddings` must have the shape (N, d) with N >= 1. Received the "
            f"shape {array.shape}"
        )
    if array.shape[1] != width:
        raise ValueError(
            f"`gallery_embeddings` must be as wide as the model's embedding, {width}. "
            f"Received the width {array.shape[1]}: were they made by another model, or "
            "taken at another layer? `keras_embcam.embed(model, gallery)` makes them."
        )
    check_finite("gallery_embeddings", array)
    return array


def rank(
    queries: Embedded,
    gallery: Embedded,
    k: int,
    *,
    own_rows: Any = None,
    search: str = "exact",
) -> Ranking:
    """Return the k most similar rows of a gallery for each query, itself left out.

    Args:
        queries: with labels, or without.
        gallery: with labels where the queries have them.
        k: how many.
        own_rows: (n,) the row of the gallery that each query is itself, -1 for none.
            None for every row whose pixels are the query's.
        search: "exact" or "faiss".

    Raises:
        ValueError: for an unknown search, labels on one side only, strings on one and
            numbers on the other, or a gallery of fewer images than k beside the query
            itself.
        ImportError: where faiss is asked for and missing.
    """
    if search not in SEARCHES:
        raise ValueError(
            f"`search` must be one of {sorted(SEARCHES)}. Received: {search!r}"
        )
    if (queries.labels is None) != (gallery.labels is None):
        given, missing = "labels", "gallery_labels"
        if queries.labels is None:
            given, missing = missing, given
        raise ValueError(
            f"`{given}` tell right from wrong only beside `{missing}`. Pass both, or "
            "neither."
        )
    _check_kinds(queries.labels, gallery.labels)
    own = _find_own_rows(queries, gallery, own_rows)
    num_rows, most = len(gallery.embeddings), max(len(rows) for rows in own)
    if k > num_rows - most:
        left_out = f" ({most} of them a query itself)" if most else ""
        raise ValueError(
            f"`k` must not be larger than the gallery. Received: k={k} for a gallery "
            f"of {num_rows} images{left_out}"
        )
    a = divide_by_length(queries.embeddings, queries.embeddings)
    b = divide_by_length(gallery.embeddings, gallery.embeddings)
    if search == "exact":
        rows, similarities = find_nearest(a, b, k + most)
    else:
        rows = SEARCHES[search](b)(a, k + most)
        similarities = np.einsum("nd,nmd->nm", a, b[rows])
        order = np.argsort(-similarities, axis=1, kind="stable")
        rows = np.take_along_axis(rows, order, axis=1)
        similarities = np.take_along_axis(similarities, order, axis=1)
    kept = [
        np.flatnonzero(~np.isin(row, list(mine)))[:k]
        for row, mine in zip(rows, own, strict=True)
    ]
    indices = np.take_along_axis(rows, np.array(kept), axis=1)
    similarities = np.take_along_axis(similarities, np.array(kept), axis=1)
    best = np.full(len(a), -1, "int64")
    best_similarities = np.full(len(a), np.nan, "float32")
    is_right = None
    if queries.labels is not None and gallery.labels is not None:
        is_right = gallery.labels[indices] == queries.labels[:, None]
        for label in np.unique(queries.labels):
            mine, candidates = (
                np.flatnonzero(x == label) for x in (queries.labels, gallery.labels)
            )
            for query in mine:
                left = candidates[~np.isin(candidates, list(own[query]))]
                if len(left):
                    cosines = b[left] @ a[query]
                    best[query] = left[cosines.argmax()]
                    best_similarities[query] = cosines.max()
    return Ranking(
        indices, similarities.astype("float32"), is_right, best, best_similarities
    )


def _find_own_rows(
    queries: Embedded, gallery: Embedded, own_rows: Any
) -> list[set[int]]:
    num_queries, num_rows = len(queries.embeddings), len(gallery.embeddings)
    if own_rows is not None:
        given = np.asarray(own_rows)
        fits = given.shape == (num_queries,) and given.dtype.kind in "iu"
        if not fits or given.min() < -1 or given.max() >= num_rows:
            raise ValueError(
                f"`own_rows` must be ({num_queries},) integers from -1 (none) to "
                f"{num_rows - 1}, the last row of the gallery. Received: {own_rows!r}"
            )
        return [{int(row)} - {-1} for row in given]
    if queries.digests is None or gallery.digests is None:
        return [set() for _ in range(num_queries)]
    rows_of: dict[bytes, set[int]] = {}
    for row, digest in enumerate(gallery.digests):
        rows_of.setdefault(digest, set()).add(row)
    return [rows_of.get(digest, set()) for digest in queries.digests]


def _check_kinds(labels: np.ndarray | None, gallery_labels: np.ndarray | None) -> None:
    """Refuse strings on one side and numbers on the other: they are never equal."""
    if labels is None or gallery_labels is None:
        return
    kinds = [
        {isinstance(label, str) for label in values.tolist()}
        for values in (labels, gallery_labels)
    ]
    if kinds[0].isdisjoint(kinds[1]) and all(kinds):
        raise ValueError(
            "`labels` and `gallery_labels` must be of one kind: a string never equals "
            f"a number. Received: {labels[:3].tolist()} and "
            f"{gallery_labels[:3].tolist()}"
        )
