"""The embeddings of queries or of a gallery, made or given, with their labels."""

import hashlib
import warnings
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_embcam.method import Method
from keras_embcam.network.noise_images import find_images
from keras_embcam.retrieval.contribution_reader import (
    ContributionReader,
    Contributions,
    join,
)
from keras_embcam.retrieval.pair_maps import check_finite, divide_by_length
from keras_embcam.running.compiled_functions import run_batches
from keras_embcam.running.example_values import read_labels
from keras_embcam.running.image_batches import ImageSource
from keras_embcam.running.one_batch import embed_images

# Of the contributions that are kept while images are embedded.
MAX_KEPT_BYTES = 2**28
# Of one image's embeddings, made now and before, perhaps in half precision or bytes.
MIN_COSINE = 0.99


class Embedded(NamedTuple):
    """The embeddings of queries or of a gallery.

    Attributes:
        embeddings: (n, d) float32, raw.
        labels: (n,) or None.
        digests: of the pixels that the model takes, one for each image; None where
            they are not needed, or the embeddings were given.
        rows: (n,) int64, the numbers of the images as they were given: all, but for
            files that could not be read.
        num_images: how many were given.
        kept: the contributions of the first ones, where they cost little; None else.
    """

    embeddings: np.ndarray
    labels: np.ndarray | None
    digests: list[bytes] | None
    rows: np.ndarray
    num_images: int
    kept: Contributions | None = None


def embed_source(
    model: keras.Model,
    source: ImageSource,
    method: Method,
    name: str,
    verbose: int,
    reader: ContributionReader | None = None,
    digest: bool = True,
) -> Embedded:
    """Return embeddings, labels and digests of images of any kind.

    Args:
        model: any Keras model.
        source: of images.
        method: names the layers.
        name: of the images, for messages.
        verbose: 1 for a progress bar.
        reader: of contributions, to keep those that cost little more than the
            embeddings, up to `MAX_KEPT_BYTES`: the network need not run on these
            images again. None to keep none.
        digest: False to leave the pixels alone: nothing is compared with them. Those
            of a data set are, where it is read again.

    Raises:
        ValueError: for images that do not fit, or embeddings that are not finite.
    """
    bar = keras.utils.Progbar(source.num_images, verbose=verbose, unit_name="image")
    digest = digest or source.is_data_set
    embeddings, labels, digests, rows = [], [], [], []
    kept: list[Contributions] = []
    room = MAX_KEPT_BYTES
    for batch in source:
        whole = None if reader is None else reader.read_at_once(batch)
        if whole is None:
            reader = None
            [(_, (found,))] = run_batches(model, [batch], method, embed_images)
        else:
            found = whole.embeddings
            kept.append(whole)
            room -= whole.values.nbytes
            reader = reader if room > 0 else None
        embeddings.append(found)
        if batch.labels is not None:
            labels.append(batch.labels)
        if digest:
            digests += digest_images(batch.inputs)
        rows.append(batch.start + np.arange(len(found)))
        bar.add(len(found))
    all_embeddings = np.concatenate(embeddings)
    check_finite(name, all_embeddings)
    return Embedded(
        all_embeddings,
        np.concatenate(labels) if labels else None,
        digests if digest else None,
        np.concatenate(rows),
        source.num_images or len(all_embeddings),
        join(kept) if kept else None,
    )


def digest_images(inputs: Any) -> list[bytes]:
    """Return a digest of the pixels of each image among the inputs of a model."""
    return [
        hashlib.blake2b(image.tobytes(), digest_size=16).digest()
        for image in np.asarray(find_images(inputs))
    ]


def check_labels_fit(
    name: str, labels: Any, found: Embedded, others: str
) -> np.ndarray | None:
    """Return the labels given, or else those that came with the images.

    Raises:
        ValueError: for another number than one for each image, one-hot rows, or what
            are neither whole numbers nor strings.
    """
    if labels is None and found.labels is None:
        return None
    if labels is None:
        return np.array(read_labels(found.labels, name))
    labels = np.array(read_labels(labels, name))
    if labels.shape != (found.num_images,):
        raise ValueError(
            f"`{name}` must hold one label for each image of `{others}`, "
            f"({found.num_images},). Received the shape {labels.shape}"
        )
    return labels[found.rows]


def check_gallery_embeddings(
    embeddings: Any, width: int, num_images: int | None
) -> np.ndarray:
    """Return given embeddings as float32.

    Args:
        embeddings: as given.
        width: of those of the model.
        num_images: of the gallery, None without one or where it is not known.

    Raises:
        TypeError: for what are no numbers.
        ValueError: for none, another number than one for each image, another width
            than the model's, NaN or infinity.
    """
    try:
        with np.errstate(over="ignore"):
            array: np.ndarray = np.asarray(embeddings).astype("float32")
    except (TypeError, ValueError) as error:
        raise TypeError(
            "`gallery_embeddings` must be an array (N, d) of numbers. Received: "
            f"{embeddings!r}"
        ) from error
    if array.ndim != 2 or not len(array):
        raise ValueError(
            "`gallery_embeddings` must have the shape (N, d) with N >= 1. Received the "
            f"shape {array.shape}"
        )
    if array.shape[1] != width:
        raise ValueError(
            f"`gallery_embeddings` must be as wide as the model's embedding, {width}. "
            f"Received the width {array.shape[1]}: were they made by another model, or "
            "taken at another layer? `keras_embcam.embed(model, gallery)` makes them."
        )
    if num_images is not None and len(array) != num_images:
        raise ValueError(
            "`gallery_embeddings` must hold one row for each image of `gallery`. "
            f"Received {len(array)} rows for {num_images} images: were files left out? "
            "`keras_embcam.embed(model, gallery)` makes them."
        )
    check_finite("gallery_embeddings", array)
    return array


def warn_of_other_images(
    rows: np.ndarray, found: list[Contributions], given: np.ndarray
) -> None:
    """Warn where images of a gallery have other embeddings than the ones given.

    Args:
        rows: numbers of some images.
        found: of these, in batches.
        given: (N, d), the embeddings of all.
    """
    made = np.concatenate([batch.embeddings for batch in found])
    given = given[rows]
    units = [divide_by_length(x, x) for x in (made, given)]
    cosines = np.where(given.any(axis=1), np.sum(units[0] * units[1], axis=1), 1)
    others = rows[cosines < MIN_COSINE]
    if len(others):
        warnings.warn(
            "`gallery_embeddings` must be those of the images of `gallery`, in their "
            f"order. Those of the rows {others[:10].tolist()} are not what the model "
            f"makes of these images: cosines down to {cosines.min():.3f}. "
            "`keras_embcam.embed(model, gallery)` makes them, with the same "
            "preprocessing.",
            stacklevel=3,
        )
