"""Every code block of README and guide runs, and every link leads somewhere."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from keras_embcam.cli import main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Titled blocks show another library, which the environment does not have.
BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```", re.S | re.M)
BLOCKS = {
    str(path.relative_to(ROOT)): BLOCK.findall(path.read_text()) for path in PAGES
}


def load_names() -> ModuleType:
    path = Path(__file__).parent / "guide_names.py"
    specification = importlib.util.spec_from_file_location("guide_names", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def names():
    """One set of models for all pages: what is compiled once is used by all."""
    return load_names().make_names()


def test_every_block_is_of_a_language_that_is_run_here():
    found = {language for blocks in BLOCKS.values() for language, _, _ in blocks}
    assert found == {"bash", "python", "text"}
    for path in PAGES:
        marks = len(re.findall(r"^ *```", path.read_text(), re.M))
        assert marks == 2 * len(BLOCKS[str(path.relative_to(ROOT))]), path


PYTHON = {
    page: [
        text for language, title, text in blocks if language == "python" and not title
    ]
    for page, blocks in BLOCKS.items()
}


@pytest.mark.parametrize("page", [page for page, blocks in PYTHON.items() if blocks])
def test_python_blocks_run_one_after_the_other(page, names, tmp_path, monkeypatch):
    import matplotlib

    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    load_names().write_files(tmp_path)
    space = dict(names)
    for block in PYTHON[page]:
        exec(compile(block, page, "exec"), space)
    if "matplotlib.pyplot" in sys.modules:
        matplotlib.pyplot.close("all")
    written = {
        "README.md": ["best.keras", "logs/validation"],
        "docs/serve.md": ["serving_dir/saved_model.pb", "asked.keras"],
        "docs/transfer.md": ["weights.npz"],
    }
    for name in written.get(page, []):
        assert (tmp_path / name).exists()


TITLED = [
    (title, text)
    for blocks in BLOCKS.values()
    for language, title, text in blocks
    if language == "python" and title
]


@pytest.mark.parametrize("title, text", TITLED, ids=[x[0] for x in TITLED])
def test_blocks_of_other_libraries_are_python(title, text):
    compile(text, title, "exec")


SHELL = [
    (page, shlex.split(line, comments=True))
    for page, blocks in BLOCKS.items()
    for language, _, text in blocks
    if language == "bash"
    for line in text.replace("\\\n", " ").splitlines()
]
EMBCAM = {tuple(command[1:]) for _, command in SHELL if command[0] == "embcam"}


def test_make_knows_the_targets():
    targets = {tuple(command[1:]) for _, command in SHELL if command[0] == "make"}
    assert targets
    for target in sorted(targets):
        subprocess.run(["make", "-n", *target], cwd=ROOT, check=True)


def test_the_first_commands_run_as_written(names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load_names().write_files(tmp_path)
    names["model"].save("model.keras")
    commands = [
        command[1:]
        for page, command in SHELL
        if page in ("README.md", "docs/index.md")
        and command[:2] in (["embcam", "explain"], ["embcam", "inspect"])
    ]
    assert len(commands) == 3
    for command in commands:
        assert main(command) == 0
    assert (tmp_path / "heatmaps" / "photo_heatmap.png").exists()


@pytest.mark.parametrize("command", sorted(EMBCAM), ids=" ".join)
def test_embcam_knows_the_arguments(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # An unknown argument would end the process; here only the files are missing.
    assert main(command) == 2
    missing = capsys.readouterr().err
    assert re.search(r"There is no|must exist|CUB_FOLDER", missing), missing


def test_tensorboard_takes_the_arguments_as_written():
    from tensorboard import default
    from tensorboard.program import TensorBoard

    for command in {tuple(x) for _, x in SHELL if x[0] == "tensorboard"}:
        TensorBoard(default.get_plugins()).configure(command)


def test_python_commands_name_modules_and_files_that_exist():
    for _, command in SHELL:
        if command[0] == "python" and command[1] == "-m":
            path = ROOT / command[2].replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists()
        elif command[0] == "python":
            assert (ROOT / command[1]).exists()


def test_extras_that_are_named_exist():
    text = "".join(path.read_text() for path in PAGES)
    extras = {
        x for found in re.findall(r"`\[([a-z,]+)\]`", text) for x in found.split(",")
    }
    section = (ROOT / "setup.cfg").read_text().split("[options.extras_require]")[1]
    assert extras
    for extra in extras:
        assert f"\n{extra} =\n" in section


def test_no_other_command_is_left():
    known = {"make", "embcam", "tensorboard", "python", "pip"}
    assert {command[0] for _, command in SHELL} == known


LINK = re.compile(r"(?<!`)\]\(([^)\s]+)\)")


@pytest.mark.parametrize("path", PAGES, ids=lambda x: str(x.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    # MkDocs checks those of the guide once more, with the places inside pages.
    for link in LINK.findall(path.read_text()):
        assert "://" not in link, link
        assert (path.parent / link.partition("#")[0]).exists(), link


def test_the_readme_fits_about_one_screen():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
