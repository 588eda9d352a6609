"""Who may use whom: no circle, and nothing below knows what stands above it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Modules and packages that import nothing else of keras_embcam.
LEAVES = {
    "proxies",
    "weightings",
    "heatmaps",
    "drawing",
    "losses",
    "layers",
    "sampling",
    "datasets",
    "vector_search",
    "tab_format",
}
# The small modules that every part may share.
SHARED = {"extras", "keras_private", "resizing", "unit_vectors", "whole_numbers"}
# These stand on top: nothing in the package imports them when it is imported.
TOP = {"callbacks", "cli", "demo", "tensorboard", "__main__"}


def source_files():
    yield from ((ROOT / "keras_embcam").rglob("*.py"))
    yield from (ROOT / "callbacks").rglob("*.py")


def part_of(path):
    """The module or package directly under keras_embcam that a file belongs to."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] == "callbacks" else parts[1]


def imports_of(path, everywhere=False):
    """The parts of keras_embcam that a file imports, at its top or anywhere."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if everywhere else tree.body
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module]
            if node.module == "keras_embcam":
                names = [f"keras_embcam.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("keras_embcam."):
                found.add(name.split(".")[1])
    return found - {part_of(path)} - SHARED


GRAPH: dict[str, set[str]] = {}
for file in source_files():
    GRAPH.setdefault(part_of(file), set()).update(imports_of(file))


@pytest.mark.parametrize("leaf", sorted(LEAVES))
def test_leaves_import_nothing_of_the_package(leaf):
    assert GRAPH[leaf] == set()


def test_metrics_know_heatmaps_and_neighbors_only():
    assert GRAPH["metrics"] <= {"heatmaps", "vector_search"}


@pytest.mark.parametrize("part", sorted(set(GRAPH) - TOP))
def test_nothing_below_imports_what_stands_on_top(part):
    for path in source_files():
        if part_of(path) == part:
            assert not imports_of(path, everywhere=True) & TOP, path


def test_no_circle():
    finished: set[str] = set()

    def visit(part, above):
        assert part not in above, " -> ".join([*above, part])
        if part not in finished:
            for other in GRAPH.get(part, ()):
                visit(other, [*above, part])
            finished.add(part)

    for part in GRAPH:
        visit(part, [])


def test_the_tape_lives_in_few_places():
    tapes = {
        str(x.relative_to(ROOT))
        for x in source_files()
        if "GradientTape" in x.read_text()
    }
    assert tapes == {
        "keras_embcam/network/recording.py",
        "keras_embcam/proxies/elementary.py",
    }


def test_public_names_are_imported_on_first_use():
    """So that commands and TensorBoard start without TensorFlow."""
    code = """
import sys
import keras_embcam, keras_embcam.cli
heavy = {"tensorflow", "keras", "cv2", "numpy"} & set(sys.modules)
assert not heavy, heavy
assert set(keras_embcam.__all__) <= set(dir(keras_embcam))
import keras_embcam.explain_at_once
from keras_embcam import explain
assert callable(explain)
try:
    keras_embcam.explian
except AttributeError as error:
    assert "explian" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_that_keras_keeps_for_itself_stand_in_one_file():
    names = ("._flatten_layers", "._called", "._losses", "_remat_mode")
    for path in source_files():
        if path.name != "keras_private.py":
            found = [name for name in names if name in path.read_text()]
            assert not found, f"{path}: {found}"
