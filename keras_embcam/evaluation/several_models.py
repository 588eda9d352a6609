"""The reports on several models: side by side, or their mean over trainings."""

import math
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from keras_embcam.evaluation.report import Report
from keras_embcam.metrics.statistics import mean_of, std_of
from keras_embcam.network.trial_run import list_operations


def describe_architecture(model: keras.Model) -> str:
    """Return a word that models with the same layers and weight shapes share.

    Example:

    >>> models = [
    ...     keras.Sequential([keras.Input((3,)), keras.layers.Dense(width)])
    ...     for width in (2, 2, 4)
    ... ]
    >>> first, same, other = map(describe_architecture, models)
    >>> first == same, first == other
    (True, False)
    """
    parts = [
        (type(x).__name__, [tuple(w.shape) for w in getattr(x, "weights", ())])
        for x in list_operations(model).values()
    ]
    return f"{zlib.crc32(repr(parts).encode()):08x}"


def check_architectures(
    names: Sequence[str], architectures: Sequence[str | None]
) -> None:
    """Check that models are trainings of one architecture.

    Args:
        names: of the models, for the message.
        architectures: from ``describe_architecture``, None for unknown.

    Raises:
        ValueError: where they are not.
    """
    if len(set(architectures) - {None}) > 1:
        raise ValueError(
            "Only trainings of one architecture are averaged: a mean over different "
            "models describes none of them. Leave out `--average`, or use "
            f"`join_reports`, for rows of each. Received: {list(names)}"
        )


def join_reports(reports: Iterable[Report]) -> Report:
    """Return one report on different models: a row for each model and method.

    Args:
        reports: each on one model, whose name is in its settings as "model", each
            name once.

    Raises:
        ValueError: for no reports, or models of one name.

    Example:

    >>> one, other = (
    ...     Report([{"method": "uniform", "pointing_game": x}], {"model": name})
    ...     for name, x in (("a", 0.25), ("b", 0.5))
    ... )
    >>> for row in join_reports([one, other]).rows:
    ...     print(row["model"], row["pointing_game"])
    a 0.25
    b 0.5
    """
    reports = list(reports)
    names = [str(report.settings.get("model")) for report in reports]
    if not reports or len(set(names)) < len(names):
        raise ValueError(
            "`reports` must hold at least one report, and the `name` of each model "
            f"once. Received the names: {names}"
        )
    curves: dict[str, dict[str, Any]] = {}
    notes: list[str] = []
    for name, report in zip(names, reports, strict=True):
        for title, curve in report.curves.items():
            of_model = dict(curve)
            for key in {"y", "std"} & curve.keys():
                of_model[key] = {f"{name}: {x}": y for x, y in curve[key].items()}
            # Curves over another x, such as other layers, stand alone.
            if title in curves and curves[title]["x"] != curve["x"]:
                title = f"{title}, {name}"
            curves[title] = _merge(curves.get(title, {}), of_model)
        for note in report.notes:
            is_shared = all(note in other.notes for other in reports)
            notes.append(note if is_shared else f"{name}: {note}")
    return Report(
        [
            {"model": name, **row}
            for name, report in zip(names, reports, strict=True)
            for row in report.rows
        ],
        {"models": len(reports), **_join_settings(reports)},
        curves,
        list(dict.fromkeys(notes)),
        _join_images(names, reports),
    )


def average_reports(reports: Iterable[Report]) -> Report:
    """Return the means over trainings of one architecture, with their deviations.

    Numbers of each method are averaged, and what ends in ``_std_models`` is the
    sample standard deviation over trainings of the column of that name. The figures of
    each training stay in `Report.models` and `Report.by_image`.

    Args:
        reports: of the same methods in the same order, on models of one architecture.

    Raises:
        ValueError: for no reports, other methods or other architectures.
    """
    reports = list(reports)
    names = [[row["method"] for row in report.rows] for report in reports]
    if not names or any(x != names[0] for x in names):
        raise ValueError(
            "`reports` must hold at least one report, all of the same methods in the "
            f"same order. Received the methods: {names}"
        )
    models = [str(report.settings.get("model")) for report in reports]
    check_architectures(models, [x.architecture for x in reports])
    rows = [
        _average_rows(rows)
        for rows in zip(*[report.rows for report in reports], strict=True)
    ]
    notes = list(dict.fromkeys(x for report in reports for x in report.notes))
    curves = {}
    for title, first in reports[0].curves.items():
        several = [report.curves.get(title, {}) for report in reports]
        if all(curve.get("x") == first["x"] for curve in several):
            curves[title] = _average_curves(several)
        else:
            notes.append(f"Not averaged, as the models differ in x: {title}")
    return Report(
        rows,
        {"models": len(reports), **_join_settings(reports)},
        curves,
        notes,
        _join_images(models, reports),
        [{"settings": x.settings, "rows": x.rows} for x in reports],
        reports[0].architecture,
    )


def _merge(curve: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return two curves over the same x as one."""
    merged = {**curve, **other}
    for key in {"y", "std"} & merged.keys():
        merged[key] = {**curve.get(key, {}), **other.get(key, {})}
    return merged


def _average_rows(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    averaged: dict[str, Any] = {}
    for key in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(key, math.nan) for row in rows]
        if all(isinstance(x, int | float) for x in values):
            averaged[key] = mean_of(values)
            if not key.endswith("_std"):
                averaged[f"{key}_std_models"] = std_of(values)
        else:
            averaged[key] = _join(values)
    return averaged


def _average_curves(curves: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = [x for x in curves[0]["y"] if all(x in curve["y"] for curve in curves)]
    averaged = dict(curves[0])
    for key in {"y", "std"} & averaged.keys():
        averaged[key] = {
            name: np.mean([curve[key][name] for curve in curves], axis=0).tolist()
            for name in names
        }
    return averaged


def _join_settings(reports: Sequence[Report]) -> dict[str, Any]:
    keys = dict.fromkeys(key for report in reports for key in report.settings)
    return {key: _join([x.settings.get(key, "n/a") for x in reports]) for key in keys}


def _join(values: list[Any]) -> Any:
    different = list(dict.fromkeys(str(x) for x in values))
    return values[0] if len(different) == 1 else ", ".join(different)


def _join_images(names: list[str], reports: Sequence[Report]) -> list[dict[str, Any]]:
    return [
        {"model": name, **entry}
        for name, report in zip(names, reports, strict=True)
        for entry in report.by_image
    ]
