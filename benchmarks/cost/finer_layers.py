"""Finer layers by processor time, with oneDNN or without it.

TF_ENABLE_ONEDNN_OPTS=1 python -m benchmarks.cost.finer_layers
TF_ENABLE_ONEDNN_OPTS=0 python -m benchmarks.cost.finer_layers

Processor time counts what both cores work, so that other programs on the machine hardly
change it; the time on the clock is that of the section `layers`.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import tensorflow as tf

from benchmarks.cost.plan import LAYERS, compile_forward, make_images, make_network
from benchmarks.cost.timing import alternate, compare
from keras_embcam import explain

NETWORK, BATCH_SIZE, NUM_ROUNDS = "ResNet-50", 8, 5


def main() -> None:
    """Print explain / forward pass at each layer: the median and the interval."""
    model, images = make_network(NETWORK, 224), make_images(BATCH_SIZE, 224)
    forward, tensor = compile_forward(model), tf.constant(images)
    runs: dict[str, Callable[[], Any]] = {"forward": lambda: forward(tensor).numpy()}
    for layer in LAYERS[NETWORK][0]:
        runs[layer] = partial(explain, model, images, conv_layer=layer)
    seconds = alternate(
        {x: partial(time_processor, run) for x, run in runs.items()}, NUM_ROUNDS
    )
    for layer in LAYERS[NETWORK][0]:
        median, low, high = compare(seconds[layer], seconds["forward"])
        print(f"{layer}: {median:.2f} ({low:.2f} to {high:.2f})")


def time_processor(run: Callable[[], Any]) -> float:
    """Return the processor time of one run, in seconds."""
    start = time.process_time()
    run()
    return time.process_time() - start


if __name__ == "__main__":
    main()
