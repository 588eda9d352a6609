"""The notebooks show what a run shows; the slow test runs them again."""

import importlib.util
import json
import tempfile
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def test_there_are_three():
    assert [path.name[:2] for path in NOTEBOOKS] == ["1_", "2_", "3_"]


def outputs_of(notebook):
    for cell in notebook["cells"]:
        yield from cell.get("outputs", [])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_kept_and_clean(path):
    assert path.stat().st_size < 2_000_000
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(code, 1):
        # From one run, from the first cell to the last.
        assert cell["execution_count"] == number
        compile("".join(cell["source"]), path.name, "exec")
    outputs = list(outputs_of(notebook))
    assert not [x for x in outputs if x["output_type"] == "error"]
    assert not [x for x in outputs if x.get("name") == "stderr"]
    kinds = [kind for x in outputs for kind in x.get("data", {})]
    assert {"image/png", "text/html"} & set(kinds)
    places = {str(x) for x in (Path.home(), Path(tempfile.gettempdir()), FOLDER.parent)}
    text = path.read_text()
    assert not [x for x in places if x + "/" in text]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    specification = importlib.util.spec_from_file_location("run", FOLDER / "run.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    kept = [
        len(cell.get("outputs", [])) for cell in json.loads(path.read_text())["cells"]
    ]
    again = module.run(path)  # raises where a cell does
    assert [len(cell.get("outputs", [])) for cell in again.cells] == kept
