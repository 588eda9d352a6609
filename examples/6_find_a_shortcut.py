"""Find out that a network cheats, while it trains.

    python examples/6_find_a_shortcut.py
    tensorboard --logdir logs/find_a_shortcut

Two networks, one on clean scenes, one on scenes whose background gives the class away.
On data with the same flaw the cheat retrieves better. Its heatmap ratio, beside that of
the uniform map, tells.
"""

import keras
from keras import layers

from keras_embcam.callbacks import EmbeddingCAMLogger
from keras_embcam.datasets import digit_scenes
from keras_embcam.losses import TripletSemiHardLoss
from keras_embcam.sampling import sample_balanced_batches

LOGS = "logs/find_a_shortcut"


def make_network():
    blocks = []
    for num_filters, strides in ((12, 2), (24, 2), (48, 1), (72, 2)):
        blocks += [
            layers.Conv2D(num_filters, 3, strides, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
        ]
    return keras.Sequential(
        [
            keras.Input((64, 64, 3)),
            layers.Rescaling(1 / 127.5, -1),
            *blocks,
            layers.GlobalAveragePooling2D(),
            layers.Dense(32, name="embedding"),
            layers.UnitNormalization(),
        ]
    )


last = {}
for name, shortcut in {"honest": 0.0, "cheat": 1.0}.items():
    keras.utils.set_random_seed(0)
    train = digit_scenes(1800, classes=range(6), shortcut=shortcut)
    flawed = digit_scenes(
        200, split="evaluation", classes=range(6, 10), shortcut=shortcut
    )
    model = make_network()
    model.compile(keras.optimizers.Adam(3e-3), TripletSemiHardLoss())
    history = model.fit(
        sample_balanced_batches(
            train["image"], train["label"], classes_per_batch=6, images_per_class=10
        ),
        epochs=4,
        shuffle=False,
        verbose=2,
        callbacks=[EmbeddingCAMLogger(f"{LOGS}/{name}", flawed, num_images=4)],
    ).history
    last[name] = {key: values[-1] for key, values in history.items()}

uniform = (flawed["segmentation_mask"]).mean()
for name, values in last.items():
    print(
        f"{name}: Recall@1 {values['val_recall_at_1']:.3f}, heat on the digit "
        f"{values['val_heatmap_ratio_mask']:.3f} (uniform {uniform:.3f})"
    )
