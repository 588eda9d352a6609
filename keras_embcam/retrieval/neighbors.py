"""explain_neighbors(): why did my search return that, and why was it wrong."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_embcam.method import Method
from keras_embcam.network.inputs import check_model
from keras_embcam.retrieval.completeness import warn_of_errors
from keras_embcam.retrieval.contribution_reader import (
    ContributionReader,
    Contributions,
    join,
)
from keras_embcam.retrieval.embedded import (
    Embedded,
    check_gallery_embeddings,
    check_labels_fit,
    embed_source,
    warn_of_other_images,
)
from keras_embcam.retrieval.neighbor_explanation import NeighborExplanation
from keras_embcam.retrieval.neighbor_maps import explain_some, join_values
from keras_embcam.retrieval.pair_maps import divide_by_length
from keras_embcam.retrieval.picked_images import PickedContributions
from keras_embcam.retrieval.search import Ranking, rank
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
    token_grid: tuple[int, int] | None = None,
    num_prefix_tokens: int | None = None,
    preprocessing_function: str | Callable | None = None,
    image_size: tuple[int, int] | None = None,
    strict: bool = False,
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
        queries: see `explain_batches`. A data set is read more than once and must give
            the same order each time.
        gallery: what is searched, likewise; None for the queries themselves.
        k: how many neighbors, >= 1.
        labels: (n,) integers or strings; by default those of a data set.
        gallery_labels: (N,) the same of the gallery.
        gallery_embeddings: (N, d) raw, one for each image of the gallery, where they
            were made before, with `keras_embcam.embed`. Without a `gallery` beside them
            there is heat on the queries only.
        own_rows: (n,) the row of the gallery that each query is itself, -1 for none;
            for given embeddings, which have no pixels to compare.
        search: "exact", or "faiss" for an approximate search in large galleries.
        only_errors: explain only queries whose first match is wrong.
        num_correspondences: pairs of positions to return for each match.
        conv_layer: one layer, see `EmbeddingCAM`.
        embedding_layer: see `EmbeddingCAM`.
        num_steps: see `contributions`.
        resize: True for heatmaps of the size of the images, False for less memory.
        token_grid: see `EmbeddingCAM`.
        num_prefix_tokens: see `EmbeddingCAM`.
        preprocessing_function: see `explain_batches`.
        image_size: see `explain_batches`.
        strict: see `explain_batches`. Labels and rows keep the numbers of the images
            as they were given, whatever is left out.
        batch_size: images at a time, >= 1.
        verbose: 1 for progress bars.

    Returns:
        A `NeighborExplanation`, whose `draw` and `plot` make pictures.

    Raises:
        ValueError: for images, layers, labels or embeddings that do not fit, an empty
            gallery, a k larger than it, matches of several sizes, embeddings that are
            not finite, data sets that come in another order each time, or
            `only_errors` where there are no labels or no errors.
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
    method = Method(
        conv_layer=conv_layer,
        embedding_layer=embedding_layer,
        resize=resize,
        joins_branches=False,
        token_grid=token_grid,
        num_prefix_tokens=num_prefix_tokens,
    )
    reader = ContributionReader(model, method, num_steps)

    def open_images(images: Any, strict: bool = True) -> ImageSource:
        return ImageSource(
            images,
            model,
            batch_size,
            preprocessing_function,
            image_size=image_size,
            strict=strict,
        )

    source = open_images(queries, strict)
    digest = gallery_embeddings is None and own_rows is None
    asked = embed_source(model, source, method, "queries", verbose, reader, digest)
    asked = asked._replace(labels=check_labels_fit("labels", labels, asked, "queries"))
    if gallery_embeddings is not None:
        width = asked.embeddings.shape[1]
        number = None if gallery is None else open_images(gallery, strict).num_images
        given = check_gallery_embeddings(gallery_embeddings, width, number)
        searched = Embedded(given, None, None, np.arange(len(given)), len(given))
    elif gallery is None:
        searched, gallery, gallery_labels = asked, queries, None  # they have theirs
    else:
        source = open_images(gallery, strict)
        searched = embed_source(
            model, source, method, "gallery", verbose, digest=digest
        )
    searched = searched._replace(
        labels=check_labels_fit("gallery_labels", gallery_labels, searched, "gallery")
    )
    ranking = rank(asked, searched, k, own_rows=own_rows, search=search)
    chosen = _find_errors(ranking) if only_errors else np.arange(len(asked.rows))
    ranking = ranking.take(chosen)
    is_wrong = np.zeros(len(chosen), bool)
    if ranking.is_right is not None:
        is_wrong = ~ranking.is_right[:, 0] & (ranking.best_right >= 0)
    rows = asked.rows[chosen]
    of_queries = PickedContributions(
        reader, queries, open_images, asked, rows, rows[:0]
    )
    of_gallery = None
    if gallery is not None:
        of_gallery = PickedContributions(
            reader,
            gallery,
            open_images,
            searched,
            searched.rows[np.unique(ranking.indices)],
            searched.rows[ranking.best_right[is_wrong]],
        )
    units = divide_by_length(searched.embeddings, searched.embeddings)
    bar = keras.utils.Progbar(len(rows), verbose=verbose, unit_name="query")
    parts = []
    for start in range(0, len(rows), batch_size):
        some = slice(start, start + batch_size)
        found = ranking.take(some)
        matches: list[Contributions] = []
        places = None
        if of_gallery is not None:
            there = np.unique(found.indices)
            matches = of_gallery.read(searched.rows[there])
            places = np.searchsorted(there, found.indices)
            if gallery_embeddings is not None:
                warn_of_other_images(there, matches, given)
        parts.append(
            explain_some(
                join(of_queries.read(rows[some])),
                matches,
                places,
                found,
                units,
                num_correspondences,
                resize,
            )
        )
        bar.add(len(parts[-1]["errors"]))
    joined = {key: join_values([part[key] for part in parts]) for key in parts[0]}
    warn_of_errors(joined["errors"])
    best_images = None
    if of_gallery is not None and is_wrong.any():
        found_images = of_gallery.read_images(
            searched.rows[ranking.best_right[is_wrong]]
        )
        best_images = np.zeros((len(rows), *found_images.shape[1:]), found_images.dtype)
        best_images[is_wrong] = found_images
    best = ranking.best_right
    return NeighborExplanation(
        queries=rows,
        indices=searched.rows[ranking.indices],
        similarities=ranking.similarities,
        is_right=ranking.is_right,
        labels=None if asked.labels is None else asked.labels[chosen],
        match_labels=(
            None if searched.labels is None else searched.labels[ranking.indices]
        ),
        best_right=np.where(best >= 0, searched.rows[best], -1),
        best_right_similarities=ranking.best_right_similarities,
        best_right_images=best_images,
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
