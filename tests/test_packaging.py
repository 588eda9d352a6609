"""What is declared is what is there."""

import configparser
import importlib
import importlib.metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
PACKAGES = SETUP["options"]["packages"].split()


def folder_of(package):
    if package == "keras_embcam.callbacks":
        return ROOT / "callbacks"
    return ROOT / package.replace(".", "/")


def test_the_list_of_packages_is_the_folders_on_disk():
    files = [*(ROOT / "keras_embcam").rglob("__init__.py")]
    on_disk = {".".join(x.parent.relative_to(ROOT).parts) for x in files}
    assert {*PACKAGES} == on_disk | {"keras_embcam.callbacks"}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_is_in_the_installed_package(package):
    installed = Path(importlib.import_module(package).__file__).parent
    modules = {x.name for x in folder_of(package).glob("*.py")}
    assert modules <= {x.name for x in installed.glob("*.py")}


def test_the_page_of_the_tab_is_in_the_installed_package():
    installed = Path(importlib.import_module("keras_embcam.tensorboard").__file__)
    files = {x.name for x in (ROOT / "keras_embcam/tensorboard/static").iterdir()}
    assert "index.js" in files
    assert files == {x.name for x in (installed.parent / "static").iterdir()}


def test_the_version_is_that_of_the_metadata():
    import keras_embcam

    assert importlib.metadata.version("keras-embcam") == keras_embcam.__version__


def test_the_package_says_that_it_is_typed():
    import keras_embcam

    assert (Path(keras_embcam.__file__).parent / "py.typed").exists()
