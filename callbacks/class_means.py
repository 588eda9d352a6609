"""Class means over the examples, and activations kept to explain without a new run."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from keras_embcam.proxies import RunningClassMean
from keras_embcam.running.labelled_examples import Examples

# Class means are known only after all examples were seen. Activations of so many bytes
# are kept meanwhile; batches beyond are run a second time.
MAX_KEPT_BYTES = 2**28


def measure_class_means(
    run: Callable[[Examples], list[np.ndarray]], batches: Iterable[Any], classes: int
) -> tuple[np.ndarray, list[np.ndarray]]:
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
    kept: list[np.ndarray] = []
    num_bytes = 0
    for batch in batches:
        embeddings, *activations = run(batch)
        means.update(embeddings, batch["label"])
        num_bytes += sum(x.nbytes for x in activations)
        if activations and num_bytes <= MAX_KEPT_BYTES:
            kept.append(activations[0])
    return means.result(), kept
