"""The command ``embcam report``: the tab of TensorBoard as one file to send."""

import argparse
from pathlib import Path
from typing import Any


def add_command(commands: Any) -> None:
    """Add the command to an argument parser's commands."""
    report = commands.add_parser(
        "report",
        help="write what the logger logged as one HTML file",
        description="Write what EmbeddingCAMLogger logged, every example at every "
        "update, as one HTML file that opens without a server: the page of "
        "TensorBoard's EmbeddingCAM tab with its data inside.",
    )
    report.set_defaults(run=run)
    report.add_argument("log_dir", metavar="LOGDIR", type=Path)
    report.add_argument(
        "--out", type=Path, default=Path("report.html"), metavar="FILE.html"
    )
    report.add_argument(
        "--max-megabytes",
        type=float,
        default=25,
        metavar="MB",
        help="leave out updates, so that the file is not larger; default: 25",
    )


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from keras_embcam.tensorboard.report import write_report

    if not options.max_megabytes > 0:
        raise ValueError(
            f"--max-megabytes must be above 0. Received: {options.max_megabytes:g}"
        )
    report = write_report(options.log_dir, options.out, options.max_megabytes)
    print(
        f"{options.out}: {report.num_runs} run(s), {report.num_updates} updates, "
        f"{report.size / 1e6:.1f} MB"
    )
    for text in report.left_out:
        print(f"left out: {text}")
