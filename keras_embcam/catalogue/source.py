"""What a catalogue is read from: image files, Parquet or TFRecord, cut into parts."""

from collections.abc import Iterator
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_embcam.running.image_files import SUFFIXES

FORMATS = ("images", "parquet", "tfrecord")

# Examples that are looked at to learn which features a TFRecord file has.
NUM_LOOKED_AT = 64


class Source(NamedTuple):
    """Where the images of a catalogue are, and in which columns.

    Attributes:
        root: a folder, searched through, or a single file.
        format: one of `FORMATS`.
        image_column: of encoded images, in Parquet and TFRecord.
        id_column: None for "FILE:NUMBER".
        box_column: None for no boxes.
    """

    root: Path
    format: str
    image_column: str
    id_column: str | None
    box_column: str | None


class Part(NamedTuple):
    """Some consecutive images of a source, the unit of work.

    Attributes:
        files: the image files of the part, or the one file that it lies in;
            relative to the root of the source.
        first: the number of its first image in that file.
        num_images: how many they are; None for all of a TFRecord file.
    """

    files: list[str]
    first: int
    num_images: int | None


class Item(NamedTuple):
    """One image of a catalogue.

    Attributes:
        id: of the image.
        image: the encoded file, None where it could not be read.
        box: 4 numbers a box, None for no box.
        error: why it could not be read.
    """

    id: str
    image: bytes | None
    box: list[float] | None = None
    error: str | None = None


def open_source(
    root: Path,
    format: str | None,
    image_column: str,
    id_column: str | None,
    box_column: str | None,
) -> Source:
    """Return the source at a path. If `format` is None, file names decide on it.

    Raises:
        ValueError: for a path that does not exist, an unknown format, or columns of
            image files.
    """
    if not root.exists():
        raise ValueError(f"`source` must exist. Received: {str(root)!r}")
    if format is None:
        names = [x.name for x in ([root] if root.is_file() else root.rglob("*"))]
        found = [x for x in FORMATS if any(_has_format(name, x) for name in names)]
        if len(found) != 1:
            raise ValueError(
                f"`format` must be given, one of {FORMATS}, where the files of "
                f"`source` do not tell. Files of these kinds in {str(root)!r}: {found}"
            )
        format = found[0]
    if format not in FORMATS:
        raise ValueError(f"`format` must be one of {FORMATS}. Received: {format!r}")
    if format == "images" and (id_column or box_column):
        raise ValueError(
            "Image files have no columns: leave out `id_column` and `box_column`. "
            f"Received: {id_column!r}, {box_column!r}"
        )
    return Source(root, format, image_column, id_column, box_column)


def list_inputs(source: Source) -> list[list]:
    """Return ``[path relative to the root, bytes, time of change]`` of each file.

    Raises:
        ValueError: where there is none.
    """
    root, inputs = source.root, []
    for path in [root] if root.is_file() else sorted(root.rglob("*")):
        if path.is_file() and _has_format(path.name, source.format):
            status = path.stat()
            name = path.name if path == root else path.relative_to(root).as_posix()
            inputs.append([name, status.st_size, status.st_mtime_ns])
    if not inputs:
        raise ValueError(
            f"`source` must hold files of the format {source.format!r}. There are "
            f"none in {str(root)!r}."
        )
    return inputs


def list_parts(source: Source, inputs: list[list], images_per_part: int) -> list[Part]:
    """Cut the inputs into parts, none of which spans two tables.

    A TFRecord file is one part: where its records begin is known only to who has read
    it so far, and large sets are written as many files.

    Raises:
        ValueError: for missing columns, files that are not of the format, and no rows.
    """
    names = [name for name, *_ in inputs]
    if source.format == "images":
        starts = range(0, len(names), images_per_part)
        slices = [names[start : start + images_per_part] for start in starts]
        return [Part(files, 0, len(files)) for files in slices]
    if source.format == "tfrecord":
        return [Part([name], 0, None) for name in names]
    parts = []
    for name in names:
        num_rows = _count_rows(source, _path(source, name))
        for first in range(0, num_rows, images_per_part):
            parts.append(Part([name], first, min(images_per_part, num_rows - first)))
    if not parts:
        raise ValueError(
            f"`source` must hold images: {str(source.root)!r} has no rows."
        )
    return parts


def check_features(source: Source, part: Part) -> None:
    """Check that a part of TFRecord has the features that are asked for.

    Raises:
        ValueError: for features that none of its first examples has.
    """
    if source.format == "tfrecord":
        path = _path(source, part.files[0])
        rows = [row for row, _ in islice(_read_examples(source, path), NUM_LOOKED_AT)]
        if rows:
            _check_columns(source, path, {name for row in rows for name in row})


def read_items(source: Source, part: Part) -> Iterator[Item]:
    """Yield the images of a part, in order.

    Raises:
        ValueError: for a TFRecord file that is none.
    """
    if source.format == "images":
        yield from (_read_file(source, name) for name in part.files)
        return
    (name,) = part.files
    path = _path(source, name)
    if source.format == "parquet":
        rows = _read_rows(source, path, part)
    else:
        rows = _read_examples(source, path)
    for number, row in enumerate(rows, part.first):
        yield _make_item(source, f"{name}:{number}", *row)


def _make_item(source: Source, name: str, row: dict, error: str | None) -> Item:
    key, image = row.get(source.id_column), row.get(source.image_column)
    if isinstance(key, bytes):
        key = key.decode(errors="replace")
    key = name if key is None else str(key)
    if error is None and image is None:
        error = f"There is no {source.image_column!r}."
    try:
        box = row.get(source.box_column)
        box = None if box is None else [float(x) for x in np.ravel(box)]
    except (TypeError, ValueError):
        return Item(key, None, None, f"A box must be 4 numbers. Received: {box!r}")
    return Item(key, image, box or None, error)


def _has_format(name: str, format: str) -> bool:
    name = name.lower()
    if format == "tfrecord":  # may be "birds-train.tfrecord-00000-of-00010"
        return ".tfrecord" in name
    return name.endswith(tuple(SUFFIXES) if format == "images" else ".parquet")


def _path(source: Source, name: str) -> Path:
    return source.root if source.root.is_file() else source.root / name


def _columns(source: Source) -> list[str]:
    columns = [source.image_column, source.id_column, source.box_column]
    return [column for column in columns if column is not None]


def _check_columns(source: Source, path: Path, known: Any) -> None:
    missing = [column for column in _columns(source) if column not in known]
    if missing:
        raise ValueError(
            f"{str(path)!r} has no column {', '.join(map(repr, missing))}: pass "
            "`image_column`, `id_column` and `box_column` as it has them. Its columns: "
            f"{sorted(known)}"
        )


def _read_file(source: Source, name: str) -> Item:
    try:
        return Item(name, _path(source, name).read_bytes())
    except OSError as error:
        return Item(name, None, error=f"{type(error).__name__}: {error.strerror}")


def _count_rows(source: Source, path: Path) -> int:
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(path)
    _check_columns(source, path, file.schema_arrow.names)
    kind = file.schema_arrow.field(source.image_column).type
    if kind not in (pyarrow.binary(), pyarrow.large_binary()):
        raise ValueError(
            f"The column {source.image_column!r} must hold encoded images (JPEG, PNG, "
            f"WebP, ...) as binary. Its type in {str(path)!r} is {kind}."
        )
    return file.metadata.num_rows


def _read_rows(source: Source, path: Path, part: Part) -> Iterator[tuple]:
    """Yield ``(row, None)`` of each."""
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(path)
    groups = range(file.num_row_groups)
    sizes = [file.metadata.row_group(group).num_rows for group in groups]
    ends = list(accumulate(sizes))
    num_images = part.num_images or 0
    end = part.first + num_images
    touched = [x for x in groups if ends[x] > part.first and ends[x] - sizes[x] < end]
    skipped = part.first - (ends[touched[0]] - sizes[touched[0]])
    # A few rows at a time, so that large row groups are never in memory as a whole.
    batches = file.iter_batches(64, row_groups=touched, columns=_columns(source))
    rows = ((row, None) for batch in batches for row in batch.to_pylist())
    return islice(rows, skipped, skipped + num_images)


def _read_examples(source: Source, path: Path) -> Iterator[tuple[dict, str | None]]:
    """Yield the features of each example, and what is wrong with it."""
    records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    is_first = True
    while True:
        try:
            record = next(records)
        except StopIteration:
            return
        except tf.errors.DataLossError as error:
            if is_first:
                raise ValueError(
                    f"{str(path)!r} is no TFRecord file, or compressed: write it anew, "
                    "uncompressed."
                ) from error
            # The next record is found by the length of this one, which is not reliable.
            yield {}, "Damaged record: this one and all behind it in the file are lost."
            return
        is_first = False
        try:
            features = tf.train.Example.FromString(record).features.feature
        except Exception as error:  # protobuf's own exception class
            yield {}, f"Damaged record: {error}"
            continue
        row = {name: _list_values(feature) for name, feature in features.items()}
        several = row.get(source.box_column)
        yield (
            {name: next(iter(values), None) for name, values in row.items()}
            | ({source.box_column: several} if several is not None else {}),
            None,
        )


def _list_values(feature: tf.train.Feature) -> list:
    kind = feature.WhichOneof("kind")
    return list(getattr(feature, kind).value) if kind else []
