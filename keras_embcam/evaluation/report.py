"""What an evaluation found: a table, curves, and what was used."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from keras_embcam.evaluation.markdown import draw_table, format_number
from keras_embcam.evaluation.measures import mean_of, std_of

# Key, heading, and digits behind the point; one table each.
TABLES: dict[str, tuple[tuple[str, str, int], ...]] = {
    "Where the heat is": (
        ("images", "images", 0),
        ("left_out", "left out", 0),
        ("empty_maps", "empty", 3),
        ("ratio_box", "ratio box", 3),
        ("ratio_box_std", "std", 3),
        ("ratio_box_std_models", "std models", 3),
        ("uniform_box", "uniform", 3),
        ("ratio_mask", "ratio mask", 3),
        ("ratio_mask_std", "std", 3),
        ("ratio_mask_std_models", "std models", 3),
        ("uniform_mask", "uniform", 3),
        ("pointing_game", "pointing", 3),
    ),
    "Localisation": (
        ("localization_0.2", "IoU>=0.5 at 0.2", 3),
        ("localization_0.2_std_models", "std models", 3),
        ("localization_0.15", "at 0.15", 3),
        ("own_threshold", "own threshold", 2),
        ("localization_own", "at it", 3),
        ("localization_own_std_models", "std models", 3),
        ("threshold", "chosen threshold", 2),
        ("max_box_0.3", "MaxBoxAcc 0.3", 3),
        ("max_box_0.5", "0.5", 3),
        ("max_box_0.7", "0.7", 3),
        ("max_box_mean", "mean", 3),
        ("pxap", "PxAP", 3),
    ),
    "Faithfulness": (
        ("deletion", "deletion (low)", 3),
        ("insertion", "insertion (high)", 3),
        ("occlusion", "occlusion rank corr. (high)", 3),
        ("randomized", "randomised rank corr. (low)", 3),
        ("noise", "noise rank corr. (high)", 3),
        ("translation", "translation IoU (high)", 3),
        ("own_cell_2", "own cell of 2", 3),
        ("own_cell_4", "own cell of 4", 3),
        ("top_5_pointing", "top-5 pointing", 3),
        ("top_5_pointed", "pointed", 3),
        ("top_5_rejected", "rejected", 3),
    ),
    "Cost": (
        ("seconds", "seconds an image", 4),
        ("relative_time", "times the embedding", 2),
        ("kilobytes", "kB an image", 0),
    ),
    "What was compared": (
        ("proxy", "proxy", 0),
        ("weights", "weighting", 0),
        ("conv_layer", "layer", 0),
        ("map_size", "map", 0),
    ),
}


@dataclass
class Report:
    """The result of `evaluate`.

    Args:
        rows: one dict a method, by column; NaN for what could not be measured.
        settings: what was used, by name.
        curves: by title: x, the name of x, and y of each method, (T,) each.
        notes: what a reader has to know, such as images that were left out.

    Example:

    >>> report = Report([{"method": "uniform", "ratio_box": 0.25}], {"images": 8})
    >>> print(report)
    images: 8
    <BLANKLINE>
    Where the heat is
    <BLANKLINE>
    | method | ratio box |
    | --- | --- |
    | uniform | 0.250 |
    """

    rows: list[dict[str, Any]]
    settings: dict[str, Any]
    curves: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return self.to_markdown()

    def to_markdown(self) -> str:
        """Return settings, tables and notes as text; columns without a value go."""
        lines = [f"{key}: {value}" for key, value in self.settings.items()]
        parts = ["\n".join(lines)]
        for title, columns in TABLES.items():
            there = [x for x in columns if any(x[0] in row for row in self.rows)]
            if there:
                parts += [title, _draw_columns(self.rows, there)]
        parts += [f"- {note}" for note in self.notes]
        return "\n\n".join(parts)

    def to_json(self) -> str:
        """Return everything as JSON, with "n/a" for NaN."""
        content = {
            "settings": self.settings,
            "rows": self.rows,
            "curves": self.curves,
            "notes": self.notes,
        }
        return json.dumps(_without_nan(content), indent=2, default=str)

    def save(self, folder: str | Path) -> list[Path]:
        """Write `table.md`, `table.json` and a picture of each curve.

        Args:
            folder: made where it does not exist; files of these names are replaced.

        Returns:
            The files.

        Raises:
            ImportError: where matplotlib is missing.
        """
        from keras_embcam.evaluation.plots import draw_plots

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        written = [folder / "table.md", folder / "table.json"]
        written[0].write_text(self.to_markdown() + "\n", encoding="utf-8")
        written[1].write_text(self.to_json() + "\n", encoding="utf-8")
        return written + draw_plots(self.rows, self.curves, folder)

    @classmethod
    def combine(cls, reports: Iterable["Report"]) -> "Report":
        """Return the means over several models, with their standard deviations.

        Numbers of each method are averaged, and what ends in ``_std_models`` is the
        sample standard deviation over models of the column of that name.

        Args:
            reports: of the same methods in the same order.

        Raises:
            ValueError: for no reports, or other methods.
        """
        reports = list(reports)
        names = [[row["method"] for row in report.rows] for report in reports]
        if not names or any(x != names[0] for x in names):
            raise ValueError(
                "`reports` must hold at least one report, all of the same methods in "
                f"the same order. Received the methods: {names}"
            )
        rows = [
            _combine_rows(rows)
            for rows in zip(*[report.rows for report in reports], strict=True)
        ]
        settings = {
            key: _join([report.settings.get(key) for report in reports])
            for key in reports[0].settings
        }
        notes = list(dict.fromkeys(x for report in reports for x in report.notes))
        curves = {}
        for title, first in reports[0].curves.items():
            several = [report.curves.get(title, {}) for report in reports]
            if all(curve.get("x") == first["x"] for curve in several):
                curves[title] = _combine_curves(several)
            else:
                notes.append(f"Not averaged, as the models differ in x: {title}")
        return cls(rows, {"models": len(reports), **settings}, curves, notes)


def _combine_rows(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    combined: dict[str, Any] = {}
    for key in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(key, math.nan) for row in rows]
        if all(isinstance(x, int | float) for x in values):
            combined[key] = mean_of(values)
            if not key.endswith("_std"):
                combined[f"{key}_std_models"] = std_of(values)
        else:
            combined[key] = _join(values)
    return combined


def _combine_curves(curves: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = [x for x in curves[0]["y"] if all(x in curve["y"] for curve in curves)]
    combined = dict(curves[0])
    for key in {"y", "std"} & combined.keys():
        combined[key] = {
            name: np.mean([curve[key][name] for curve in curves], axis=0).tolist()
            for name in names
        }
    return combined


def _join(values: list[Any]) -> Any:
    different = list(dict.fromkeys(str(x) for x in values))
    return values[0] if len(different) == 1 else ", ".join(different)


def _draw_columns(
    rows: list[dict[str, Any]], columns: list[tuple[str, str, int]]
) -> str:
    headings = ["method", *[heading for _, heading, _ in columns]]
    return draw_table(
        headings,
        [
            [
                row["method"],
                *[format_number(row.get(x, math.nan), n) for x, _, n in columns],
            ]
            for row in rows
        ],
    )


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _without_nan(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(x) for x in value]
    if isinstance(value, float) and math.isnan(value):
        return "n/a"
    return value
