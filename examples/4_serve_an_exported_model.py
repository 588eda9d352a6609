"""Export a network with its heatmaps, and serve it without keras_embcam.

python examples/1_train_and_watch.py  # saves the network
python examples/4_serve_an_exported_model.py
"""

import subprocess
import sys

import keras

from keras_embcam import EmbeddingCAM

MODEL = "logs/train_and_watch/best.keras"
EXPORTED = "logs/exported"

model = keras.models.load_model(MODEL, compile=False)
EmbeddingCAM(model).as_model().export(EXPORTED)

# What TensorFlow Serving would do, in a process that imports TensorFlow alone.
server = f"""
import numpy as np, tensorflow as tf
served = tf.saved_model.load({EXPORTED!r})  # keep it while it is called
images = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")
embeddings, heatmaps = served.serve(images)
print("served:", embeddings.shape, heatmaps.shape)
"""
subprocess.run([sys.executable, "-c", server], check=True)
