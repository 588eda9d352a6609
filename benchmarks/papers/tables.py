"""What was measured, as Markdown, JSON and plots: all drawn from what JSON holds."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.papers import names, published
from benchmarks.papers.methods import BASELINES, make_direct_methods
from benchmarks.papers.published import PUBLISHED, Published
from benchmarks.papers.relations import RULES, Relation, find_relations
from benchmarks.papers.transferred_weights import PAIR_SCORES
from keras_embcam.evaluation import Report
from keras_embcam.evaluation.known_measures import TABLES
from keras_embcam.evaluation.markdown import draw_table, format_number
from keras_embcam.evaluation.plots import draw_plots

CURVE = "Localisation accuracy by threshold"
CHANNELS = "Heatmap ratio by top channels"
NONE_PUBLISHED = "–"
PUBLISHED_COLUMNS = {
    "heatmap_ratio_bbox": "published ratio box",
    "heatmap_ratio_mask": "published ratio mask",
    "localization_accuracy": "published IoU>=0.5 at 0.2",
}
MOST_SHOWN = 0.5  # thresholds of the curve that are printed
COLUMNS: tuple[tuple[str, str, int], ...] = (
    ("heatmap_ratio_bbox", "ratio box", 3),
    ("heatmap_ratio_bbox_std", "std over images", 3),
    ("heatmap_ratio_bbox_std_models", "std over runs", 3),
    ("heatmap_ratio_mask", "ratio mask", 3),
    ("heatmap_ratio_mask_std_models", "std over runs", 3),
    ("localization_accuracy_0.2", "IoU>=0.5 at 0.2", 3),
    ("localization_accuracy_0.2_std_models", "std over runs", 3),
    ("localization_accuracy_0.15", "at 0.15", 3),
    ("box_threshold", "own rule", 2),
    ("localization_accuracy", "at it", 3),
    ("max_box_threshold", "chosen threshold", 2),
    ("max_box_accuracy_0.5", "MaxBoxAcc 0.5", 3),
    ("max_box_accuracy_mean", "mean of 0.3, 0.5, 0.7", 3),
    ("pointing_game", "pointing", 3),
    ("empty_heatmaps", "empty", 3),
    ("left_out", "left out", 0),
)


def write_files(content: Mapping[str, Any], folder: Path) -> list[Path]:
    """Print the tables, and write them with the plots.

    Args:
        content: see `measure.run_papers`.
        folder: that exists.

    Returns:
        The files.
    """
    content = json.loads(Report([dict(content)], {}).to_json())["rows"][0]
    relations = _find_relations(content)
    content["published"] = {name: x._asdict() for name, x in PUBLISHED.items()}
    content["relations"] = [x._asdict() for x in relations]
    text = to_markdown(content, relations)
    print(text)
    written = [folder / "tables.md", folder / "tables.json"]
    written[0].write_text(text + "\n", encoding="utf-8")
    whole = json.loads(Report([content], {}).to_json())["rows"][0]
    written[1].write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    return written + draw_plots(content["rows"], content["curves"], folder)


def redraw_tables(folder: Path) -> list[Path]:
    """Write tables and plots again from the figures of `tables.json`; measure nothing.

    For new published figures, relations or words.

    Args:
        folder: of an earlier run.

    Returns:
        The files.

    Raises:
        FileNotFoundError: where the folder holds no `tables.json`.
    """
    content = json.loads((folder / "tables.json").read_text(encoding="utf-8"))
    return write_files(content, folder)


def to_markdown(content: Mapping[str, Any], relations: Sequence[Relation]) -> str:
    """Return all tables as text."""
    rows = _by_method(content)
    uniform = rows[names.UNIFORM]["heatmap_ratio_bbox"]
    settings = content["settings"].items()
    parts = [
        f"# The papers' tables: {content['settings']['model'].split('.')[0]}",
        "\n".join(f"- {key}: {_text(x)}" for key, x in settings),
        f'"{NONE_PUBLISHED}" means that no figure is published, and "n/a" that this '
        "data does not have it or that it was not measured. +L: the triplet loss "
        "itself is differentiated, as in the paper; -L: its negative, which shows what "
        "makes the image like its class. Ratio: the share of the heat inside the box; "
        "evenly "
        f"spread heat has {uniform:.3f} here. Ratios are means over the maps that are "
        "not empty. The share of empty maps has its own column.",
        published.SETTING,
    ]
    for title, rows_of_table in list_tables(content["central_box_share"]).items():
        parts += [f"## {title}", draw_methods(rows, rows_of_table)]
    parts.append("## Localisation over thresholds")
    for title, curve in content["curves"].items():
        if title.startswith(CURVE):
            parts += [title.removeprefix(f"{CURVE}, ").capitalize(), _across(curve)]
    if CHANNELS in content["curves"]:
        parts.append("## Heatmap ratio by the number of top channels")
        parts.append(_down(content["curves"][CHANNELS]))
    parts += ["## What the papers report, and what came out here", RULES]
    parts.append(_draw_relations(relations))
    if content["faithfulness"]:
        parts += ["## Faithfulness", _draw_faithfulness(content["faithfulness"])]
    parts += ["## Notes", "\n".join(f"- {note}" for note in content["notes"])]
    return "\n\n".join(parts)


def list_tables(share: float) -> dict[str, list[str]]:
    """Return the names of the rows of each table, by its title.

    Args:
        share: of each side, of the central box.
    """
    transferred = [
        names.name_transferred(weighting, sign, variant)
        for weighting in names.WEIGHTINGS
        for sign in names.SIGNS
        for variant in names.VARIANTS
    ]
    transferred += [
        names.name_transferred("gradcam", sign, variant)
        for score in PAIR_SCORES
        for sign in names.SIGNS
        for variant in (score, f"{score}, top 50")
    ]
    return {
        f"{published.BACHHAWAT}: table 1": [
            names.SINGLE,
            names.SINGLE_TOP,
            names.MEAN,
            names.MEAN_TOP,
            names.MEAN_OF_OTHERS,
            names.UNIFORM,
        ],
        f"{published.CHEN}: table 1, weights transferred from training images": [
            *transferred,
            names.UNIFORM_OF_CHEN,
        ],
        "Back-propagation from triplets and pairs of the test images": [
            method.name for method in make_direct_methods()
        ],
        f"Baselines (box of {share} of each side) and our preset": [
            names.SINGLE,
            names.MEAN,
            *BASELINES.values(),
            names.CENTRAL_BOX,
            names.LOCALIZE,
            names.LOCALIZE_MEAN,
        ],
    }


def draw_methods(rows: Mapping[str, Any], methods: Sequence[str]) -> str:
    """Return a table of some methods, without columns that none of them has.

    Args:
        rows: by method.
        methods: names of the rows.

    Example:

    >>> print(draw_methods({"uniform": {"heatmap_ratio_bbox": 0.5}}, ["uniform"]))
    | method | published ratio box | published ratio mask | ratio box | ratio mask |
    | --- | --- | --- | --- | --- |
    | uniform | 0.522 | 0.274 | 0.500 | n/a |
    """
    reported = [PUBLISHED.get(name, Published()) for name in methods]
    theirs = {
        column: heading
        for column, heading in PUBLISHED_COLUMNS.items()
        if any(getattr(x, column) is not None for x in reported)
    }
    always = ("heatmap_ratio_bbox", "heatmap_ratio_mask")
    ours = [
        x
        for x in COLUMNS
        if x[0] in always or any(x[0] in rows.get(name, {}) for name in methods)
    ]
    lines = []
    for name, figures in zip(methods, reported, strict=True):
        row = rows.get(names.UNIFORM if name == names.UNIFORM_OF_CHEN else name, {})
        cells = [_with_deviation(figures, column) for column in theirs]
        cells += [format_number(row.get(key, math.nan), n) for key, _, n in ours]
        lines.append([name, *cells])
    headings = ["method", *theirs.values(), *[heading for _, heading, _ in ours]]
    return draw_table(headings, lines)


def _with_deviation(figures: Published, column: str) -> str:
    value = getattr(figures, column)
    deviation = getattr(figures, f"{column}_std", None)
    if value is None:
        return NONE_PUBLISHED
    return f"{value:.3f}" + ("" if deviation is None else f" ± {deviation:.3f}")


def _by_method(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["method"]: row for row in content["rows"]}


def _find_relations(content: Mapping[str, Any]) -> list[Relation]:
    found = [x for title, x in content["curves"].items() if title.startswith(CURVE)]
    localization = {
        "x": found[0]["x"],
        "y": {name: y for curve in found for name, y in curve["y"].items()},
    }
    by_channels = content["curves"].get(CHANNELS, {})
    seconds = content["seconds_to_fit"]
    return find_relations(_by_method(content), localization, by_channels, seconds)


def _draw_relations(relations: Sequence[Relation]) -> str:
    headings = ["the papers report", "rows", "published", "here", "outcome"]
    lines = []
    for x in relations:
        here = f"{format_number(x.first, 3)} / {format_number(x.second, 3)}"
        lines.append([x.claim, x.where, x.published, here, x.outcome])
    return draw_table(headings, lines)


def _across(curve: Mapping[str, Any]) -> str:
    shown = [x for x in curve["x"] if x <= MOST_SHOWN]
    lines = [
        [name, *[format_number(x, 3) for x in values[: len(shown)]]]
        for name, values in curve["y"].items()
    ]
    return draw_table(["method", *map(str, shown)], lines)


def _down(curve: Mapping[str, Any]) -> str:
    lines = [
        [x, *[format_number(y[place], 3) for y in curve["y"].values()]]
        for place, x in enumerate(curve["x"])
    ]
    return draw_table(["channels", *curve["y"]], lines)


def _draw_faithfulness(rows: Sequence[Mapping[str, Any]]) -> str:
    keys = {x[0] for title in ("Faithfulness", "Cost") for x in TABLES[title]}
    kept = [{k: v for k, v in x.items() if k in keys | {"method"}} for x in rows]
    return Report(kept, {}).to_markdown().strip()


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {x}" for key, x in value.items())
    return re.sub(r"[\[\]]", "", str(value))
