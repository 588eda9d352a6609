"""Small signed maps of pairs whose embeddings are known, in batches."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_embcam.method import Method
from keras_embcam.resizing import Field
from keras_embcam.retrieval.contribution_reader import ContributionReader
from keras_embcam.retrieval.pair_maps import measure_lengths
from keras_embcam.running.image_batches import ImageSource

# Maps of one image that are made at a time, from one run of the network.
NUM_MAPS = 4


def map_known_pairs(
    model: keras.Model,
    method: Method,
    batches: Iterable[Any],
    rows_a: np.ndarray,
    rows_b: np.ndarray,
    embeddings: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, Field | None]:
    """Return what each position of two images adds to their cosine, for many pairs.

    The signed maps of `explain_pair`, without its correspondences: they take one
    gradient of the head for each map instead of one for each number of the embedding.
    Batches are read once, in order; the network runs only on images that some pair
    needs.

    Args:
        model: whose embeddings these are.
        method: names the one layer and the embedding.
        batches: of all N images, as the model takes them.
        rows_a: (p,) the number of the first image of each pair.
        rows_b: (p,) the number of the second.
        embeddings: (N, d) raw, finite, of all images.

    Returns:
        Maps of the first and of the second images, each (p, h, w) float32, whose sums
        are the cosines, and where in the images they lie, see `resize_heatmaps`;
        `finish_maps` makes heatmaps of them.

    Raises:
        ValueError: for several layers.
    """
    reader = ContributionReader(model, method)
    own, other = np.concatenate([[rows_a, rows_b], [rows_b, rows_a]], axis=1)
    lengths = measure_lengths(embeddings)[:, None]
    units = (embeddings / lengths).astype("float32")
    order = np.argsort(own, kind="stable")
    maps: np.ndarray | None = None
    field: Field | None = None
    start = 0
    for batch in batches:
        size = len(tree.flatten(batch)[0])
        here = order[slice(*np.searchsorted(own[order], [start, start + size]))]
        if len(here):
            # Each row of `entries` is an image and which `NUM_MAPS` of its maps.
            rows, first, places = np.unique(
                own[here], return_index=True, return_inverse=True
            )
            numbers = np.arange(len(here)) - first[places]
            keys = np.stack([rows[places], numbers // NUM_MAPS])
            entries, places = np.unique(keys, axis=1, return_inverse=True)
            proxies = np.zeros((entries.shape[1], NUM_MAPS, units.shape[1]), "float32")
            scaled = units[other[here]] / lengths[own[here]]
            proxies[places, numbers % NUM_MAPS] = scaled
            chosen = entries[0] - start
            images = tree.map_structure(
                lambda x, some=chosen: np.asarray(x)[some], batch
            )
            parts = []
            for part in ImageSource(images, model, size):
                asked = proxies[part.start : part.start + size]
                parts.append(reader.project(part, asked))
                field = reader.find_field(part)
            found = np.concatenate(parts)[places, numbers % NUM_MAPS]
            if maps is None:
                maps = np.zeros((len(own), *found.shape[1:]), "float32")
            maps[here] = found
        start += size
    if maps is None:
        maps = np.zeros((0, 0, 0), "float32")
    return maps[: len(rows_a)], maps[len(rows_a) :], field
