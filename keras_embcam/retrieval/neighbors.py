"""explain_neighbors(): why did my search return that, and why was it wrong."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_embcam.method import Method
from keras_embcam.network.inputs import check_model
from keras_embcam.retrieval.neighbor_explanation import NeighborExplanation
from keras_embcam.retrieval.neighbor_maps import explain_some, join_values
from keras_embcam.retrieval.pair_maps import divide_by_length
from keras_embcam.retrieval.picked_images import PickedImages
from keras_embcam.retrieval.position_contributions import (
    ContributionReader,
    join,
)
from keras_embcam.retrieval.search import (
    Embedded,
    Ranking,
    check_gallery_embeddings,
    check_labels_fit,
    embed_source,
    rank,
)
from keras_embcam.running.image_batches import ImageSource
from keras_embcam.whole_numbers import check_integer


def explain_neighbors(
    model: keras.Model,
    queries: Any,
    gallery: Any = None,
    *,
    k: int = 5,
    labels: Any = None,
    gallery_labels: Any = None,
    gallery_embeddings: Any = None,
    own_rows: Any = None,
    search: str = "exact",
    only_errors: bool = False,
    num_correspondences: int = 10,
    conv_layer: Any = None,
    embedding_layer: Any = None,
    num_steps: int | None = None,
    resize: bool = True,
    preprocessing_function: str | Callable | None = None,
    image_size: tuple[int, int] | None = None,
    batch_size: int = 32,
    verbose: int = 0,
) -> NeighborExplanation:
    """Search a gallery for each query, and explain what was found.

    The k images whose embeddings have the highest cosine with the query's; for each of
    them the heat on both sides and the positions that match (see `explain_pair`); and
    for a query whose first match is wrong, what on it speaks for that one rather than
    for the best right one: the map of the proxy ``u_wrong - u_right``, the difference
    of their unit embeddings.

    An image of the gallery with exactly the pixels of the query is the query itself
    and is left out.

    Args:
        model: any Keras model, see `EmbeddingCAM`.
        queries: see `explain_batches`.
        gallery: what is searched, likewise; None for the queries themselves.
        k: how many neighbors, >= 1.
        labels: (n,) integers or strings; by default those of a data set.
        gallery_labels: (N,) the same of the gallery.
        gallery_embeddings: (N, d) raw, where they were made before, with
            `keras_embcam.embed`. Without a `gallery` beside them there is heat on the
            queries only.
        own_rows: (n,) the row of the gallery that each query is itself, -1 for none;
            for given embeddings, which have no pixels to compare.
        search: "exact", or "faiss" for an approximate search in large galleries.
        only_errors: explain only queries whose first match is wrong.
        num_correspondences: pairs of positions to return for each match.
        conv_layer: one layer, see `EmbeddingCAM`.
        embedding_layer: see `EmbeddingCAM`.
        num_steps: see `contributions`.
        resize: True for heatmaps of the size of the images, False for less memory.
        preprocessing_function: see `explain_batches`.
        image_size: see `explain_batches`.
        batch_size: images at a time, >= 1.
        verbose: 1 for progress bars.

    Raises:
        ValueError: for images, layers, labels or embeddings that do not fit, an empty
            gallery, a k larger than it, matches of several sizes, embeddings that are
            not finite, or `only_errors` where there are no labels or no errors.
        TypeError: for images of an unknown kind, or what is no Keras model.
        ImportError: where faiss is asked for and missing.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 3)),
    ...     keras.layers.Conv2D(6, 3, activation="relu"),
    ...     keras.layers.GlobalAveragePooling2D(),
    ... ])
    >>> images = np.random.default_rng(0).random((6, 8, 8, 3))
    >>> found = explain_neighbors(model, images[:2], images, k=3)
    >>> found.indices.shape, found.heatmaps_matches.shape
    ((2, 3), (2, 3, 8, 8))
    >>> bool(np.any(found.indices == [[0], [1]]))  # not itself
    False
    """
    check_model(model)
    check_integer("k", k, 1)
    check_integer("num_correspondences", num_correspondences, 1)
    method = Method(conv_layer=conv_layer, embedding_layer=embedding_layer)
    reader = ContributionReader(model, method, num_steps)

    def open_images(images: Any) -> ImageSource:
        return ImageSource(
            images, model, batch_size, preprocessing_function, image_size=image_size
        )

    query_source = open_images(queries)
    asked = embed_source(model, query_source, method, "queries", verbose)
    asked = asked._replace(labels=check_labels_fit("labels", labels, asked, "queries"))
    if gallery_embeddings is not None:
        width = asked.embeddings.shape[1]
        given = check_gallery_embeddings(gallery_embeddings, width)
        searched = Embedded(given, None, None)
    elif gallery is None:
        searched = asked
        gallery, gallery_labels = queries, asked.labels
    else:
        source = open_images(gallery)
        searched = embed_source(model, source, method, "gallery", verbose)
    searched = searched._replace(
        labels=check_labels_fit("gallery_labels", gallery_labels, searched, "gallery")
    )
    ranking = rank(asked, searched, k, own_rows=own_rows, search=search)
    rows = np.arange(len(asked.embeddings))
    if only_errors:
        rows = _find_errors(ranking)
    units = divide_by_length(searched.embeddings, searched.embeddings)
    needed = np.concatenate([ranking.indices[rows].ravel(), ranking.best_right[rows]])
    needed = np.unique(needed[needed >= 0])
    of_queries = PickedImages(queries, open_images, rows)
    of_gallery = None
    if gallery is not None:
        of_gallery = PickedImages(gallery, open_images, needed)
    bar = keras.utils.Progbar(len(rows), verbose=verbose, unit_name="query")
    parts = []
    for start in range(0, len(rows), batch_size):
        some = rows[start : start + batch_size]
        asked_for = join(list(reader.read(of_queries.pick(some))))
        matches, places = None, None
        if of_gallery is not None:
            chosen = np.unique(ranking.indices[some])
            matches = join(list(reader.read(of_gallery.pick(chosen))))
            places = np.searchsorted(chosen, ranking.indices[some])
        parts.append(
            explain_some(
                asked_for,
                matches,
                places,
                ranking.take(some),
                units,
                num_correspondences,
                resize,
            )
        )
        bar.add(len(some))
    joined = {key: join_values([part[key] for part in parts]) for key in parts[0]}
    of_rows = ranking.take(rows)
    return NeighborExplanation(
        queries=rows,
        indices=of_rows.indices,
        similarities=of_rows.similarities,
        is_right=of_rows.is_right,
        best_right=of_rows.best_right,
        best_right_similarities=of_rows.best_right_similarities,
        best_right_images=_pick_best(of_gallery, of_rows.best_right),
        **joined,
    )


def _find_errors(ranking: Ranking) -> np.ndarray:
    """Return the queries whose first match is wrong."""
    if ranking.is_right is None:
        raise ValueError(
            "`only_errors` needs labels to tell right from wrong. Pass `labels`, and "
            "`gallery_labels` where there is a gallery."
        )
    rows = np.flatnonzero(~ranking.is_right[:, 0])
    if not len(rows):
        raise ValueError(
            "`only_errors` has nothing to explain: the first match of each of the "
            f"{len(ranking.is_right)} queries is right. Leave it out."
        )
    return rows


def _pick_best(images: PickedImages | None, rows: np.ndarray) -> np.ndarray | None:
    """Return the images of these rows of the gallery, zeros for a row of -1."""
    there = np.flatnonzero(rows >= 0)
    if images is None or not len(there):
        return None
    found = images.read(rows[there])
    filled = np.zeros((len(rows), *found.shape[1:]), found.dtype)
    filled[there] = found
    return filled
