"""TFRecord files of `tf.train.Example`, read from any record on."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf


def find_records(path: Path) -> list[int]:
    """Return the byte at which each record starts; reads their lengths only.

    A record is its length (8 bytes), a checksum (4), its bytes, and a checksum (4).

    Raises:
        ValueError: for a file that is no such row of records.
    """
    offsets, size = [0], path.stat().st_size
    with path.open("rb") as file:
        while offsets[-1] + 12 <= size:
            file.seek(offsets[-1])
            offsets.append(offsets[-1] + _read_length(file) + 16)
    if offsets.pop() != size:
        raise ValueError(
            f"{str(path)!r} is no TFRecord file, or truncated, or compressed: write it "
            "anew, uncompressed."
        )
    return offsets


def list_features(path: Path, num_records: int) -> set[str]:
    """Return the names of the features in the first so many records."""
    return {name for row, _ in _read_records(path, 0, num_records) for name in row}


def read_examples(
    path: Path, offset: int, num_records: int, list_column: str | None
) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Yield of each example the first value of each feature, and what is wrong.

    Args:
        path: of the file.
        offset: byte at which the first of them starts.
        num_records: how many to read.
        list_column: the one feature of which all values are wanted.
    """
    for features, error in _read_records(path, offset, num_records):
        row = {name: next(iter(values), None) for name, values in features.items()}
        if list_column in features:
            row[list_column] = features[list_column]
        yield row, error


def _read_records(
    path: Path, offset: int, num_records: int
) -> Iterator[tuple[dict[str, list], str | None]]:
    """Yield the values of all features, and what is wrong with the record.

    Not with `tf.data`: it stops at the first damaged record, and here that is the
    error of one image.
    """
    with path.open("rb") as file:
        file.seek(offset)
        for _ in range(num_records):
            record = file.read(_read_length(file))
            file.read(4)
            try:
                features = tf.train.Example.FromString(record).features.feature
            except Exception as error:  # the class belongs to protobuf
                yield {}, f"Damaged record: {error}"
                continue
            yield {name: _list_values(x) for name, x in features.items()}, None


def _read_length(file: Any) -> int:
    return struct.unpack("<Q4x", file.read(12))[0]


def _list_values(feature: Any) -> list:
    kind = feature.WhichOneof("kind")
    return list(getattr(feature, kind).value) if kind else []
