"""The tab as one HTML file with its data inside, to be opened from the disk."""

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tensorboard import context
from tensorboard.backend.event_processing import (
    data_provider,
    plugin_event_multiplexer,
)

from keras_embcam.tab_format import (
    EXAMPLES_TAG,
    PARTS,
    PLUGIN_NAME,
    UPDATES_TAG,
    FormatError,
    unpack,
)
from keras_embcam.tensorboard.log_reader import LogReader, drop_overwritten
from keras_embcam.tensorboard.plugin import STATIC

_IMPORT = re.compile(r'^import \{[^}]*\} from "\./([\w.]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ", re.MULTILINE)
# Nothing is fetched: a report can be opened without a thought of where it came from.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'"
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width">
<title>EmbeddingCAM: where a network looks</title>
<style>
{style}</style>
</head>
<body>
<script type="application/json" id="contents">{contents}</script>
{blobs}
<script type="module">
{script}
renderReport();
</script>
</body>
</html>
"""


@dataclass
class Report:
    """What was written.

    Attributes:
        num_runs: in the report.
        num_updates: of the run that has most.
        size: of the file in bytes.
        left_out: in words, what had to go to stay below the size; or was damaged.
    """

    num_runs: int
    num_updates: int
    size: int
    left_out: list[str]


@dataclass
class _Run:
    """Blobs of a run by step and part."""

    examples: dict[int, dict[str, bytes]] = field(default_factory=dict)
    updates: dict[int, dict[str, bytes]] = field(default_factory=dict)


def write_report(log_dir: Path, out: Path, max_megabytes: float = 25) -> Report:
    """Write the runs under a folder as one HTML file.

    Too large, it first loses the maps of pairs, then updates, a tenth at a time: those
    that stay are spread over the training, the first and the last among them.

    Args:
        log_dir: where `EmbeddingCAMLogger` wrote; runs lie in folders of it.
        out: the file to write.
        max_megabytes: that it may have (1 MB = 10^6 bytes).

    Raises:
        ValueError: where there is no such folder, no data of the tab in it, or they do
            not fit.
    """
    if not log_dir.is_dir():
        raise ValueError(f"There is no folder {str(log_dir)!r}.")
    left_out: list[str] = []
    runs = _read_runs(log_dir, left_out)
    if not any(run.updates for run in runs.values()):
        raise ValueError(
            f"There is no data of the EmbeddingCAM tab in {str(log_dir)!r}. Train with "
            'EmbeddingCAMLogger("logs", examples), with num_tab_examples above 0, '
            "and pass the folder of its logs."
        )
    page = _render(runs, left_out)
    limit = int(max_megabytes * 1e6)
    if len(page) > limit and _drop_pairs(runs):
        left_out.append("the maps of pairs")
        page = _render(runs, left_out)
    steps = sorted({step for run in runs.values() for step in run.updates})
    count = len(steps)
    while len(page) > limit and count > 2:
        # Each round leaves out a tenth of the updates, or one.
        count = max(2, min(count - 1, round(count * 0.9)))
        kept = {steps[round(i * (len(steps) - 1) / (count - 1))] for i in range(count)}
        for run in runs.values():
            run.updates = {i: x for i, x in run.updates.items() if i in kept}
        note = f"{len(steps) - len(kept)} of {len(steps)} updates"
        page = _render(runs, [*left_out, note])
        if len(page) <= limit or count == 2:
            left_out.append(note)
    if len(page) > limit:
        raise ValueError(
            f"With two updates the report still has {len(page) / 1e6:.1f} MB; at most "
            f"{max_megabytes:g} MB were asked for. Pass the folder of a single run, or "
            "a larger --max-megabytes."
        )
    out.write_bytes(page)
    num_updates = max(len(run.updates) for run in runs.values())
    return Report(len(runs), num_updates, len(page), left_out)


def _read_runs(log_dir: Path, left_out: list[str]) -> dict[str, _Run]:
    multiplexer = plugin_event_multiplexer.EventMultiplexer(
        tensor_size_guidance={PLUGIN_NAME: 0}
    )
    multiplexer.AddRunsFromDirectory(str(log_dir))
    multiplexer.Reload()
    drop_overwritten(multiplexer)
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(log_dir))
    reader = LogReader(provider, context.RequestContext())
    runs = {}
    for name, listed in reader.list_runs().items():
        if not listed["examples"]:
            continue
        run = _Run()
        for tag, store in ((EXAMPLES_TAG, run.examples), (UPDATES_TAG, run.updates)):
            for part in PARTS[tag] if listed[tag.removeprefix("embcam/")] else ():
                for step, blob in reader.read(name, tag, part):
                    store.setdefault(step, {})[part] = blob
        run.examples = dict([max(run.examples.items())])
        _drop_damaged(name, run, left_out)
        runs[name] = run
    return runs


def _drop_damaged(name: str, run: _Run, left_out: list[str]) -> None:
    for store in (run.examples, run.updates):
        for step, parts in list(store.items()):
            try:
                for blob in parts.values():
                    unpack(blob)
            except FormatError as error:
                del store[step]
                left_out.append(f"step {step} of {name!r}: {error}")
    if not run.examples:
        run.updates = {}


def _drop_pairs(runs: dict[str, _Run]) -> bool:
    dropped = [
        parts.pop("pairs")
        for run in runs.values()
        for parts in run.updates.values()
        if "pairs" in parts
    ]
    return bool(dropped)


def _render(runs: dict[str, _Run], left_out: list[str]) -> bytes:
    blobs: list[str] = []
    listed: dict[str, dict[str, list]] = {}
    numbers: dict[str, dict[str, dict[str, dict[int, int]]]] = {}
    for name, run in runs.items():
        listed[name] = {
            "examples": sorted(run.examples),
            "updates": [[step, 0] for step in sorted(run.updates)],
        }
        numbers[name] = {EXAMPLES_TAG: {}, UPDATES_TAG: {}}
        for tag, store in ((EXAMPLES_TAG, run.examples), (UPDATES_TAG, run.updates)):
            for step, parts in store.items():
                for part, blob in parts.items():
                    numbers[name][tag].setdefault(part, {})[step] = len(blobs)
                    text = base64.b64encode(blob).decode()
                    blobs.append(
                        f'<script type="text/plain" id="blob-{len(blobs)}">'
                        f"{text}</script>"
                    )
    note = f"Left out of this report: {'; '.join(left_out)}." if left_out else ""
    contents = json.dumps({"runs": listed, "blobs": numbers, "note": note})
    page = _PAGE.format(
        policy=_POLICY,
        style="".join(x.read_text("utf-8") for x in sorted(STATIC.glob("*.css"))[::-1]),
        # Names of runs are the user's: no tag may begin in them.
        contents=contents.replace("<", "\\u003c"),
        blobs="\n".join(blobs),
        script="".join(_bundle("index.js", set())),
    )
    return page.encode()


def _bundle(name: str, done: set[str]) -> Iterator[str]:
    """Yield the modules of the page, each after those that it imports.

    A page from the disk may not import modules. Their top-level names are distinct, so
    that they can stand in one.
    """
    done.add(name)
    text = (STATIC / name).read_text("utf-8")
    for other in _IMPORT.findall(text):
        if other not in done:
            yield from _bundle(other, done)
    yield _EXPORT.sub("", _IMPORT.sub("", text))
