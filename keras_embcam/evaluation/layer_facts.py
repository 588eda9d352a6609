"""What a table says of the layers that methods explain."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import tree

from keras_embcam.evaluation.compared_method import ComparedMethod


class LayerFacts(NamedTuple):
    """What a table says of the layers that a method explains.

    Attributes:
        names: their paths.
        shapes: (h, w, k) of the activations of each.
        embedding: what is taken for the raw embedding.
        width: d of the embedding.
    """

    names: list[str]
    shapes: list[tuple[int, ...]]
    embedding: str
    width: int


def look_at_layers(
    model: keras.Model, methods: Sequence[ComparedMethod], images: np.ndarray
) -> list[LayerFacts | None]:
    """Return the facts of each method's layers, None for a method that has none."""
    known: dict[Any, LayerFacts] = {}
    facts: list[LayerFacts | None] = []
    for method in methods:
        key = method.place
        if method.explains_proxy and key not in known:
            view = method.look(model, images)
            activations = tree.flatten(view.record(images[:1]).activations)
            known[key] = LayerFacts(
                tree.flatten(view.conv_layer),
                [tuple(x.shape[1:]) for x in activations],
                view.embedding,
                view.embedding_width,
            )
        facts.append(known[key] if method.explains_proxy else None)
    return facts
