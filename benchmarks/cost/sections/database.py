"""GradWeightDatabase: making it, and asking it at several sizes."""

import functools
import importlib.util
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from benchmarks.cost.plan import EMBEDDING_SIZE, Plan, make_images, make_network
from benchmarks.cost.results import Row, single
from benchmarks.cost.timing import alternate, compare, find_spread, timer
from keras_embcam import embed, explain
from keras_embcam.transfer import GradWeightDatabase
from keras_embcam.transfer.weight_table import GradWeightTable

NUM_CHANNELS, NUM_KEPT = 2048, 50
NUM_QUERIES = 32
ENTRIES_PER_CLUSTER = 500


def measure(plan: Plan) -> Iterator[Row]:
    """Yield the costs of `fit`, `explain` and `query`."""
    network = plan.small_network
    yield from _measure_fit(network, plan)
    searches: list[Literal["exact", "faiss"]] = ["exact"]
    if importlib.util.find_spec("faiss"):
        searches.append("faiss")
    else:
        note = "faiss is not installed"
        yield Row("search with faiss", "query", None, note=note)
    for num_entries in plan.num_entries:
        yield from _measure_query(num_entries, searches, plan)


def _measure_fit(network: str, plan: Plan) -> Iterator[Row]:
    num_images = plan.num_examples[1] // 2
    model = make_network(network, plan.small_size)
    images = make_images(num_images, plan.small_size)
    labels = np.arange(num_images) // 10
    embeddings = embed(model, images)

    def fit(**options: Any) -> GradWeightDatabase:
        # Wide enough that every image has active triplets: the weights are random.
        return GradWeightDatabase.fit(model, images, labels, margin=2.0, **options)

    database = fit()
    seconds = alternate(
        {
            "predict": timer(lambda: model.predict(images, verbose=0)),
            "explain": timer(lambda: explain(model, images)),
            "fit": timer(fit),
            "fit embedded": timer(lambda: fit(embeddings=embeddings)),
            "transfer": timer(lambda: database.explain(model, images)),
        },
        plan.few_pairs,
        num_warm_ups=1,
    )
    size = f"{plan.small_size} x {plan.small_size}"
    subject = f"{network}, {size}, {num_images:,} images"
    for name, quantity in (
        ("fit", "fit / predict"),
        ("fit embedded", "fit with given embeddings / predict"),
        ("explain", "explain / predict"),
        ("transfer", "explain by the database / predict"),
    ):
        ratio = compare(seconds[name], seconds["predict"])
        yield Row(subject, quantity, ratio, plan.few_pairs)


def _measure_query(
    num_entries: int, searches: list[Literal["exact", "faiss"]], plan: Plan
) -> Iterator[Row]:
    table = make_table(num_entries)
    random = np.random.default_rng(1)
    rows = random.integers(0, num_entries, NUM_QUERIES)
    queries = table.embeddings[rows] + random.normal(
        scale=0.02, size=(NUM_QUERIES, EMBEDDING_SIZE)
    )
    seconds = alternate(
        {x: timer(functools.partial(table.query, queries, search=x)) for x in searches},
        plan.num_pairs,
    )
    for search in searches:
        milliseconds = [1000 * x for x in seconds[search]]
        yield Row(
            f"{num_entries:,} entries of width {EMBEDDING_SIZE}, {search}",
            f"query of {NUM_QUERIES} embeddings",
            find_spread(milliseconds),
            plan.num_pairs,
            unit="ms",
        )
    arrays = table.embeddings, table.channels, table.values
    megabytes = single(sum(x.nbytes for x in arrays) / 1e6)
    subject = f"{num_entries:,} entries of width {EMBEDDING_SIZE}"
    note = f"{NUM_KEPT} channels each; faiss keeps the embeddings once more"
    yield Row(subject, "arrays in memory", megabytes, unit="MB", note=note)
    if "faiss" in searches:
        exact, approximate = (table.query(queries, search=x) for x in searches)
        share = single(float((exact == approximate).all(axis=1).mean()))
        quantity = "queries whose nearest entry faiss finds"
        yield Row(subject, quantity, share, note="embeddings in clusters")


def make_table(num_entries: int) -> GradWeightTable:
    """Return a table whose embeddings lie in clusters, as trained ones do."""
    random = np.random.default_rng(0)
    num_clusters = -(-num_entries // ENTRIES_PER_CLUSTER)
    centres = random.normal(size=(num_clusters, EMBEDDING_SIZE))
    embeddings = centres[np.arange(num_entries) % num_clusters] + random.normal(
        scale=0.3, size=(num_entries, EMBEDDING_SIZE)
    )
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    first = random.integers(0, NUM_CHANNELS - NUM_KEPT, (num_entries, 1))
    return GradWeightTable(
        embeddings=embeddings.astype("float32"),
        channels=(first + np.arange(NUM_KEPT)).astype("int32"),
        values=random.random((num_entries, NUM_KEPT), dtype="float32"),
        num_channels=NUM_CHANNELS,
    )
