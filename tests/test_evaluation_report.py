"""Tests of keras_embcam.evaluation.report: tables, files, means over models."""

import json
import math
import sys

import numpy as np
import pytest

from keras_embcam.evaluation import Report, average_reports, join_reports
from keras_embcam.evaluation.plots import draw_plots

CURVE = {"x": [0.1, 0.2], "x_name": "threshold", "y": {"a": [0.5, 0.25]}}


def make_report(ratio: float, **settings: str) -> Report:
    row = {
        "method": "a",
        "proxy": "single_point",
        "images": 8,
        "heatmap_ratio_bbox": ratio,
        "heatmap_ratio_bbox_std": 0.1,
        "heatmap_ratio_bbox_uniform": 0.25,
        "pointing_game": math.nan,
    }
    return Report([row], {"model": "one", "images": 8, **settings}, {"Curve": CURVE})


def test_a_table_as_text() -> None:
    text = make_report(0.5).to_markdown()
    assert text.splitlines()[:2] == ["model: one", "images: 8"]
    assert "| method | images | ratio bbox | std | uniform | pointing |" in text
    assert "| a | 8 | 0.500 | 0.100 | 0.250 | n/a |" in text
    assert "Faithfulness" not in text  # a table without any value


def test_json_can_be_read_back() -> None:
    content = json.loads(make_report(0.5).to_json())
    assert content["rows"][0]["heatmap_ratio_bbox"] == 0.5
    assert content["rows"][0]["pointing_game"] == "n/a"
    assert content["curves"]["Curve"]["y"]["a"] == [0.5, 0.25]


def test_mean_and_deviation_over_models() -> None:
    reports = [make_report(x, model=f"m{x}") for x in (0.5, 0.6, 0.7)]
    combined = average_reports(reports)
    (row,) = combined.rows
    assert row["heatmap_ratio_bbox"] == pytest.approx(0.6)
    assert row["heatmap_ratio_bbox_std_models"] == pytest.approx(0.1)
    assert row["heatmap_ratio_bbox_std"] == pytest.approx(
        0.1
    )  # the mean of those over images
    assert "heatmap_ratio_bbox_std_std_models" not in row
    assert math.isnan(row["pointing_game"])
    assert row["method"] == "a" and row["proxy"] == "single_point"
    assert combined.settings["models"] == 3
    assert combined.settings["model"] == "m0.5, m0.6, m0.7"
    assert combined.settings["images"] == 8
    assert combined.curves["Curve"]["y"]["a"] == [0.5, 0.25]
    assert "| std models |" in combined.to_markdown()
    single = average_reports(reports[:1]).rows[0]
    assert math.isnan(single["heatmap_ratio_bbox_std_models"])


def test_only_the_same_methods_can_be_combined() -> None:
    other = make_report(0.5)
    other.rows[0]["method"] = "b"
    for reports in ([], [make_report(0.5), other]):
        with pytest.raises(ValueError, match="`reports` must hold at least one report"):
            average_reports(reports)


def test_files_are_written(tmp_path) -> None:
    report = make_report(0.5)
    names = [path.name for path in report.save(tmp_path / "deep" / "folder")]
    assert names == [
        "table.md",
        "table.json",
        "curve.png",
        "heatmap_ratio_bbox.png",
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
    combined = average_reports([one, other])
    assert combined.curves["Curve"]["std"]["a"] == pytest.approx([0.2, 0.2])


def test_curves_of_other_thresholds_are_not_averaged() -> None:
    other = make_report(0.5)
    other.curves = {"Curve": {**CURVE, "x": [0.1, 0.3]}}
    combined = average_reports([make_report(0.5), other])
    assert combined.curves == {}
    assert combined.notes[-1] == "Not averaged, as the models differ in x: Curve"
    assert np.isfinite(combined.rows[0]["heatmap_ratio_bbox"])


def with_images(report: Report, ratios: list[float]) -> Report:
    report.by_image = [
        {
            "method": "a",
            "label": np.array(["wren", "wren", "tit"]),
            "heatmap_ratio_bbox": np.float32(ratios),
        }
    ]
    return report


def test_different_models_are_different_rows() -> None:
    """A mean over a good and a bad model would describe neither."""
    reports = [make_report(x, model=name) for x, name in ((0.2, "one"), (0.9, "two"))]
    reports[0].notes, reports[1].notes = ["of both", "of one"], ["of both"]
    joined = join_reports(reports)
    assert [
        (x["model"], x["method"], x["heatmap_ratio_bbox"]) for x in joined.rows
    ] == [
        ("one", "a", 0.2),
        ("two", "a", 0.9),
    ]
    assert joined.settings["model"] == "one, two" and joined.settings["models"] == 2
    assert set(joined.curves["Curve"]["y"]) == {"one: a", "two: a"}
    assert joined.notes == ["of both", "one: of one"]
    assert "| two | a | 8 | 0.900 |" in joined.to_markdown()


def test_curves_of_different_models_over_another_x_stand_alone() -> None:
    reports = [make_report(0.5, model=name) for name in ("one", "two")]
    reports[1].curves = {"Curve": {**CURVE, "x": [0.1, 0.3]}}
    curves = join_reports(reports).curves
    assert curves["Curve"]["y"] == {"one: a": [0.5, 0.25]}
    assert curves["Curve, two"]["y"] == {"two: a": [0.5, 0.25]}


def test_models_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="`name` of each model once.*'one', 'one'"):
        join_reports([make_report(0.5), make_report(0.6)])


def test_only_trainings_of_one_architecture_are_averaged() -> None:
    reports = [make_report(x, model=f"m{x}") for x in (0.5, 0.6)]
    reports[0].architecture, reports[1].architecture = "small", "large"
    with pytest.raises(ValueError, match=r"one architecture.*\['m0.5', 'm0.6'\]"):
        average_reports(reports)
    reports[0].settings["model"] = reports[1].settings["model"]  # names do not matter
    with pytest.raises(ValueError, match="one architecture"):
        average_reports(reports)
    reports[1].architecture = "small"
    content = json.loads(average_reports(reports).to_json())
    assert [x["rows"][0]["heatmap_ratio_bbox"] for x in content["models"]] == [0.5, 0.6]
    assert content["models"][1]["settings"]["model"] == "m0.6"


def test_figures_by_image_and_by_class(tmp_path) -> None:
    report = with_images(make_report(0.5), [0.25, 0.75, math.nan])
    first, second = report.by_class()
    assert (first["label"], first["images"]) == ("tit", 1)
    assert math.isnan(first["heatmap_ratio_bbox"])
    assert (second["label"], second["heatmap_ratio_bbox"]) == ("wren", 0.5)
    content = json.loads(report.to_json())
    assert content["by_image"][0]["heatmap_ratio_bbox"] == [0.25, 0.75, "n/a"]
    assert content["by_class"][1] == {
        "method": "a",
        "label": "wren",
        "images": 2,
        "heatmap_ratio_bbox": 0.5,
    }
    report.save(tmp_path)
    assert (tmp_path / "by_image.csv").read_text().splitlines() == [
        "method,image,label,heatmap_ratio_bbox",
        "a,0,wren,0.25",
        "a,1,wren,0.75",
        "a,2,tit,",
    ]
    assert (tmp_path / "by_class.csv").read_text().splitlines()[2] == "a,wren,2,0.5"


def test_each_training_keeps_the_figures_of_its_images() -> None:
    reports = [with_images(make_report(x, model=f"m{x}"), [x] * 3) for x in (0.5, 0.75)]
    rows = average_reports(reports).by_class()
    assert [(x["model"], x["label"], x["heatmap_ratio_bbox"]) for x in rows] == [
        ("m0.5", "tit", 0.5),
        ("m0.5", "wren", 0.5),
        ("m0.75", "tit", 0.75),
        ("m0.75", "wren", 0.75),
    ]


def test_a_row_without_figures_is_not_drawn(tmp_path) -> None:
    """Reports of the papers say "n/a" there, which ended the run at its end."""
    rows = [
        {"method": "one", "heatmap_ratio_bbox": x, "heatmap_ratio_bbox_uniform": 0.2}
        for x in ("n/a", np.nan, 0.5)
    ]
    assert draw_plots(rows, {}, tmp_path) == [tmp_path / "heatmap_ratio_bbox.png"]
    assert draw_plots(rows[:2], {}, tmp_path) == []
