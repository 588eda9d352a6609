"""What an explanation costs beside the embedding, measured in one process.

Runs of the compiled forward pass and of `explain` alternate, so that both see the same
state of the machine; the figure is the median of the paired ratios.

    python benchmarks/explain_cost.py
"""

import statistics
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from keras_embcam import explain

NUM_PAIRS = 15


def main() -> None:
    """Print one line for each network and batch size."""
    print(f"tensorflow {tf.__version__}, keras {keras.__version__}")
    print(f"{'network':<14}{'batch':<8}{'forward':<12}{'explain / forward'}")
    for name in ("MobileNetV2", "ResNet50"):
        backbone = getattr(keras.applications, name)(
            include_top=False, weights=None, pooling="avg", input_shape=(224, 224, 3)
        )
        model = keras.Model(backbone.inputs, keras.layers.Dense(128)(backbone.output))
        for batch_size in (1, 32):
            measure(name, model, batch_size)


def measure(name: str, model: keras.Model, batch_size: int) -> None:
    """Print the median and the quartiles of the paired ratios."""
    images = np.random.default_rng(0).random((batch_size, 224, 224, 3), "float32")
    tensor = tf.constant(images)
    forward = tf.function(lambda x: model(x, training=False), autograph=False)

    def run_forward() -> None:
        forward(tensor).numpy()

    def run_explain() -> None:
        explain(model, images, batch_size=batch_size)

    for _ in range(2):
        run_forward()
        run_explain()
    forwards, ratios = [], []
    for _ in range(NUM_PAIRS):
        forwards.append(seconds(run_forward))
        ratios.append(seconds(run_explain) / forwards[-1])
    low, median, high = statistics.quantiles(ratios, n=4)
    milliseconds = statistics.median(forwards) * 1000
    print(
        f"{name:<14}{batch_size:<8}{f'{milliseconds:.0f} ms':<12}"
        f"{median:.2f} ({low:.2f} to {high:.2f})",
        flush=True,
    )


def seconds(function: Callable[[], None]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
