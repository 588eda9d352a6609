"""The command ``embcam``: explain images with a saved model, and the demo."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PIXEL_RANGES = {"0,255": (0.0, 255.0), "0,1": (0.0, 1.0), "-1,1": (-1.0, 1.0)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 2 after an error."""
    parser = _make_parser()
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except Exception as error:  # what a model raises may be of any type
        lines = [line for line in str(error).splitlines() if line.strip()]
        print(f"embcam: error: {' '.join(lines)}", file=sys.stderr)
        return 2
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="embcam", description="See what a Keras embedding network looks at."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    explain = commands.add_parser(
        "explain",
        help="write heatmaps over images",
        description="Write heatmaps over images: where a saved model looks.",
    )
    explain.set_defaults(run=_explain)
    explain.add_argument("model", metavar="MODEL.keras", type=Path)
    explain.add_argument(
        "images", metavar="IMAGE", nargs="+", type=Path, help="files or folders"
    )
    explain.add_argument("--conv-layer", help="default: the last convolution")
    explain.add_argument("--embedding-layer", help="default: the model's output")
    explain.add_argument("--weighting", default="gradcam")
    explain.add_argument("--top-channels", type=int)
    explain.add_argument(
        "--target-class", type=int, help="a class of a classifier, for Grad-CAM"
    )
    explain.add_argument(
        "--pixel-range",
        choices=PIXEL_RANGES,
        default="0,255",
        help="what the model expects, where it does not scale images itself",
    )
    explain.add_argument("--out", type=Path, default=Path("heatmaps"), metavar="FOLDER")
    demo = commands.add_parser(
        "demo",
        help="train with the logger and see which network cheats",
        description="Train an honest and a cheating network on handwritten digits, or "
        "one on real birds, and log where they look for TensorBoard.",
    )
    demo.set_defaults(run=_demo)
    demo.add_argument(
        "--loss",
        choices=("triplet", "margin", "proxy_anchor", "proxy_nca"),
        default="triplet",
    )
    demo.add_argument("--epochs", type=int, help="default: 6 (digits) or 4 (birds)")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument(
        "--data", type=Path, metavar="CUB_FOLDER", help="train on birds instead"
    )
    demo.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="MobileNetV2 without top, to start the birds from",
    )
    demo.add_argument("--out", type=Path, default=Path("embcam_demo"), metavar="FOLDER")
    return parser


def _explain(options: argparse.Namespace) -> None:
    import keras
    import tensorflow as tf

    from keras_embcam.drawing import overlay_heatmap
    from keras_embcam.embedding_cam import EmbeddingCAM
    from keras_embcam.explain import explain_batches
    from keras_embcam.image_sources import ImageSource, list_files, read_image

    if not options.model.exists():
        raise ValueError(f"There is no model {str(options.model)!r}.")
    paths = [path for given in options.images for path in list_files(given)]
    model = keras.models.load_model(options.model, compile=False)
    layers = {
        "conv_layer": options.conv_layer,
        "embedding_layer": options.embedding_layer,
    }
    first = next(iter(ImageSource(paths[:1], model, batch_size=1)))
    view = EmbeddingCAM(model, **layers).view(first.inputs)
    print(f"layer: {view.conv_layer}, maps of {_times(view.map_size)}")
    print(f"embedding: {view.embedding}, width {view.embedding_width}")
    target = options.target_class
    print(f"proxy: {'the unit embedding of each image' if target is None else target}")
    options.out.mkdir(parents=True, exist_ok=True)
    names = _output_names(paths)
    batches = explain_batches(
        model,
        paths,
        weighting=options.weighting,
        top_channels=options.top_channels,
        target_class=target,
        preprocessing_function=_make_scaling(options.pixel_range),
        **layers,
    )
    heatmaps = (heatmap for batch in batches for heatmap in batch.heatmaps)
    for path, name, heatmap in zip(paths, names, heatmaps, strict=True):
        # On the file at its own size: the model saw it stretched.
        picture = overlay_heatmap(read_image(path).astype("uint8"), heatmap)
        tf.io.write_file(str(options.out / name), tf.io.encode_png(picture))
        print(options.out / name)


def _demo(options: argparse.Namespace) -> None:
    from keras_embcam.demo import run_birds, run_digits

    if options.weights is not None and options.data is None:
        raise ValueError("--weights is for birds: pass --data CUB_FOLDER too.")
    for path in (options.data, options.weights):
        if path is not None and not path.exists():
            raise ValueError(f"There is no file or folder {str(path)!r}.")
    if options.epochs is not None and options.epochs < 1:
        raise ValueError(f"--epochs must be at least 1. Received: {options.epochs}")
    if options.out.exists() and any(options.out.iterdir()):
        raise ValueError(
            f"The folder {str(options.out)!r} is not empty, and curves of two runs "
            "would mix. Remove it, or pass another one with --out."
        )
    arguments = {"loss": options.loss, "seed": options.seed}
    if options.epochs is not None:
        arguments["epochs"] = options.epochs
    if options.data is None:
        run_digits(options.out, **arguments)
    else:
        run_birds(options.out, options.data, weights=options.weights, **arguments)
    print(
        "\nNow look, and open http://localhost:6006 :\n"
        f"tensorboard --logdir {options.out} --samples_per_plugin images=1000"
    )


def _make_scaling(pixel_range: str) -> Any:
    low, high = PIXEL_RANGES[pixel_range]
    return lambda images: low + images * ((high - low) / 255.0)


def _output_names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each picture, numbered where several files share one."""
    names: list[str] = []
    for path in paths:
        name, number = f"{path.stem}_heatmap.png", 2
        while name in names:
            name, number = f"{path.stem}_{number}_heatmap.png", number + 1
        names.append(name)
    return names


def _times(size: Sequence[int | None]) -> str:
    return " x ".join(str(x) for x in size)
