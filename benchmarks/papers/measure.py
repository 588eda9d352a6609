"""One command for the tables of both papers, on a folder of birds."""

import functools
import time
from typing import Any, NamedTuple

import keras
import numpy as np

from benchmarks.papers import methods as methods_of
from benchmarks.papers import names
from benchmarks.papers.cub_halves import Examples, choose_central_box, load_half
from benchmarks.papers.options import Options
from benchmarks.papers.settings_and_figures import describe, join_rows, list_curves
from benchmarks.papers.tables import write_files
from benchmarks.papers.training import (
    build_network,
    measure_recall,
    train_network,
)
from benchmarks.papers.transferred_weights import (
    Lender,
    cut_by_channels,
    fit_databases,
    list_counts,
    measure_fit_times,
)
from keras_embcam.evaluation import Method, Report, average_reports, evaluate
from keras_embcam.explain_in_batches import embed

# Enough to choose one of 19 thresholds.
CALIBRATION_IMAGES_PER_CLASS = 20


class Run(NamedTuple):
    """What one training gives.

    Attributes:
        single: report of the single proxies, the baselines and the preset.
        lent: of the transferred weights, and of triplets of the test images.
        ratio_only: of the other rows, and of all numbers of channels.
        faithfulness: None where it was not asked for.
        recall: Recall@1 by what was measured.
        seconds: see `measure_fit_times`; empty without active triplets.
        notes: for a reader.
    """

    single: Report
    lent: Report
    ratio_only: Report
    faithfulness: Report | None
    recall: dict[str, float]
    seconds: dict[str, float]
    notes: list[str]


def run_papers(options: Options) -> dict[str, Any]:
    """Train or load the embedding, measure all rows, print the tables and write them.

    The network learns on the first half of the classes, where the central box and
    the thresholds of MaxBoxAcc are chosen too; everything is reported on the second
    half. Needs matplotlib and scikit-learn.

    Args:
        options: what to do.

    Returns:
        What `tables.json` of the folder `out` holds, beside `tables.md`, plots and the
        trained models: "settings", "options", "central_box_share", "recall" of each
        training, "rows" of figures, "curves", "faithfulness", "seconds_to_fit" and
        "notes".

    Raises:
        ValueError: for what does not fit, such as a folder of another layout.
        ImportError: where a library is missing.
    """
    start = time.perf_counter()
    load = functools.partial(
        load_half,
        options.data,
        image_size=options.image_size,
        framing=options.framing,
        limit=options.limit,
    )
    train, test = load("first_half"), load("second_half")
    share = choose_central_box(train["bbox"])
    print(
        f"{len(train['label'])} images to train on, {len(test['label'])} to report on"
    )
    options.out.mkdir(parents=True, exist_ok=True)
    runs = []
    for number in range(options.runs):
        seed = options.seed + number
        print(f"run {number + 1} of {options.runs}, seed {seed}", flush=True)
        runs.append(_run_once(options, seed, train, test, share, number == 0))
    single = _combine([run.single for run in runs])
    lent = _combine([run.lent for run in runs])
    ratio_only = _combine([run.ratio_only for run in runs])
    faithfulness = runs[0].faithfulness
    reports = [single, lent, ratio_only, *([faithfulness] if faithfulness else [])]
    notes = [note for run in runs for note in run.notes]
    notes += [note for report in reports for note in report.notes]
    recall = [run.recall for run in runs]
    sizes = len(train["label"]), len(test["label"])
    content = {
        "settings": {
            **describe(options, single, sizes, recall),
            "minutes": round((time.perf_counter() - start) / 60, 1),
        },
        "options": options.describe(),
        "central_box_share": share,
        "recall": recall,
        "rows": join_rows(single, lent, ratio_only),
        "curves": list_curves(single, lent, ratio_only),
        "faithfulness": faithfulness.rows if faithfulness else [],
        "seconds_to_fit": runs[0].seconds,
        "notes": list(dict.fromkeys(notes)),
    }
    for path in write_files(content, options.out):
        print(path)
    return content


def _run_once(
    options: Options,
    seed: int,
    train: Examples,
    test: Examples,
    share: float,
    is_first: bool,
) -> Run:
    recall, notes = {}, []
    keras.utils.set_random_seed(seed)
    if options.model is not None:
        model = keras.models.load_model(options.model, compile=False)
    else:
        network = build_network(options.backbone, options.weights, options.image_size)
        pooled = measure_recall(network.pooled, test["image"], test["label"])
        recall["pooled features of the backbone before training"] = pooled
        losses = train_network(
            network, train["image"], train["label"], epochs=options.epochs, seed=seed
        )
        if losses:
            ends = f"{losses[0]:.3f} in the first epoch, {losses[-1]:.3f} in the last"
            notes.append(f"Seed {seed}: margin loss {ends}")
        model = network.model
        model.save(options.out / f"model_seed_{seed}.keras")
    recall["embedding"] = measure_recall(model, test["image"], test["label"])
    for name, value in recall.items():
        print(f"Recall@1 on the second half, {name}: {value:.3f}", flush=True)
    measure = functools.partial(
        evaluate,
        model,
        seed=seed,
        num_timings=0,
        framing=options.framing.replace("_", " "),
        name=_name_model(options),
    )
    _tell("single proxies, baselines and the preset")
    methods = methods_of.make_single_methods(share)
    calibration = _pick_few(train, CALIBRATION_IMAGES_PER_CLASS)
    single = measure(test, methods, calibration_examples=calibration)
    _tell("databases of grad-weights")
    embeddings = embed(model, train["image"])
    triplets = model, train["image"], train["label"], embeddings
    databases, more_notes = fit_databases(*triplets, seed)
    notes += more_notes
    direct, more, seconds = methods_of.make_direct_methods(), [], {}
    lent_methods = direct
    if databases:
        lender = Lender(model, next(iter(databases.values())).conv_layer)
        lent_methods = direct + lender.make_methods(databases)
        more = _methods_by_channels(lender, databases)
    _tell("triplets and transferred weights")
    is_localized = methods_of.is_localized
    lent = measure(test, [x for x in lent_methods if is_localized(x.name)])
    _tell("the other scores, and numbers of channels")
    others = [x for x in lent_methods if not is_localized(x.name)]
    on = {"heatmap_ratio_bbox": "bbox", "heatmap_ratio_mask": "segmentation_mask"}
    ratios = [ratio for ratio, entry in on.items() if entry in test]
    ratio_only = measure(test, others + more, metrics=ratios)
    if databases and is_first:
        seconds = measure_fit_times(*triplets)
    faithfulness = None
    if is_first and options.faithfulness_images:
        _tell("faithfulness")
        faithfulness = measure(
            _pick_more_than(test, options.faithfulness_images),
            methods_of.make_faithfulness_methods(),
            metrics=(),
            faithfulness_images=options.faithfulness_images,
            num_timings=3,
        )
    return Run(single, lent, ratio_only, faithfulness, recall, seconds, notes)


def _combine(reports: list[Report]) -> Report:
    """Return the means over the trainings, of the rows that all of them have.

    One without active triplets has no rows of transferred weights.
    """
    if len(reports) == 1:
        return reports[0]
    measured = [{row["method"] for row in report.rows} for report in reports]
    shared = set.intersection(*measured)
    for report in reports:
        report.rows = [row for row in report.rows if row["method"] in shared]
    combined = average_reports(reports)
    missing = sorted(set.union(*measured) - shared)
    if missing:
        combined.notes.append(
            f"Rows that not all trainings have are missing: {missing}"
        )
    return combined


def _methods_by_channels(lender: Lender, databases: Any) -> list[Method]:
    cuts = cut_by_channels(databases)
    counts = list_counts(next(iter(databases.values())).num_channels)
    curve = f"{names.BY_CHANNELS}average proxy, top"
    return lender.make_methods(cuts) + [
        Method(f"{curve} {number}", "class_mean", top_channels=number)
        for number in counts
    ]


def _pick_few(examples: Examples, number: int) -> Examples:
    """Return the first images of each class."""
    labels = examples["label"]
    rows = [np.flatnonzero(labels == label)[:number] for label in np.unique(labels)]
    return {key: values[np.concatenate(rows)] for key, values in examples.items()}


def _pick_more_than(examples: Examples, number: int) -> Examples:
    """Return so many images of each class that some of it stay for its mean."""
    num_classes = len(np.unique(examples["label"]))
    return _pick_few(examples, 2 + 2 * -(-number // num_classes))


def _name_model(options: Options) -> str:
    if options.model is not None:
        return options.model.name
    start = "random weights" if options.weights is None else options.weights.name
    return f"{options.backbone}, {start}"


def _tell(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} measuring: {what}", flush=True)
