"""How the reference reads docstrings: sections of examples, and tables."""

import re
import textwrap
from typing import Any

import griffe

# From a line of "=" to the last one.
TABLE = re.compile(r"^==[= ]+\n.*\n==[= ]+$", re.MULTILINE | re.DOTALL)


class ExampleSections(griffe.Extension):
    """Make "Example:", the last section, griffe's own, and tables Markdown's."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of an object."""
        if obj.docstring is None:
            return
        text, mark, examples = obj.docstring.value.partition("\nExample:\n")
        text = TABLE.sub(lambda found: to_markdown(found[0]), text)
        if mark:
            code = textwrap.indent(textwrap.dedent(examples).strip("\n"), "    ")
            text += f"\nExamples:\n{code}"
        obj.docstring.value = text


def to_markdown(table: str) -> str:
    """Return a table between lines of "=" as Markdown.

    A line without a first cell goes on with the one above it.
    """
    border, *lines = table.split("\n")
    starts = [found.start() for found in re.finditer("=+", border)]
    places = [slice(*x) for x in zip(starts, [*starts[1:], None], strict=True)]
    rows: list[list[str]] = []
    for line in lines:
        cells = [line[place].strip() for place in places]
        if line.startswith("=="):
            continue
        if cells[0] or not rows:
            rows.append(cells)
        else:
            rows[-1] = [
                f"{a} {b}".strip() for a, b in zip(rows[-1], cells, strict=True)
            ]
    rows.insert(1, ["---"] * len(places))
    if not lines[1].startswith("=="):  # a table without a header
        rows = [[""] * len(places), rows[1], rows[0], *rows[2:]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
