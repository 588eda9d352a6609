"""Make the pictures of README and guide, from digit scenes and two photographs.

    python docs/make_pictures.py --weights MOBILENET_V2_IMAGENET.h5

Trains the two networks of the demo (two minutes on two cores), saves them in
`logs/pictures`, and writes `docs/pictures`. Without weights of a MobileNetV2 (no top)
the photographs of scikit-learn are left out; `--reuse` takes the saved networks.
The picture of TensorBoard's tab, `docs/tab.jpg`, is a screenshot.
"""

import argparse
import json
from pathlib import Path

import cv2
import keras
import numpy as np
from matplotlib.figure import Figure

from keras_embcam import explain, explain_neighbors
from keras_embcam.datasets import digit_scenes
from keras_embcam.demo.digits import (
    EVALUATION_CLASSES,
    NETWORKS,
    draw_strip,
    train_on_digits,
)
from keras_embcam.drawing import draw_boxes, make_grid, overlay_heatmap
from keras_embcam.heatmaps import find_boxes
from keras_embcam.metrics import heatmap_ratio_in_boxes
from keras_embcam.proxies import class_mean, contrast, counterfactual

ROOT = Path(__file__).parent.parent
WORK = ROOT / "logs" / "pictures"
OUT = ROOT / "docs" / "pictures"
SCENES = [0, 1, 2, 3, 7, 9]


def main() -> None:
    """Make all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, help="of a MobileNetV2 without top")
    parser.add_argument("--reuse", action="store_true", help="take the saved networks")
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    evaluation = {
        name: digit_scenes(
            400, split="evaluation", classes=EVALUATION_CLASSES, shortcut=shortcut
        )
        for name, shortcut in NETWORKS.items()
    }
    if not options.reuse:
        train_networks(evaluation)
    models = {
        name: keras.models.load_model(WORK / f"{name}.keras", compile=False)
        for name in NETWORKS
    }
    strips = [draw_strip(models[name], evaluation[name]) for name in NETWORKS]
    names = [f"{name} network" for name in NETWORKS]
    save("demo", make_grid(strips, names, num_columns=1))
    draw_curves()
    honest, scenes = models["honest"], evaluation["honest"]
    draw_questions(honest, scenes)
    draw_baselines(honest, scenes)
    draw_layers(honest, scenes)
    draw_neighbors(honest, scenes)
    if options.weights is not None:
        draw_photographs(options.weights)


def train_networks(evaluation: dict) -> None:
    """Train and save the honest and the cheating network, and their curves."""
    curves = {}
    for name, shortcut in NETWORKS.items():
        model = train_on_digits(
            shortcut, evaluation[name], WORK / name, "triplet", 6, 0
        )
        model.save(WORK / f"{name}.keras")
        history = model.history.history
        curves[name] = {
            key: [float(x) for x in history[f"val_{key}"]]
            for key in ("heatmap_ratio_bbox", "recall_at_1")
        }
    (WORK / "curves.json").write_text(json.dumps(curves))


def save(name: str, picture: np.ndarray, quality: int = 85) -> None:
    """Write a picture as JPEG."""
    path = OUT / f"{name}.jpg"
    cv2.imwrite(str(path), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    print(path.name, picture.shape, path.stat().st_size // 1000, "kB")


def enlarge(image: np.ndarray, side: int = 128) -> np.ndarray:
    """Return a scene large enough for a screen."""
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC)


def draw_rows(scenes: dict, rows: dict[str, np.ndarray | None]) -> np.ndarray:
    """Draw the same scenes in each row, with the heat of the row."""
    strips = []
    for heatmaps in rows.values():
        pictures = []
        for index in SCENES:
            picture = enlarge(scenes["image"][index])
            if heatmaps is not None:
                picture = overlay_heatmap(picture, heatmaps[index])
            pictures.append(picture)
        strips.append(make_grid(pictures, num_columns=len(pictures)))
    return make_grid(strips, list(rows), num_columns=1)


def draw_curves() -> None:
    """Draw ratio and Recall@1 of both networks over the epochs."""
    curves = json.loads((WORK / "curves.json").read_text())
    scenes = digit_scenes(400, split="evaluation", classes=EVALUATION_CLASSES)
    top, left, bottom, right = scenes["bbox"].T
    uniform = float(((bottom - top) * (right - left)).mean())
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    titles = {
        "recall_at_1": "Recall@1: the cheat wins",
        "heatmap_ratio_bbox": "Heat on the digit: and here is why",
    }
    for ax, (key, title) in zip(axes, titles.items(), strict=True):
        for name, values in curves.items():
            ax.plot(range(1, 1 + len(values[key])), values[key], marker=".", label=name)
        ax.set(title=title, xlabel="epoch", ylim=(0, 1.05))
        ax.grid(alpha=0.3)
    axes[1].axhline(uniform, color="gray", linestyle="--", label="uniform baseline")
    axes[1].legend()
    figure.savefig(OUT / "curves.png", dpi=100)


def draw_questions(model: keras.Model, scenes: dict) -> None:
    """Draw one network's answers to four questions about the same scenes."""
    images, labels = scenes["image"], scenes["label"]
    itself = explain(model, images, details=True)
    means = class_mean(itself.embeddings, labels)
    other = 6 + (labels - 5) % 4
    rows: dict[str, np.ndarray | None] = {
        "the scenes": None,
        "why is the embedding what it is (single point)": itself.heatmaps,
        "why is it like its class (class mean)": explain(
            model, images, labels=labels, class_proxies=means
        ),
        "why its class rather than the next one (contrast)": explain(
            model, images, proxies=contrast(means[labels], means[other])
        ),
        "what speaks against its class (counterfactual)": explain(
            model, images, proxies=counterfactual(means[labels])
        ),
    }
    save("questions", draw_rows(scenes, rows))


def draw_baselines(model: keras.Model, scenes: dict) -> None:
    """Draw maps beside those that explain nothing, with their ratios."""
    images = scenes["image"]
    maps = {
        "uniform map": np.ones(images.shape[:3], np.float32),
        "sum of the activations": explain(
            model,
            images,
            weighting=lambda activations, gradients: keras.ops.ones_like(activations),
        ),
        "single point": explain(model, images),
        "localize": explain(model, images, preset="localize"),
    }
    rows: dict[str, np.ndarray | None] = {}
    for name, heatmaps in maps.items():
        ratios = heatmap_ratio_in_boxes(heatmaps, scenes["bbox"], "rel_yxyx")
        rows[f"{name}: ratio {np.nanmean(np.asarray(ratios)):.2f}"] = heatmaps
    save("baselines", draw_rows(scenes, rows))


def draw_layers(model: keras.Model, scenes: dict) -> None:
    """Draw the maps of a coarse and a fine layer, and of both."""
    images = scenes["image"]
    convolutions = [
        layer.name for layer in model.layers if isinstance(layer, keras.layers.ReLU)
    ]
    rows: dict[str, np.ndarray | None] = {
        "last layer, Grad-CAM (the default)": explain(model, images),
        "a finer layer, Grad-CAM": explain(model, images, conv_layer=convolutions[1]),
        "a finer layer, LayerCAM": explain(
            model, images, conv_layer=convolutions[1], weighting="layercam"
        ),
        'preset="localize"': explain(model, images, preset="localize"),
    }
    save("layers", draw_rows(scenes, rows))


def draw_neighbors(model: keras.Model, scenes: dict) -> None:
    """Draw a query whose first match is wrong."""
    images, labels = scenes["image"], scenes["label"]
    found = explain_neighbors(
        model,
        images[:60],
        images,
        k=3,
        labels=labels[:60],
        gallery_labels=labels,
        only_errors=True,
    )
    captions = [[f"a {label}" for label in row] for row in labels[found.indices]]
    save("neighbors", found.draw(captions)[0], quality=80)


def draw_photographs(weights: Path) -> None:
    """Draw scikit-learn's photographs, explained by ImageNet features."""
    from sklearn.datasets import load_sample_images

    backbone = keras.applications.MobileNetV2(
        include_top=False, weights=None, pooling="avg", input_shape=(224, 224, 3)
    )
    backbone.load_weights(weights)
    photographs = np.stack(
        [
            cv2.resize(x[:, 106:534], (224, 224), interpolation=cv2.INTER_AREA)
            for x in load_sample_images().images
        ]
    )
    pictures = [*photographs]
    for options in ({}, {"preset": "localize"}):
        heatmaps = explain(
            backbone,
            photographs.astype("float32"),
            preprocessing_function="mobilenet_v2",
            **options,
        )
        for image, heatmap in zip(photographs, heatmaps, strict=True):
            picture = overlay_heatmap(image, heatmap)
            if options:
                (box,) = find_boxes(heatmap[None], "otsu_4th_root")
                picture = draw_boxes(picture, box, (255, 255, 255))
            pictures.append(picture)
    order = [pictures[i] for i in (0, 2, 4, 1, 3, 5)]
    names = ["photograph", "explain(model, images)", 'preset="localize", its box'] * 2
    save("photographs", make_grid(order, names, num_columns=3))


if __name__ == "__main__":
    main()
