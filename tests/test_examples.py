"""The examples run as they stand, on few scenes; the first saves a network."""

import os
import runpy
from pathlib import Path

import pytest

from keras_embcam import datasets
from keras_embcam.datasets import digit_scenes

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
pytest.importorskip("sklearn", reason="scikit-learn is not installed (extra [demo])")
MAX_SCENES = 60


@pytest.fixture(scope="module", autouse=True)
def few_scenes():
    """That the examples run is asked here, not what their networks learn."""

    def make_few(num_scenes, **options):
        return digit_scenes(min(num_scenes, MAX_SCENES), **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "digit_scenes", make_few)
        yield


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
