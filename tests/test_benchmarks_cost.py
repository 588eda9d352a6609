"""The parts of `make bench` work, on a toy network; its figures are not judged here."""

import doctest
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import keras_embcam  # before the checkout joins the path: see there

INSTALLED = Path(keras_embcam.__file__).parent
ROOT = Path(__file__).parent.parent
# Behind everything else, so that the package still comes from where it is installed.
sys.path.append(str(ROOT))

from benchmarks.cost import __main__ as program  # noqa: E402
from benchmarks.cost import counting, results, timing  # noqa: E402
from benchmarks.cost.plan import QUICK, Plan, make_network  # noqa: E402
from benchmarks.cost.sections import (  # noqa: E402
    SECTIONS,
    logger,
    memory,
    peers,
    streaming,
)

TOY = Plan(
    num_pairs=2,
    image_size=32,
    networks=("toy",),
    batch_sizes=(1, 4),
    medium_batch=2,
    num_proxies=(1, 3),
    num_examples=(16, 40),
    small_network="toy",
    small_size=32,
    few_pairs=2,
    num_streamed=(32, 64),
    stream_network="toy",
    stream_size=32,
    num_entries=(100,),
)


def test_the_package_is_not_taken_from_the_path_of_the_benchmarks() -> None:
    # Were it taken from there, the tests of the wheel would test the checkout.
    assert Path(streaming.explain_batches.__code__.co_filename).parent == INSTALLED


# Timing


def test_runs_alternate() -> None:
    order: list[str] = []

    def make(name: str) -> timing.Timer:
        def run() -> float:
            order.append(name)
            return float(len(order))

        return run

    seconds = timing.alternate({"a": make("a"), "b": make("b")}, 2, num_warm_ups=1)
    assert order == ["b", "a", "a", "b", "b", "a"]
    assert seconds == {"a": [3, 6], "b": [4, 5]}


@pytest.mark.parametrize(
    ("n", "expected"), [(15, (8, 4, 12)), (60, (30.5, 22, 39)), (5, (3, 1, 5))]
)
def test_the_interval_of_the_median(n, expected) -> None:
    values = np.random.default_rng(0).permutation(n) + 1
    assert timing.find_spread(values.tolist()) == expected


def test_the_interval_holds_the_median_in_95_percent_of_all_series() -> None:
    series = np.random.default_rng(0).exponential(size=(4000, 15))
    spreads = [timing.find_spread(x.tolist()) for x in series]
    held = np.mean([x.low <= np.log(2) <= x.high for x in spreads])
    assert 0.955 < held < 0.975  # 0.9648 by the binomial distribution


def test_a_timer_measures_and_ratios_are_paired() -> None:
    calls = []
    assert 0 <= timing.timer(lambda: calls.append(1))() < 1
    assert calls == [1]
    assert timing.compare([2, 40, 6], [1, 10, 2]).median == 3


@pytest.mark.parametrize("module", [timing, results, counting])
def test_doctests(module) -> None:
    assert not doctest.testmod(module).failed


# Counting


def test_counts_worked_by_hand() -> None:
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, strides=2, padding="same", name="first"),
            layers.DepthwiseConv2D(3, padding="same", name="second"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5),
        ]
    )
    first, second, dense = 4 * 4 * 3 * 3 * 3 * 4, 4 * 4 * 3 * 3 * 4, 4 * 5
    counted = counting.count(model, "first")
    assert counted.forward == first + second + dense
    assert counted.head == second + dense
    assert counted.channels == 2 * 4 * 4 * 4
    assert counted.resize == 8 * 4 * 4 + 8 * 4 * 8
    inputs, outputs, kernels = 8 * 8 * 3 + 64 + 4, 64 + 64 + 5, 108 + 36 + 20
    assert counted.forward_bytes == 4 * (inputs + outputs + kernels)
    extra = second + dense + counted.channels + counted.resize
    assert counted.floor == 1 + extra / counted.forward


def test_multiplications_of_resnet_are_the_known_ones() -> None:
    """He et al. state 3.8e9 for the network with 1000 classes."""
    counted = counting.count(make_network("ResNet-50", 224), "conv5_block3_out")
    assert counted.forward == pytest.approx(3.8e9, rel=0.02)
    assert counted.head == 2048 * 128


# Results


def make_row(target: float | None = 1.03, median: float = 1.01) -> results.Row:
    spread = timing.Spread(median, median - 0.02, median + 0.02)
    return results.Row("net", "explain / forward", spread, 15, target, note="a note")


@pytest.mark.parametrize(
    ("median", "verdict"),
    [(1.03, "yes"), (1.04, "interval touches it"), (1.06, "no")],
)
def test_verdicts(median, verdict) -> None:
    assert make_row(1.03, median).verdict() == verdict
    assert make_row(None, median).verdict() == ""


def test_sections_replace_their_former_rows(tmp_path) -> None:
    results.keep(tmp_path, "one", [make_row()], load=0.5)
    results.keep(tmp_path, "two", [make_row(), make_row()], load=0.5)
    absent = results.Row("peer", "ratio", None, note="absent: not installed")
    results.keep(tmp_path, "one", [absent], load=2.25, quick=True)
    kept = json.loads((tmp_path / "results.json").read_text())
    assert [len(section["rows"]) for section in kept.values()] == [1, 2]
    table = (tmp_path / "results.md").read_text()
    assert (
        "| net | explain / forward | 1.010 | 0.990 to 1.030 | 15 | at most 1.030 |"
        in (table)
    )
    assert "| peer | ratio | absent |" in table
    assert "* peer: absent: not installed" in table
    assert table.count("A quick run") == 1 and "before: 2.2." in table


def test_nothing_names_the_machine(tmp_path) -> None:
    results.keep(tmp_path, "one", [make_row()], load=0)
    text = "".join(file.read_text() for file in tmp_path.iterdir())
    assert os.uname().nodename not in text and str(ROOT) not in text
    environment = results.describe_environment()
    assert {"processor", "tensorflow", "keras", "numpy"} <= environment.keys()


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1.0296, "", "1.030"),
        (123.456, "ms", "123 ms"),
        (20000, "images/s", "20,000 images/s"),
        (3788123.4, "kB", "3,788,123 kB"),
        (0.00212, "", "0.00212"),
    ],
)
def test_figures_are_shown_with_the_digits_that_count(value, unit, text) -> None:
    assert results._render(value, unit) == text


# Sections


@pytest.fixture
def short(monkeypatch) -> None:
    """One logger of a set, and no processes of their own for the two streams."""
    monkeypatch.setattr(logger, "TARGETS", {"class_mean": 2.1})
    monkeypatch.setattr(logger, "NUM_PICTURES", 2)
    monkeypatch.setattr(memory, "_run_alone", lambda network, call, n, size: 100.0 * n)
    monkeypatch.setattr(
        streaming,
        "_run_alone",
        lambda network, n, size: {
            "seconds": n / 100,
            "predict": n / 80,
            "kibibytes": 1024 * (n + 1000),
        },
    )


# Made of the same parts as "proxies", or as the tests of what they measure.
ALIKE = {"layers", "logger", "weightings", "precision", "saved_model", "tab"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(x, marks=[pytest.mark.slow] if x in ALIKE else [])
        for x in SECTIONS
        if x != "peers"
    ],
)
def test_each_section_yields_rows(name, short) -> None:
    rows = list(SECTIONS[name](TOY))
    assert rows
    for row in rows:
        assert row.spread is not None or "not installed" in row.note
        if row.spread is not None:
            assert row.spread.low <= row.spread.median <= row.spread.high
    by_quantity = {row.quantity: row for row in rows}
    if name == "explain":
        assert by_quantity["traces"].spread == results.single(1)
    if name == "tab":
        assert 14 * 14 + 31 < rows[-1].spread.median < 1000
    if name == "memory":
        fits = [x.spread.median for x in rows if "in 8 GB" in x.quantity]
        assert fits and set(fits) == {81}  # 8192 / 100
    if name == "streaming":
        peak = by_quantity["peak memory over 64 images / over 32"]
        assert peak.spread.median == pytest.approx(1064 / 1032)
        assert peak.verdict() == "yes"


def test_the_program_writes_what_it_measured(tmp_path, monkeypatch, capsys) -> None:
    plans = []

    def measure(plan: Plan):
        plans.append(plan)
        yield make_row()

    monkeypatch.setitem(SECTIONS, "layers", measure)
    program.main(["--only", "layers", "--quick", "--out", str(tmp_path)])
    assert plans == [QUICK]
    assert list(json.loads((tmp_path / "results.json").read_text())) == ["layers"]
    assert "1.01" in capsys.readouterr().out


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="needs Linux's /proc"
)
@pytest.mark.slow
def test_a_process_of_its_own_runs_a_section() -> None:
    assert memory._run_alone("toy", "explain", 2, 32) > 100
    assert streaming._run_alone("toy", 4, 32)["kibibytes"] > 100 * 1024


@pytest.mark.slow
def test_the_peak_is_that_of_this_process() -> None:
    code = f"""
        import sys
        sys.path.append({str(Path(streaming.__file__).parents[3])!r})
        from benchmarks.cost.sections.streaming import find_peak
        import numpy as np
        before = find_peak()
        block = np.ones(2**27)  # 1 GiB: more than the imports ever took
        del block
        print(find_peak() - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert 0.8 * 2**20 < int(done.stdout) < 1.05 * 2**20


# Peers

WORKER = """
import os
import sys
sys.path.insert(0, {workers!r})
from serving import serve

def fail():
    raise ImportError("no module in /some/where named that")

def make_jobs(arrays):
    print("libraries print all kinds of things")
    flat = lambda images: images.mean(axis=-1)
    return {{
        "forward": lambda: flat,
        "same": lambda: lambda images: flat(images) * arrays["proxy"].sum(),
        "other": lambda: lambda images: -flat(images),
        "broken": fail,
        "dies": lambda: lambda x: flat(x) if len(x) < 3 else os._exit(1),
    }}

serve(make_jobs, ["numpy", "no-such-library"])
"""


@pytest.fixture
def worker(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(
        WORKER.format(workers=str(ROOT / "benchmarks" / "cost" / "workers"))
    )
    images = np.random.default_rng(0).random((3, 4, 4, 3), dtype="float32")
    np.savez(tmp_path / "arrays.npz", images=images, proxy=np.ones(2, "float32"))
    group = peers.Group(str(script), sys.prefix, ("same", "other", "broken"))
    with peers.Worker(group, tmp_path / "arrays.npz") as worker:
        yield worker, images
    assert worker._process.returncode == 0


def test_a_worker_runs_what_it_is_asked_for(worker, tmp_path) -> None:
    asked, images = worker
    assert asked.ask("versions") == {
        "numpy": np.__version__,
        "no-such-library": "absent",
    }
    assert 0 < asked.timer("forward", 2)() < 10
    maps = images.mean(axis=-1)
    for job, correlation in (("same", 1), ("other", -1)):
        asked.ask(job, 2, save=str(tmp_path / "maps.npy"))
        found = np.load(tmp_path / "maps.npy")
        assert peers.correlate(maps[:2], found) == pytest.approx(correlation)
    with pytest.raises(
        peers.AbsentError, match="^ImportError: no module in named that"
    ):
        asked.ask("broken", 1)
    assert asked.ask("forward", 1)["seconds"] > 0  # goes on


def test_the_programs_of_the_peers_are_where_they_are_looked_for() -> None:
    assert peers.ROOT == ROOT
    for group in peers.GROUPS:
        assert (peers.WORKERS / group.worker).is_file()


def test_a_worker_that_ends_is_absent(tmp_path) -> None:
    (tmp_path / "worker.py").write_text("")
    group = peers.Group(str(tmp_path / "worker.py"), sys.prefix, ())
    with (
        peers.Worker(group, tmp_path / "none.npz") as worker,
        pytest.raises(peers.AbsentError, match="its process ended"),
    ):
        worker.ask("forward", 1)


def test_a_peer_that_dies_in_a_round_is_left_out_of_it(tmp_path, monkeypatch) -> None:
    script = tmp_path / "worker.py"
    text = WORKER.format(workers=str(ROOT / "benchmarks" / "cost" / "workers"))
    script.write_text(text.replace('"no-such-library"', '"dies", "same"'))
    groups = (peers.Group(str(script), sys.prefix, ("dies", "same")),)
    monkeypatch.setattr(peers, "GROUPS", groups)
    monkeypatch.setattr(peers, "correlate", lambda *_: 1.0)
    rows = list(peers.measure(TOY))  # batches of 1 and of 4
    (absent,) = [row for row in rows if row.spread is None]
    assert absent.subject == "toy, batch 4, dies"
    assert absent.note == "absent: its process ended"
    measured = [row.subject for row in rows if row.spread is not None]
    assert measured == [
        *["toy, batch 1, keras_embcam"],
        *["toy, batch 1, dies absent"] * 2,
        *["toy, batch 1, same absent"] * 2,
        *["toy, batch 4, keras_embcam"],
        *["toy, batch 4, same absent"] * 2,
    ]


def test_peers_are_absent_without_their_environments(monkeypatch) -> None:
    groups = (peers.Group("worker.py", ".venv-of-nobody", ("one", "two")),)
    monkeypatch.setattr(peers, "GROUPS", groups)
    rows = list(peers.measure(TOY))
    assert [row.subject for row in rows[:2]] == ["one", "two"]
    assert all(row.spread is None for row in rows[:2])
    assert "there is no .venv-of-nobody" in rows[0].note
    # Ours is measured all the same.
    assert [row.spread is None for row in rows[2:]] == [False, False]


def test_peers_of_other_maps_are_absent(tmp_path, monkeypatch) -> None:
    """What a library cannot do, or does differently, is said and not compared."""
    script = tmp_path / "worker.py"
    script.write_text(
        WORKER.format(workers=str(ROOT / "benchmarks" / "cost" / "workers"))
    )
    groups = (peers.Group(str(script), sys.prefix, ("other", "broken")),)
    monkeypatch.setattr(peers, "GROUPS", groups)
    rows = list(peers.measure(TOY))
    absent = {row.subject: row.note for row in rows if row.spread is None}
    assert absent["other"].startswith("absent: its maps correlate at")
    assert absent["broken"].startswith("absent: ImportError")
    assert len(rows) == 4
