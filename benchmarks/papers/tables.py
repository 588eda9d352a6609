"""What the benchmark found, as Markdown, JSON and plots."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.papers.findings import CHANNELS, CURVE, Findings
from benchmarks.papers.published import NOT_AT_HAND
from benchmarks.papers.relations import RULES, Relation
from benchmarks.papers.rows import list_tables
from keras_embcam.evaluation import Report
from keras_embcam.evaluation.plots import draw_plots
from keras_embcam.evaluation.report import TABLES

MOST_SHOWN = 0.5  # thresholds of the curve that are printed
COLUMNS: tuple[tuple[str, str, int], ...] = (
    ("ratio_box", "ratio box", 3),
    ("ratio_box_std", "std over images", 3),
    ("ratio_box_std_models", "std over runs", 3),
    ("ratio_mask", "ratio mask", 3),
    ("ratio_mask_std_models", "std over runs", 3),
    ("localization_0.2", "IoU>=0.5 at 0.2", 3),
    ("localization_0.2_std_models", "std over runs", 3),
    ("localization_0.15", "at 0.15", 3),
    ("own_threshold", "own rule", 2),
    ("localization_own", "at it", 3),
    ("threshold", "chosen threshold", 2),
    ("max_box_0.5", "MaxBoxAcc 0.5", 3),
    ("max_box_mean", "mean of 0.3, 0.5, 0.7", 3),
    ("pointing_game", "pointing", 3),
    ("empty_maps", "empty", 3),
    ("left_out", "left out", 0),
)


def write_files(found: Findings, folder: Path) -> list[Path]:
    """Print the tables, and write them with the plots.

    Args:
        found: by the benchmark.
        folder: that exists.

    Returns:
        The files.
    """
    text = to_markdown(found)
    print(text)
    written = [folder / "tables.md", folder / "tables.json"]
    written[0].write_text(text + "\n", encoding="utf-8")
    content = {
        "settings": found.settings(),
        "options": found.options.describe(),
        "central_box_share": found.share,
        "recall": found.recall,
        "published": {x.title: x.rows for x in list_tables(found.share)},
        "rows": list(found.rows().values()),
        "curves": found.curves(),
        "faithfulness": found.faithfulness.rows if found.faithfulness else [],
        "seconds_to_fit": found.seconds,
        "relations": [
            x._asdict() | {"verdict": x.verdict()} for x in found.relations()
        ],
        "notes": all_notes(found),
    }
    whole = json.loads(Report([content], {}).to_json())["rows"][0]
    written[1].write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    rows = list(found.rows().values())
    return written + draw_plots(rows, found.curves(), folder)


def to_markdown(found: Findings) -> str:
    """Return all tables as text."""
    parts = ["# Benchmark on CUB: the papers' tables beside our figures"]
    settings = found.settings()
    parts.append("\n".join(f"- {key}: {_text(x)}" for key, x in settings.items()))
    parts.append(
        "The column of published figures holds what was at hand of the papers; "
        f'"{NOT_AT_HAND}" is a row of their tables whose figure was not, and "ours" '
        "a row that they do not have. +L differentiates the triplet loss itself, as "
        "in the paper; -L what makes the image like its class. Ratio: the share of "
        "the heat inside the box; uniform: "
        f"{_find_uniform(found.single.rows):.3f} here. Ratios are means over the maps "
        "that are not empty, whose share is in its own column. n/a: what this data "
        "does not have, or what was not measured."
    )
    rows = found.rows()
    for table in list_tables(found.share):
        parts += [f"## {table.title}", draw_table(rows, table.rows)]
    parts += ["## Localisation over thresholds", _draw_curves(found)]
    curve = found.curves().get(CHANNELS)
    if curve is not None:
        parts.append("## Heatmap ratio by the number of top channels (figure 7a)")
        parts.append(_draw_curve(curve, "channels"))
    parts += ["## What the papers report, and what came out here", RULES]
    parts.append(_draw_relations(found.relations()))
    if found.faithfulness is not None:
        parts += ["## Faithfulness", _draw_faithfulness(found.faithfulness)]
    parts += ["## Notes", "\n".join(f"- {note}" for note in all_notes(found))]
    return "\n\n".join(parts)


def all_notes(found: Findings) -> list[str]:
    """Return the notes of all parts, each once."""
    notes = [*found.notes, *found.single.notes, *found.lent.notes]
    notes += found.ratio_only.notes
    if found.faithfulness is not None:
        notes += found.faithfulness.notes
    return list(dict.fromkeys(notes))


def draw_table(rows: Mapping[str, Any], published: Mapping[str, str]) -> str:
    """Return a table of some methods, without columns that none of them has.

    Args:
        rows: by method.
        published: what to write beside each method.

    Example:

    >>> print(draw_table({"mine": {"ratio_box": 0.5}}, {"mine": "ours"}))
    | method | published | ratio box | ratio mask |
    | --- | --- | --- | --- |
    | mine | ours | 0.500 | n/a |
    """
    always = ("ratio_box", "ratio_mask")
    columns = [
        x
        for x in COLUMNS
        if x[0] in always or any(x[0] in rows.get(name, {}) for name in published)
    ]
    lines = [["method", "published", *[x[1] for x in columns]]]
    for name, text in published.items():
        row = rows.get(name, {})
        cells = [_number(row.get(key, math.nan), digits) for key, _, digits in columns]
        lines.append([name, text, *cells])
    return _join(lines)


def _draw_relations(relations: Iterable[Relation]) -> str:
    lines = [["the papers report", "rows", "first", "second", "outcome"]]
    for x in relations:
        figures = [_number(x.first, 4), _number(x.second, 4)]
        lines.append([x.claim, x.where, *figures, x.verdict()])
    return _join(lines)


def _draw_curves(found: Findings) -> str:
    texts = []
    for title, curve in found.curves().items():
        if title.startswith(CURVE):
            shown = [x for x in curve["x"] if x <= MOST_SHOWN]
            lines = [["method", *map(str, shown)]]
            for name, values in curve["y"].items():
                cells = [_number(x, 3) for x in values[: len(shown)]]
                lines.append([name, *cells])
            texts += [title.removeprefix(f"{CURVE}, ").capitalize(), _join(lines)]
    return "\n\n".join(texts)


def _draw_curve(curve: Mapping[str, Any], heading: str) -> str:
    lines = [[heading, *curve["y"]]]
    for place, x in enumerate(curve["x"]):
        lines.append([str(x), *[_number(y[place], 3) for y in curve["y"].values()]])
    return _join(lines)


def _draw_faithfulness(report: Report) -> str:
    keys = {x[0] for title in ("Faithfulness", "Cost") for x in TABLES[title]}
    rows = [
        {k: v for k, v in row.items() if k in keys | {"method"}} for row in report.rows
    ]
    return Report(rows, {}).to_markdown().strip()


def _find_uniform(rows: list[dict[str, Any]]) -> float:
    [row] = [row for row in rows if row["method"] == "uniform"]
    return float(row["ratio_box"])


def _number(value: Any, num_digits: int) -> str:
    if not isinstance(value, int | float):
        return str(value)
    return "n/a" if math.isnan(value) else f"{value:.{num_digits}f}"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {x}" for key, x in value.items())
    return re.sub(r"[\[\]]", "", str(value))


def _join(lines: list[list[str]]) -> str:
    lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
