"""The command ``embcam explain``: heatmaps over images, with a saved model."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PIXEL_RANGES = {"0,255": (0.0, 255.0), "0,1": (0.0, 1.0), "-1,1": (-1.0, 1.0)}


def add_command(commands: Any) -> None:
    """Add the command to an argument parser's commands."""
    explain = commands.add_parser(
        "explain",
        help="write heatmaps over images",
        description="Write heatmaps over images: where a saved model looks.",
    )
    explain.set_defaults(run=run)
    explain.add_argument("model", metavar="MODEL.keras", type=Path)
    explain.add_argument(
        "images", metavar="IMAGE", nargs="+", type=Path, help="files or folders"
    )
    explain.add_argument("--conv-layer", help="default: the last convolution")
    explain.add_argument("--embedding-layer", help="default: the model's output")
    explain.add_argument("--weighting", default="gradcam")
    explain.add_argument("--top-channels", type=int)
    explain.add_argument(
        "--preset", help='a named combination, such as "localize"; default: none'
    )
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


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    import keras
    import tensorflow as tf

    from keras_embcam.drawing import overlay_heatmap
    from keras_embcam.embedding_cam import EmbeddingCAM
    from keras_embcam.explaining import explain_batches
    from keras_embcam.running.image_batches import ImageSource, list_files, read_image

    if not options.model.exists():
        raise ValueError(f"There is no model {str(options.model)!r}.")
    paths = [path for given in options.images for path in list_files(given)]
    model = keras.models.load_model(options.model, compile=False)
    how = {
        "conv_layer": options.conv_layer,
        "embedding_layer": options.embedding_layer,
        "weighting": options.weighting,
        "top_channels": options.top_channels,
        "preset": options.preset,
    }
    first = next(iter(ImageSource(paths[:1], model, batch_size=1)))
    view = EmbeddingCAM(model, **how).view(first.inputs)
    named = view.conv_layer
    layers = named if isinstance(named, str) else ", ".join(named)
    print(f"layer: {layers}, maps of {_times(view.map_size)}")
    print(f"embedding: {view.embedding}, width {view.embedding_width}")
    target = options.target_class
    print(f"proxy: {'the unit embedding of each image' if target is None else target}")
    options.out.mkdir(parents=True, exist_ok=True)
    names = _output_names(paths)
    batches = explain_batches(
        model,
        paths,
        target_class=target,
        preprocessing_function=make_scaling(options.pixel_range),
        **how,
    )
    heatmaps = (heatmap for batch in batches for heatmap in batch.heatmaps)
    for path, name, heatmap in zip(paths, names, heatmaps, strict=True):
        # On the file at its own size: the model saw it stretched.
        picture = overlay_heatmap(read_image(path).astype("uint8"), heatmap)
        tf.io.write_file(str(options.out / name), tf.io.encode_png(picture))
        print(options.out / name)


def make_scaling(pixel_range: str) -> Any:
    """Return the preprocessing function for a key of `PIXEL_RANGES`."""
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
