"""How much memory a call takes, and how many images at a time fit into 8 GB.

Run as a program it makes one call and prints the peak of its process.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks.cost.plan import Plan, make_images, make_network, make_vectors
from benchmarks.cost.results import Row, single
from benchmarks.cost.sections.streaming import find_peak
from benchmarks.cost.token_maps import make_transformer
from keras_embcam import contributions, explain, explain_pair

TRANSFORMER = "ViT of 12 blocks"
GIGABYTES = 8
CALLS: dict[str, Callable[[keras.Model, np.ndarray], Any]] = {
    "predict": lambda model, x: model.predict(x, batch_size=len(x), verbose=0),
    "explain": lambda model, x: explain(model, x, batch_size=len(x)),
    "explain, 50 proxies": lambda model, x: explain(
        model, x, proxies=make_vectors(len(x), 50), batch_size=len(x)
    ),
    "contributions": lambda model, x: contributions(model, x, batch_size=len(x)),
    "explain_pair": lambda model, x: explain_pair(
        model, x[::2], x[1::2], batch_size=len(x)
    ),
    'preset "localize"': lambda model, x: explain(
        model, x, preset="localize", batch_size=len(x)
    ),
    'preset "attention_gradient"': lambda model, x: explain(
        model, x, preset="attention_gradient", batch_size=len(x)
    ),
}
OF_ATTENTION = 'preset "attention_gradient"'
# Contributions behind a class token take hundreds of gradients: minutes a batch.
OF_TRANSFORMERS = "predict", "explain", "explain, 50 proxies", OF_ATTENTION


def measure(plan: Plan) -> Iterator[Row]:
    """Yield the peak of each call, and the batch that fits."""
    # Of small batches the peak may be that of the first look at the model: how it grows
    # is asked of larger ones.
    sizes = [factor * plan.batch_sizes[-1] for factor in (1, 2, 4)]
    for network in (plan.networks[0], TRANSFORMER):
        calls = [x for x in CALLS if x != OF_ATTENTION]
        if network == TRANSFORMER:
            calls = [*OF_TRANSFORMERS]
        base = 0.0
        for call in calls:
            peak, few, many = (
                _run_alone(network, call, n, plan.image_size) for n in sizes
            )
            subject = f"{network}, {call}, batch {sizes[0]}"
            base = base or peak
            yield Row(subject, "peak memory of the process", single(peak), unit="MiB")
            yield Row(subject, "peak memory / that of predict", single(peak / base))
            slope = max((many - few) / (sizes[2] - sizes[1]), 1e-3)
            fits = sizes[2] + (GIGABYTES * 1024 - many) / slope
            yield Row(
                subject,
                f"images at a time in {GIGABYTES} GB",
                single(float(int(fits))),
                note=f"by the peaks of batches of {sizes[1]} and {sizes[2]}",
            )


def _run_alone(network: str, call: str, num_images: int, size: int) -> float:
    """Return the peak of a process that makes one call, in MiB."""
    command = [sys.executable, "-m", __name__, network, call, str(num_images)]
    done = subprocess.run(
        [*command, str(size)],
        cwd=Path(__file__).parents[3],
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1]) / 1024


def main() -> None:
    """Make one call in this process, and print the peak of its memory in KiB."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("network")
    parser.add_argument("call", choices=CALLS)
    parser.add_argument("num_images", type=int)
    parser.add_argument("size", type=int)
    options = parser.parse_args()
    is_transformer = options.network == TRANSFORMER
    model = (
        make_transformer()
        if is_transformer
        else make_network(options.network, options.size)
    )
    size = model.input_shape[1]
    CALLS[options.call](model, make_images(options.num_images, size))
    print(json.dumps(find_peak()))


if __name__ == "__main__":
    main()
