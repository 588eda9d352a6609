"""What the logger writes for TensorBoard's EmbeddingCAM tab, as bytes.

Read by TensorBoard, which must not pay for TensorFlow: this module imports numpy only.
`tensorboard/static/format.js` reads the same bytes in the browser.

A blob is ``b"embcam"``, the version (u2), the length of the header (u4), the CRC-32 of
all that follows (u4), the header (JSON) and the arrays that it lists, all little-endian
and each array on a multiple of 8 bytes. Two tags hold sequences of blobs:

===================  ==================================================================
tag                  blobs
===================  ==================================================================
``embcam/examples``  "examples": names, labels, boxes, outlines; "thumbnails"
``embcam/updates``   "figures": ratios, boxes found, neighbors; "maps"; "pairs"
===================  ==================================================================

Shares of 1 are kept in 16 bits and heat in 8, so an example costs ``h w + 11 + 4 k``
bytes an update (h, w: size of its map, k: neighbors), and ``2 + 2 h w`` more where its
first match is wrong and the maps of the pair are known: 621 for 14 x 14 and k = 5.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

VERSION = 1
PLUGIN_NAME = "embcam"
EXAMPLES_TAG = "embcam/examples"
UPDATES_TAG = "embcam/updates"
# Blobs of each tag, in order.
PARTS = {
    EXAMPLES_TAG: ("examples", "thumbnails"),
    UPDATES_TAG: ("figures", "maps", "pairs"),
}
MAX_EXAMPLES = 65_535  # neighbors are numbered in 16 bits, the last number says none

_MAGIC = b"embcam"
_PRELUDE = 16
_NONE = 65_535  # of shares and neighbors
_KINDS = ("u1", "u2", "u4", "i2")


class FormatError(ValueError):
    """A blob that is damaged, or newer than this package."""


@dataclass(frozen=True)
class Examples:
    """What is shown, written once.

    Attributes:
        names: (n,), by which runs are matched; distinct.
        thumbnails: (n,) files in JPEG or PNG.
        labels: (n,), or None.
        boxes: for each example (m, 4), x1, y1, x2, y2 as shares of the image's sides.
        outlines: for each example the outlines (p, 2) of its mask, x, y as shares.
        num_measured: how many examples the logger measures, of which these are the
            first; None for as many.
    """

    names: Sequence[str]
    thumbnails: Sequence[bytes]
    labels: Sequence[str] | None = None
    boxes: Sequence[Any] = ()
    outlines: Sequence[Sequence[Any]] = ()
    num_measured: int | None = None

    @property
    def key(self) -> str:
        """By which an update tells whose it is."""
        text = json.dumps([list(self.names), list(self.labels or ())])
        return f"{zlib.crc32(text.encode()):08x}"

    def to_blobs(self) -> list[bytes]:
        """Return the blobs of `EXAMPLES_TAG`."""
        num = len(self.names)
        if len(set(self.names)) < num or len(self.thumbnails) != num:
            raise ValueError(
                "Examples must have distinct names and as many thumbnails. Received "
                f"{num} names, {len(set(self.names))} of them distinct, and "
                f"{len(self.thumbnails)} thumbnails"
            )
        if num > MAX_EXAMPLES:
            raise ValueError(
                f"At most {MAX_EXAMPLES} examples can be shown. Received {num}"
            )
        boxes = [np.reshape(box, (-1, 4)) for box in self.boxes] or [_EMPTY_BOX] * num
        shapes = [list(shape) for shape in self.outlines] or [[]] * num
        points = [np.reshape(outline, (-1, 2)) for shape in shapes for outline in shape]
        meta = {
            "names": list(self.names),
            "labels": None if self.labels is None else list(self.labels),
            "num_measured": num if self.num_measured is None else self.num_measured,
            "key": self.key,
        }
        table = {
            "box_counts": np.asarray([len(box) for box in boxes], "u2"),
            "boxes": _to_shares(np.concatenate([*boxes, _EMPTY_BOX])),
            "outline_counts": np.asarray([len(shape) for shape in shapes], "u2"),
            "outline_lengths": np.asarray([len(x) for x in points], "u2"),
            "outline_points": _to_shares(np.concatenate([*points, np.empty((0, 2))])),
        }
        files = {
            "ends": np.cumsum([len(file) for file in self.thumbnails]).astype("u4"),
            "bytes": np.frombuffer(b"".join(self.thumbnails), "u1"),
        }
        return [pack("examples", meta, table), pack("thumbnails", {}, files)]


_EMPTY_BOX = np.empty((0, 4))


@dataclass(frozen=True)
class Update:
    """What one run over the examples found, written at each update.

    Attributes:
        maps: (n, h, w) heat >= 0 at the feature map's own size; each is divided by its
            maximum.
        ratios: (n,) share of the heat on the object, NaN where it is not defined.
        found_boxes: (n, 4), x1, y1, x2, y2 as shares of the image's sides, NaN for
            none.
        empty: (n,), where a map is all zero.
        neighbors: (n, k) numbers of the nearest other examples, -1 for none.
        similarities: (n, k) their cosines.
        pair_examples: (m,) numbers of the examples whose pair maps follow.
        pair_maps: (2, m, h, w) heat on the example and on its first match.
        values: means over all that is measured; `mean_ratio`, `uniform_ratio` and
            `recall_at_1` are drawn as curves.
        unit: "epoch" or "step", what the updates are numbered by.
        examples_key: `Examples.key`.
    """

    maps: np.ndarray
    ratios: np.ndarray
    found_boxes: np.ndarray
    empty: np.ndarray
    neighbors: np.ndarray
    similarities: np.ndarray
    examples_key: str
    pair_examples: np.ndarray | None = None
    pair_maps: np.ndarray | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    unit: str = "epoch"

    def to_blobs(self) -> list[bytes]:
        """Return the blobs of `UPDATES_TAG`."""
        finite = {key: x for key, x in self.values.items() if np.isfinite(x)}
        meta = {
            "values": {key: round(float(x), 6) for key, x in finite.items()},
            "unit": self.unit,
            "key": self.examples_key,
        }
        neighbors = np.asarray(self.neighbors)
        cosines = np.nan_to_num(np.asarray(self.similarities, "float64"))
        figures = {
            "ratios": _to_shares(self.ratios),
            "found_boxes": _to_shares(self.found_boxes),
            "empty": np.asarray(self.empty).astype("u1"),
            "neighbors": np.where(neighbors < 0, _NONE, neighbors).astype("u2"),
            "similarities": np.rint(np.clip(cosines, -1, 1) * 32767).astype("i2"),
        }
        pairs = {}
        if self.pair_examples is not None and self.pair_maps is not None:
            pairs = {
                "examples": np.asarray(self.pair_examples).astype("u2"),
                "maps": to_bytes(self.pair_maps),
            }
        return [
            pack("figures", meta, figures),
            pack("maps", {}, {"maps": to_bytes(self.maps)}),
            pack("pairs", {}, pairs),
        ]


def to_bytes(maps: Any) -> np.ndarray:
    """Return maps (..., h, w) divided by their maxima as u1; 255 is the maximum."""
    maps = np.nan_to_num(np.asarray(maps, "float32"), posinf=0.0).clip(0)
    peaks = maps.max(axis=(-2, -1), keepdims=True, initial=0)
    return np.rint(255 * (maps / np.where(peaks > 0, peaks, 1))).astype("u1")


def _to_shares(values: Any) -> np.ndarray:
    values = np.asarray(values, "float64")
    scaled = np.rint(np.clip(np.nan_to_num(values), 0, 1) * (_NONE - 1))
    return np.where(np.isfinite(values), scaled, _NONE).astype("u2")


def from_shares(values: np.ndarray) -> np.ndarray:
    """Return shares kept in 16 bits as float64, NaN for none."""
    return np.where(values == _NONE, np.nan, values / (_NONE - 1))


@dataclass(frozen=True)
class Record:
    """A blob that was read: its kind, its JSON and its arrays."""

    kind: str
    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]


def pack(kind: str, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return a blob."""
    listed = [[name, x.dtype.str[1:], list(x.shape)] for name, x in arrays.items()]
    header = json.dumps({"kind": kind, "meta": dict(meta), "arrays": listed}).encode()
    header += b" " * (-(_PRELUDE + len(header)) % 8)
    body = header
    for array in arrays.values():
        data = array.astype(array.dtype.newbyteorder("<")).tobytes()
        body += data + bytes(-len(data) % 8)
    numbers = VERSION.to_bytes(2, "little") + len(header).to_bytes(4, "little")
    return _MAGIC + numbers + zlib.crc32(body).to_bytes(4, "little") + body


def read_version(blob: bytes) -> int:
    """Return the version of the format that a blob is written in.

    Raises:
        FormatError: for anything else than a blob.
    """
    if len(blob) < _PRELUDE or blob[:6] != _MAGIC:
        raise FormatError("This is not data of the EmbeddingCAM tab.")
    return int.from_bytes(blob[6:8], "little")


def unpack(blob: bytes) -> Record:
    """Read a blob.

    Raises:
        FormatError: where it is damaged, or newer than this package.
    """
    version = read_version(blob)
    if version > VERSION:
        raise FormatError(
            f"Written in version {version} of the format; this keras_embcam reads up "
            f"to version {VERSION}. Install the newer keras_embcam here too."
        )
    length = int.from_bytes(blob[8:12], "little")
    if zlib.crc32(blob[_PRELUDE:]) != int.from_bytes(blob[12:16], "little"):
        raise FormatError("Damaged: the check sum does not fit.")
    try:
        header = json.loads(blob[_PRELUDE : _PRELUDE + length])
        arrays, start = {}, _PRELUDE + length
        for name, dtype, shape in header["arrays"]:
            if dtype not in _KINDS or min(shape, default=0) < 0:
                raise ValueError(f"array of {dtype!r} {shape}")
            count = int(np.prod(shape, dtype="int64"))
            array = np.frombuffer(blob, "<" + dtype, count, start)
            arrays[name] = array.reshape(shape)
            start += array.nbytes + -array.nbytes % 8
        return Record(header["kind"], header["meta"], arrays)
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"Damaged: {error}") from error


def join(blobs: Sequence[tuple[int, bytes]]) -> bytes:
    """Put the blobs of steps behind each other, each after its step and length (i8)."""
    return b"".join(
        step.to_bytes(8, "little", signed=True)
        + len(blob).to_bytes(8, "little")
        + blob
        + bytes(-len(blob) % 8)
        for step, blob in blobs
    )


def summary_metadata() -> Any:
    """Return the `SummaryMetadata` under which TensorBoard keeps both tags."""
    from tensorboard.compat.proto import summary_pb2

    return summary_pb2.SummaryMetadata(
        plugin_data=summary_pb2.SummaryMetadata.PluginData(
            plugin_name=PLUGIN_NAME, content=json.dumps({"version": VERSION}).encode()
        ),
        data_class=summary_pb2.DATA_CLASS_BLOB_SEQUENCE,
    )
