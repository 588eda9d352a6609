"""Fewer entries: the centres of clusters, with the mean weights of their members."""

from collections.abc import Callable

import numpy as np
from keras import ops

from keras_embcam.extras import import_extra
from keras_embcam.proxies import single_point


def cluster_embeddings(
    unit_embeddings: np.ndarray, num_clusters: int, seed: int, library: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return unit centres (c, d) and the cluster of each entry (N,), by k-means.

    Args:
        unit_embeddings: (N, d) float32.
        num_clusters: at most N; the result has fewer where entries repeat.
        seed: of the first centres.
        library: a key of `LIBRARIES`.

    Raises:
        ImportError: if the library is missing.
        ValueError: for an unknown library, and where the members of a cluster cancel
            out.
    """
    if library not in LIBRARIES:
        raise ValueError(
            f"`library` must be one of {sorted(LIBRARIES)}. Received: {library!r}"
        )
    labels = LIBRARIES[library](unit_embeddings, num_clusters, seed)
    _, clusters, counts = np.unique(labels, return_inverse=True, return_counts=True)
    centres = np.zeros((len(counts), unit_embeddings.shape[1]))
    np.add.at(centres, clusters, unit_embeddings)
    centres /= counts[:, None]
    if not np.linalg.norm(centres, axis=1).min() > 1e-6:
        raise ValueError(
            "The members of a cluster point in opposite directions, so their mean has "
            "none. Raise `num_clusters`."
        )
    return ops.convert_to_numpy(single_point(centres)), clusters


def _label_with_scikit_learn(
    entries: np.ndarray, num_clusters: int, seed: int
) -> np.ndarray:
    library = import_extra(
        "sklearn.cluster", "evaluation", "k-means needs scikit-learn"
    )
    return library.KMeans(num_clusters, random_state=seed).fit(entries).labels_


def _label_with_faiss(entries: np.ndarray, num_clusters: int, seed: int) -> np.ndarray:
    faiss = import_extra("faiss", "faiss", "This k-means needs faiss")
    entries = np.ascontiguousarray(entries, "float32")
    # faiss asks for 39 entries a cluster by default, and warns about fewer.
    means = faiss.Kmeans(
        entries.shape[1], num_clusters, seed=seed, min_points_per_centroid=1
    )
    means.train(entries)
    return means.index.search(entries, 1)[1][:, 0]


# Each takes entries (N, d), a number of clusters and a seed, and returns the cluster of
# each entry (N,).
LIBRARIES: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "scikit-learn": _label_with_scikit_learn,
    "faiss": _label_with_faiss,
}


def average_weights(
    channels: np.ndarray, values: np.ndarray, clusters: np.ndarray, num_channels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean weights of each cluster, cut to the M highest again.

    Args:
        channels: (N, M) integers.
        values: (N, M) float32. Channels that a member does not list count as zero
            in the mean, and those that none lists are never kept.
        clusters: (N,) integers of 0 to c - 1, each with a member.
        num_channels: k. One cluster at a time is held with all its channels.

    Returns:
        Channels (c, M) int32 and values (c, M) float32, descending.
    """
    num_kept = channels.shape[1]
    kept = []
    for cluster in range(clusters.max() + 1):
        members = clusters == cluster
        total = np.bincount(
            channels[members].ravel(), values[members].ravel(), num_channels
        )
        mean = total / members.sum()
        # A channel that no member lists was cut from all of them: its mean of zero must
        # not outrank a negative weight.
        listed = np.isin(np.arange(num_channels), channels[members])
        mean[~listed] = -np.inf
        best = np.argsort(-mean, kind="stable")[:num_kept]
        kept.append((best, mean[best]))
    best, means = (np.stack(x) for x in zip(*kept, strict=True))
    return best.astype("int32"), means.astype("float32")
