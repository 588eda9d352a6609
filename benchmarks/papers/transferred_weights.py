"""Chen et al.'s rows: weights of training images lent to the evaluated ones."""

import dataclasses
import functools
import time
import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from benchmarks.papers import names
from keras_embcam import method as core
from keras_embcam.evaluation import Method
from keras_embcam.heatmaps import combine_channels, resize_heatmaps
from keras_embcam.proxies import single_point
from keras_embcam.proxies.triplet_draws import TripletDraws
from keras_embcam.running.compiled_functions import run_once
from keras_embcam.transfer import GradWeightDatabase
from keras_embcam.transfer.lent_heatmaps import run_forward

Tensor = Any

MARGIN = 0.2
NUM_TRIPLETS = 50
TOP_CHANNELS = 50
NUM_CLUSTERS = 50
CHANNEL_COUNTS = tuple(x * 10**power for power in range(4) for x in (1, 2, 5))
# Classes, and images of each, that are timed.
NUM_TIMED = 8
# Above the largest squared distance of unit embeddings.
TIMED_MARGIN = 5.0
Databases = dict[str, GradWeightDatabase]


def fit_databases(
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    embeddings: np.ndarray,
    seed: int,
) -> tuple[Databases, list[str]]:
    """Return the databases of all rows, and a note on images without a triplet.

    Args:
        model: of the images.
        images: (n, H, W, 3) of the training set.
        labels: (n,).
        embeddings: (n, d) raw, of the same images.
        seed: of the triplets.

    Returns:
        By the name of the row; empty where no image has an active triplet.
    """
    draws = TripletDraws(
        embeddings, labels, num_triplets=1, margin=MARGIN, sign=1, loss=None, seed=seed
    )
    num_active = sum(len(draws.draw(anchor)) for anchor in range(len(labels)))
    notes = [
        f"{len(labels) - num_active} of {len(labels)} training images have no active "
        f"triplet (margin {MARGIN}) and lend no weights; of the pair scores all do"
    ]
    found: Databases = {}
    if not num_active:
        return found, notes

    def fit(weighting: str, **settings: Any) -> dict[int, GradWeightDatabase]:
        """Return the databases with all channels, by sign."""
        options = {"top_channels": None, "margin": MARGIN, "seed": seed, **settings}
        options |= {"weighting": weighting, "embeddings": embeddings}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the notes count these images
            first = GradWeightDatabase.fit(model, images, labels, sign=1, **options)
            if weighting == "gradcam":
                return {1: first, -1: negate(first)}
            second = GradWeightDatabase.fit(model, images, labels, sign=-1, **options)
        return {1: first, -1: second}

    for weighting in names.WEIGHTINGS:
        single = fit(weighting, num_triplets=1)
        several = fit(weighting, num_triplets=NUM_TRIPLETS)
        for sign in names.SIGNS:
            cut = keep_channels(several[sign], TOP_CHANNELS)
            made = (
                single[sign],
                several[sign],
                cut,
                cut.compress(min(NUM_CLUSTERS, len(cut)), seed=seed),
                keep_channels(several[sign], 1),
            )
            for variant, database in zip(names.VARIANTS, made, strict=True):
                found[names.name_transferred(weighting, sign, variant)] = database
    for score, loss in PAIR_SCORES.items():
        for sign, whole in fit("gradcam", loss=loss).items():
            found[names.name_transferred("gradcam", sign, score)] = whole
            name = names.name_transferred("gradcam", sign, f"{score}, top 50")
            found[name] = keep_channels(whole, TOP_CHANNELS)
    return found, notes


def negate(database: GradWeightDatabase) -> GradWeightDatabase:
    """Return the database of the other sign, of a weighting that is linear.

    Args:
        database: with all channels.
    """
    return dataclasses.replace(
        database,
        channels=database.channels[:, ::-1],
        values=-database.values[:, ::-1],
        sign=-database.sign,
    )


def measure_difference(anchors: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """Return ``|a - p|^2 - |a - n|^2`` of unit embeddings, (s,)."""
    return measure_pairs(anchors, positives) - measure_pairs(anchors, negatives)


def measure_pairs(anchors: Tensor, positives: Tensor, _: Tensor = None) -> Tensor:
    """Return ``|a - p|^2`` of unit embeddings, (s,)."""
    differences = single_point(anchors) - single_point(positives)
    return ops.sum(ops.square(differences), axis=-1)


# The weaker scores of Chen et al., of up to 50 triplets or pairs of each image.
PAIR_SCORES = {
    "50 distance differences": measure_difference,
    "50 pair-wise distances": measure_pairs,
}


def keep_channels(database: GradWeightDatabase, number: int) -> GradWeightDatabase:
    """Return a database cut to the channels with the highest weights."""
    return dataclasses.replace(
        database,
        channels=database.channels[:, :number],
        values=database.values[:, :number],
    )


class Lender:
    """Makes the maps of many databases from one forward pass of each batch.

    Args:
        model: that the databases were fitted with.
        conv_layer: of the databases.
    """

    def __init__(self, model: keras.Model, conv_layer: str) -> None:
        self._model = model
        self._conv_layer = conv_layer
        self._images: Any = None
        self._found: Any = None
        self._rows: dict[int, np.ndarray] = {}

    def make_methods(self, databases: Databases) -> list[Method]:
        """Return a method for each database."""
        return [
            Method(name, heatmaps=functools.partial(self.explain, database))
            for name, database in databases.items()
        ]

    def explain(self, database: GradWeightDatabase, images: np.ndarray) -> Any:
        """Return the maps (n, H, W) of a batch, as the database's own `explain`."""
        if images is not self._images:
            method = core.Method(conv_layer=self._conv_layer, resize=False)
            self._found = run_once(self._model, images, method, run_forward)
            self._images, self._rows = images, {}
        activations, embeddings = self._found
        key = id(database.embeddings)  # shared by all that are cut from one
        if key not in self._rows:
            self._rows[key] = database.find(embeddings, 1, "exact")[0]
        weights = database.lend(self._rows[key])[:, None, None, :]
        maps = combine_channels(activations, weights)
        return resize_heatmaps(maps, images.shape[1:3])


def cut_by_channels(databases: Databases) -> Databases:
    """Return databases of 50 triplets cut to more and more channels.

    Args:
        databases: of `fit_databases`.
    """
    found = {}
    for weighting, sign in (("gradcam", 1), ("gradcam", -1), ("gradcam++", 1)):
        whole = databases[names.name_transferred(weighting, sign, names.VARIANTS[1])]
        curve = names.BY_CHANNELS + names.name_transferred(
            weighting, sign, "transferred"
        )
        for number in list_counts(whole.num_channels):
            found[f"{curve}, top {number}"] = keep_channels(whole, number)
    return found


def list_counts(num_channels: int) -> list[int]:
    """Return the numbers of channels to try: 1, 2, 5, 10, ... and all.

    Example:

    >>> list_counts(12)
    [1, 2, 5, 10, 12]
    """
    return [x for x in CHANNEL_COUNTS if x < num_channels] + [num_channels]


def measure_fit_times(
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    embeddings: np.ndarray,
    num_timings: int = 3,
) -> dict[str, float]:
    """Return the seconds an image that a database of 50 triplets takes to fit.

    The least of some turns, embeddings given, on up to 8 images of each of 8 classes.
    With a margin so wide that all triplets are active.

    Args:
        model: of the images.
        images: (n, H, W, 3) of the training set.
        labels: (n,).
        embeddings: (n, d) raw, of the same images.
        num_timings: turns of each.
    """
    classes, counts = np.unique(labels, return_counts=True)
    chosen = classes[counts > 1][:NUM_TIMED]
    rows = np.concatenate([np.flatnonzero(labels == x)[:NUM_TIMED] for x in chosen])
    seconds: dict[str, list[float]] = {weighting: [] for weighting in names.WEIGHTINGS}
    for _ in range(num_timings):
        for weighting, found in seconds.items():
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                GradWeightDatabase.fit(
                    model,
                    images[rows],
                    labels[rows],
                    weighting=weighting,
                    margin=TIMED_MARGIN,
                    embeddings=embeddings[rows],
                )
            found.append((time.perf_counter() - start) / len(rows))
    return {name: min(found) for name, found in seconds.items()}
