"""Measure all sections of the table, or some of them."""

import argparse
import gc
import os
import time
from pathlib import Path

import keras

from benchmarks.cost.plan import QUICK, Plan
from benchmarks.cost.results import Row, keep
from benchmarks.cost.sections import SECTIONS

FOLDER = Path(__file__).parent


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write ``results.json`` and ``results.md``."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cost", description=__doc__
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=SECTIONS,
        default=list(SECTIONS),
        metavar="SECTION",
        help=f"of {', '.join(SECTIONS)}; the rows of the others stay as they are",
    )
    parser.add_argument(
        "--quick", action="store_true", help="few runs: shows that everything works"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="of the results; default: that of the benchmarks, or quick_bench",
    )
    options = parser.parse_args(arguments)
    out = options.out or (Path("quick_bench") if options.quick else FOLDER)
    out.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        start, load = time.perf_counter(), os.getloadavg()[0]
        print(f"{name} ...", flush=True)
        rows = []
        for row in SECTIONS[name](QUICK if options.quick else Plan()):
            rows.append(row)
            print("  " + _describe(row), flush=True)
        keep(out, name, rows, load, options.quick)
        keras.utils.clear_session()
        gc.collect()
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)


def _describe(row: Row) -> str:
    if row.spread is None:
        return f"{row.subject}: {row.quantity}: absent. {row.note}"
    median, low, high = row.spread
    figures = f"{median:.4g} ({low:.4g} to {high:.4g}) {row.unit}".strip()
    return f"{row.subject}: {row.quantity}: {figures} {row.verdict()}".strip()


if __name__ == "__main__":
    main()
