"""From a forward pass and the weights that entries lend to heatmaps."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from keras import ops, tree

from keras_embcam.heatmaps import combine_channels, resize_heatmaps, scale_heatmaps
from keras_embcam.method import Method
from keras_embcam.network.noise_images import find_images
from keras_embcam.network.view import ModelView
from keras_embcam.running.image_batches import Batch, join_rows
from keras_embcam.running.one_batch import fields_of, read_field
from keras_embcam.transfer.weight_table import GradWeightTable

Tensor = Any


class TransferExplanation(NamedTuple):
    """Heatmaps with lent weights, and who lent them, as numpy arrays.

    Attributes:
        heatmaps: (n, H, W) float32; see `GradWeightDatabase.explain`.
        embeddings: (n, d) float32, raw.
        neighbors: (n, m) integers, rows of the database, the nearest first.
        similarities: (n, m) float32, the cosine similarities to them.
        images: (n, H, W, c) as given or read, before `preprocessing_function`.
        files: n paths where the images come from files, else None.
    """

    heatmaps: np.ndarray
    embeddings: np.ndarray
    neighbors: np.ndarray
    similarities: np.ndarray
    images: Any
    files: list[Path] | None = None


def run_forward(
    view: ModelView, images: Any, proxies: None, method: Method
) -> tuple[Tensor, ...]:
    """Return activations (n, h, w, k) and raw embeddings (n, d), float32.

    And, for maps of the size of the images, what they show of them; see `fields_of`.
    """
    recording = view.record(images)
    found = recording.activations, recording.embeddings
    return (*found, fields_of(view, images)) if method.resize else found


def explain_batch(
    table: GradWeightTable,
    batch: Batch,
    found: list[np.ndarray],
    method: Method,
    num_neighbors: int,
    search: str,
) -> TransferExplanation:
    """Put the weights of the nearest entries on the activations of a batch.

    Args:
        table: of weights.
        batch: of images.
        found: what `run_forward` returned for it.
        method: whether maps are resized and divided by their maximum.
        num_neighbors: entries whose weights are averaged.
        search: "exact" or "faiss".

    Raises:
        ValueError: for embeddings of another width or another number of channels.
    """
    activations, embeddings, *fields = found
    if activations.shape[-1] != table.num_channels:
        raise ValueError(
            f"The database holds weights of {table.num_channels} channels. Received "
            f"{activations.shape[-1]} from this model. Pass the model that it was "
            "fitted with."
        )
    rows, similarities = table.find(embeddings, num_neighbors, search)
    heatmaps = combine_channels(activations, table.lend(rows)[:, None, None, :])
    if method.resize:
        size = find_images(batch.inputs).shape[1:3]
        heatmaps = resize_heatmaps(heatmaps, size, read_field(fields[0]))
    if method.normalize:
        heatmaps = scale_heatmaps(heatmaps)
    return TransferExplanation(
        ops.convert_to_numpy(heatmaps),
        embeddings,
        rows,
        similarities,
        batch.images,
        batch.files,
    )


def join_explanations(batches: Iterable[TransferExplanation]) -> TransferExplanation:
    """Return all batches as one."""
    columns = [*zip(*batches, strict=True)]
    files = columns.pop()
    joined = [tree.map_structure(join_rows, *column) for column in columns]
    paths = None if files[0] is None else [path for part in files for path in part]
    return TransferExplanation._make([*joined, paths])
