"""How the reference reads docstrings: sections of examples, and tables."""

import re
import textwrap
from typing import Any

import griffe


class ExampleSections(griffe.Extension):
    """Make "Example:", the last section, griffe's own, and tables blocks of code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of an object."""
        if obj.docstring is None:
            return
        text, mark, examples = obj.docstring.value.partition("\nExample:\n")
        # From the first line of "=" to the last one.
        text = re.sub(
            r"^(==[= ]+\n.*\n==[= ]+)$",
            lambda table: f"```text\n{table[1]}\n```",
            text,
            flags=re.MULTILINE | re.DOTALL,
        )
        if mark:
            code = textwrap.indent(textwrap.dedent(examples).strip("\n"), "    ")
            text += f"\nExamples:\n{code}"
        obj.docstring.value = text
