"""How far any map can get on the transformers of `hybrids`.

    python -m benchmarks.papers.token_bounds --data CUB_FOLDER --weights MOBILENET_V2
        --work FOLDER [--part choose | report] [--curves BIRDS]

Prints insertion minus deletion, measured as in `choose_token_default`, of maps that
know what no explanation knows: the bird's box; what the network does when patches are
hidden, one place after the other; and the best map that a search by the gradient of
this very figure finds. Hiding patches also says how much the network depends on the
asked one of two photographs side by side.
"""

import argparse

import cv2
import keras
import numpy as np
import tensorflow as tf

from benchmarks.papers import hybrids
from benchmarks.papers.choose_token_default import (
    BATCH,
    NUM_STEPS,
    PARTS,
    choose_birds,
    insertion_minus_deletion,
    load,
    make_heads,
    make_parser,
)
from keras_embcam import explain
from keras_embcam.evaluation.deletion import BLUR
from keras_embcam.evaluation.montages import heat_by_cell, make_montages
from keras_embcam.heatmaps import resize_heatmaps
from keras_embcam.metrics import heatmap_ratio_in_boxes
from keras_embcam.proxies import class_mean
from keras_embcam.unit_vectors import normalize_rows

NUM_MONTAGES = 40
# Of the search: updates, their size for values in [0, 1], and how soft a threshold is.
NUM_UPDATES, RATE, SOFTNESS = 60, 0.05, 0.05
AT_ONCE = 5


def blur(images: np.ndarray) -> np.ndarray:
    """Return what insertion starts from and deletion ends with."""
    sigma = BLUR * max(images.shape[1:3])
    return np.stack([cv2.GaussianBlur(image, (0, 0), sigma) for image in images])


def hide_patches(backbone: keras.Model, images: np.ndarray) -> np.ndarray:
    """Return what the first layers make of each image without each patch.

    The patch and those beside it, 3 x 3, are blurred: (n, 196, 14, 14, 96).
    """
    height, width = hybrids.GRID
    rows, columns = np.divmod(np.arange(height * width)[:, None, None], width)
    i, j = np.indices(images.shape[1:3]) * height // images.shape[1]
    is_near = (np.abs(i - rows) <= 1) & (np.abs(j - columns) <= 1)
    hidden = [
        backbone.predict(
            np.where(is_near[..., None], blurred, image), batch_size=BATCH, verbose=0
        )
        for image, blurred in zip(images, blur(images), strict=True)
    ]
    return np.stack(hidden)


def map_falls(
    head: keras.Model, maps: np.ndarray, hidden: np.ndarray, proxies: np.ndarray
) -> np.ndarray:
    """Return by how much the score falls without each patch, >= 0: (n, 14, 14)."""
    whole = np.sum(head.predict(maps, verbose=0) * proxies, axis=1)
    rest = head.predict(hidden.reshape(-1, *maps.shape[1:]), verbose=0)
    rest = rest.reshape(*hidden.shape[:2], -1)
    falls = whole[:, None] - np.einsum("npd,nd->np", rest, proxies)
    return np.maximum(falls, 0).reshape(-1, *hybrids.GRID).astype("float32")


def search_maps(
    model: keras.Model, images: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """Return maps (n, 14, 14) with more insertion minus deletion than those given.

    The gradient of both curves, whose pixels turn softly from blurred to sharp where
    the map passes the value that the right share of pixels has.
    """
    order = start.reshape(len(start), -1).argsort(axis=1).argsort(axis=1)
    found = tf.Variable((order / order.shape[1]).reshape(start.shape).astype("float32"))
    targets = normalize_rows(model([images], training=False))
    targets = tf.tile(targets, [2 * (NUM_STEPS - 1), 1])
    blurred = blur(images)
    optimizer = keras.optimizers.Adam(RATE)

    @tf.function
    def update() -> None:
        with tf.GradientTape() as tape:
            heat = tf.image.resize(found[..., None], images.shape[1:3])
            flat = tf.sort(tf.reshape(heat, (len(images), -1)), direction="DESCENDING")
            sharp = []
            for step in range(1, NUM_STEPS):
                edge = flat[:, step * flat.shape[1] // NUM_STEPS, None, None, None]
                sharp.append(tf.sigmoid((heat - tf.stop_gradient(edge)) / SOFTNESS))
            shares = tf.concat([*sharp, *[1 - x for x in sharp]], axis=0)
            mixed = shares * tf.tile(images, [2 * (NUM_STEPS - 1), 1, 1, 1])
            mixed += (1 - shares) * tf.tile(blurred, [2 * (NUM_STEPS - 1), 1, 1, 1])
            rows = normalize_rows(model([mixed], training=False))
            inserted, deleted = tf.split(tf.reduce_sum(rows * targets, axis=1), 2)
            loss = tf.reduce_mean(deleted) - tf.reduce_mean(inserted)
        optimizer.apply([tape.gradient(loss, found)], [found])

    optimizer.build([found])
    for _ in range(NUM_UPDATES):
        update()
    return found.numpy() - found.numpy().min(axis=(1, 2), keepdims=True)


def measure(options: argparse.Namespace) -> None:
    """Print a table for each transformer."""
    backbone = hybrids.make_backbone(options.weights)
    birds = load(options, backbone, PARTS[options.part])
    _, labels = np.unique(birds["label"], return_inverse=True)
    some = choose_birds(len(labels), options.part)
    montages = make_montages(birds["image"][some], labels[some], 2, NUM_MONTAGES, 1)
    sides = montages.images.astype("float32")
    some = some[:: max(1, len(some) // options.curves)][: options.curves]
    images, boxes = birds["image"][some].astype("float32"), birds["bbox"][some]
    size = images.shape[1:3]
    hidden, hidden_sides = (hide_patches(backbone, x) for x in (images, sides))
    side_maps = backbone.predict(sides, verbose=0)
    noise = np.random.default_rng(0).random((len(images), *hybrids.GRID))
    noise = np.asarray(resize_heatmaps(noise.astype("float32"), size))
    top, left, bottom, right = boxes.T[..., None, None] * size[0]
    i, j = np.indices(size) + 0.5
    in_box = (i >= top) & (i < bottom) & (j >= left) & (j < right)
    for pooling, head in make_heads(options, backbone).items():
        model = hybrids.join(backbone, head)
        proxies = normalize_rows(head.predict(birds["maps"][some], verbose=0))
        falls = map_falls(head, birds["maps"][some], hidden, np.asarray(proxies))
        groups = [slice(i, i + AT_ONCE) for i in range(0, len(images), AT_ONCE)]
        searched = [search_maps(model, images[x], falls[x]) for x in groups]
        maps = {
            "any order": noise,
            # In a box all pixels are worth the same: in any order there.
            "the box": in_box + 0.01 * noise * in_box,
            "the default": explain(model, images),
            "3 x 3 patches hidden": np.asarray(resize_heatmaps(falls, size)),
            "searched for": np.asarray(resize_heatmaps(np.concatenate(searched), size)),
        }

        def run(batch: np.ndarray, model: keras.Model = model) -> np.ndarray:
            return model.predict(batch, batch_size=BATCH, verbose=0)

        rows = [np.asarray(normalize_rows(run(x))) for x in (images, blur(images))]
        print(
            f"| {pooling} ({options.part}, {len(images)} birds) | inside | ins - del |"
        )
        print("| --- | --- | --- |")
        for name, heatmaps in maps.items():
            heatmaps = np.asarray(heatmaps, "float32")
            inside = np.nanmean(heatmap_ratio_in_boxes(heatmaps, boxes, "rel_yxyx"))
            faithful = insertion_minus_deletion(run, images, heatmaps)
            error = np.std(faithful) / np.sqrt(len(faithful))
            print(f"| {name} | {inside:.2f} | {faithful.mean():.3f} ± {error:.3f} |")
        print(
            f"Cosine with the blurred image: {np.sum(rows[0] * rows[1], 1).mean():.2f}"
        )
        means = np.asarray(class_mean(head.predict(birds["maps"], verbose=0), labels))
        asked = [
            heat_by_cell(map_falls(head, side_maps, hidden_sides, means[x]), 2)[:, cell]
            for cell, x in enumerate(montages.cell_labels.T)
        ]
        print(
            f"Asked half, 3 x 3 patches hidden: {np.nanmean(asked):.2f}\n", flush=True
        )


if __name__ == "__main__":
    measure(make_parser(__doc__).parse_args())
