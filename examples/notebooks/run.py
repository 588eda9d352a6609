"""Run the notebooks and keep their outputs.

    python examples/notebooks/run.py        # all of them, in place
    python examples/notebooks/run.py 2_train_watch_find_a_shortcut.ipynb

Needs nbclient and ipykernel (extra [dev]).
"""

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent


def run(path: Path) -> Any:
    """Return a notebook with the outputs of a new run, in a folder of its own."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(
            notebook, timeout=900, kernel_name="python3", resources=resources
        ).execute()
    return clean(notebook)


def clean(notebook: Any) -> Any:
    """Leave out what differs from run to run, or tells of the machine."""
    notebook.metadata = {
        "kernelspec": {
            "display_name": "Python 3",
            "language": "python",
            "name": "python3",
        },
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = {}
        outputs = cell.get("outputs", [])
        if cell.cell_type == "code":
            # Without TensorFlow's log of its start.
            cell.outputs = join([x for x in outputs if x.get("name") != "stderr"])
            for output in cell.outputs:
                if "text/html" in output.get("data", {}):
                    # The same as text is thousands of numbers.
                    output.data.pop("text/plain", None)
                if "text" in output:
                    # A progress bar writes its line again and again.
                    output.text = re.sub(r"[^\n]*[\r\x08]", "", output.text)
    return notebook


def join(outputs: list[Any]) -> list[Any]:
    """Return outputs with what was printed in several pieces as one."""
    joined: list[Any] = []
    for output in outputs:
        if joined and output.output_type == joined[-1].output_type == "stream":
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


if __name__ == "__main__":
    names = sys.argv[1:] or sorted(x.name for x in FOLDER.glob("*.ipynb"))
    for name in names:
        nbformat.write(run(FOLDER / name), FOLDER / name)
        print(name, (FOLDER / name).stat().st_size // 1000, "kB")
