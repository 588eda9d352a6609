"""From a forward pass and a table of weights to heatmaps."""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_embcam.heatmaps import combine_channels, resize_heatmaps, scale_heatmaps
from keras_embcam.method import Method
from keras_embcam.network.noise_images import find_images
from keras_embcam.network.view import ModelView
from keras_embcam.running.image_batches import Batch
from keras_embcam.transfer.table import GradWeightTable

Tensor = Any


class TransferExplanation(NamedTuple):
    """Heatmaps with lent weights, and who lent them, as numpy arrays.

    Attributes:
        heatmaps: (n, H, W) float32; see `GradWeightDatabase.explain`.
        embeddings: (n, d) float32, raw.
        neighbours: (n, m) integers, rows of the database, the nearest first.
        similarities: (n, m) float32, the cosine similarities to them.
        images: (n, H, W, c) as given or read, before `preprocessing_function`.
    """

    heatmaps: np.ndarray
    embeddings: np.ndarray
    neighbours: np.ndarray
    similarities: np.ndarray
    images: Any


def run_forward(
    view: ModelView, images: Any, proxies: None, method: Method
) -> tuple[Tensor, Tensor]:
    """Return activations (n, h, w, k) and raw embeddings (n, d), float32."""
    recording = view.record(images)
    return recording.activations, recording.embeddings


def transfer(
    table: GradWeightTable,
    batch: Batch,
    found: list[np.ndarray],
    num_neighbours: int,
    search: str,
    resize: bool,
    normalize: bool,
) -> TransferExplanation:
    """Put the weights of the nearest entries on the activations of a batch.

    Args:
        table: of weights.
        batch: of images.
        found: what `run_forward` returned for it.
        num_neighbours: see `GradWeightDatabase.explain_batches`.
        search: as well.
        resize: as well.
        normalize: as well.

    Raises:
        ValueError: for embeddings of another width or another number of channels.
    """
    activations, embeddings = found
    if activations.shape[-1] != table.num_channels:
        raise ValueError(
            f"The database holds weights of {table.num_channels} channels. Received "
            f"{activations.shape[-1]} from this model. Pass the model that it was "
            "fitted with."
        )
    rows, similarities = table.find(embeddings, num_neighbours, search)
    heatmaps = combine_channels(activations, table.lend(rows)[:, None, None, :])
    if resize:
        heatmaps = resize_heatmaps(heatmaps, find_images(batch.inputs).shape[1:3])
    if normalize:
        heatmaps = scale_heatmaps(heatmaps)
    heatmaps = ops.convert_to_numpy(heatmaps)
    return TransferExplanation(heatmaps, embeddings, rows, similarities, batch.images)
