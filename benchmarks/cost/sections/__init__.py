"""The parts of the table, in its order: each measures and yields its rows."""

from collections.abc import Callable, Iterator

from benchmarks.cost.plan import Plan
from benchmarks.cost.results import Row
from benchmarks.cost.sections import (
    choices,
    database,
    forward_pass,
    logger,
    memory,
    peers,
    saved_model,
    streaming,
    tab,
)

SECTIONS: dict[str, Callable[[Plan], Iterator[Row]]] = {
    "explain": forward_pass.measure,
    "proxies": choices.measure_proxies,
    "layers": choices.measure_layers,
    "weightings": choices.measure_weightings,
    "precision": choices.measure_precision,
    "logger": logger.measure,
    "tab": tab.measure,
    "saved_model": saved_model.measure,
    "streaming": streaming.measure,
    "memory": memory.measure,
    "database": database.measure,
    "peers": peers.measure,
}
