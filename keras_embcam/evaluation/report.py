"""What an evaluation found: a table, curves, each image's figures, what was used."""

import csv
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from keras_embcam.evaluation.known_measures import TABLES
from keras_embcam.evaluation.markdown import draw_table, format_number
from keras_embcam.evaluation.measure import Column
from keras_embcam.metrics.statistics import mean_of

# What tells the rows of a table apart, and what groups the figures of images.
NAMES = ("model", "method")
LABEL = "label"


@dataclass
class Report:
    """The result of `evaluate`.

    Args:
        rows: one dict a method, by column; NaN for what could not be measured.
        settings: what was used, by name.
        curves: by title: x, the name of x, and y of each method, (T,) each.
        notes: what a reader has to know, such as images that were left out.
        by_image: one dict a method: its name, and figures of (n,) images in the order
            of the examples, with their "label" where they have one; NaN for an image
            of which nothing can be said.
        models: of several trainings that were averaged, the settings and rows of each.
        architecture: stands for the layers and weight shapes of the model; None for
            unknown.

    Example:

    >>> row = {"method": "uniform", "heatmap_ratio_bbox": 0.25}
    >>> print(Report([row], {"images": 8}))
    images: 8
    <BLANKLINE>
    Where the heat is
    <BLANKLINE>
    | method | ratio bbox |
    | --- | --- |
    | uniform | 0.250 |
    """

    rows: list[dict[str, Any]]
    settings: dict[str, Any]
    curves: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    by_image: list[dict[str, Any]] = field(default_factory=list)
    models: list[dict[str, Any]] = field(default_factory=list)
    architecture: str | None = None

    def __str__(self) -> str:
        return self.to_markdown()

    def by_class(self) -> list[dict[str, Any]]:
        """Return the mean figures of each method and class, from those of images."""
        found = []
        for entry in self.by_image:
            figures = [x for x in entry if x not in (*NAMES, LABEL)]
            for label in np.unique(entry.get(LABEL, [])):
                members = np.asarray(entry[LABEL]) == label
                row = {x: entry[x] for x in NAMES if x in entry}
                row |= {LABEL: label, "images": int(members.sum())}
                row |= {x: mean_of(np.asarray(entry[x])[members]) for x in figures}
                found.append(row)
        return found

    def to_markdown(self) -> str:
        """Return settings, tables and notes as text; columns without a value go."""
        parts = ["\n".join(f"{key}: {value}" for key, value in self.settings.items())]
        names = [x for x in NAMES if x == "method" or any(x in y for y in self.rows)]
        for title, columns in TABLES.items():
            there = [x for x in columns if any(x.key in row for row in self.rows)]
            if there:
                parts += [title, self._draw([*map(_name_column, names), *there])]
        parts += [f"- {note}" for note in self.notes]
        return "\n\n".join(parts)

    def _draw(self, columns: list[Column]) -> str:
        rows = [
            [format_number(row.get(x.key, math.nan), x.num_digits) for x in columns]
            for row in self.rows
        ]
        return draw_table([x.heading for x in columns], rows)

    def to_json(self) -> str:
        """Return everything as JSON, with "n/a" for NaN."""
        content = {
            "settings": self.settings,
            "rows": self.rows,
            "curves": self.curves,
            "notes": self.notes,
            "by_class": self.by_class(),
            "by_image": self.by_image,
            "models": self.models,
        }
        text = json.dumps(_to_plain(content), indent=2, default=str)
        # One line for a list of numbers; in strings there are no line breaks.
        return re.sub(r"\[\n[^\[\]{}]*\]", lambda x: re.sub(r"\n\s*", " ", x[0]), text)

    def save(self, folder: str | Path) -> list[Path]:
        """Write the report as text, as JSON, as tables of images and as pictures.

        `table.md`, `table.json`, `by_class.csv` and `by_image.csv` where there are
        figures of images, and a PNG file of each curve.

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
        for name, rows in (
            ("by_class.csv", self.by_class()),
            ("by_image.csv", self._list_images()),
        ):
            if rows:
                written.append(folder / name)
                _write_csv(rows, folder / name)
        return written + draw_plots(self.rows, self.curves, folder)

    def _list_images(self) -> list[dict[str, Any]]:
        """Return one dict for each method and image."""
        found = []
        for entry in self.by_image:
            columns = {x: y for x, y in entry.items() if x not in NAMES}
            names = {x: entry[x] for x in NAMES if x in entry}
            for number, values in enumerate(zip(*columns.values(), strict=True)):
                row = dict(zip(columns, values, strict=True))
                found.append({**names, "image": number, **row})
        return found


def _name_column(key: str) -> Column:
    return Column(key, key, 0)


def _write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    """Write rows with a heading, and nothing for NaN."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for row in rows:
            writer.writerow({x: "" if y == "n/a" else y for x, y in _plain_items(row)})


def _plain_items(row: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    plain: dict[str, Any] = _to_plain(row)
    return plain.items()


def _to_plain(value: Any) -> Any:
    """Return lists, dicts and numbers of Python, "n/a" for NaN."""
    if isinstance(value, dict):
        return {str(key): _to_plain(x) for key, x in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype == np.float32:  # with as few digits as tell it from others
            value = value.astype(str).astype(float)
        return _to_plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_to_plain(x) for x in value]
    if isinstance(value, float) and math.isnan(value):
        return "n/a"
    return value
