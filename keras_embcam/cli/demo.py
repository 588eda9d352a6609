"""The command ``embcam demo``: train with the logger and see which network cheats."""

import argparse
from pathlib import Path
from typing import Any


def add_command(commands: Any) -> None:
    """Add the command to an argument parser's commands."""
    demo = commands.add_parser(
        "demo",
        help="train with the logger and see which network cheats",
        description="Train an honest and a cheating network on handwritten digits, or "
        "one on real birds, and log where they look for TensorBoard.",
    )
    demo.set_defaults(run=run)
    demo.add_argument(
        "--loss",
        choices=("triplet", "margin", "proxy_anchor", "proxy_nca"),
        help="default: triplet, with --backbone vit proxy_anchor",
    )
    demo.add_argument(
        "--backbone",
        choices=("cnn", "vit"),
        help="of the digits, a convolutional network or a vision transformer; "
        "default: cnn",
    )
    demo.add_argument(
        "--epochs", type=int, help="default: 6 (cnn), 14 (vit) or 4 (birds)"
    )
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument(
        "--data", type=Path, metavar="CUB_FOLDER", help="train on birds instead"
    )
    demo.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="MobileNetV2 without top, to start the birds from",
    )
    demo.add_argument("--out", type=Path, default=Path("embcam_demo"), metavar="FOLDER")


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from keras_embcam.demo import run_birds, run_digits
    from keras_embcam.tensorboard.report import write_report

    if options.weights is not None and options.data is None:
        raise ValueError("--weights is for birds: pass --data CUB_FOLDER too.")
    if options.backbone is not None and options.data is not None:
        raise ValueError("--backbone is for digits: leave it or --data out.")
    for path in (options.data, options.weights):
        if path is not None and not path.exists():
            raise ValueError(f"There is no file or folder {str(path)!r}.")
    if options.epochs is not None and options.epochs < 1:
        raise ValueError(f"--epochs must be at least 1. Received: {options.epochs}")
    if options.out.exists() and any(options.out.iterdir()):
        raise ValueError(
            f"The folder {str(options.out)!r} is not empty, and curves of two runs "
            "would mix. Remove it, or pass another one with --out."
        )
    given = {name: getattr(options, name) for name in ("backbone", "loss", "epochs")}
    arguments = {name: x for name, x in given.items() if x is not None}
    arguments["seed"] = options.seed
    if options.data is None:
        run_digits(options.out, **arguments)
    else:
        run_birds(options.out, options.data, weights=options.weights, **arguments)
    report = options.out / "report.html"
    write_report(options.out, report)
    print(
        "\nNow look: every validation image at every epoch, worst first.\n"
        f"Open {report}, or http://localhost:6006/#embcam with\n"
        f"tensorboard --logdir {options.out} --samples_per_plugin images=1000"
    )
