"""The command ``embcam``."""

import argparse
import re
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

from keras_embcam.cli import (
    demo,
    evaluate,
    explain,
    explain_catalogue,
    inspect,
    neighbors,
    report,
)
from keras_embcam.cli.quiet_start import import_tensorflow_quietly

COMMANDS = (explain, neighbors, explain_catalogue, inspect, evaluate, report, demo)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, 2 after an error, 130 after ^C."""
    parser = _make_parser()
    given = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(_join_negative_values(given))
    try:
        if "check" in options:  # what can be said before TensorFlow is loaded
            options.check(options)
        import_tensorflow_quietly(options.run is not explain_catalogue.run)
        with warnings.catch_warnings():

            def show(message: Warning | str, *_: Any, **__: Any) -> None:
                text = _name_flags(str(message), options.flags)
                print(f"embcam: warning: {text}", file=sys.stderr)

            warnings.showwarning = show
            options.run(options)
    except KeyboardInterrupt:
        print(f"\nembcam: {options.after_interrupt}", file=sys.stderr)
        return 130
    except Exception as error:  # what a model raises may be of any type
        if options.debug:
            traceback.print_exc()
        text = _name_flags(_describe(error, options.debug), options.flags)
        print(f"embcam: error: {text}", file=sys.stderr)
        return 2
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="embcam", description="See what a Keras embedding network looks at."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_command(commands)
    for added in commands.choices.values():
        added.add_argument(
            "--debug", action="store_true", help="show where an error comes from"
        )
        flags = {
            x.dest: x.option_strings[0] for x in added._actions if x.option_strings
        }
        added.set_defaults(flags=flags)
        if added.get_default("after_interrupt") is None:
            added.set_defaults(after_interrupt="interrupted.")
    return parser


def _join_negative_values(arguments: Sequence[str]) -> list[str]:
    """Return ``["--pixel-range=-1,1"]`` for ``["--pixel-range", "-1,1"]``.

    argparse takes what begins with a minus for an option, unless it is a number.
    """
    joined: list[str] = []
    for argument in arguments:
        is_value = re.fullmatch(r"-[\d.]+,-?[\d.]+", argument)
        if is_value and joined and joined[-1].startswith("--"):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _name_flags(message: str, flags: dict[str, str]) -> str:
    """Return a message with the flags of the command in place of Python's arguments.

    Example:

    >>> _name_flags("Pass `top_k=3`, or `images`.", {"top_k": "--top-k"})
    'Pass `--top-k 3`, or `images`.'
    >>> _name_flags("`strict=True` makes that an error", {"strict": "--strict"})
    '`--strict` makes that an error'
    """
    if "preprocessing" in flags:
        flags = {**flags, "preprocessing_function": flags["preprocessing"]}
    return re.sub(
        r"`(\w+)(?:=True|(=?))",
        lambda x: f"`{flags[x[1]]}{' ' if x[2] else ''}" if x[1] in flags else x[0],
        message,
    )


def _describe(error: Exception, is_debugging: bool) -> str:
    """Return one line, which begins with the type unless the package raised it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    raised_in = frames[-1].f_globals.get("__name__", "")
    is_ours = raised_in.split(".")[0] == "keras_embcam"
    if is_ours and isinstance(error, ValueError | ImportError):
        return " ".join(lines)
    message = ": ".join([type(error).__name__, *([" ".join(lines)] if lines else [])])
    hint = "" if is_debugging else " (--debug shows where)"
    return message + hint
