"""Logs for the tab without a training: shapes on gradients, heat that finds them.

python tests/tab_logs.py FOLDER --examples 1000 --epochs 50 --runs 2
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from tensorboard import default, program
from tensorboard.backend import application
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.core import core_plugin
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto

from keras_embcam import tab_format
from keras_embcam.tensorboard.plugin import EmbCAMLoader

CLASSES = ["circle", "square", "triangle", "cross", "ring"]


def write_blobs(writer, tag, step, blobs, wall_time=None):
    """Write a sequence of blobs as the logger's event would be."""
    value = summary_pb2.Summary.Value(
        tag=tag, metadata=tab_format.summary_metadata(), tensor=make_tensor_proto(blobs)
    )
    event = event_pb2.Event(
        step=step,
        wall_time=1e9 + step if wall_time is None else wall_time,
        summary=summary_pb2.Summary(value=[value]),
    )
    writer.add_event(event)


def draw_scene(rng, kind, size):
    """Return an RGB picture with one shape, and its box as shares."""
    top, bottom = rng.integers(30, 220, (2, 3))
    rows = np.linspace(0, 1, size)[:, None, None]
    image = np.repeat((top * (1 - rows) + bottom * rows).astype("uint8"), size, 1)
    radius = int(size * rng.uniform(0.14, 0.24))
    x, y = rng.integers(radius + 1, size - radius - 1, 2).tolist()
    color = [int(value) for value in rng.integers(0, 255, 3)]
    if kind == 0:
        cv2.circle(image, (x, y), radius, color, -1, cv2.LINE_AA)
    elif kind == 1:
        image[y - radius : y + radius + 1, x - radius : x + radius + 1] = color
    elif kind == 2:
        corners = [[x, y - radius], [x - radius, y + radius], [x + radius, y + radius]]
        cv2.fillPoly(image, [np.asarray(corners)], color, cv2.LINE_AA)
    elif kind == 3:
        arm = radius // 3
        image[y - arm : y + arm + 1, x - radius : x + radius + 1] = color
        image[y - radius : y + radius + 1, x - arm : x + arm + 1] = color
    else:
        thickness = max(2, radius // 3)
        inner = radius - thickness // 2 - 1
        cv2.circle(image, (x, y), inner, color, thickness, cv2.LINE_AA)
    box = np.asarray([x - radius, y - radius, x + radius + 1, y + radius + 1]) / size
    return image, box


def draw_heat(centers, side, spread):
    """Return maps (n, side, side) with a bump each."""
    grid = (np.arange(side) + 0.5) / side
    x = (grid[None, None] - centers[:, 0, None, None]) ** 2
    y = (grid[None, :, None] - centers[:, 1, None, None]) ** 2
    return np.exp(-(x + y) / (2 * spread**2)).clip(0.02) - 0.02


def measure_ratios(maps, boxes):
    """Return the share of the heat whose cells' centres lie in the box."""
    side = maps.shape[-1]
    grid = (np.arange(side) + 0.5) / side
    inside_x = (boxes[:, 0, None] <= grid) & (grid <= boxes[:, 2, None])
    inside_y = (boxes[:, 1, None] <= grid) & (grid <= boxes[:, 3, None])
    sums = maps.sum((1, 2))
    inside = (maps * inside_y[:, :, None] * inside_x[:, None, :]).sum((1, 2))
    return np.where(sums > 0, inside / np.where(sums > 0, sums, 1), np.nan)


def find_neighbors(embeddings, num_neighbors=5):
    """Return the numbers and cosines of the nearest others."""
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosines = units @ units.T
    np.fill_diagonal(cosines, -np.inf)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :num_neighbors]
    return order, np.take_along_axis(cosines, order, 1)


class Run:
    """A made-up run: `examples`, and `make_update(epoch)`.

    Args:
        num_examples: how many.
        num_epochs: over which the heat finds the objects.
        skill: 1 for a run whose heat ends on the object, 0 for one that never does.
        side: of the maps.
        size: of the pictures in pixels.
        scene_seed: runs with the same one show the same pictures.
        seed: of the heat.
        labels: names of the classes.
    """

    def __init__(
        self,
        num_examples=60,
        num_epochs=5,
        skill=1.0,
        side=7,
        size=64,
        scene_seed=0,
        seed=0,
        labels=CLASSES,
        with_pairs=True,
    ):
        rng = np.random.default_rng(scene_seed)
        kinds = np.arange(num_examples) % len(labels)
        drawn = [draw_scene(rng, kind % len(CLASSES), size) for kind in kinds]
        files = [cv2.imencode(".png", x[..., ::-1])[1].tobytes() for x, _ in drawn]
        self.boxes = np.asarray([box for _, box in drawn])
        self.kinds, self.side, self.skill = kinds, side, skill
        self.num_epochs, self.with_pairs = num_epochs, with_pairs
        self.examples = tab_format.Examples(
            [f"scene {number:04d}" for number in range(num_examples)],
            files,
            [labels[kind] for kind in kinds],
            [box[None] for box in self.boxes],
        )
        self._rng = np.random.default_rng(100 + seed)
        self._starts = self._rng.uniform(0, 1, (num_examples, 2))
        self._speeds = self._rng.uniform(0.3, 1.5, num_examples)
        self._codes = self._rng.normal(size=(len(labels), 8))
        self._noise = self._rng.normal(size=(num_examples, 8))

    def make_update(self, epoch):
        """Return the `Update` of an epoch, the same one each time."""
        progress = (epoch + 1) / self.num_epochs
        share = np.clip(self._speeds * progress, 0, 1)[:, None] * self.skill
        targets = (self.boxes[:, :2] + self.boxes[:, 2:]) / 2
        centers = (1 - share) * self._starts + share * targets
        maps = draw_heat(centers, self.side, 0.22 - 0.1 * progress)
        maps[np.random.default_rng(epoch).random(len(maps)) < 0.02] = 0
        maps = tab_format.to_bytes(maps) / 255
        ratios = measure_ratios(maps, self.boxes)
        embeddings = self._codes[self.kinds] + self._noise * (1.6 - progress)
        neighbors, cosines = find_neighbors(embeddings)
        wrong = self.kinds[neighbors[:, 0]] != self.kinds
        empty = maps.max((1, 2)) == 0
        found = np.concatenate([centers - 0.15, centers + 0.15], 1).clip(0, 1)
        pairs = np.flatnonzero(wrong) if self.with_pairs else np.empty(0, int)
        return tab_format.Update(
            maps,
            ratios,
            np.where(empty[:, None], np.nan, found),
            empty,
            neighbors,
            cosines,
            self.examples.key,
            pairs,
            np.stack([maps[pairs], maps[neighbors[pairs, 0]]]),
            {
                "mean_ratio": np.nanmean(ratios),
                "uniform_ratio": 0.17,
                "recall_at_1": 1 - wrong.mean(),
            },
        )

    def write(self, folder, epochs=None, with_examples=True, start=1e9):
        """Write an event file as of a time in seconds; returns the updates."""
        writer = EventFileWriter(str(folder))
        if with_examples:
            blobs = self.examples.to_blobs()
            write_blobs(writer, tab_format.EXAMPLES_TAG, 0, blobs, start)
        updates = []
        for epoch in range(self.num_epochs) if epochs is None else epochs:
            updates.append(self.make_update(epoch))
            blobs = updates[-1].to_blobs()
            write_blobs(writer, tab_format.UPDATES_TAG, epoch, blobs, start + epoch)
        writer.close()
        return updates


def own_loaders():
    """Return the loader that TensorBoard finds by the package's entry point."""
    return [x for x in default.get_dynamic_plugins() if x is EmbCAMLoader]


def make_application(log_dir, fast="true"):
    """Return TensorBoard's application with the tab alone, and what keeps it alive."""
    loaders = [core_plugin.CorePluginLoader, *own_loaders()]
    board = program.TensorBoard(loaders, assets_zip_provider=lambda: None)
    board.configure(logdir=str(log_dir), reload_interval=1.0, load_fast=fast)
    provider, multiplexer = board._make_data_provider()
    app = application.TensorBoardWSGIApp(
        board.flags, board.plugin_loaders, provider, None, multiplexer
    )
    return app, board


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--side", type=int, default=7)
    parser.add_argument("--size", type=int, default=96)
    options = parser.parse_args()
    for number in range(options.runs):
        run = Run(
            options.examples,
            options.epochs,
            skill=1 - 0.6 * number,
            side=options.side,
            size=options.size,
            seed=number,
        )
        run.write(options.folder / f"run_{'abcdefgh'[number]}" / "validation")


if __name__ == "__main__":
    main()
