"""Record the values and gradients of tensorflow-addons' losses.

tests/test_losses_witnesses.py compares the losses of this package with them. They
expect embeddings of unit length, so the gradient is the one with respect to these.
Every class has two examples or more: their hard loss lets anchors without a positive
into its mean.

It needs TensorFlow, so "make witnesses" does not run it: run ``python
tests/witnesses/addons_losses.py`` in an environment that has this package with its
extra, ``pip install -e ".[addons]"``.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_embcam.losses.addons import import_addons_losses

LABELS = [0, 1, 2, 0, 1, 2, 3, 0, 3, 1, 3, 0]
DIMENSION = 5


def main() -> None:
    addons = import_addons_losses()
    generator = np.random.default_rng(1)
    drawn = generator.standard_normal((len(LABELS), DIMENSION)).astype("float32")
    unit = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    losses = {
        f"{name}/{metric}": getattr(addons, name)(distance_metric=metric)
        for name in ("TripletSemiHardLoss", "TripletHardLoss")
        for metric in ("L2", "squared-L2", "angular")
    }
    losses["TripletSemiHardLoss/narrow"] = addons.TripletSemiHardLoss(margin=0.2)
    losses["TripletHardLoss/soft"] = addons.TripletHardLoss(soft=True)
    arrays = {"labels": np.array(LABELS), "unit_embeddings": unit}
    for name, loss in losses.items():
        with tf.GradientTape() as tape:
            embeddings = tf.Variable(unit)
            value = loss(arrays["labels"], embeddings)
        arrays[f"{name}/value"] = value.numpy()
        arrays[f"{name}/gradient"] = tape.gradient(value, embeddings).numpy()

    # Their contrastive loss takes the distances of pairs.
    first, second = np.triu_indices(len(LABELS), k=1)
    is_same_class = arrays["labels"][first] == arrays["labels"][second]
    distances = np.linalg.norm(unit[first] - unit[second], axis=1)
    arrays["ContrastiveLoss/is_same_class"] = is_same_class
    arrays["ContrastiveLoss/costs"] = addons.contrastive_loss(
        is_same_class.astype("float32"), distances
    ).numpy()

    path = Path(__file__).with_suffix(".npz")
    np.savez_compressed(path, **arrays)
    print(f"{path.name}: {len(arrays)} arrays, {path.stat().st_size} bytes")
    for name in ("tensorflow-addons", "tensorflow", "keras", "numpy"):
        print(f"  {name} {version(name)}")


if __name__ == "__main__":
    main()
