"""Which images of a gallery a search returns, and whether they are right."""

from typing import Any, NamedTuple

import numpy as np

from keras_embcam.retrieval.embedded import Embedded
from keras_embcam.retrieval.pair_maps import divide_by_length
from keras_embcam.unit_vectors import warn_of_zeros
from keras_embcam.vector_search import SEARCHES, find_nearest


class Ranking(NamedTuple):
    """What a search returns.

    Attributes:
        indices: (n, k) int64, places in the gallery, the most similar first.
        similarities: (n, k) float32, cosines.
        is_right: (n, k) bool, whether each has the label of its query; None where
            there are no labels.
        best_right: (n,) int64, the most similar one of the query's label; -1 where the
            gallery has none, or there are no labels.
        best_right_similarities: (n,) float32, NaN where there is none.
    """

    indices: np.ndarray
    similarities: np.ndarray
    is_right: np.ndarray | None
    best_right: np.ndarray
    best_right_similarities: np.ndarray

    def take(self, queries: np.ndarray | slice) -> "Ranking":
        """Return what was found for some of the queries."""
        return Ranking(
            self.indices[queries],
            self.similarities[queries],
            None if self.is_right is None else self.is_right[queries],
            self.best_right[queries],
            self.best_right_similarities[queries],
        )


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
        own_rows: for each image that was given as a query, the number of the one of
            the gallery that it is itself, -1 for none. None for all whose pixels are
            the query's.
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
    both = {"queries": queries.embeddings, "gallery": gallery.embeddings}
    for name in ["gallery"] if queries is gallery else both:
        warn_of_zeros(f"`{name}`", both[name])
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
    if own_rows is not None:
        given = np.asarray(own_rows)
        fits = given.shape == (queries.num_images,) and given.dtype.kind in "iu"
        if not fits or given.min() < -1 or given.max() >= gallery.num_images:
            raise ValueError(
                f"`own_rows` must be ({queries.num_images},) integers from -1 (none) "
                f"to {gallery.num_images - 1}, the last row of the gallery. Received: "
                f"{own_rows!r}"
            )
        place_of = {row: place for place, row in enumerate(gallery.rows.tolist())}
        places = [place_of.get(row) for row in given[queries.rows].tolist()]
        return [set() if place is None else {place} for place in places]
    if queries.digests is None or gallery.digests is None:
        return [set() for _ in queries.embeddings]
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
