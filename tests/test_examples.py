"""The examples run as they stand; the first one saves the network of the others."""

import os
import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
pytest.importorskip("sklearn", reason="scikit-learn is not installed (extra [demo])")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    run(EXAMPLES[0], folder)
    return folder


def run(path, folder):
    before = Path.cwd()
    os.chdir(folder)
    try:
        runpy.run_path(str(path), run_name="__main__")
    finally:
        os.chdir(before)


def test_train_and_watch(folder):
    assert (folder / "logs" / "train_and_watch" / "best.keras").exists()


@pytest.mark.parametrize("path", EXAMPLES[1:], ids=lambda path: path.stem)
def test_example(path, folder):
    if "keras_hub" in path.read_text():
        pytest.importorskip("keras_hub", reason="keras-hub is not there (extra [hub])")
    before = set((folder / "logs").iterdir())
    run(path, folder)
    # A picture, a table, an exported model or the logs of a training.
    assert set((folder / "logs").iterdir()) - before
