"""TensorBoard's EmbeddingCAM tab: every validation image at every epoch."""
