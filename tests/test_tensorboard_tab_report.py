"""embcam report: what is inside, what is left out, and what is refused."""

import base64
import json
import re

import pytest

from keras_embcam import tab_format
from keras_embcam.cli import main
from keras_embcam.tensorboard.plugin import STATIC
from keras_embcam.tensorboard.report import write_report


@pytest.fixture(scope="module")
def log_dir(tab_logs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    for number, name in enumerate(["a", "b<script>"]):
        tab_logs.Run(40, 20, seed=number, side=14).write(folder / name / "validation")
    return folder


def contents_of(path):
    text = path.read_text()
    (contents,) = re.findall(r'id="contents">(.*?)</script>', text)
    return json.loads(contents)


def test_everything_is_inside_below_the_size(log_dir, tmp_path, capsys):
    out = tmp_path / "report.html"
    assert main(["report", str(log_dir), "--out", str(out)]) == 0
    size = out.stat().st_size
    printed = capsys.readouterr().out.strip()
    assert printed == f"{out}: 2 run(s), 20 updates, {size / 1e6:.1f} MB"
    contents = contents_of(out)
    assert contents["note"] == ""
    assert list(contents["runs"]) == ["a/validation", "b<script>/validation"]
    for run in contents["runs"].values():
        assert [step for step, _ in run["updates"]] == list(range(20))
    assert "b<script>" not in out.read_text()


def test_of_two_trainings_in_one_folder_the_newer_is_shown(tab_logs, tmp_path):
    runs = [tab_logs.Run(3, 3), tab_logs.Run(4, 2, scene_seed=1)]
    for number, run in enumerate(runs):
        run.write(tmp_path / "logs", start=2e9 + 100 * number)
    write_report(tmp_path / "logs", tmp_path / "report.html")
    (listed,) = contents_of(tmp_path / "report.html")["runs"].values()
    assert [step for step, _ in listed["updates"]] == [0, 1]
    pages = re.findall(r'id="blob-.*?">(.*?)<', (tmp_path / "report.html").read_text())
    read = [tab_format.unpack(base64.b64decode(text)) for text in pages]
    keys = {x.meta["key"] for x in read if "key" in x.meta}
    assert keys == {runs[1].examples.key}


def test_it_asks_for_nothing_from_outside(log_dir, tmp_path):
    out = tmp_path / "report.html"
    write_report(log_dir, out)
    page = re.sub(r'<script type="text/plain".*?</script>', "", out.read_text())
    page = page.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|<link|src=|@import|url\(", page)
    assert "default-src 'none'" in page


def test_what_is_left_out_to_stay_below_a_size_is_said(log_dir, tmp_path, capsys):
    whole = write_report(log_dir, tmp_path / "whole.html")
    limit = whole.size / 1e6 - 0.2
    out = tmp_path / "smaller.html"
    command = ["report", str(log_dir), "--out", str(out)]
    assert main([*command, "--max-megabytes", str(limit)]) == 0
    printed = capsys.readouterr().out
    assert out.stat().st_size <= limit * 1e6
    contents = contents_of(out)
    assert "the maps of pairs" in contents["note"]
    found = re.search(r"(\d+) of 20 updates", contents["note"])
    num_left_out = int(found[1]) if found else 0
    for run in contents["runs"].values():
        steps = [step for step, _ in run["updates"]]
        assert len(steps) == 20 - num_left_out
        assert steps[0] == 0 and steps[-1] == 19
    assert "left out: the maps of pairs" in printed


def test_no_more_goes_than_needed(log_dir, tmp_path):
    sizes = {}
    for limit in (0.45, 0.6):
        report = write_report(log_dir, tmp_path / "report.html", limit)
        assert report.size <= limit * 1e6
        assert report.size > 0.75 * limit * 1e6
        sizes[limit] = report.num_updates
    assert 2 < sizes[0.45] < sizes[0.6] < 20


def test_what_cannot_fit_is_refused(log_dir, tmp_path, capsys):
    out = tmp_path / "report.html"
    arguments = ["report", str(log_dir), "--out", str(out), "--max-megabytes", "0.1"]
    assert main(arguments) == 2
    assert "at most 0.1 MB were asked for. Pass" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("size", ["0", "-1", "nan"])
def test_sizes_must_be_above_0(log_dir, capsys, size):
    assert main(["report", str(log_dir), "--max-megabytes", size]) == 2
    assert "--max-megabytes must be above 0. Received:" in capsys.readouterr().err


def test_a_folder_without_data_is_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path / "none")]) == 2
    assert "There is no folder" in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 2
    assert "Train with EmbeddingCAMLogger" in capsys.readouterr().err


def test_damaged_updates_are_left_out_and_named(tab_logs, tmp_path):
    run = tab_logs.Run(4, 3)
    writer = tab_logs.EventFileWriter(str(tmp_path / "run"))
    tab_logs.write_blobs(writer, tab_format.EXAMPLES_TAG, 0, run.examples.to_blobs())
    for step in range(3):
        blobs = run.make_update(step).to_blobs()
        if step == 1:
            blobs[1] = blobs[1][:-5] + b"12345"
        tab_logs.write_blobs(writer, tab_format.UPDATES_TAG, step, blobs)
    writer.close()
    report = write_report(tmp_path, tmp_path / "report.html")
    assert report.num_updates == 2
    assert report.left_out == ["step 1 of 'run': Damaged: the check sum does not fit."]


def test_the_modules_can_stand_in_one(log_dir):
    names = []
    for file in STATIC.glob("*.js"):
        text = file.read_text()
        pattern = r"^(?:export )?(?:async )?(?:const|let|function|class) (\w+)"
        names += re.findall(pattern, text, re.MULTILINE)
        assert "</script" not in text
    assert len(names) == len(set(names)), sorted(names)
    for file in STATIC.glob("*.css"):
        assert "</style" not in file.read_text()
