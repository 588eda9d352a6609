"""The manifest of a catalogue: what it is made of, written before anything else."""

import hashlib
import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_embcam.catalogue.source import Part, Source, list_inputs, list_parts

# Readers of Parquet folders skip names that begin with "_" or "."
MANIFEST = "_manifest.json"
UNFINISHED = ".unfinished"


def plan_parts(
    folder: Path, source: Source, options: dict[str, Any], images_per_part: int
) -> list[Part]:
    """Return the parts of a catalogue, from its manifest if there is one.

    Args:
        folder: of the catalogue, made if it is not there.
        source: of its images.
        options: all that decides on the results, as JSON has it.
        images_per_part: how many images a part has.

    Raises:
        ValueError: for a catalogue of other options or inputs, and for a folder that
            holds something else.
    """
    inputs = list_inputs(source)
    options = {**source._asdict(), **options, "images_per_part": images_per_part}
    del options["root"]  # the folder may be moved between runs
    path = folder / MANIFEST
    if path.exists():
        kept = json.loads(path.read_text())
        _check_options(folder, kept["options"], options)
        _check_inputs(folder, kept["inputs"], inputs)
        return [Part(*part) for part in kept["parts"]]
    # Unfinished files are left by a run that was killed while writing the manifest.
    if folder.exists() and any(
        not x.name.endswith(UNFINISHED) for x in folder.iterdir()
    ):
        raise ValueError(
            f"`output_folder` must be empty, or hold a catalogue that was begun: "
            f"{str(folder)!r} holds something else. Pass another one."
        )
    folder.mkdir(parents=True, exist_ok=True)
    parts = list_parts(source, inputs, images_per_part)
    manifest = {"options": options, "inputs": inputs, "parts": parts}
    write_whole(path, lambda x: x.write_text(json.dumps(manifest)))
    return parts


def part_path(folder: Path, number: int) -> Path:
    """Return where a part belongs; it is there once it is complete."""
    return folder / f"part-{number:06d}.parquet"


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Have a file written so that it is there as a whole or not at all."""
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}{UNFINISHED}")
    write(unfinished)
    with unfinished.open("r+b") as file:
        os.fsync(file.fileno())  # otherwise a crash may leave an empty file
    os.replace(unfinished, path)


def remove_unfinished(folder: Path) -> None:
    """Remove what processes that were killed have left."""
    for path in folder.glob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_options(folder: Path, kept: dict[str, Any], options: dict[str, Any]) -> None:
    changed = [
        f"{name} was {kept.get(name)!r} and is {value!r}"
        if name != "model"  # hashes say nothing to anybody
        else "the file of the model has another content"
        for name, value in json.loads(json.dumps(options)).items()
        if kept.get(name) != value
    ]
    if changed:
        raise ValueError(
            f"{str(folder)!r} holds a catalogue of other options: {'; '.join(changed)}."
            " Pass the same ones, or another `output_folder`."
        )


def _check_inputs(folder: Path, kept: list, inputs: list) -> None:
    before = {name: state for name, *state in kept}
    now = {name: state for name, *state in inputs}
    changed = [x for x in sorted({*before, *now}) if before.get(x) != now.get(x)]
    if changed:
        raise ValueError(
            f"{str(folder)!r} holds a catalogue of other inputs. Pass the same ones, "
            f"or another `output_folder`. {len(changed)} files came, went or changed: "
            f"{changed[:10]}"
        )
