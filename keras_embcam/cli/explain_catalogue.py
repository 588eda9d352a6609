"""The command ``embcam explain-catalogue``: any number of images, on Ray Data."""

import argparse
from pathlib import Path
from typing import Any

from keras_embcam.cli.model_file import check_model_file
from keras_embcam.cli.preprocessing_options import add_preprocessing, preprocessing_of
from keras_embcam.cli.token_options import add_token_options, token_options_of


def add_command(commands: Any) -> None:
    """Add the command to an argument parser's commands."""
    catalogue = commands.add_parser(
        "explain-catalogue",
        help="explain many images into Parquet files",
        description="Explain a catalogue of images with a saved model, on Ray Data, "
        "into Parquet files of embeddings, boxes, ratios and heatmaps. A run that was "
        "interrupted goes on where it stopped when it is started again.",
    )
    catalogue.set_defaults(
        check=check,
        run=run,
        after_interrupt="interrupted. What is finished is kept: run the same command "
        "again to go on.",
    )
    catalogue.add_argument("model", metavar="MODEL.keras", type=Path)
    catalogue.add_argument(
        "source", metavar="SOURCE", type=Path, help="images, Parquet or TFRecord files"
    )
    catalogue.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    catalogue.add_argument(
        "--format",
        choices=("images", "parquet", "tfrecord"),
        help="default: what the names of the files tell",
    )
    catalogue.add_argument("--num-actors", type=int, default=1)
    catalogue.add_argument(
        "--num-gpus", type=float, default=0, help="of each actor; default: none"
    )
    catalogue.add_argument("--batch-size", type=int, default=32)
    catalogue.add_argument("--images-per-part", type=int, default=256)
    catalogue.add_argument("--conv-layer", help="default: the last convolution")
    catalogue.add_argument("--embedding-layer", help="default: the model's output")
    add_token_options(catalogue)
    catalogue.add_argument("--weighting", default="auto")
    catalogue.add_argument("--top-channels", type=int)
    catalogue.add_argument(
        "--preset", help='a named combination, such as "localize"; default: none'
    )
    add_preprocessing(catalogue)
    catalogue.add_argument(
        "--image-size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="for a model of images of any size",
    )
    catalogue.add_argument("--image-column", default="image", metavar="NAME")
    catalogue.add_argument("--id-column", metavar="NAME")
    catalogue.add_argument("--box-column", metavar="NAME", help="default: no boxes")
    catalogue.add_argument("--bounding-box-format", default="rel_yxyx")


def check(options: argparse.Namespace) -> None:
    """Check that the model is there."""
    check_model_file(options.model)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from keras_embcam.catalogue import explain_catalogue

    counts = explain_catalogue(
        options.model,
        options.source,
        options.out,
        format=options.format,
        num_actors=options.num_actors,
        num_gpus=options.num_gpus,
        batch_size=options.batch_size,
        images_per_part=options.images_per_part,
        conv_layer=options.conv_layer,
        embedding_layer=options.embedding_layer,
        weighting=options.weighting,
        top_channels=options.top_channels,
        preset=options.preset,
        **token_options_of(options),
        preprocessing_function=preprocessing_of(options),
        image_size=options.image_size,
        image_column=options.image_column,
        id_column=options.id_column,
        box_column=options.box_column,
        bounding_box_format=options.bounding_box_format,
    )
    print(
        f"{options.out}: {counts.num_images} images, {counts.num_errors} with an error"
    )
