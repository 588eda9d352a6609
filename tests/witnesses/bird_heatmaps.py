"""Make the heatmaps of birds whose Otsu thresholds ``record_otsu.py`` records.

Needs the package and the data of KERAS_EMBCAM_TEST_DATA, so it is run by hand:
``python tests/witnesses/bird_heatmaps.py``.
"""

import os
from pathlib import Path

import keras
import numpy as np

from keras_embcam import explain
from keras_embcam.datasets import cub200

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
DATA = ROOT / os.environ.get("KERAS_EMBCAM_TEST_DATA", "../shared/data")
NUM_BIRDS, SIZE = 8, 56


def main() -> None:
    """Write bird_heatmaps.npz beside this file."""
    backbone = keras.applications.MobileNetV2(
        input_shape=(224, 224, 3),
        include_top=False,
        weights=str(DATA / "weights" / "mnv2_inat_bird_dequant_notop.weights.h5"),
    )
    pooled = keras.layers.GlobalAveragePooling2D()(backbone.output)
    network = keras.Model(backbone.input, pooled)
    birds = cub200(DATA / "CUB_mini", split="second_half", image_size=224)
    birds = birds.shard(len(birds) // NUM_BIRDS, 0).take(NUM_BIRDS)
    images = np.stack([x["image"] for x in birds.as_numpy_iterator()]) / 127.5 - 1
    images = images.astype("float32")
    finest = keras.layers.AveragePooling2D(224 // SIZE, data_format="channels_last")
    maps = [
        np.asarray(finest(explain(network, images, preset=preset)[..., None]))[..., 0]
        for preset in (None, "localize")
    ]
    heatmaps = np.concatenate(maps).astype("float16")
    np.savez_compressed(FOLDER / "bird_heatmaps.npz", heatmaps=heatmaps)
    print(heatmaps.shape)


if __name__ == "__main__":
    main()
