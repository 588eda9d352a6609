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
train = digit_scenes(1800, classes=range(6))
validation = digit_scenes(80, split="evaluation", classes=range(6, 10))

blocks = []
for num_filters, strides in ((12, 2), (24, 2), (48, 1), (72, 2)):
    blocks += [
        layers.Conv2D(num_filters, 3, strides, padding="same", use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
    ]
model = keras.Sequential(
    [
        keras.Input((64, 64, 3)),
        layers.Rescaling(1 / 127.5, -1),
        *blocks,
        layers.GlobalAveragePooling2D(),
        layers.Dense(32, name="embedding"),
        layers.UnitNormalization(),
    ]
)
model.compile(keras.optimizers.Adam(3e-3), TripletSemiHardLoss())
model.fit(
    sample_balanced_batches(
        train["image"], train["label"], classes_per_batch=6, images_per_class=10
    ),
    epochs=4,
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
