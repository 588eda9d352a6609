"""What MkDocs fills into pages: the public names, and all errors, from the source."""

import ast
import re
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent

# The parts of the package by what their errors are about, as the page groups them; what
# is not named stands in the last group.
ERRORS = {
    "Images and files": (
        "running/image_",
        "running/preprocessing",
        "running/data_set",
        "network/inputs",
        "network/noise",
        "drawing",
        "whole_numbers",
    ),
    "Layers and embeddings": (
        "network/",
        "running/batch",
        "embedding_cam",
        "method",
        "presets",
        "layers",
        "heatmaps",
    ),
    "Proxies and weightings": ("proxies/", "weightings/", "running/chosen", "running/"),
    "Labelled examples, boxes and masks": (
        "running/example",
        "running/labelled",
        "running/box",
        "metrics/",
        "datasets/",
        "sampling",
    ),
    "The logger and the tab": ("callbacks/", "tensorboard/", "tab_format"),
    "Retrieval": ("retrieval/", "vector_search", "unit_vectors"),
    "Evaluation": ("evaluation/",),
    "Transfer of weights": ("transfer/",),
    "Catalogues": ("catalogue/",),
    "Maps at the pixels": ("pixels",),
    "Losses": ("losses/",),
    "Commands, the demo, plots and the rest": ("cli/", "demo/", "showing", ""),
}
Spellers = dict[str, ast.expr | None]
KINDS = {"ValueError", "TypeError", "ImportError", "KeyError", "RuntimeError"}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace ``<!-- names of MODULE -->`` and ``<!-- all errors -->``."""
    markdown = re.sub(
        r"<!-- names of ([\w.]+)(?: without ([\w.]+))? -->",
        lambda found: list_names(found[1], found[2]),
        markdown,
    )
    if "<!-- all errors -->" in markdown:
        markdown = markdown.replace("<!-- all errors -->", list_errors())
    return markdown


def list_names(module: str, elsewhere: str | None) -> str:
    """Return a directive of mkdocstrings for each public name of a module.

    Args:
        module: a module or package.
        elsewhere: another one, whose names are left out.
    """
    left_out = find_names(elsewhere) if elsewhere else []
    return "\n\n".join(
        f"::: {module}.{name}" for name in find_names(module) if name not in left_out
    )


def find_names(module: str) -> list[str]:
    """Return the public names of a module or package of keras_embcam."""
    tree = ast.parse(find_source(module).read_text())
    names = find_exported(tree) or [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"
    ]
    return [name for name in names if name != "__version__"]


def find_source(module: str) -> Path:
    """Return the file of a module or package of keras_embcam."""
    path = ROOT / module.replace(".", "/").replace(
        "keras_embcam/callbacks", "callbacks"
    )
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def find_exported(tree: ast.Module) -> list[str]:
    """Return what ``__all__`` of a module holds."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(x, ast.Name) and x.id == "__all__" for x in targets):
            return ast.literal_eval(node.value)
    return []


def list_errors() -> str:
    """Return the messages of all errors and warnings by their group, as Markdown."""
    files = [*(ROOT / "keras_embcam").rglob("*.py"), *(ROOT / "callbacks").glob("*.py")]
    trees = {path: ast.parse(path.read_text()) for path in sorted(files)}
    spellers = find_spellers(trees.values())
    groups: dict[str, list[str]] = {name: [] for name in ERRORS}
    for path, tree in trees.items():
        part = str(path.relative_to(ROOT)).removeprefix("keras_embcam/")
        # The longest beginning decides: "running/box" before "running/".
        _, group = max(
            (len(start), group)
            for group, starts in ERRORS.items()
            for start in starts
            if part.startswith(start)
        )
        groups[group] += find_messages(tree, spellers)
    lines = []
    for group, messages in groups.items():
        lines += ["", f"### {group}", ""]
        lines += [f"- {escape(message)}" for message in dict.fromkeys(messages)]
    return "\n".join(lines)


def find_spellers(trees: Iterable[ast.Module]) -> Spellers:
    """Return, by name, the texts that functions of one line return, for messages."""
    spellers: Spellers = {}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and isinstance(
                node.body[-1], ast.Return
            ):
                value = node.body[-1].value
                if isinstance(value, ast.JoinedStr | ast.BinOp | ast.Constant):
                    spellers[node.name] = value
    return spellers


def find_messages(tree: ast.Module, spellers: Spellers) -> list[str]:
    """Return what a module raises and warns of, "…" for what varies."""
    messages = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            call = node.exc
            if getattr(call.func, "id", "") not in KINDS:
                continue
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn":
            call = node
        else:
            continue
        text = spell(call.args[0], spellers) if call.args else ""
        text = " ".join(text.split())
        if len(text.replace("…", "").split()) >= 4:
            messages.append(text)
    return messages


def spell(node: ast.expr | None, spellers: Spellers) -> str:
    """Return the text of a literal, with an ellipsis in place of what it holds."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(spell(x, spellers) for x in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return spell(node.left, spellers) + spell(node.right, spellers)
    if isinstance(node, ast.FormattedValue):
        return spell(node.value, spellers) if is_speller(node, spellers) else "…"
    if is_speller(node, spellers):
        return spell(spellers[name_of(node)], spellers)
    return "…"


def is_speller(node: ast.expr | None, spellers: Spellers) -> bool:
    """Return whether an expression is a call of a function that returns a text."""
    value = node.value if isinstance(node, ast.FormattedValue) else node
    return isinstance(value, ast.Call) and name_of(value) in spellers


def name_of(node: Any) -> str:
    """Return the name of the function that is called."""
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def escape(text: str) -> str:
    """Return a message as Markdown: code stays code, nothing else is markup."""
    parts = re.split(r"(`[^`]+`)", text)
    parts[::2] = [re.sub(r"([\\*_<>\[\]])", r"\\\1", part) for part in parts[::2]]
    return textwrap.shorten("".join(parts), 600, placeholder=" …")
