"""The command ``embcam inspect``: what of a saved model is explained, or could be."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_embcam.cli.model_file import check_model_file, load_model
from keras_embcam.cli.token_options import add_token_options, token_options_of


def add_command(commands: Any) -> None:
    """Add the command to an argument parser's commands."""
    inspect = commands.add_parser(
        "inspect",
        help="say which layer and which embedding of a model are explained",
        description="Say which layer and which embedding of a saved model are "
        "explained, and list all layers that could be.",
    )
    inspect.set_defaults(check=check, run=run)
    inspect.add_argument("model", metavar="MODEL.keras", type=Path)
    inspect.add_argument("--conv-layer", help="default: the last convolution")
    inspect.add_argument("--embedding-layer", help="default: the model's output")
    add_token_options(inspect)


def check(options: argparse.Namespace) -> None:
    """Check that the model is there."""
    check_model_file(options.model)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from keras_embcam.method import AUTO, Method
    from keras_embcam.network.attention import find_attention
    from keras_embcam.network.inputs import declared_images
    from keras_embcam.network.trial_run import TrialRun

    model = load_model(options.model)
    declared = declared_images(model)
    if declared is not None:
        print(f"images: {tuple(declared.shape)}, {declared.dtype}")
    # First the candidates: where the choice fails, they are what is needed.
    trial = TrialRun(model)
    attention = find_attention(trial)  # what is inside looks like images, and is none
    print("\nlayers with a map or with tokens, the last first (--conv-layer):")
    print(trial.list_candidates(3, 4, outside=attention, num_listed=None))
    print("\nlayers with a vector, the last first (--embedding-layer):")
    print(trial.list_candidates(2, num_listed=None))
    print()
    named = {x: getattr(options, x) for x in ("conv_layer", "embedding_layer")}
    named |= token_options_of(options)
    view = Method(weighting=AUTO, **named).look(model)
    print(f"for images of {_times(view.image_size)}:")
    print(describe_view(view))


def describe_view(view: Any) -> str:
    """Return which layer and embedding a `ModelView` explains, in a few lines."""
    named = view.conv_layer
    layers = named if isinstance(named, str) else ", ".join(named)
    lines = [
        f"layer: {layers}, maps of {_times(view.map_size)}",
        f"embedding: {view.embedding}, width {view.embedding_width}",
    ]
    if view.image_input.name is not None:
        lines.append(f"heat lies on the images: {view.image_input.name}")
    several = view.num_prefix_tokens
    several = several if isinstance(several, list) else [several]
    if any(several):
        numbers = ", ".join(map(str, several))
        lines.append(f"prefix tokens: {numbers}, which are no part of maps")
    return "\n".join(lines)


def _times(size: Sequence[int | None]) -> str:
    return " x ".join(str(x) for x in size)
