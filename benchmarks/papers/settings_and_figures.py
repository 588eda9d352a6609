"""What a run used and found, as `tables.json` holds it."""

import platform
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.papers import names
from benchmarks.papers.options import Options
from benchmarks.papers.tables import CHANNELS, CURVE
from keras_embcam._version import __version__
from keras_embcam.evaluation import Report


def describe(
    options: Options,
    single: Report,
    sizes: tuple[int, int],
    recall: list[dict[str, float]],
) -> dict[str, Any]:
    """Return what was used, by name; no host and no path."""
    row, settings = single.rows[0], single.settings
    kept = ("model", "framing", "image size", "parameters", "embedding")
    key = "thresholds of MaxBoxAcc"
    return {
        "command": options.command(),
        **{key: settings.get(key, "n/a") for key in kept},
        "layer": f"{row['conv_layer']}, {row['map_size']}",
        "images": f"{sizes[0]} of the first half of the classes to train on, "
        f"{sizes[1]} of the second to report on",
        key: settings[key].replace("other images", "images of the first half"),
        "seeds": [options.seed + x for x in range(options.runs)],
        **{
            f"Recall@1 on the second half, {name}": ", ".join(
                f"{found[name]:.3f}" for found in recall
            )
            for name in recall[0]
        },
        "versions": {
            "keras_embcam": __version__,
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def join_rows(single: Report, lent: Report, ratio_only: Report) -> list[Any]:
    """Return the figures of each method."""
    rows = list(single.rows)
    for row in [*lent.rows, *ratio_only.rows]:
        if not row["method"].startswith(names.BY_CHANNELS):
            # No thresholds were chosen for these on other images.
            chosen = "max_box"
            rows.append({k: x for k, x in row.items() if not k.startswith(chosen)})
    return rows


def list_curves(single: Report, lent: Report, ratio_only: Report) -> dict[str, Any]:
    """Return the curves by title."""
    of_lent = lent.curves[CURVE]
    direct = {k: y for k, y in of_lent["y"].items() if ", triplet, " in k}
    transferred = {k: y for k, y in of_lent["y"].items() if k not in direct}
    found = {
        f"{CURVE}, single proxies and baselines": single.curves[CURVE],
        f"{CURVE}, transferred weights": of_lent | {"y": transferred},
        f"{CURVE}, triplets of the test images": of_lent | {"y": direct},
    }
    values: dict[str, dict[int, float]] = {}
    for row in ratio_only.rows:
        if row["method"].startswith(names.BY_CHANNELS):
            point = row["method"].removeprefix(names.BY_CHANNELS)
            name, _, number = point.rpartition(", top ")
            values.setdefault(name, {})[int(number)] = row["heatmap_ratio_bbox"]
    if values:
        found[CHANNELS] = {
            "x": sorted(next(iter(values.values()))),
            "x_name": "number of channels",
            "y": {
                name: [y for _, y in sorted(x.items())] for name, x in values.items()
            },
            "logarithmic": True,
        }
    return found
