"""The reference shows every public name, and every public name says what it is."""

import ast
import importlib
import importlib.util
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# As the filters of mkdocs.yml.
CALLED_BY_KERAS = re.compile(
    "build|call|compute_output_|get_config|from_config|on_|update_state|result|reset_"
)
SHOWN = {
    module
    for page in (ROOT / "docs" / "reference").glob("*.md")
    for module in re.findall(r"<!-- names of ([\w.]+)", page.read_text())
}


def load(name):
    path = ROOT / "docs" / f"{name}.py"
    specification = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def hooks():
    return load("site_hooks")


def test_what_users_are_told_to_import_from_is_shown():
    files = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    files += [*(ROOT / "examples").rglob("*.py"), *(ROOT / "examples").rglob("*.ipynb")]
    text = "".join(path.read_text() for path in files)
    told = set(re.findall(r"from (keras_embcam[\w.]*) import", text))
    assert told <= SHOWN


def test_the_reference_shows_every_public_package():
    packages = {f"keras_embcam.{x.parent.name}" for x in ROOT.glob("*/*/__init__.py")}
    internal = {"cli", "demo", "network", "running", "tensorboard"}
    named = packages - {f"keras_embcam.{x}" for x in internal}
    assert {x for x in named if (ROOT / x.replace(".", "/")).is_dir()} <= SHOWN
    assert "keras_embcam.callbacks" in SHOWN


@pytest.mark.parametrize("module", sorted(SHOWN))
def test_every_public_name_has_a_docstring(module, hooks):
    found = hooks.find_names(module)
    assert found
    for name in found:
        value = getattr(importlib.import_module(module), name)
        if not (inspect.isroutine(value) or inspect.isclass(value)):
            continue  # a table such as METHODS, or the name of a type
        assert len(value.__doc__ or "") > 30, name
        for part, member in vars(value).items() if inspect.isclass(value) else ():
            is_method = inspect.isfunction(member) or isinstance(member, property)
            if is_method and part[0] != "_" and not CALLED_BY_KERAS.match(part):
                assert inspect.getdoc(member), f"{name}.{part}"


@pytest.mark.parametrize("module", sorted(SHOWN))
def test_every_function_says_what_it_returns(module, hooks):
    for name in hooks.find_names(module):
        value = getattr(importlib.import_module(module), name)
        if not inspect.isfunction(value):
            continue
        returned = inspect.signature(value).return_annotation
        if returned not in (None, "None", inspect.Signature.empty):
            text = inspect.getdoc(value)
            assert re.search(r"^Return|^Yield|Returns:|Yields:|Returns a ", text), name


def test_all_errors_are_listed(hooks):
    text = hooks.list_errors()
    for words in (
        "has a fixed length: it is normalised",
        "was built inside a `keras.RematScope`",
        "Pass `output_signature` to `from_generator`",
        "seems to take another range",
    ):
        assert words in text
    assert text.count("\n- ") > 300


def test_messages_are_read_as_they_are_raised(hooks):
    tree = ast.parse(
        """
def explain_it(x):
    return f"It must be {x} and not less"

def check(value):
    if value < 0:
        raise ValueError("`value` must be " + f"at least 0. Received: {value!r}")
    warnings.warn(explain_it(3))
    raise TypeError(message)
"""
    )
    found = hooks.find_messages(tree, hooks.find_spellers([tree]))
    assert set(found) == {
        "`value` must be at least 0. Received: …",
        "It must be … and not less",
    }


def test_tables_of_docstrings_become_markdown():
    pytest.importorskip("griffe", reason="mkdocstrings is not installed (extra [docs])")
    table = (
        "===  =====\nrun  what\n===  =====\na    first\n     line\nb    c\n===  ====="
    )
    found = load("example_sections").to_markdown(table)
    assert found == "| run | what |\n| --- | --- |\n| a | first line |\n| b | c |"
