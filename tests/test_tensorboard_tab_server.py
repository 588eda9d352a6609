"""The server part of the tab, through TensorBoard's own application."""

import importlib.metadata
import shutil
import subprocess
import sys
import time
from argparse import Namespace

import pytest
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from werkzeug.test import Client

from keras_embcam import tab_format
from keras_embcam.tensorboard.plugin import STATIC, EmbCAMLoader

PREFIX = "/data/plugin/embcam"
LABEL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def start(tab_logs):
    """Return what makes a client of TensorBoard's application."""

    def start(log_dir, fast):
        app, board = tab_logs.make_application(log_dir, fast)
        client = Client(app)
        client.board = board  # the data server ends when it is collected
        return client

    return start


def wait_for(condition, seconds=30):
    """Return what a function returns once it is true."""
    for _ in range(seconds * 10):
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s")


def list_runs(client):
    return client.get(f"{PREFIX}/runs").get_json()["runs"]


def read(client, run, part="figures", tag=tab_format.UPDATES_TAG, **more):
    query = {"run": run, "tag": tag, "part": part, **more}
    return client.get(f"{PREFIX}/blobs", query_string=query)


def split(data):
    found, start = {}, 0
    while start < len(data):
        step = int.from_bytes(data[start : start + 8], "little", signed=True)
        length = int.from_bytes(data[start + 8 : start + 16], "little")
        found[step] = data[start + 16 : start + 16 + length]
        start += 16 + length + -length % 8
    return found


@pytest.fixture(scope="module")
def made(tab_logs, tmp_path_factory):
    """Two runs of 30 updates, one with a hostile label, and one of another plugin."""
    folder = tmp_path_factory.mktemp("logs")
    runs = {
        "a/validation": tab_logs.Run(12, 30),
        "b": tab_logs.Run(12, 30, skill=0.2, seed=1, labels=["x", LABEL]),
    }
    updates = {name: run.write(folder / name) for name, run in runs.items()}
    writer = EventFileWriter(str(folder / "others"))
    value = summary_pb2.Summary.Value(tag="loss", simple_value=1.0)
    summary = summary_pb2.Summary(value=[value])
    writer.add_event(event_pb2.Event(step=0, wall_time=1.0, summary=summary))
    writer.close()
    return folder, runs, updates


@pytest.fixture(scope="module", params=["true", "false"], ids=["fast", "slow"])
def client(request, made, start):
    client = start(made[0], request.param)
    wait_for(
        lambda: [len(x["updates"]) for x in list_runs(client).values()] == [30] * 2
    )
    return client


def test_runs_and_all_their_steps_are_listed(client):
    answer = client.get(f"{PREFIX}/runs")
    assert answer.mimetype == "application/json"
    found = answer.get_json()
    assert found["version"] == tab_format.VERSION
    assert list(found["runs"]) == ["a/validation", "b"]
    for run in found["runs"].values():
        assert run["examples"] == [0]
        assert [step for step, _ in run["updates"]] == list(range(30))
        assert run["updates"][3][1] == 1e9 + 3


def test_blobs_come_as_they_were_written(client, made):
    _, runs, updates = made
    for name, run in runs.items():
        for number, part in enumerate(("figures", "maps", "pairs")):
            found = split(read(client, name, part).data)
            expected = {i: x.to_blobs()[number] for i, x in enumerate(updates[name])}
            assert found == expected
        for number, part in enumerate(("examples", "thumbnails")):
            found = split(read(client, name, part, tab_format.EXAMPLES_TAG).data)
            assert found == {0: run.examples.to_blobs()[number]}


def test_steps_can_be_chosen(client, made):
    found = split(read(client, "b", "maps", steps="3,29,77").data)
    assert list(found) == [3, 29]
    assert found[29] == made[2]["b"][29].to_blobs()[1]
    assert split(read(client, "b", "maps", steps="77").data) == {}


@pytest.mark.parametrize(
    "question",
    [
        {"run": "c"},
        {"run": "others"},
        {"run": "../a/validation"},
        {"run": "a/validation/../../b"},
        {"run": "b", "tag": "loss"},
        {"run": "b", "tag": "embcam/examples"},
        {"run": "b", "part": "thumbnails"},
        {"run": "b", "part": "../maps"},
        {"run": ""},
    ],
)
def test_what_is_not_there_is_404_without_a_traceback(client, question):
    answer = read(client, **question)
    assert answer.status_code == 404
    assert answer.mimetype == "text/plain"
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("query", ["", "run=b", "run=b&tag=embcam/updates&steps=1"])
def test_incomplete_questions_are_400(client, query):
    answer = client.get(f"{PREFIX}/blobs?{query}")
    assert answer.status_code == 400
    assert "Pass run, tag and part" in answer.text
    assert read(client, "b", steps="1,x").status_code == 400


def test_the_page_is_served_file_by_file(client):
    for file in STATIC.iterdir():
        answer = client.get(f"{PREFIX}/{file.name}")
        assert answer.status_code == 200
        assert answer.data == file.read_bytes()
        kind = {".js": "text/javascript", ".css": "text/css"}[file.suffix]
        assert answer.mimetype == kind


@pytest.mark.parametrize(
    "path",
    [
        "/nothing.js",
        "/../plugin.py",
        "/..%2fplugin.py",
        "/%2e%2e/plugin.py",
        "/static/index.js",
        "//etc/passwd",
        "/index.js/../../plugin.py",
    ],
)
def test_paths_from_outside_open_nothing(client, path):
    assert client.get(PREFIX + path).status_code == 404


def test_tensorboard_lists_the_tab_as_active(client):
    listed = client.get("/data/plugins_listing").get_json()["embcam"]
    assert listed["enabled"] and listed["tab_name"] == "EmbeddingCAM"
    assert listed["loading_mechanism"]["type"] == "IFRAME"
    assert client.get("/data/plugin_entry.html?name=embcam").status_code == 200


@pytest.mark.parametrize("fast", ["true", "false"])
def test_logs_without_data_leave_the_tab_inactive(tmp_path, made, start, fast):
    shutil.copytree(made[0] / "others", tmp_path / "others")
    client = start(tmp_path, fast)
    wait_for(lambda: client.get("/data/runs").get_json() == ["others"])
    assert list_runs(client) == {}
    assert not client.get("/data/plugins_listing").get_json()["embcam"]["enabled"]


@pytest.mark.parametrize("fast", ["true", "false"])
def test_of_two_trainings_in_one_folder_the_newer_is_shown(
    tmp_path, tab_logs, start, fast
):
    runs = [tab_logs.Run(3, 3), tab_logs.Run(4, 2, scene_seed=1)]
    for number, run in enumerate(runs):
        updates = run.write(tmp_path / "run", start=2e9 + 100 * number)
    client = start(tmp_path, fast)
    expected = [[0, 2e9 + 100], [1, 2e9 + 101]]
    wait_for(lambda: list_runs(client).get("run", {}).get("updates") == expected)
    assert list_runs(client)["run"]["examples"] == [0]
    found = split(read(client, "run").data)
    assert found == {i: x.to_blobs()[0] for i, x in enumerate(updates)}
    found = split(read(client, "run", "examples", tab_format.EXAMPLES_TAG).data)
    assert found == {0: runs[1].examples.to_blobs()[0]}


@pytest.mark.parametrize("fast", ["true", "false"])
def test_growing_logs_and_later_runs_are_seen(tmp_path, tab_logs, start, fast):
    run = tab_logs.Run(6, 9)
    writer = EventFileWriter(str(tmp_path / "run"))
    tab_logs.write_blobs(writer, tab_format.EXAMPLES_TAG, 0, run.examples.to_blobs())
    blobs = run.make_update(0).to_blobs()
    tab_logs.write_blobs(writer, tab_format.UPDATES_TAG, 0, blobs)
    writer.flush()
    client = start(tmp_path, fast)
    wait_for(lambda: list_runs(client).get("run", {}).get("updates"))
    blobs = run.make_update(1).to_blobs()
    tab_logs.write_blobs(writer, tab_format.UPDATES_TAG, 1, blobs)
    writer.flush()
    run.write(tmp_path / "later", epochs=[4])
    wait_for(lambda: len(list_runs(client)["run"]["updates"]) == 2)
    wait_for(lambda: "later" in list_runs(client))
    assert split(read(client, "run", steps="1").data)[1] == blobs[0]
    writer.close()


@pytest.mark.parametrize("fast", ["true", "false"])
def test_damaged_and_newer_blobs_do_not_stop_the_others(
    tmp_path, tab_logs, start, fast
):
    run = tab_logs.Run(6, 3)
    writer = EventFileWriter(str(tmp_path / "run"))
    tab_logs.write_blobs(writer, tab_format.EXAMPLES_TAG, 0, run.examples.to_blobs())
    good = run.make_update(0).to_blobs()
    newer = [x[:6] + (9).to_bytes(2, "little") + x[8:] for x in good]
    for step, blobs in enumerate([good, [b"\xff\x00", b"", b""], [good[0]], newer]):
        tab_logs.write_blobs(writer, tab_format.UPDATES_TAG, step, blobs)
    writer.close()
    client = start(tmp_path, fast)
    wait_for(lambda: len(list_runs(client).get("run", {}).get("updates", [])) == 4)
    figures = split(read(client, "run").data)
    assert figures == {0: good[0], 1: b"\xff\x00", 2: good[0], 3: newer[0]}
    # A sequence that is too short has no maps; the others have theirs.
    assert list(split(read(client, "run", "maps").data)) == [0, 1, 3]


def test_deleted_runs_are_404(tmp_path, tab_logs, start):
    run = tab_logs.Run(6, 2)
    for name in ("kept", "deleted"):
        run.write(tmp_path / name)
    client = start(tmp_path, "true")
    wait_for(lambda: len(list_runs(client)) == 2)
    shutil.rmtree(tmp_path / "deleted")
    wait_for(lambda: list(list_runs(client)) == ["kept"])
    assert read(client, "deleted").status_code == 404
    assert len(split(read(client, "kept").data)) == 2


def test_all_steps_are_kept_unless_the_user_says_otherwise():
    flags = Namespace(samples_per_plugin={"images": 5})
    EmbCAMLoader().fix_flags(flags)
    assert flags.samples_per_plugin == {"images": 5, "embcam": 0}
    flags = Namespace(samples_per_plugin={"embcam": 7})
    EmbCAMLoader().fix_flags(flags)
    assert flags.samples_per_plugin == {"embcam": 7}
    EmbCAMLoader().fix_flags(Namespace())  # of an older or newer TensorBoard


def test_the_installed_package_announces_the_tab(tab_logs):
    entries = importlib.metadata.entry_points(group="tensorboard_plugins")
    assert "keras_embcam.tensorboard.plugin:EmbCAMLoader" in {x.value for x in entries}
    assert tab_logs.own_loaders() == [EmbCAMLoader]


def test_loading_the_plugin_does_not_import_tensorflow():
    code = (
        "import sys\n"
        "from importlib.metadata import entry_points\n"
        "[x.load() for x in entry_points(group='tensorboard_plugins')"
        " if x.name == 'embcam']\n"
        "found = {'tensorflow', 'keras', 'cv2'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
