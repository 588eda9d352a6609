"""The papers' tables beside our figures: ``python -m benchmarks.papers``."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> None:
    """Train or load an embedding network and print the papers' tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.papers",
        description="Train or load an embedding network and print the tables of the "
        "papers on CUB-200-2011 beside our figures.",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        required=True,
        help="in the layout of CUB-200-2011",
    )
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="of the backbone, without top"
    )
    parser.add_argument(
        "--backbone", metavar="NAME", help="of keras.applications, default: ResNet50"
    )
    parser.add_argument(
        "--model",
        type=Path,
        metavar="FILE.keras",
        help="measure this network, of images in [0, 255], in place of a training",
    )
    parser.add_argument("--epochs", type=int, help="default: 8")
    parser.add_argument("--runs", type=int, help="trainings, default: 1")
    parser.add_argument("--seed", type=int, help="of the first run, default: 0")
    parser.add_argument(
        "--limit", type=int, metavar="N", help="images of each half, for a trial"
    )
    parser.add_argument(
        "--framing", choices=("full_frame", "centre_crop"), help="default: full_frame"
    )
    parser.add_argument("--image-size", type=int, help="default: 224")
    parser.add_argument(
        "--faithfulness-images",
        type=int,
        metavar="N",
        help="measure faithfulness on N images, default: 8; 0 for none",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="default: embcam_benchmark"
    )
    from benchmarks.papers import Options, run_cub

    given = {
        name: value
        for name, value in vars(parser.parse_args(arguments)).items()
        if value is not None
    }
    run_cub(Options(**given))


if __name__ == "__main__":
    main()
