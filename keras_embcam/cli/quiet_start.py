"""Import TensorFlow without the lines that it prints on every start."""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

# A log line of absl ("I0000 00:00:17...") or of older versions ("2026-... : I tensor").
PREFIX = re.compile(r"([IWEF])\d{4} |\d{4}-\d\d-\d\d [\d:.]+: ([IWEF]) ")
HARMLESS = (
    "All log messages before absl::InitializeLog()",
    # Several parts of a GPU build register the same libraries.
    "Unable to register cu",
    "computation placer already registered",
)
NO_DRIVERS = "Could not find cuda drivers"


def import_tensorflow_quietly(uses_devices: bool) -> None:
    """Import TensorFlow and let it look for its devices, showing only real warnings.

    ``TF_CPP_MIN_LOG_LEVEL`` does not reach the first lines, which are printed before
    TensorFlow's log is set up. At level 0 everything is shown.
    """
    level = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    if "tensorflow" in sys.modules or level == "0":
        return
    with _filtered_stderr():
        import tensorflow as tf

        if uses_devices:  # what looks for a GPU may take all its memory
            tf.config.list_logical_devices()


def drop_information(text: str) -> str:
    """Return the lines of a log but for information and what is known as harmless."""
    harmless = HARMLESS + (("failed call to cuInit",) if NO_DRIVERS in text else ())
    kept, is_kept = [], True
    for line in text.splitlines(keepends=True):
        prefix = PREFIX.match(line)
        if any(part in line for part in harmless):
            is_kept = False
        elif prefix:
            is_kept = "I" not in prefix.groups()
        # Other lines go on with what began before them.
        if is_kept:
            kept.append(line)
    return "".join(kept)


@contextmanager
def _filtered_stderr() -> Iterator[None]:
    """Collect what this process writes to the file descriptor 2, and filter it."""
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as collected:
        os.dup2(collected.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(original, 2)
            os.close(original)
            collected.seek(0)
            text = collected.read().decode(errors="replace")
            os.write(2, drop_information(text).encode())
