"""Explain a saved network: by itself, by its class, one class against another.

    python examples/1_train_and_watch.py  # saves the network
    python examples/2_explain_a_saved_model.py

Writes `logs/explain_a_saved_model.png`. From the shell, for your own files:
`embcam explain model.keras photo.jpg`.
"""

import cv2
import keras

from keras_embcam import explain
from keras_embcam.datasets import digit_scenes
from keras_embcam.drawing import make_grid, overlay_heatmap
from keras_embcam.proxies import class_mean, contrast

MODEL = "logs/train_and_watch/best.keras"
PICTURE = "logs/explain_a_saved_model.png"

model = keras.models.load_model(MODEL, compile=False)
scenes = digit_scenes(60, split="evaluation", classes=range(6, 10))
images, labels = scenes["image"], scenes["label"]

itself = explain(model, images, details=True)
means = class_mean(itself.embeddings, labels)  # no rows for the digits 0-5
by_class = explain(model, images, labels=labels, class_proxies=means)
others = 6 + (labels - 5) % 4
versus = explain(model, images, proxies=contrast(means[labels], means[others]))

rows = [
    [overlay_heatmap(images[i], heatmaps[i]) for i in range(8)]
    for heatmaps in (itself.heatmaps, by_class, versus)
]
names = ["its own embedding", "its class", "its class rather than the next"]
grid = make_grid([make_grid(row, num_columns=8) for row in rows], names, num_columns=1)
cv2.imwrite(PICTURE, cv2.cvtColor(grid, cv2.COLOR_RGB2BGR))
print(f"Picture: {PICTURE}")
