"""The command ``embcam explain``: heatmaps over images, with a saved model."""

import argparse
from pathlib import Path
from typing import Any

from keras_embcam.cli.model_file import check_model_file, load_model
from keras_embcam.cli.preprocessing_options import add_preprocessing, preprocessing_of
from keras_embcam.cli.token_options import add_token_options, token_options_of


def add_command(commands: Any) -> None:
    """Add the command to an argument parser's commands."""
    explain = commands.add_parser(
        "explain",
        help="write heatmaps over images",
        description="Write heatmaps over images: where a saved model looks.",
    )
    explain.set_defaults(check=check, run=run)
    explain.add_argument("model", metavar="MODEL.keras", type=Path)
    explain.add_argument(
        "images", metavar="IMAGE", nargs="+", type=Path, help="files or folders"
    )
    explain.add_argument("--conv-layer", help="default: the last convolution")
    explain.add_argument("--embedding-layer", help="default: the model's output")
    add_token_options(explain)
    explain.add_argument("--weighting", default="auto")
    explain.add_argument("--top-channels", type=int)
    explain.add_argument(
        "--preset", help='a named combination, such as "localize"; default: none'
    )
    explain.add_argument(
        "--target-class", type=int, help="a class of a classifier, for Grad-CAM"
    )
    add_preprocessing(explain)
    explain.add_argument(
        "--image-size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="for a model of images of any size; default: that of each file",
    )
    explain.add_argument(
        "--strict", action="store_true", help="stop at an image that cannot be read"
    )
    explain.add_argument("--out", type=Path, default=Path("heatmaps"), metavar="FOLDER")


def check(options: argparse.Namespace) -> None:
    """Check that the files are there."""
    check_model_file(options.model)
    for path in options.images:
        if not path.exists():
            raise ValueError(f"`images` must exist. Received: {str(path)!r}")


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    import tensorflow as tf

    from keras_embcam.cli.inspect import describe_view
    from keras_embcam.drawing import overlay_heatmap
    from keras_embcam.embedding_cam import EmbeddingCAM
    from keras_embcam.explain_in_batches import explain_batches
    from keras_embcam.running.image_batches import ImageSource
    from keras_embcam.running.image_files import list_files, read_image

    paths = [path for given in options.images for path in list_files(given)]
    model = load_model(options.model)
    how = {
        "conv_layer": options.conv_layer,
        "embedding_layer": options.embedding_layer,
        "weighting": options.weighting,
        "top_channels": options.top_channels,
        "preset": options.preset,
        **token_options_of(options),
    }
    reading = {"image_size": options.image_size, "strict": options.strict}
    first = next(iter(ImageSource(paths, model, batch_size=1, **reading)))
    view = EmbeddingCAM(model, **how).view(first.inputs)
    print(describe_view(view))
    target = options.target_class
    print(f"proxy: {'the unit embedding of each image' if target is None else target}")
    options.out.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    for batch in explain_batches(
        model,
        paths,
        target_class=target,
        preprocessing_function=preprocessing_of(options),
        **reading,
        **how,
    ):
        for path, heatmap in zip(batch.files or (), batch.heatmaps, strict=True):
            # On the file at its own size: the model saw it stretched.
            picture = overlay_heatmap(read_image(path).astype("uint8"), heatmap)
            written = options.out / _choose_name(path, taken)
            tf.io.write_file(str(written), tf.io.encode_png(picture))
            print(written)


def _choose_name(path: Path, taken: set[str]) -> str:
    """Return a name for a picture, numbered where several files share one."""
    name, number = f"{path.stem}_heatmap.png", 2
    while name in taken:
        name, number = f"{path.stem}_{number}_heatmap.png", number + 1
    taken.add(name)
    return name
