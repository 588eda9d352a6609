"""The command ``embcam benchmark``: the papers' tables beside our figures."""

import argparse
from pathlib import Path
from typing import Any


def add_command(commands: Any) -> None:
    """Add the command to an argument parser's commands."""
    benchmark = commands.add_parser(
        "benchmark",
        help="print the papers' tables beside our figures",
        description="Train or load an embedding network and print the tables of the "
        "papers on CUB-200-2011 beside our figures.",
    )
    benchmark.set_defaults(run=run)
    benchmark.add_argument("set", choices=("cub",), metavar="cub")
    benchmark.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        required=True,
        help="in the layout of CUB-200-2011",
    )
    benchmark.add_argument(
        "--weights", type=Path, metavar="FILE", help="of the backbone, without top"
    )
    benchmark.add_argument(
        "--backbone", metavar="NAME", help="of keras.applications, default: ResNet50"
    )
    benchmark.add_argument(
        "--model",
        type=Path,
        metavar="FILE.keras",
        help="measure this network, of images in [0, 255], in place of a training",
    )
    benchmark.add_argument("--epochs", type=int, help="default: 8")
    benchmark.add_argument("--runs", type=int, help="trainings, default: 1")
    benchmark.add_argument("--seed", type=int, help="of the first run, default: 0")
    benchmark.add_argument(
        "--limit", type=int, metavar="N", help="images of each half, for a trial"
    )
    benchmark.add_argument(
        "--framing", choices=("full_frame", "centre_crop"), help="default: full_frame"
    )
    benchmark.add_argument("--image-size", type=int, help="default: 224")
    benchmark.add_argument(
        "--faithfulness-images",
        type=int,
        metavar="N",
        help="measure faithfulness on N images, default: 8; 0 for none",
    )
    benchmark.add_argument(
        "--out", type=Path, metavar="FOLDER", help="default: embcam_benchmark"
    )


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from keras_embcam.benchmark import Options, run_cub

    given = {
        name: value
        for name, value in vars(options).items()
        if value is not None and name not in ("run", "set")
    }
    run_cub(Options(**given))
