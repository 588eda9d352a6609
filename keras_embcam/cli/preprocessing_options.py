"""The options of commands that say which pixels a model takes."""

import argparse
from typing import Any

PIXEL_RANGES = ("0,255", "0,1", "-1,1")


def add_preprocessing(parser: argparse.ArgumentParser) -> None:
    """Add ``--pixel-range`` and ``--preprocessing``, of which one may be given."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--pixel-range",
        choices=PIXEL_RANGES,
        default="0,255",
        help="what the model expects, where it does not scale images itself",
    )
    group.add_argument(
        "--preprocessing",
        metavar="NAME",
        help="instead: that of a network in keras.applications, such as resnet50 or "
        'mobilenet_v2, or "imagenet" for its means and deviations',
    )


def preprocessing_of(options: argparse.Namespace) -> Any:
    """Return the name of the preprocessing that was asked for, or None."""
    if options.preprocessing is not None:
        return options.preprocessing
    return None if options.pixel_range == "0,255" else options.pixel_range
