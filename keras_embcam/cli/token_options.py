"""The options of commands that say where patches stand among a model's tokens."""

import argparse
from typing import Any


def add_token_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--token-grid`` and ``--num-prefix-tokens``."""
    parser.add_argument(
        "--token-grid",
        type=_read_grid,
        metavar="ROWS,COLUMNS",
        help="of the patches among a transformer's tokens; default: found",
    )
    parser.add_argument(
        "--num-prefix-tokens",
        type=int,
        metavar="N",
        help="tokens before the patches; default: found",
    )


def token_options_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return them as arguments of `explain`."""
    names = ("token_grid", "num_prefix_tokens")
    return {name: getattr(options, name) for name in names}


def _read_grid(text: str) -> tuple[int, ...]:
    try:
        rows, columns = (int(x) for x in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be two whole numbers such as 14,14. Received: {text!r}"
        ) from None
    return rows, columns
