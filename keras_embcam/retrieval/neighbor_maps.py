"""Maps and correspondences of queries and what a search returned for them."""

from typing import Any

import numpy as np
from keras import tree

from keras_embcam.network.noise_images import find_images
from keras_embcam.retrieval.pair_maps import (
    Correspondences,
    compare_positions,
    divide_by_length,
    find_correspondences,
    finish_maps,
    project,
    stack_correspondences,
)
from keras_embcam.retrieval.position_contributions import Contributions
from keras_embcam.retrieval.search import Ranking

NUM_LINES = 5  # in a picture, for each match


def explain_some(
    queries: Contributions,
    matches: Contributions | None,
    places: np.ndarray | None,
    ranking: Ranking,
    gallery_units: np.ndarray,
    num_correspondences: int,
    resize: bool,
) -> dict[str, Any]:
    """Return the fields of `NeighborExplanation` that need contributions.

    Args:
        queries: of n images.
        matches: of images of the gallery, each once; None where there are none.
        places: (n, k) which of them each match is, or None.
        ranking: of these queries.
        gallery_units: (N, d) unit embeddings of the whole gallery.
        num_correspondences: m.
        resize: whether heatmaps have the size of the images.
    """
    shares = divide_by_length(queries.values, queries.embeddings)
    units = divide_by_length(queries.embeddings, queries.embeddings)
    size = np.shape(find_images(queries.images))[1:3] if resize else None
    found = gallery_units[ranking.indices]
    signed = np.einsum("nhwd,nkd->nkhw", shares, found)
    contrasts = _contrast(shares, ranking, gallery_units)
    fields: dict[str, Any] = {
        "heatmaps_queries": finish_maps(signed, size, normalize=True),
        "contrasts": finish_maps(contrasts, size, normalize=True),
        "contrasts_signed": contrasts,
        "errors": np.repeat(queries.errors[:, None], found.shape[1], axis=1),
        "query_images": queries.images,
        "heatmaps_matches": None,
        "match_images": None,
        "correspondences": None,
        "lines": None,
    }
    if matches is None or places is None:
        return fields
    match_shares = divide_by_length(matches.values, matches.embeddings)
    images = np.asarray(find_images(matches.images))
    size = images.shape[1:3] if resize else None
    signed = np.stack(
        [
            project(match_shares[place], np.repeat(unit[None], len(place), axis=0))
            for place, unit in zip(places, units, strict=True)
        ]
    )
    fields["heatmaps_matches"] = finish_maps(signed, size, normalize=True)
    fields["match_images"] = images[places]
    fields["errors"] = np.maximum(fields["errors"], matches.errors[places])
    strongest, lines = [], []
    for share, place in zip(shares, places, strict=True):
        matrices = [compare_positions(share, match_shares[i]) for i in place]
        strongest.append(
            stack_correspondences(
                [find_correspondences(x, num_correspondences) for x in matrices]
            )
        )
        lines.append(
            stack_correspondences(
                [find_correspondences(x, NUM_LINES, each_once=True) for x in matrices]
            )
        )
    fields["correspondences"] = stack_correspondences(strongest)
    fields["lines"] = stack_correspondences(lines)
    return fields


def _contrast(shares: np.ndarray, ranking: Ranking, units: np.ndarray) -> np.ndarray:
    """Return signed maps (n, h, w) of the wrong first match against the best right."""
    maps = np.zeros(shares.shape[:3], "float32")
    if ranking.is_right is None:
        return maps
    rows = np.flatnonzero(~ranking.is_right[:, 0] & (ranking.best_right >= 0))
    if len(rows):
        proxies = units[ranking.indices[rows, 0]] - units[ranking.best_right[rows]]
        maps[rows] = project(shares[rows], proxies)
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
