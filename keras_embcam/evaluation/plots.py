"""Pictures of a report's curves, drawn with matplotlib; no photographs."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from keras_embcam.metrics.heatmap_figures import RATIOS
from keras_embcam.showing import check_matplotlib


def draw_plots(
    rows: list[dict[str, Any]], curves: dict[str, dict[str, Any]], folder: Path
) -> list[Path]:
    """Write a PNG file of each curve, and of the ratios with their deviation.

    Args:
        rows: see `Report`.
        curves: see `Report`.
        folder: that exists.

    Returns:
        The files.

    Raises:
        ImportError: where matplotlib is missing.
    """
    check_matplotlib()
    from matplotlib.figure import Figure

    written = []
    for title, curve in curves.items():
        if not curve["y"]:
            continue
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.add_subplot()
        # Ten colours, then dashed, then dotted: as many methods as there may be.
        for number, (name, values) in enumerate(curve["y"].items()):
            style = ("-", "--", ":", "-.")[number // 10 % 4]
            axes.plot(curve["x"], values, style, marker=".", label=name)
        axes.set(title=title, xlabel=curve["x_name"])
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
        if curve.get("logarithmic"):
            axes.set_xscale("log")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="x-small", ncols=1 + len(curve["y"]) // 20)
        written.append(folder / f"{_file_name(title)}.png")
        figure.savefig(written[-1], dpi=120)
    for key in RATIOS:
        # A row that could not be measured says so in words, or is NaN.
        values = [x.get(key, np.nan) for x in rows]
        shown = [
            row
            for row, value in zip(rows, values, strict=True)
            if not isinstance(value, str) and not np.isnan(value)
        ]
        if shown:
            written.append(folder / f"{key}.png")
            _draw_ratios(Figure, shown, key, written[-1])
    return written


def _draw_ratios(
    figure_class: Any, rows: list[dict[str, Any]], key: str, path: Path
) -> None:
    figure = figure_class(figsize=(7, 1 + 0.3 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    names = [": ".join(row[x] for x in ("model", "method") if x in row) for row in rows]
    ratios = np.array([row[key] for row in rows])
    deviation = np.nan_to_num([row.get(f"{key}_std", 0) for row in rows])
    axes.barh(names, ratios, xerr=deviation, color="tab:blue", ecolor="tab:gray")
    uniform = np.nanmean([row[f"{key}_uniform"] for row in rows])
    axes.axvline(uniform, color="tab:red", label="uniform")
    axes.invert_yaxis()
    axes.set(xlim=(0, 1))
    axes.margins(y=0.01)
    # Over the whole figure: beside long names the axes are narrow.
    figure.suptitle(f"{key}, with the deviation over images")
    axes.legend(fontsize="x-small")
    figure.savefig(path, dpi=120)


def _file_name(title: str) -> str:
    return re.sub(r"\W+", "_", title.lower()).strip("_")
