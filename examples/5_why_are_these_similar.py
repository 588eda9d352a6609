"""Why did the search return these? A query, its matches, the heat on both sides.

    python examples/1_train_and_watch.py  # saves the network
    python examples/5_why_are_these_similar.py

Writes `logs/why_are_these_similar.png`: in each row a query and its three nearest
images; below, what of the match makes it similar to the query, and what of the query
makes it similar to the first match.
"""

import cv2
import keras
import numpy as np

from keras_embcam import embed, explain
from keras_embcam.datasets import digit_scenes
from keras_embcam.drawing import make_grid, overlay_heatmap
from keras_embcam.proxies import pair

MODEL = "logs/train_and_watch/best.keras"
PICTURE = "logs/why_are_these_similar.png"
NUM_MATCHES = 3

model = keras.models.load_model(MODEL, compile=False)
scenes = digit_scenes(120, split="evaluation", classes=range(6, 10))
images = scenes["image"]
embeddings = embed(model, images)
units = np.asarray(pair(embeddings))
similarities = units @ units.T
np.fill_diagonal(similarities, -np.inf)

rows = []
for query in range(4):
    matches = np.argsort(-similarities[query])[:NUM_MATCHES]
    rows += [images[query], *images[matches]]
    on_query = explain(model, images[[query]], proxies=pair(embeddings[matches[0]]))
    on_matches = explain(model, images[matches], proxies=pair(embeddings[query]))
    rows.append(overlay_heatmap(images[query], on_query[0]))
    rows += [
        overlay_heatmap(images[i], x) for i, x in zip(matches, on_matches, strict=True)
    ]
grid = make_grid(rows, num_columns=1 + NUM_MATCHES)
cv2.imwrite(PICTURE, cv2.cvtColor(grid, cv2.COLOR_RGB2BGR))
print(f"Picture: {PICTURE}")
