"""The command ``embcam``."""

import argparse
import sys
from collections.abc import Sequence

from keras_embcam.cli import demo, evaluate, explain, explain_catalogue


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
    for command in (explain, explain_catalogue, evaluate, demo):
        command.add_command(commands)
    return parser
