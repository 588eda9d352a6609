"""Class means over the examples, and activations kept to explain without a new run."""

import hashlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from keras_embcam.proxies import RunningClassMean
from keras_embcam.running.labelled_examples import Examples

# Class means are known only after all examples were seen. Activations of so many bytes
# are kept meanwhile; batches beyond are run a second time.
MAX_KEPT_BYTES = 2**28


class KeptBatch(NamedTuple):
    """The activations of one batch of examples, and what tells its images."""

    activations: np.ndarray
    fingerprint: bytes

    def activations_of(self, batch: Examples) -> np.ndarray:
        """Return the activations, once it is sure that they are those of a batch.

        Raises:
            ValueError: for other images than those that were run.
        """
        if _fingerprint(batch["image"]) != self.fingerprint:
            raise ValueError(
                "`validation_examples` must come in the same order each time: class "
                "means take two readings of them, and their images differ. Leave out "
                "shuffling, or pass `reshuffle_each_iteration=False`."
            )
        return self.activations


def _fingerprint(images: np.ndarray) -> bytes:
    """Return what differs where images (n, H, W, c) do; of each fourth row and column.

    All pixels, as retrieval compares them, take eight times as long.
    """
    pixels = np.ascontiguousarray(images[:, ::4, ::4])
    return hashlib.blake2b(pixels.tobytes(), digest_size=16).digest()


def measure_class_means(
    run: Callable[[Examples], list[np.ndarray]], batches: Iterable[Any], classes: int
) -> tuple[np.ndarray, list[KeptBatch]]:
    """Return the mean of each class, and the activations of the first batches.

    Args:
        run: returns embeddings (n, d) of a batch, and perhaps its activations; see
            `embed_and_keep`.
        batches: of examples with the numbers of their classes.
        classes: how many there are.

    Returns:
        ``(means (classes, d), kept)``, the latter in the order of the batches.
    """
    means = RunningClassMean(classes)
    kept: list[KeptBatch] = []
    num_bytes = 0
    for batch in batches:
        embeddings, *activations = run(batch)
        means.update(embeddings, batch["label"])
        num_bytes += sum(x.nbytes for x in activations)
        if activations and num_bytes <= MAX_KEPT_BYTES:
            kept.append(KeptBatch(activations[0], _fingerprint(batch["image"])))
    return means.result(), kept
