"""See what a Keras embedding network looks at, while it trains and afterwards."""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from keras_embcam._version import __version__

if TYPE_CHECKING:
    from keras_embcam.embedding_cam import EmbeddingCAM
    from keras_embcam.explain_at_once import explain
    from keras_embcam.explain_in_batches import embed, explain_batches
    from keras_embcam.explanation import Explanation
    from keras_embcam.retrieval import (
        context_ratio,
        contributions,
        explain_neighbors,
        explain_pair,
    )

# Where each public name lives. They are imported on first use, so that the commands'
# help and TensorBoard's plugins start without TensorFlow.
_HOMES = {
    "EmbeddingCAM": "embedding_cam",
    "Explanation": "explanation",
    "embed": "explain_in_batches",
    "explain": "explain_at_once",
    "explain_batches": "explain_in_batches",
    "context_ratio": "retrieval",
    "contributions": "retrieval",
    "explain_neighbors": "retrieval",
    "explain_pair": "retrieval",
}

__all__ = [
    "EmbeddingCAM",
    "Explanation",
    "__version__",
    "context_ratio",
    "contributions",
    "embed",
    "explain",
    "explain_batches",
    "explain_neighbors",
    "explain_pair",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if "keras" in sys.modules:
    # Keras loads a saved EmbeddingCAM only where its class has been registered.
    importlib.import_module(f"{__name__}.embedding_cam")
