"""The papers' tables beside our figures: ``python -m benchmarks.papers``.

    python -m benchmarks.papers --data CUB_FOLDER --weights FILE
    python -m benchmarks.papers --redraw docs/papers/mnv2_imagenet

The second writes `tables.md` again from the figures of `tables.json`.
"""

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
        help="in the layout of CUB-200-2011; needed unless --redraw is given",
    )
    parser.add_argument(
        "--redraw",
        type=Path,
        metavar="FOLDER",
        help="draw the tables of an earlier run again; nothing is measured",
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
    given = {
        name: value
        for name, value in vars(parser.parse_args(arguments)).items()
        if value is not None
    }
    if ("data" in given) == ("redraw" in given):
        parser.error("Pass --data to measure, or --redraw to draw again; not both.")
    if "redraw" in given:
        from benchmarks.papers.tables import redraw_tables

        redraw_tables(given["redraw"])
        return
    from benchmarks.papers import Options, run_papers

    run_papers(Options(**given))


if __name__ == "__main__":
    main()
