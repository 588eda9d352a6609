"""Callbacks that watch `model.fit`."""

from keras_embcam.callbacks.embedding_cam_logger import EmbeddingCAMLogger

__all__ = ["EmbeddingCAMLogger"]
