"""Tests of keras_embcam.evaluation.report: tables, files, means over models."""

import json
import math
import sys

import numpy as np
import pytest

from keras_embcam.evaluation import Report

CURVE = {"x": [0.1, 0.2], "x_name": "threshold", "y": {"a": [0.5, 0.25]}}


def make_report(ratio: float, **settings) -> Report:
    row = {
        "method": "a",
        "proxy": "single_point",
        "images": 8,
        "ratio_box": ratio,
        "ratio_box_std": 0.1,
        "uniform_box": 0.25,
        "pointing_game": math.nan,
    }
    return Report([row], {"model": "one", "images": 8, **settings}, {"Curve": CURVE})


def test_a_table_as_text() -> None:
    text = make_report(0.5).to_markdown()
    assert text.splitlines()[:2] == ["model: one", "images: 8"]
    assert "| method | images | ratio box | std | uniform | pointing |" in text
    assert "| a | 8 | 0.500 | 0.100 | 0.250 | n/a |" in text
    assert "Faithfulness" not in text  # a table without any value


def test_json_can_be_read_back() -> None:
    content = json.loads(make_report(0.5).to_json())
    assert content["rows"][0]["ratio_box"] == 0.5
    assert content["rows"][0]["pointing_game"] == "n/a"
    assert content["curves"]["Curve"]["y"]["a"] == [0.5, 0.25]


def test_mean_and_deviation_over_models() -> None:
    reports = [make_report(x, model=f"m{x}") for x in (0.5, 0.6, 0.7)]
    combined = Report.combine(reports)
    (row,) = combined.rows
    assert row["ratio_box"] == pytest.approx(0.6)
    assert row["ratio_box_std_models"] == pytest.approx(0.1)
    assert row["ratio_box_std"] == pytest.approx(0.1)  # the mean of those over images
    assert "ratio_box_std_std_models" not in row
    assert math.isnan(row["pointing_game"])
    assert row["method"] == "a" and row["proxy"] == "single_point"
    assert combined.settings["models"] == 3
    assert combined.settings["model"] == "m0.5, m0.6, m0.7"
    assert combined.settings["images"] == 8
    assert combined.curves["Curve"]["y"]["a"] == [0.5, 0.25]
    assert "| std models |" in combined.to_markdown()
    single = Report.combine(reports[:1]).rows[0]
    assert math.isnan(single["ratio_box_std_models"])


def test_only_the_same_methods_can_be_combined() -> None:
    other = make_report(0.5)
    other.rows[0]["method"] = "b"
    for reports in ([], [make_report(0.5), other]):
        with pytest.raises(ValueError, match="`reports` must hold at least one report"):
            Report.combine(reports)


def test_files_are_written(tmp_path) -> None:
    report = make_report(0.5)
    names = [path.name for path in report.save(tmp_path / "deep" / "folder")]
    assert names == [
        "table.md",
        "table.json",
        "curve.png",
        "heatmap_ratio_in_boxes.png",
    ]
    for name in names:
        content = (tmp_path / "deep" / "folder" / name).read_bytes()
        assert content.startswith(b"\x89PNG") == name.endswith("png")
    assert (tmp_path / "deep/folder/table.md").read_text().startswith("model: one")


def test_a_missing_matplotlib_says_what_to_install(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"keras-embcam\[evaluation\]"):
        make_report(0.5).save(tmp_path)


def test_deviations_are_averaged_as_their_curves_are() -> None:
    one, other = make_report(0.5), make_report(0.5)
    one.curves = {"Curve": {**CURVE, "std": {"a": [0.1, 0.2]}}}
    other.curves = {"Curve": {**CURVE, "std": {"a": [0.3, 0.2]}}}
    combined = Report.combine([one, other])
    assert combined.curves["Curve"]["std"]["a"] == pytest.approx([0.2, 0.2])


def test_curves_of_other_thresholds_are_not_averaged() -> None:
    other = make_report(0.5)
    other.curves = {"Curve": {**CURVE, "x": [0.1, 0.3]}}
    combined = Report.combine([make_report(0.5), other])
    assert combined.curves == {}
    assert combined.notes[-1] == "Not averaged, as the models differ in x: Curve"
    assert np.isfinite(combined.rows[0]["ratio_box"])
