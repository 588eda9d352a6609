"""Other libraries, each in its own environment, in rounds that alternate with ours."""

import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import keras
import numpy as np
import tensorflow as tf

from benchmarks.cost.plan import Plan, compile_forward, make_images, make_network
from benchmarks.cost.results import Row
from benchmarks.cost.timing import Timer, alternate, compare, timer
from keras_embcam import embed, explain

ROOT = Path(__file__).parents[3]
WORKERS = ROOT / "benchmarks" / "cost" / "workers"
# So that threads of the process that ran before are asleep.
PAUSE = 0.1


class Group(NamedTuple):
    """Libraries that share an environment and a forward pass."""

    worker: str
    environment: str
    peers: tuple[str, ...]


GROUPS = (
    Group(
        "tensorflow_peers.py", ".venv-peers", ("xplique", "tf-keras-vis", "tf-explain")
    ),
    Group("torch_peers.py", ".venv-witnesses", ("grad-cam", "captum")),
)


# Below this a library does another job. The worst one differs by how it resizes.
MIN_CORRELATION = 0.9


class AbsentError(Exception):
    """A library cannot be measured; the message says why."""


class LostError(Exception):
    """A library that worked failed in a round, or its process ended."""

    def __init__(self, group: Group, job: str, reason: str) -> None:
        super().__init__(reason)
        self.group, self.job = group, job


class Worker:
    """A process in the environment of other libraries that runs them when asked.

    Args:
        group: of the libraries.
        file: npz archive of images, proxy and weights.

    Raises:
        AbsentError: where there is no such environment.
    """

    def __init__(self, group: Group, file: Path) -> None:
        self._group = group
        python = ROOT / group.environment / "bin" / "python"
        if not python.exists():
            raise AbsentError(f"there is no {group.environment} (`make peers`)")
        self._process = subprocess.Popen(
            [str(python), str(WORKERS / group.worker), str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            text=True,
        )

    def ask(self, job: str, batch: int = 0, **more: str) -> dict[str, Any]:
        """Return the answer to a request.

        Raises:
            AbsentError: where the worker could not run it.
        """
        assert self._process.stdin and self._process.stdout
        try:
            request = {"job": job, "batch": batch, **more}
            print(json.dumps(request), file=self._process.stdin, flush=True)
            answer = json.loads(self._process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError) as error:
            raise AbsentError("its process ended") from error
        if "absent" in answer:
            raise AbsentError(answer["absent"])
        return answer

    def timer(self, job: str, batch: int) -> Timer:
        """Return what lets the worker run a job and tells the seconds it took."""

        def run() -> float:
            time.sleep(PAUSE)
            try:
                return self.ask(job, batch)["seconds"]
            except AbsentError as error:
                raise LostError(self._group, job, str(error)) from error

        return run

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process; a second time does nothing."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


def measure(plan: Plan) -> Iterator[Row]:
    """Yield each library's cost, against its own forward pass and against ours."""
    network = plan.networks[0]
    model = make_network(network, plan.image_size)
    images = make_images(plan.batch_sizes[-1], plan.image_size)
    proxy = choose_proxy(model, images)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        file = Path(folder) / "arrays.npz"
        write_arrays(file, model, images, proxy)
        workers: dict[Group, Worker] = {}
        for group in GROUPS:
            try:
                workers[group] = stack.enter_context(Worker(group, file))
                workers[group].ask("forward", 1)
            except AbsentError as error:
                workers.pop(group, None)
                for peer in group.peers:
                    yield _absent(peer, str(error))
        agreement = {}
        maps = explain(model, images[:2], proxies=proxy)
        for group, worker in workers.items():
            for peer in group.peers:
                try:
                    found = Path(folder) / f"{peer}.npy"
                    worker.ask(peer, 2, save=str(found))
                    correlation = correlate(maps, np.load(found))
                    if not correlation >= MIN_CORRELATION:
                        raise AbsentError(f"its maps correlate at {correlation:.3f}")
                    agreement[peer] = correlation
                except AbsentError as error:
                    yield _absent(peer, str(error))
        for batch_size in plan.batch_sizes:
            subject = f"{network}, batch {batch_size}"
            seconds = None
            while seconds is None:
                try:
                    seconds = _measure_round(
                        model, images[:batch_size], proxy, workers, agreement, plan
                    )
                except LostError as lost:
                    # Its process may have ended: the others get a new one.
                    workers.pop(lost.group).stop()
                    gone = lost.group.peers if lost.job == "forward" else (lost.job,)
                    for peer in gone:
                        if agreement.pop(peer, None) is not None:
                            yield _absent(f"{subject}, {peer}", str(lost))
                    if any(peer in agreement for peer in lost.group.peers):
                        worker = stack.enter_context(Worker(lost.group, file))
                        workers[lost.group] = worker
            yield from _rows(subject, seconds, workers, agreement, plan)


def choose_proxy(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Return the unit mean of the embeddings: one score that all libraries can take."""
    mean = embed(model, images).mean(axis=0)
    return mean / np.linalg.norm(mean)


def write_arrays(
    file: Path, model: keras.Model, images: np.ndarray, proxy: np.ndarray
) -> None:
    """Write what a worker needs to build the same network."""
    weights = {
        f"{layer.name}/{weight.name}": weight.numpy()
        for layer in model.layers
        for weight in layer.weights
    }
    np.savez(file, images=images, proxy=proxy, **weights)


def correlate(maps: np.ndarray, others: np.ndarray) -> float:
    """Return the lowest correlation of any image's two maps."""
    pairs = zip(maps, others, strict=True)
    return min(float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in pairs)


def _measure_round(
    model: keras.Model,
    images: np.ndarray,
    proxy: np.ndarray,
    workers: dict[Group, Worker],
    agreement: dict[str, float],
    plan: Plan,
) -> dict[str, list[float]]:
    forward, tensor, n = compile_forward(model), tf.constant(images), len(images)

    def pause_and(run: Timer) -> Timer:
        def paused() -> float:
            time.sleep(PAUSE)
            return run()

        return paused

    timers = {
        "forward": pause_and(timer(lambda: forward(tensor).numpy())),
        "ours": pause_and(
            timer(lambda: explain(model, images, proxies=proxy, batch_size=n))
        ),
    }
    for group, worker in workers.items():
        timers[group.worker] = worker.timer("forward", n)
        for peer in group.peers:
            if peer in agreement:
                timers[peer] = worker.timer(peer, n)
    return alternate(timers, plan.num_pairs, num_warm_ups=1)


def _rows(
    subject: str,
    seconds: dict[str, list[float]],
    workers: dict[Group, Worker],
    agreement: dict[str, float],
    plan: Plan,
) -> Iterator[Row]:
    quantity = "explanation / forward pass in the same process"
    ratio = compare(seconds["ours"], seconds["forward"])
    yield Row(f"{subject}, keras_embcam", quantity, ratio, plan.num_pairs)
    for group, worker in workers.items():
        versions = worker.ask("versions")
        framework = next(iter(versions))
        for peer in group.peers:
            if peer not in agreement:
                continue
            name = f"{subject}, {peer} {versions[peer]}"
            ratio = compare(seconds[peer], seconds[group.worker])
            note = (
                f"on {framework} {versions[framework]}; its maps correlate with ours "
                f"at {agreement[peer]:.3f} or more"
            )
            yield Row(name, quantity, ratio, plan.num_pairs, note=note)
            ratio = compare(seconds["ours"], seconds[peer])
            yield Row(name, "keras_embcam / it, seconds", ratio, plan.num_pairs, 1.0)


def _absent(peer: str, reason: str) -> Row:
    return Row(peer, "explanation / forward pass", None, note=f"absent: {reason}")
