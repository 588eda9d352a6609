"""Explain a network three ways: by itself, by its class, and one class against another.

    python examples/2_explain_a_model.py

Writes `logs/explain_a_model.png`. The network here has random weights; put your own in.
"""

from pathlib import Path

import cv2
import keras
from keras import layers

from keras_embcam import explain
from keras_embcam.datasets import digit_scenes
from keras_embcam.drawing import make_grid, overlay_heatmap
from keras_embcam.proxies import class_mean, contrast

PICTURE = Path("logs/explain_a_model.png")

keras.utils.set_random_seed(0)
scenes = digit_scenes(40)
images, labels = scenes["image"], scenes["label"]
model = keras.Sequential(
    [
        keras.Input((64, 64, 3)),
        layers.Rescaling(1 / 255),
        layers.Conv2D(16, 3, strides=2, activation="relu"),
        layers.Conv2D(32, 3, strides=2, activation="relu"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(16),
    ]
)

itself = explain(model, images, details=True)
means = class_mean(itself.embeddings, labels)
by_class = explain(model, images, labels=labels, class_proxies=means)
# Why the class it is, rather than the next one.
versus = explain(
    model, images, proxies=contrast(means[labels], means[(labels + 1) % 10])
)

rows = [
    [overlay_heatmap(images[i], heatmaps[i]) for i in range(6)]
    for heatmaps in (itself.heatmaps, by_class, versus)
]
names = ["its own embedding", "its class", "its class rather than the next"]
PICTURE.parent.mkdir(exist_ok=True)
grid = make_grid([make_grid(row, num_columns=6) for row in rows], names, num_columns=1)
cv2.imwrite(str(PICTURE), cv2.cvtColor(grid, cv2.COLOR_RGB2BGR))
print(f"Picture: {PICTURE}")
