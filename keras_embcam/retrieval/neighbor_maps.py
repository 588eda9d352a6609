"""Maps and correspondences of queries and what a search returned for them."""

import functools
from typing import Any

import numpy as np
from keras import tree

from keras_embcam.network.noise_images import find_images
from keras_embcam.retrieval.contribution_reader import Contributions
from keras_embcam.retrieval.pair_maps import (
    Correspondences,
    compare_positions,
    find_correspondences,
    finish_maps,
    measure_lengths,
    project,
    stack_correspondences,
)
from keras_embcam.retrieval.search import Ranking

NUM_LINES = 5  # in a picture, for each match


def explain_some(
    queries: Contributions,
    matches: list[Contributions],
    places: np.ndarray | None,
    ranking: Ranking,
    gallery_units: np.ndarray,
    num_correspondences: int,
    resize: bool,
) -> dict[str, Any]:
    """Return the fields of `NeighborExplanation` that need contributions.

    Args:
        queries: of n images.
        matches: of images of the gallery, each once, in batches; empty where there are
            none.
        places: (n, k) which of them each match is, or None.
        ranking: of these queries.
        gallery_units: (N, d) unit embeddings of the whole gallery.
        num_correspondences: m.
        resize: whether heatmaps have the size of the images.
    """
    # What is divided by the lengths of the embeddings are the proxies and products:
    # they are smaller than the contributions.
    lengths = measure_lengths(queries.embeddings)
    units = queries.embeddings / lengths[:, None]
    proxies = gallery_units[ranking.indices]
    size = np.shape(find_images(queries.images))[1:3] if resize else None
    signed = project(queries.values, proxies / lengths[:, None, None])
    contrasts = _contrast(queries.values, lengths, ranking, gallery_units)
    fields: dict[str, Any] = {
        "heatmaps_queries": finish_maps(signed, size, True, queries.field),
        "contrasts": finish_maps(contrasts, size, True, queries.field),
        "contrasts_signed": contrasts,
        "errors": np.repeat(queries.errors[:, None], proxies.shape[1], axis=1),
        "query_images": queries.images,
        "heatmaps_matches": None,
        "match_images": None,
        "correspondences": None,
        "lines": None,
    }
    if not matches or places is None:
        return fields
    # Views: a copy of all would take as long as some of what follows.
    values = [x for batch in matches for x in batch.values]
    images = [x for batch in matches for x in np.asarray(find_images(batch.images))]
    size = images[0].shape[:2] if resize else None
    match_lengths = np.concatenate([measure_lengths(x.embeddings) for x in matches])
    match_errors = np.concatenate([batch.errors for batch in matches])
    on_matches = np.zeros((*places.shape, *values[0].shape[:2]), "float32")
    strongest, lines = [], []
    where = queries.field, matches[0].field
    for row, number in np.ndindex(places.shape):
        place = places[row, number]
        match, length = values[place], match_lengths[place]
        on_matches[row, number] = match @ (units[row] / length)
        matrix = compare_positions(queries.values[row], match)
        matrix /= lengths[row] * length
        find = functools.partial(find_correspondences, matrix, fields=where)
        strongest.append(find(num_correspondences))
        lines.append(find(NUM_LINES, each_once=True))
    fields["heatmaps_matches"] = finish_maps(on_matches, size, True, where[1])
    found = np.stack([images[place] for place in places.ravel()])
    fields["match_images"] = found.reshape(*places.shape, *found.shape[1:])
    fields["errors"] = np.maximum(fields["errors"], match_errors[places])
    fields["correspondences"] = _stack(strongest, places.shape)
    fields["lines"] = _stack(lines, places.shape)
    return fields


def _stack(found: list[Correspondences], shape: tuple) -> Correspondences:
    """Return correspondences with the axes (n, k, m)."""
    stacked = stack_correspondences(found)
    return Correspondences(*(x.reshape(*shape, *x.shape[1:]) for x in stacked))


def _contrast(
    values: np.ndarray, lengths: np.ndarray, ranking: Ranking, units: np.ndarray
) -> np.ndarray:
    """Return signed maps (n, h, w) of the wrong first match against the best right."""
    maps = np.zeros(values.shape[:3], "float32")
    if ranking.is_right is None:
        return maps
    rows = np.flatnonzero(~ranking.is_right[:, 0] & (ranking.best_right >= 0))
    if len(rows):
        proxies = units[ranking.indices[rows, 0]] - units[ranking.best_right[rows]]
        maps[rows] = project(values[rows], proxies / lengths[rows, None])
    return maps


def join_values(parts: list[Any]) -> Any:
    """Return the values of several chunks of queries as one.

    Raises:
        ValueError: where they differ in size.
    """
    if parts[0] is None or len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], Correspondences):
        return Correspondences(*(np.concatenate(x) for x in zip(*parts, strict=True)))
    sizes = {tuple(np.shape(x)[1:] for x in tree.flatten(part)) for part in parts}
    if len(sizes) > 1:
        raise ValueError(
            "All images of one side must have one size. Received images whose values "
            f"have the shapes {sorted(sizes)}. Resize them, or search for those of "
            "each size in a call of their own."
        )
    return tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)
