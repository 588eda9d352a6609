"""Other libraries on the transformers of `hybrids`: the same weights, the same birds.

    python -m benchmarks.papers.token_peers --data CUB_FOLDER --weights MOBILENET_V2
        --work FOLDER [--part choose | report] [--curves BIRDS]

Prints one table as Markdown. The transformers are rebuilt in torch and take what the
first layers of the bird network make of images. Needs the environment of the witnesses
(``make peers``); what cannot run there is absent from the table. See
`choose_token_default` for the birds and the figures.
"""

import argparse
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import keras
import numpy as np

from benchmarks.cost.sections.peers import AbsentError, Group, Worker
from benchmarks.cost.timing import Timer, alternate, timer
from benchmarks.papers import hybrids
from benchmarks.papers.choose_token_default import (
    BATCH,
    PARTS,
    Judged,
    Maps,
    judge,
    load,
    make_heads,
    make_parser,
)
from keras_embcam import explain
from keras_embcam.unit_vectors import normalize_rows

DEFAULT = "keras_embcam, default"
OURS: dict[str, dict[str, str]] = {
    DEFAULT: {},
    "keras_embcam, gradcam": {"weighting": "gradcam"},
    "keras_embcam, legrad": {"preset": "legrad"},
}
PEERS = (
    *(f"grad-cam {x}" for x in ("GradCAM", "LayerCAM", "HiResCAM")),
    *(f"torchcam {x}" for x in ("GradCAM", "LeGrad")),
)
GROUP = Group("torch_token_peers.py", ".venv-witnesses", PEERS)
NUM_ROUNDS = 9


def write_arrays(
    path: Path, head: keras.Model, maps: np.ndarray, proxies: np.ndarray
) -> None:
    """Write what a worker needs to build the same transformer."""
    arrays = {"images": maps.astype("float32"), "proxies": proxies}
    arrays["pooling"] = np.array(head.name.removeprefix("head_"))
    tokens = head.get_layer("tokens")
    arrays["class_token"] = tokens.class_token.numpy()
    arrays["positions"] = tokens.positions.numpy()
    names = {"projection": "patches", "final_norm": "final_norm"}
    names["embedding"] = "embedding"
    # The dense layers without a name, two in each block, in order.
    dense = [x.name for x in head.layers if x.name.startswith("dense")]
    for number in range(hybrids.NUM_BLOCKS):
        block = f"block_{number}"
        names |= {f"{block}_{x}": f"{block}/{x}" for x in ("norm1", "norm2")}
        names[dense[2 * number]] = f"{block}/hidden"
        names[dense[2 * number + 1]] = f"{block}/last"
        attention = head.get_layer(f"{block}_attention")
        for weight in attention.weights:
            _, part, kind = weight.path.rsplit("/", 2)
            arrays[f"{block}/{part.removeprefix('attention_')}/{kind}"] = weight.numpy()
    for name, target in names.items():
        for weight in head.get_layer(name).weights:
            arrays[f"{target}/{weight.name}"] = weight.numpy()
    arrays["patches/kernel"] = arrays["patches/kernel"][None, None]
    np.savez(path, **arrays)


def explain_with_all(
    head: keras.Model, maps: np.ndarray, proxies: np.ndarray | None
) -> Maps:
    """Return the map of each library: of a peer only where it can run."""
    maps = maps.astype("float32")
    if proxies is None:
        proxies = np.asarray(normalize_rows(head.predict(maps, verbose=0)))
    found = {"uniform": np.ones((len(maps), *hybrids.GRID), "float32")}
    for name, options in OURS.items():
        found[name] = explain(head, maps, proxies=proxies, **options)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        worker = start(stack, Path(folder), head, maps, proxies)
        for name in PEERS if worker else ():
            saved = Path(folder) / "maps.npy"
            try:
                worker.ask(name, len(maps), save=str(saved))
            except AbsentError as error:
                print(f"{name} is absent: {error}")
                continue
            found[name] = np.load(saved)
    return found


def start(
    stack: ExitStack,
    folder: Path,
    head: keras.Model,
    maps: np.ndarray,
    proxies: np.ndarray,
) -> Worker | None:
    """Return the process of the peers, None where they are not installed."""
    file = folder / "arrays.npz"
    write_arrays(file, head, maps, proxies)
    try:
        worker = stack.enter_context(Worker(GROUP, file))
        saved = folder / "embeddings.npy"
        worker.ask("forward", len(maps), save=str(saved))
    except AbsentError as error:
        print(f"the peers are absent: {error}")
        return None
    # The twin is one.
    expected = head.predict(maps, verbose=0)
    np.testing.assert_allclose(
        np.load(saved), expected, atol=1e-3 * np.abs(expected).max()
    )
    return worker


def time_all(head: keras.Model, maps: np.ndarray) -> dict[str, float]:
    """Return the seconds of an image of each library, of the fastest of some rounds.

    Threads of torch that wait for each other lose more than ours on a busy machine.
    """
    maps = maps[:BATCH].astype("float32")
    proxies = np.asarray(normalize_rows(head.predict(maps, verbose=0)))
    timers: dict[str, Timer] = {
        name: timer(
            partial(explain, head, maps, proxies=proxies, batch_size=BATCH, **options)
        )
        for name, options in OURS.items()
    }
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        worker = start(stack, Path(folder), head, maps, proxies)
        for name in PEERS if worker else ():
            timers[name] = worker.timer(name, len(maps))
        seconds = alternate(timers, NUM_ROUNDS)
    return {x: min(s) / len(maps) for x, s in seconds.items()}


def make_row(name: str, judged: dict[str, Judged], seconds: dict[str, float]) -> str:
    """Return a row: figures, how much more than ours, and two standard errors of it."""
    cells = [name]
    for found, ours in zip(judged[name], judged[DEFAULT], strict=True):
        more = found - ours
        error = np.nanstd(more) / np.sqrt(np.isfinite(more).sum())
        cell = f"{np.nanmean(found):.2f}"
        if name != DEFAULT:
            cell += f" ({np.nanmean(more):+.3f} ± {2 * error:.3f})"
        cells.append(cell)
    cells.append(f"{1000 * seconds[name]:.1f}" if name in seconds else "")
    return f"| {' | '.join(cells)} |"


def measure(options: argparse.Namespace) -> None:
    """Print the table."""
    backbone = hybrids.make_backbone(options.weights)
    birds = load(options, backbone, PARTS[options.part])
    for pooling, head in make_heads(options, backbone).items():
        judged = judge(
            backbone, head, birds, options.part, options.curves, explain_with_all
        )
        seconds = time_all(head, birds["maps"])
        print(f"| {pooling} ({options.part}) | inside | ins - del | asked | ms |")
        print("| --- | --- | --- | --- | --- |")
        for name in judged:
            print(make_row(name, judged, seconds))


if __name__ == "__main__":
    measure(make_parser(__doc__).parse_args())
