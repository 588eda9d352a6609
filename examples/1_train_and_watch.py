"""Train an embedding network with the logger on, and keep the epoch that looks best.

python examples/1_train_and_watch.py
tensorboard --logdir logs/train_and_watch
"""

import keras
from keras import layers

from keras_embcam.callbacks import EmbeddingCAMLogger
from keras_embcam.datasets import digit_scenes
from keras_embcam.losses import TripletSemiHardLoss
from keras_embcam.sampling import sample_balanced_batches

LOGS = "logs/train_and_watch"

keras.utils.set_random_seed(0)
train = digit_scenes(600, classes=range(6))
validation = digit_scenes(80, split="evaluation", classes=range(6, 10))

model = keras.Sequential(
    [
        keras.Input((64, 64, 3)),
        layers.Rescaling(1 / 255),
        layers.Conv2D(16, 3, strides=2, activation="relu"),
        layers.Conv2D(32, 3, strides=2, activation="relu"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(16),
        layers.UnitNormalization(),
    ]
)
model.compile("adam", TripletSemiHardLoss())
model.fit(
    sample_balanced_batches(
        train["image"], train["label"], classes_per_batch=6, images_per_class=10
    ),
    epochs=2,
    shuffle=False,
    callbacks=[
        EmbeddingCAMLogger(LOGS, validation, num_images=4),
        keras.callbacks.ModelCheckpoint(
            f"{LOGS}/best.keras",
            monitor="val_heatmap_ratio_bbox",
            mode="max",
            save_best_only=True,
        ),
    ],
)
