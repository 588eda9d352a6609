"""An exported explanation against the exported plain embedding."""

import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from benchmarks.cost.plan import Plan, make_images, make_network
from benchmarks.cost.results import Row
from benchmarks.cost.timing import alternate, compare, timer
from keras_embcam import EmbeddingCAM


def measure(plan: Plan) -> Iterator[Row]:
    """Yield the ratio of the two for each network."""
    for name in plan.networks:
        yield _measure(name, plan)


def _measure(name: str, plan: Plan) -> Row:
    model = make_network(name, plan.image_size)
    images = tf.constant(make_images(plan.medium_batch, plan.image_size))
    kinds = {"plain": model, "explaining": EmbeddingCAM(model).as_model()}
    loaded, timers, sizes = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, one in kinds.items():
            path = Path(folder) / kind
            one.export(str(path), verbose=False)
            sizes[kind] = (path / "saved_model.pb").stat().st_size / 1e6
            loaded[kind] = tf.saved_model.load(str(path))
            timers[kind] = timer(functools.partial(loaded[kind].serve, images))
    seconds = alternate(timers, plan.num_pairs)
    return Row(
        f"{name}, batch {len(images)}",
        "exported explanation / exported embedding",
        compare(seconds["explaining"], seconds["plain"]),
        plan.num_pairs,
        note=f"saved_model.pb: {sizes['explaining']:.1f} MB against "
        f"{sizes['plain']:.1f} MB, the weights beside it being the same",
    )
