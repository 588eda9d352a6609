"""The file of a database: a plain npz archive without pickle, with a header."""

import dataclasses
import json
import os
import uuid
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

MAGIC = "keras_embcam.GradWeightDatabase"
VERSION = 1


def write_file(path: str | Path, database: Any) -> None:
    """Write a database; the file appears whole or not at all.

    Args:
        path: of the file, used as it is.
        database: a dataclass of arrays, and of numbers, strings and None, which are
            kept as JSON.

    Raises:
        ValueError: where the folder of the file is missing.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(
            f"`path` must lie in a folder that exists. Received: {str(path)!r}, where "
            f"{str(path.parent)!r} is none. Make that folder first, or pass another."
        )
    settings: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    for field in dataclasses.fields(database):
        kept = arrays if field.type is np.ndarray else settings
        kept[field.name] = getattr(database, field.name)
    text = json.dumps({"magic": MAGIC, "version": VERSION, "settings": settings})
    contents: dict[str, Any] = {"header": np.array(text), **arrays}
    # Beside the file: a rename across file systems is a copy, which may break off.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        # An open file: numpy appends ".npz" to names.
        with temporary.open("wb") as file:
            np.savez(file, **contents)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_file(path: str | Path, make: type) -> Any:
    """Return the database that a file holds.

    Args:
        path: of the file.
        make: the dataclass, which refuses arrays that do not belong together.

    Raises:
        ValueError: for a file that is missing, damaged or of another kind, with the
            reason.
    """
    path = Path(path)
    fields = dataclasses.fields(make)
    names = {field.name for field in fields if field.type is np.ndarray}
    # What files of earlier versions lack.
    optional = {x.name for x in fields if x.default_factory is not dataclasses.MISSING}
    try:
        settings, arrays = _read_archive(path, names, optional)
        return make(**settings, **arrays)
    except Exception as error:  # a damaged archive fails in many ways
        reason = str(error) or type(error).__name__
        raise ValueError(
            f"Cannot read the grad-weight database {str(path)!r}: {reason}"
        ) from error


def _read_archive(
    path: Path, names: set[str], optional: set[str]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    if not path.is_file():
        raise ValueError("there is no such file.")
    if not zipfile.is_zipfile(path):
        raise ValueError(
            "it is no npz archive, or it is truncated. Pass a file that "
            "`GradWeightDatabase.save` wrote."
        )
    # Pickled data could run code.
    with np.load(path, allow_pickle=False) as archive:
        header = _read_header(archive)
        if header.get("version") != VERSION:
            raise ValueError(
                f"it has the version {header.get('version')!r}, and this is written "
                f"to read version {VERSION}. Fit the database again."
            )
        missing = names.difference(archive.files, optional)
        if missing:
            raise ValueError(f"it lacks {sorted(missing)}.")
        kept = names.intersection(archive.files)
        return header["settings"], {name: archive[name] for name in kept}


def _read_header(archive: Any) -> dict[str, Any]:
    header: Any = None
    if "header" in archive.files:
        text = archive["header"]
        header = json.loads(text.item()) if text.dtype.kind == "U" else None
    if not isinstance(header, dict) or header.get("magic") != MAGIC:
        raise ValueError(
            "it is an archive of something else. Pass a file that "
            f"`GradWeightDatabase.save` wrote. It holds: {archive.files[:10]}"
        )
    return header
