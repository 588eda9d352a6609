"""Compare methods of explanation on your network, in one table.

    python examples/1_train_and_watch.py  # saves the network
    python examples/3_compare_methods.py

Read every row beside those that explain nothing: the uniform map, the sum of the
activations, a blob in the middle. Writes tables and curves to `logs/compare_methods`.
"""

import keras

from keras_embcam.datasets import digit_scenes
from keras_embcam.evaluation import Method, evaluate

MODEL = "logs/train_and_watch/best.keras"

model = keras.models.load_model(MODEL, compile=False)
scenes = digit_scenes(120, split="evaluation", classes=range(6, 10))
report = evaluate(
    model,
    scenes,
    [
        "uniform",
        "activation_sum",
        "centred_gaussian",
        Method("single point", "single_point"),
        Method("class mean", "class_mean"),
        Method("class mean, Grad-CAM++", "class_mean", weighting="gradcam++"),
        Method("class mean, LayerCAM", "class_mean", weighting="layercam"),
        Method("class mean, 8 channels", "class_mean", top_channels=8),
        Method("class mean, localize", "class_mean", preset="localize"),
        Method("triplets", "triplet"),
    ],
    faithfulness_images=8,
)
print(report)
report.save("logs/compare_methods")
