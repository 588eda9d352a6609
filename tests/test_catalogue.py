"""Catalogues on Ray: killed actors and drivers lose nothing and do nothing twice."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from builders import encode_image
from keras import layers

from keras_embcam import explain
from keras_embcam.catalogue import CatalogueCounts, explain_catalogue
from keras_embcam.cli import main
from keras_embcam.heatmaps import find_boxes
from keras_embcam.running.image_files import list_files

ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")
pytest.importorskip("ray.data", reason="the extra [ray] is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")

SIZE = 16
SMALL = {"include_dashboard": False, "object_store_memory": 80 * 2**20}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """A small one for all tests; the GPU is not there, but Ray counts it."""
    started = not ray.is_initialized()
    if started:
        ray.init(num_cpus=2, num_gpus=1, log_to_driver=False, **SMALL)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    if started:
        ray.shutdown()


@pytest.fixture(scope="module")
def model_path(tmp_path_factory) -> Path:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(6, 3, 2, "same", activation="relu", name="first"),
            layers.Conv2D(6, 3, padding="same", activation="relu", name="last"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4),
        ]
    )
    path = tmp_path_factory.mktemp("model") / "model.keras"
    model.save(path)
    return path


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """Twenty images, and the beginning of one."""
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "more").mkdir()
    for seed in range(20):
        name = f"{seed:02}.png" if seed % 2 else f"more/{seed:02}.png"
        (folder / name).write_bytes(encode_image(seed))
    (folder / "07b.png").write_bytes(encode_image(7)[:200])
    return folder


def read_rows(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder).to_pylist()


def find_parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


def list_names(folder: Path) -> list[str]:
    """Return the ids of the images, in their order in the catalogue."""
    return [x.relative_to(folder).as_posix() for x in list_files(folder)]


def identify(files: Any) -> dict[Path, tuple]:
    """Return what changes if a file is written again."""
    return {x: (x.stat().st_ino, x.stat().st_mtime_ns) for x in files}


def wait_for(condition: Callable[[], Any], seconds: float = 400) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.005)


# Where `take_part` leaves the number of its process; sent along with it.
PROCESSES = Path()


def take_part(images: Any) -> Any:
    """Halve the pixels, slowly, once there have been two processes."""
    (PROCESSES / str(os.getpid())).touch()
    while len(list(PROCESSES.iterdir())) < 2:
        time.sleep(0.01)
    time.sleep(0.4)
    return images / 2


# Two actors, of which one is killed


@pytest.fixture(scope="module")
def explained(model_path, photographs, tmp_path_factory) -> Path:
    global PROCESSES
    PROCESSES = tmp_path_factory.mktemp("processes")
    folder = tmp_path_factory.mktemp("killed_actor") / "explained"
    killed, finished = [], {}

    def kill() -> None:
        def started(path: Path) -> int:
            return path.stat().st_mtime_ns

        def latest() -> Path:
            return max(PROCESSES.iterdir(), key=started)

        wait_for(lambda: find_parts(folder))
        first = min(map(started, find_parts(folder)))
        # In the middle of the next part: what it does is not finished.
        wait_for(lambda: started(latest()) > first)
        finished.update(identify(find_parts(folder)))
        killed.append(latest())
        os.kill(int(killed[0].name), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    counts = explain_catalogue(
        model_path,
        photographs,
        folder,
        num_actors=2,
        images_per_part=2,
        preprocessing_function=take_part,
    )
    killer.join()
    assert counts == CatalogueCounts(21, 1)
    assert len(killed) == 1 and 1 <= len(finished) < 11 == len(find_parts(folder))
    assert identify(finished) == finished
    return folder


def test_two_worked_and_another_came(explained) -> None:
    assert len(list(PROCESSES.iterdir())) == 3


def test_every_image_is_there_once(explained, photographs) -> None:
    assert [row["id"] for row in read_rows(explained)] == list_names(photographs)
    left = {*explained.iterdir()} - {*find_parts(explained)}
    assert left == {explained / "_manifest.json"}


def test_results_are_those_of_explain(explained, model_path, photographs):
    rows = [row for row in read_rows(explained) if row["error"] is None]
    model = keras.models.load_model(model_path)
    paths = [photographs / row["id"] for row in rows]
    options = {"preprocessing_function": lambda x: x / 2}
    expected = explain(model, paths, details=True, **options)
    coarse = explain(model, paths, resize=False, **options)
    embeddings = [row["embedding"] for row in rows]
    np.testing.assert_allclose(embeddings, expected.embeddings, atol=1e-6)
    boxes = [row["box"] for row in rows]
    assert Counter(map(type, boxes)) == {list: 20}
    np.testing.assert_allclose(boxes, find_boxes(expected.heatmaps) / SIZE, atol=1e-6)
    for row, heatmap in zip(rows, coarse, strict=True):
        encoded = np.frombuffer(row["heatmap"], "uint8")
        levels = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
        assert levels.dtype == np.uint8 and levels.shape == heatmap.shape == (8, 8)
        np.testing.assert_allclose(levels / 255, heatmap, atol=0.51 / 255)
    assert {row["ratio"] for row in rows} == {None}


def test_the_damaged_image_has_an_error_and_nothing_else(explained) -> None:
    (row,) = [row for row in read_rows(explained) if row["error"] is not None]
    assert row.pop("id") == "07b.png"
    assert row.pop("error").startswith("Cannot read the image: ")
    assert {*row.values()} == {None}


# A driver that is killed


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("killed_driver") / "explained"


@pytest.fixture(scope="module")
def finished(interrupted, model_path, photographs) -> dict[Path, tuple]:
    """The parts that were complete when the driver was killed."""
    code = """
        import sys
        from keras_embcam.catalogue import explain_catalogue
        explain_catalogue(*sys.argv[1:], images_per_part=1)
    """
    driver = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)]
        + [str(x) for x in (model_path, photographs, interrupted)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # It starts a Ray of its own, which is to be small too.
        env={
            **{x: y for x, y in os.environ.items() if x != "RAY_ADDRESS"},
            "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(80 * 2**20),
        },
    )
    try:
        wait_for(lambda: find_parts(interrupted) or driver.poll() is not None)
    finally:
        driver.kill()
        driver.wait()
    # Its actor ends with it; what it does last is not to be missed here.
    time.sleep(1)
    assert 1 <= len(find_parts(interrupted)) < 21
    (interrupted / ".part-000020.parquet.0.unfinished").write_bytes(b"PAR1")
    return identify(find_parts(interrupted))


@pytest.fixture(scope="module")
def resumed(finished, interrupted, model_path, photographs) -> Path:
    """Gone on with, by an actor with a GPU that only Ray believes in."""
    counts = explain_catalogue(
        model_path, photographs, interrupted, images_per_part=1, num_gpus=1
    )
    assert counts == CatalogueCounts(21, 1)
    return interrupted


def test_it_goes_on_where_it_stopped(finished, resumed, photographs) -> None:
    assert identify(finished) == finished
    assert [row["id"] for row in read_rows(resumed)] == list_names(photographs)
    left = {*resumed.iterdir()} - {*find_parts(resumed)}
    assert left == {resumed / "_manifest.json"}


def test_what_is_finished_is_not_begun_again(
    resumed, model_path, photographs, monkeypatch, capsys
) -> None:
    before = identify(find_parts(resumed))
    monkeypatch.setattr(ray.data, "from_items", None)
    command = ["explain-catalogue", model_path, photographs, "--out", resumed]
    command = [*map(str, command), "--images-per-part", "1"]
    assert main([*command, "--batch-size", "5", "--num-actors", "3"]) == 0
    assert capsys.readouterr().out == f"{resumed}: 21 images, 1 with an error\n"
    assert main([*command, "--pixel-range", "0,1"]) == 2
    assert "preprocessing_function was None and is '0,1'" in capsys.readouterr().err
    assert identify(find_parts(resumed)) == before


def end_process(images: Any) -> Any:
    """End it at the photograph that is all white."""
    if images.min() == 255:
        os._exit(1)
    return images


def test_a_part_that_kills_its_process_is_named_and_the_others_are_finished(
    model_path, tmp_path
) -> None:
    for number in range(3):
        picture = np.full((20, 30, 3), 255, np.uint8) if not number else None
        encoded = encode_image(number) if number else tf.io.encode_png(picture).numpy()
        (tmp_path / f"{number}.png").write_bytes(encoded)
    folder = tmp_path.with_name(f"{tmp_path.name}_explained")
    with pytest.raises(RuntimeError, match=r"1 of 3 parts .* 4 times.*\['0.png'\]"):
        explain_catalogue(
            model_path,
            tmp_path,
            folder,
            images_per_part=1,
            preprocessing_function=end_process,
        )
    assert [row["id"] for row in read_rows(folder)] == ["1.png", "2.png"]


def test_what_is_wrong_with_all_images_ends_the_run(
    model_path, photographs, tmp_path
) -> None:
    with pytest.raises(ValueError, match="'nowhere'.*\n?.*last"):
        explain_catalogue(model_path, photographs, tmp_path, conv_layer="nowhere")
    assert not find_parts(tmp_path)
