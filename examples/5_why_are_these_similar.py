"""Why did the search return these? Queries, their matches, the heat on both sides.

    python examples/1_train_and_watch.py  # saves the network
    python examples/5_why_are_these_similar.py

Writes `logs/why_are_these_similar.png`: for two queries their three nearest images,
right ones in a green frame; below, what of the query makes it similar to each match and
what of the match, with lines between the parts that match most.
"""

import cv2
import keras

from keras_embcam import explain_neighbors
from keras_embcam.datasets import digit_scenes
from keras_embcam.drawing import make_grid

PICTURE = "logs/why_are_these_similar.png"

model = keras.models.load_model("logs/train_and_watch/best.keras", compile=False)
scenes = digit_scenes(120, split="evaluation", classes=range(6, 10))
images, labels = scenes["image"], scenes["label"]

found = explain_neighbors(
    model, images[:2], images, k=3, labels=labels[:2], gallery_labels=labels
)
grid = make_grid(found.draw(captions=labels[found.indices]), num_columns=1)
cv2.imwrite(PICTURE, grid[..., ::-1])
print(f"Picture: {PICTURE}")
