"""Write embeddings for TensorBoard's projector, with overlays as their pictures."""

import math
from collections.abc import Iterable

import cv2
import numpy as np
import tensorflow as tf
from tensorboard.plugins import projector

from keras_embcam.callbacks.update import Shown
from keras_embcam.drawing import overlay_heatmap, to_uint8

# TensorBoard loads one picture for all sprites; browsers take 8192 pixels a side.
MAX_POINTS = 1000
SPRITE_SIZE = 64


def write_projector(
    run_dir: str,
    embeddings: np.ndarray,
    labels: np.ndarray | None,
    shown: Iterable[Shown],
) -> None:
    """Write a checkpoint, labels and sprites of at most `MAX_POINTS` examples.

    Args:
        run_dir: where TensorBoard looks for `projector_config.pbtxt`; any path that
            `tf.io.gfile` knows.
        embeddings: (n, d) float32.
        labels: (n,), or None.
        shown: all the examples with their heatmaps, batch by batch.
    """
    sprites: list[np.ndarray] = []
    for batch in shown:
        for image, heatmap in zip(
            to_uint8(batch.examples["image"]), batch.heatmaps, strict=True
        ):
            overlay = overlay_heatmap(image, heatmap)
            size = (SPRITE_SIZE, SPRITE_SIZE)
            sprites.append(cv2.resize(overlay, size, interpolation=cv2.INTER_AREA))
        if len(sprites) >= MAX_POINTS:
            break
    sprites, embeddings = sprites[:MAX_POINTS], embeddings[:MAX_POINTS]

    def write(name: str, content: str | bytes) -> None:
        with tf.io.gfile.GFile(tf.io.gfile.join(run_dir, name), "wb") as file:
            file.write(content)

    tf.io.gfile.makedirs(run_dir)
    checkpoint = tf.train.Checkpoint(embedding=tf.Variable(embeddings))
    checkpoint.write(tf.io.gfile.join(run_dir, "embedding.ckpt"))
    # TensorBoard finds the file through this index, wherever the folder is moved to.
    write("checkpoint", 'model_checkpoint_path: "embedding.ckpt"\n')
    config = projector.ProjectorConfig()
    embedding = config.embeddings.add()
    embedding.tensor_name = "embedding/.ATTRIBUTES/VARIABLE_VALUE"
    if labels is not None:
        lines = "".join(f"{label}\n" for label in labels[:MAX_POINTS])
        write("labels.tsv", lines)
        embedding.metadata_path = "labels.tsv"
    num_columns = math.ceil(math.sqrt(len(sprites)))
    sheet = np.zeros((num_columns * SPRITE_SIZE, num_columns * SPRITE_SIZE, 3), "uint8")
    for index, sprite in enumerate(sprites):
        row, column = divmod(index, num_columns)
        top, left = row * SPRITE_SIZE, column * SPRITE_SIZE
        sheet[top : top + SPRITE_SIZE, left : left + SPRITE_SIZE] = sprite
    write("sprites.png", tf.io.encode_png(sheet).numpy())
    embedding.sprite.image_path = "sprites.png"
    embedding.sprite.single_image_dim.extend([SPRITE_SIZE, SPRITE_SIZE])
    projector.visualize_embeddings(run_dir, config)
