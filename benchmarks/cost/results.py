"""The rows that were measured, kept as JSON and shown as Markdown."""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.cost.timing import Spread
from keras_embcam.evaluation.markdown import draw_table

LIBRARIES = ("tensorflow", "keras", "numpy", "keras-embcam")
HEADINGS = ("what", "quantity", "median", "interval", "pairs", "target", "reached")


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        subject: what was run, such as "ResNet-50, batch 32".
        quantity: what the figure is, such as "explain / forward pass".
        spread: of the figure; None where there is none, and the note says why. A
            single measurement has an interval of no length.
        num_pairs: how many measurements the spread is of.
        target: the most that the figure should be, if any.
        unit: of the figure; empty for a ratio.
        note: what else is to be known.
    """

    subject: str
    quantity: str
    spread: Spread | None
    num_pairs: int = 1
    target: float | None = None
    unit: str = ""
    note: str = ""

    def verdict(self) -> str:
        """Tell whether the target is reached: yes, no, or by the interval only."""
        if self.target is None or self.spread is None:
            return ""
        if self.spread.median <= self.target:
            return "yes"
        return "interval touches it" if self.spread.low <= self.target else "no"


def single(value: float) -> Spread:
    """Return the spread of one measurement."""
    return Spread(value, value, value)


def describe_environment() -> dict[str, str]:
    """Return processor, number of cores and versions; nothing that names a machine."""
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {
        "processor": _find_processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "python": platform.python_version(),
        **versions,
    }


def _find_processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    values = {name.strip(): value.strip() for name, value in fields.items()}
    if "model name" not in values:
        return platform.machine()
    family, model = values.get("cpu family"), values.get("model")
    return f"{values['model name']} (family {family}, model {model})"


def keep(
    folder: Path, section: str, rows: Iterable[Row], load: float, quick: bool = False
) -> None:
    """Put the rows of a section in the place of its former ones.

    Args:
        folder: of ``results.json`` and ``results.md``.
        section: its name.
        rows: of it.
        load: average number of runnable processes before it was measured.
        quick: whether they mean little.
    """
    file = folder / "results.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    results[section] = {
        "date": datetime.date.today().isoformat(),
        "load": round(load, 1),
        "quick": quick,
        "environment": describe_environment(),
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    file.write_text(json.dumps(results, indent=1) + "\n")
    (folder / "results.md").write_text(render(results))


def render(results: dict[str, Any]) -> str:
    """Return all sections as Markdown."""
    lines = [
        "# What explanations cost",
        "",
        "Made by `make bench`. Medians and their 95 % confidence intervals; a ratio is",
        "taken within a round of runs that alternate. [README.md](README.md) says how",
        "the figures come about and what to expect of them.",
    ]
    for environment, names in _group_by_environment(results):
        facts = ", ".join(f"{key} {value}" for key, value in environment.items())
        lines += ["", f"Sections {', '.join(names)}: {facts}."]
    for name, section in results.items():
        remark = f"Load of the machine before: {section['load']}."
        if section["quick"]:
            remark += " A quick run: these figures mean little."
        lines += ["", f"## {name}, {section['date']}", "", remark, ""]
        rows = [_read_row(row) for row in section["rows"]]
        lines.append(draw_table(HEADINGS, [_list_cells(row) for row in rows]))
        notes = dict.fromkeys(f"{x.subject}: {x.note}" for x in rows if x.note)
        lines += ["", *(f"* {note}" for note in notes)] if notes else []
    return "\n".join(lines) + "\n"


def _group_by_environment(results: dict[str, Any]) -> list[tuple[dict, list[str]]]:
    groups: list[tuple[dict, list[str]]] = []
    for name, section in results.items():
        for environment, names in groups:
            if environment == section["environment"]:
                names.append(name)
                break
        else:
            groups.append((section["environment"], [name]))
    return groups


def _read_row(row: dict[str, Any]) -> Row:
    spread = None if row["spread"] is None else Spread(*row["spread"])
    return Row(**{**row, "spread": spread})


def _list_cells(row: Row) -> list[str]:
    median = interval = pairs = ""
    if row.spread is not None:
        median = _render(row.spread.median, row.unit)
        if row.num_pairs > 1:
            interval = f"{_render(row.spread.low)} to {_render(row.spread.high)}"
            pairs = str(row.num_pairs)
    target = "" if row.target is None else f"at most {_render(row.target, row.unit)}"
    cells = [row.subject, row.quantity, median or "absent", interval, pairs, target]
    return [*cells, row.verdict()]


def _render(value: float, unit: str = "") -> str:
    if float(value).is_integer() and abs(value) >= 10:
        text = f"{value:,.0f}"
    else:
        # Three decimals where the target of 1.03 needs them, three digits elsewhere.
        text = f"{value:.3f}" if 0.1 <= abs(value) < 10 else f"{value:,.3g}"
    if "e" in text:
        text = f"{value:,.0f}" if abs(value) >= 1 else f"{value:.5f}"
    return f"{text} {unit}".strip()
