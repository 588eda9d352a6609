"""See what a Keras embedding network looks at, while it trains and afterwards."""

from keras_embcam._version import __version__
from keras_embcam.embedding_cam import EmbeddingCAM
from keras_embcam.explain import Explanation, embed, explain, explain_batches

__all__ = [
    "EmbeddingCAM",
    "Explanation",
    "__version__",
    "embed",
    "explain",
    "explain_batches",
]
