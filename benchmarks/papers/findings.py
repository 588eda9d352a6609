"""What the benchmark found."""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.papers.options import Options
from benchmarks.papers.relations import Relation, find_relations
from benchmarks.papers.transfer import BY_CHANNELS
from keras_embcam._version import __version__
from keras_embcam.evaluation import Report

CURVE = "Localisation accuracy by threshold"
CHANNELS = "Heatmap ratio by top channels"


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that a benchmark found.

    Attributes:
        options: what was asked.
        share: of each side, of the central box chosen on the training half.
        num_train: images of the first half.
        num_test: images of the second half.
        single: report of single proxies, baselines and the preset.
        lent: report of transferred weights and of triplets of the test images.
        ratio_only: of the other rows, and of all numbers of channels.
        faithfulness: on a few images, or None.
        recall: Recall@1 of each run.
        seconds: an image to fit a database, by weighting.
        notes: for a reader.
        minutes: that it took.
    """

    options: Options
    share: float
    num_train: int
    num_test: int
    single: Report
    lent: Report
    ratio_only: Report
    faithfulness: Report | None
    recall: list[dict[str, float]]
    seconds: dict[str, float]
    notes: list[str]
    minutes: float

    def settings(self) -> dict[str, Any]:
        """Return what was used, by name; no host and no path."""
        seeds = [self.options.seed + x for x in range(self.options.runs)]
        row = self.single.rows[0]
        kept = ("model", "framing", "image size", "parameters", "embedding")
        return {
            "command": self.options.command(),
            **{key: self.single.settings.get(key, "n/a") for key in kept},
            "layer": f"{row['conv_layer']}, {row['map_size']}",
            "images": f"{self.num_train} of the first half of the classes to train "
            f"on, {self.num_test} of the second to report on",
            "thresholds of MaxBoxAcc": self.single.settings[
                "thresholds of MaxBoxAcc"
            ].replace("other images", "images of the first half"),
            "seeds": seeds,
            **self.recall_by_name(),
            "versions": {
                "keras_embcam": __version__,
                "keras": keras.__version__,
                "tensorflow": tf.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
            "minutes": round(self.minutes, 1),
        }

    def recall_by_name(self) -> dict[str, str]:
        """Return Recall@1 of all runs, by what was measured."""
        return {
            f"Recall@1 on the second half, {name}": ", ".join(
                f"{recall[name]:.3f}" for recall in self.recall
            )
            for name in self.recall[0]
        }

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return the figures of each method."""
        rows = {row["method"]: row for row in self.single.rows}
        for row in [*self.lent.rows, *self.ratio_only.rows]:
            if row["method"].startswith(BY_CHANNELS):
                continue
            # No thresholds were chosen for these on other images.
            rows[row["method"]] = {
                key: value
                for key, value in row.items()
                if not key.startswith(("threshold", "max_box"))
            }
        return rows

    def curves(self) -> dict[str, dict[str, Any]]:
        """Return the curves by title."""
        found = {
            f"{CURVE}, single proxies and baselines": self.single.curves[CURVE],
            f"{CURVE}, transferred weights": _keep(
                self.lent, lambda x: ", triplet, " not in x
            ),
            f"{CURVE}, triplets of the test images": _keep(
                self.lent, lambda x: ", triplet, " in x
            ),
        }
        by_channels = [
            row for row in self.ratio_only.rows if row["method"].startswith(BY_CHANNELS)
        ]
        if by_channels:
            found[CHANNELS] = _curve_by_channels(by_channels)
        return found

    def relations(self) -> list[Relation]:
        """Return what the papers say and what came out."""
        curve = dict(self.single.curves[CURVE])
        curve["y"] = {**curve["y"], **self.lent.curves[CURVE]["y"]}
        return find_relations(self.rows(), curve, self.seconds)


def _curve_by_channels(rows: list[dict[str, Any]]) -> dict[str, Any]:
    values: dict[str, dict[int, float]] = {}
    for row in rows:
        point = row["method"].removeprefix(BY_CHANNELS)
        name, _, number = point.rpartition(", top ")
        values.setdefault(name, {})[int(number)] = row["ratio_box"]
    return {
        "x": sorted(next(iter(values.values()))),
        "x_name": "number of channels",
        "y": {name: [y for _, y in sorted(x.items())] for name, x in values.items()},
        "logarithmic": True,
    }


def _keep(report: Report, is_wanted: Callable[[str], bool]) -> dict[str, Any]:
    curve = report.curves[CURVE]
    return curve | {"y": {k: y for k, y in curve["y"].items() if is_wanted(k)}}
