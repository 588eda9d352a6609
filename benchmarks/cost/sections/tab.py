"""What the tab's log adds to an update of EmbeddingCAMLogger, in time and in bytes."""

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tensorboard.compat.proto import event_pb2

from benchmarks.cost.plan import Plan, make_network
from benchmarks.cost.results import Row, single
from benchmarks.cost.sections.logger import NUM_PICTURES, make_examples
from benchmarks.cost.timing import alternate, compare
from keras_embcam.callbacks import EmbeddingCAMLogger
from keras_embcam.losses import TripletSemiHardLoss
from keras_embcam.tab_format import EXAMPLES_TAG, UPDATES_TAG

MAX_BYTES = 1000  # of an example and update at 14 x 14
NOTE = "processor time of an epoch with one training step on 16 images"


def measure(plan: Plan) -> Iterator[Row]:
    """Yield what the tab adds, beside what the pictures add."""
    num_examples = plan.num_examples[1]
    network, size = plan.small_network, plan.small_size
    examples = make_examples(num_examples, size)
    loggers = {
        "neither": {"num_images": 0, "num_tab_examples": 0},
        "pictures": {"num_images": NUM_PICTURES, "num_tab_examples": 0},
        "tab": {"num_images": 0, "num_tab_examples": num_examples},
        "both": {"num_images": NUM_PICTURES, "num_tab_examples": num_examples},
    }
    with tempfile.TemporaryDirectory() as folder:
        model = make_network(network, size)
        trainings = {
            name: _prepare(model, examples, Path(folder) / name, **options)
            for name, options in loggers.items()
        }
        runs = {name: partial(_time, run) for name, run in trainings.items()}
        seconds = alternate(runs, plan.few_pairs, num_warm_ups=1)
        counted = _count_bytes(Path(folder) / "both")
    num_updates = plan.few_pairs + 1
    subject = f"{network}, {size} x {size}, {num_examples:,} examples"
    spread = compare(seconds["both"], seconds["pictures"])
    quantity = f"epoch with {NUM_PICTURES} pictures and the tab / with the pictures"
    yield Row(subject, quantity, spread, plan.few_pairs, note=NOTE)
    spread = compare(seconds["tab"], seconds["neither"])
    quantity = "epoch with the tab / with figures only"
    yield Row(subject, quantity, spread, plan.few_pairs)
    added = {
        name: [a - b for a, b in zip(seconds[name], seconds["neither"], strict=True)]
        for name in ("tab", "pictures")
    }
    spread = compare(added["tab"], added["pictures"])
    quantity = f"time added by the tab / by {NUM_PICTURES} pictures"
    yield Row(subject, quantity, spread, plan.few_pairs, target=1.0)
    tab, once = counted[UPDATES_TAG] / num_updates, counted[EXAMPLES_TAG]
    pictures = sum(x for tag, x in counted.items() if tag.startswith("heatmaps/"))
    pictures = pictures / num_updates / 1000
    for quantity, value, unit in [
        ("log of the pictures an update", pictures, "kB"),
        ("log of the tab an update", tab / 1000, "kB"),
        ("log of the tab an example and update", tab / num_examples, "bytes"),
        ("log of the tab an example, once", once / num_examples, "bytes"),
    ]:
        yield Row(subject, quantity, single(value), unit=unit)
    yield _measure_fine(num_examples)


def _measure_fine(num_examples: int) -> Row:
    """Return what an example takes where maps are of 14 x 14."""
    side = 112
    with tempfile.TemporaryDirectory() as folder:
        _prepare(
            make_network("toy", side),
            make_examples(num_examples, side),
            Path(folder),
            num_images=0,
            num_tab_examples=num_examples,
        )()
        size = _count_bytes(Path(folder))[UPDATES_TAG] / num_examples
    subject = f"maps of 14 x 14, {num_examples:,} examples"
    quantity = "log of the tab an example and update"
    return Row(subject, quantity, single(size), target=MAX_BYTES, unit="bytes")


def _prepare(
    model: keras.Model, examples: dict[str, np.ndarray], folder: Path, **options: int
) -> Callable[[], object]:
    """Return what trains for one epoch with a logger."""
    model = keras.Model(model.input, model.output)
    model.compile("sgd", TripletSemiHardLoss())
    logger = EmbeddingCAMLogger(folder, examples, strict=True, **options)
    training = examples["image"][:16], examples["label"][:16]
    return lambda: model.fit(*training, batch_size=16, verbose=0, callbacks=[logger])


def _time(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def _count_bytes(folder: Path) -> Counter[str]:
    """Return the bytes of all events of the validation run by tag."""
    counted: Counter[str] = Counter()
    files = [str(file) for file in (folder / "validation").glob("*tfevents*")]
    for record in tf.data.TFRecordDataset(files).as_numpy_iterator():
        for value in event_pb2.Event.FromString(record).summary.value:
            counted[value.tag] += len(record)
    return counted
