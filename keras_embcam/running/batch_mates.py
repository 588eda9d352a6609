"""Say where the embedding of an image is no function of the image alone."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import tree

from keras_embcam.network.noise_images import find_images
from keras_embcam.network.noise_runs import MAX_EAGER_PIXELS

# Where functions of batches return the embeddings of all images; others may return what
# has the same shape.
PLACES = {
    "explain_in_detail": 0,
    "explain_images": 0,
    "embed_images": 0,
    "embed_and_keep": 0,
    "record_parts": 1,
    "integrate_head": 1,
}
# Of the length of an embedding, well above rounding.
TOLERANCE = 0.02
TOLERANCE_HALF = 0.1


def warn_of_batch_mates(
    run: Callable[[Any, Any], Sequence[np.ndarray]],
    inputs: Any,
    proxies: np.ndarray | None,
    embeddings: np.ndarray,
    place: int,
    is_half: bool,
) -> None:
    """Run the last image of a batch alone, and warn where its embedding differs.

    A single image is run together with itself: random numbers of a fixed seed differ
    from row to row. A large one is run once more as it is, since two take twice the
    memory.

    Args:
        run: what was made of the batch, for inputs and proxies.
        inputs: of the batch, structure of tensors (n, ...).
        proxies: (n, ...), or None.
        embeddings: (n, d), what it made of them.
        place: among the results of `run`.
        is_half: whether the model computes in half precision.
    """
    if len(embeddings) > 1:
        first, others = embeddings[-1], (lambda x: x[-1:])
    else:
        height, width = find_images(inputs).shape[1:3]
        number = 2 if height * width <= MAX_EAGER_PIXELS else 1
        first, others = embeddings[0], (lambda x: np.repeat(x, number, axis=0))
    again = run(
        tree.map_structure(others, inputs), None if proxies is None else others(proxies)
    )[place][-1]
    lengths = [np.linalg.norm(x) for x in (first, again)]
    difference = np.linalg.norm(first - again)
    tolerance = TOLERANCE_HALF if is_half else TOLERANCE
    if difference > tolerance * max(lengths):  # not where something is NaN
        warnings.warn(
            "The embedding of an image must depend on this image alone. In the first "
            "batch that of the last image differs by "
            f"{difference / max(lengths):.2f} of its length from what the model makes "
            "of it in another batch, so maps change with the other images, or from "
            "call to call. Look for layers that draw random numbers on inference (of "
            "a variational model pass `embedding_layer`, the layer of the means), for "
            "`training=True` in the code of the model, and for means over the batch.",
            stacklevel=4,
        )
