"""What is measured on all images of a set, streamed: heat, boxes and pixels."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_embcam.evaluation.measure import Column, Measured, fills
from keras_embcam.evaluation.measure_input import Context
from keras_embcam.evaluation.set_proxies import find_missing
from keras_embcam.evaluation.streamed_figures import THRESHOLDS, StreamedFigures
from keras_embcam.metrics import measure_uniform_heatmaps
from keras_embcam.metrics.heatmap_figures import FIGURES, RATIOS
from keras_embcam.running.box_checks import BoxCheck
from keras_embcam.running.mask_checks import MaskCheck

# The entries of the examples that each metric needs: one of them is enough.
NEEDED = {
    **{name: figure.needs for name, figure in FIGURES.items() if figure.needs},
    "localization_accuracy": ("bbox",),
    "pxap": ("segmentation_mask",),
}
METRICS = tuple(NEEDED)


def _columns_of(name: str) -> Iterator[Column]:
    """Yield the columns of a figure: of a ratio its spread and the uniform map's."""
    yield Column(name, FIGURES[name].heading)
    if name in RATIOS:
        yield Column(f"{name}_std", "std")
        yield Column(f"{name}_std_models", "std models")
        yield Column(f"{name}_uniform", "uniform")


CURVE = "Localisation accuracy by threshold"


def choose_metrics(metrics: Any, keys: set[str]) -> tuple[str, ...]:
    """Return the metrics to measure.

    Args:
        metrics: among `METRICS`, or None for all that the examples allow.
        keys: what the examples have.

    Raises:
        ValueError: for an unknown metric, or one whose boxes or masks are missing.

    Example:

    >>> choose_metrics(None, {"image", "segmentation_mask"})
    ('heatmap_ratio_mask', 'pointing_game', 'pxap')
    """
    if metrics is None:
        return tuple(x for x in METRICS if keys.intersection(NEEDED[x]))
    metrics = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    unknown = [x for x in metrics if x not in METRICS]
    if unknown:
        raise ValueError(f"`metrics` must be among {METRICS}. Received: {unknown}")
    missing = {x: NEEDED[x] for x in metrics if not keys.intersection(NEEDED[x])}
    if missing:
        raise ValueError(
            "`examples` must have what the asked metrics measure on: "
            f"{ {x: ' or '.join(needed) for x, needed in missing.items()} }. Received "
            f"examples with {sorted(keys)}. Add it, or leave these metrics out."
        )
    return metrics


def gather_figures(
    context: Context, metrics: tuple[str, ...]
) -> tuple[list[StreamedFigures], np.ndarray | None]:
    """Measure all methods on the set, batch by batch.

    The model runs once an image for each layer that is explained; once more before
    that where a proxy takes the embeddings of the whole set.

    Args:
        context: of the set.
        metrics: among `METRICS`.

    Returns:
        The figures of each method, and the labels (n,) as the examples have them, None
        for none.

    Raises:
        ValueError: for examples that do not fit or come in another order each time,
            boxes that cannot have the format that is stated, and masks without the
            value of the object.
    """
    proxies = context.proxies  # embeds the set, where that is needed
    figures = [
        StreamedFigures(metrics, context.objects, x.find_box_threshold())
        for x in context.methods
    ]
    num_images = 0
    labels: list[np.ndarray] = []
    boxes = BoxCheck(context.objects.bounding_box_format, "examples")
    masks = MaskCheck(
        context.objects.mask_foreground, "examples", context.objects.mask_ignored
    )
    for batch in context.stream:
        images = batch["image"]
        if "bbox" in batch:
            boxes.update(batch["bbox"], images.shape[1:3])
        if "segmentation_mask" in batch:
            masks.update(batch["segmentation_mask"])
        rows = np.arange(num_images, num_images + len(images))
        num_images += len(images)
        given = context.labels_of(batch)
        labels += [] if given is None else [given]
        chosen = proxies.choose(context.methods, rows, given)
        uniform = {}
        if set(RATIOS) & set(metrics):
            shape = np.empty(images.shape[:3])
            found = measure_uniform_heatmaps(shape, batch, context.objects)
            uniform = {name: np.asarray(values) for name, values in found.items()}
        for number, heatmaps in context.explain(images, chosen):
            missing = find_missing(chosen[number], len(images))
            figures[number].update(heatmaps, batch, uniform, missing)
    if boxes.num_boxes:
        boxes.finish()
    masks.finish()
    return figures, np.concatenate(labels) if labels else None


@fills(
    "Where the heat is",
    Column("images", "images", 0),
    Column("left_out", "left out", 0),
    *(column for name in FIGURES for column in _columns_of(name)),
)
@fills(
    "Localisation",
    Column("localization_accuracy", "IoU>=0.5 at own threshold"),
    Column("localization_accuracy_std_models", "std models"),
    Column("box_threshold", "own threshold", 2),
    Column("localization_accuracy_0.2", "IoU>=0.5 at 0.2"),
    Column("localization_accuracy_0.2_std_models", "std models"),
    Column("localization_accuracy_0.15", "at 0.15"),
    Column("max_box_threshold", "chosen threshold", 2),
    Column("max_box_accuracy_0.3", "MaxBoxAcc 0.3"),
    Column("max_box_accuracy_0.5", "0.5"),
    Column("max_box_accuracy_0.7", "0.7"),
    Column("max_box_accuracy_mean", "mean"),
    Column("pxap", "PxAP"),
)
def measure_figures(
    context: Context, metrics: tuple[str, ...], calibration: Context | None = None
) -> Measured:
    """Measure where the heat is, which boxes it finds and which pixels.

    Args:
        context: of the set.
        metrics: among `METRICS`.
        calibration: of another set, with boxes, to choose thresholds on; None for the
            set itself.
    """
    chosen: list[Any] = [None] * len(context.methods)
    notes = []
    where = "on the set itself (oracle threshold)"
    if calibration is not None:
        needed = choose_metrics(("localization_accuracy",), calibration.stream.keys)
        others, _ = gather_figures(calibration, needed)
        chosen = [x.choose_thresholds() for x in others]
        where = f"on {len(others[0].overlaps())} other images"
    figures, labels = gather_figures(context, metrics)
    notes += _note_skipped(context.stream.skipped, "examples")
    if calibration is not None:
        notes += _note_skipped(calibration.stream.skipped, "calibration examples")
    rows = [x.row(at) for x, at in zip(figures, chosen, strict=True)]
    by_image = [x.of_images() for x in figures]
    settings: dict[str, Any] = {"images": len(by_image[0]["empty_heatmaps"])}
    curves = {}
    if "localization_accuracy" in metrics:
        settings["thresholds of MaxBoxAcc"] = (
            f"chosen {where}, of {THRESHOLDS[0]} to {THRESHOLDS[-1]} in steps of 0.05"
        )
        curves[CURVE] = {
            "x": list(THRESHOLDS),
            "x_name": "threshold, share of each map's maximum",
            "y": {
                method.name: x.localization_curve().tolist()
                for method, x in zip(context.methods, figures, strict=True)
            },
        }
    if labels is not None:
        by_image = [{"label": labels, **values} for values in by_image]
    notes += _note_left_out(context, rows, labels)
    return Measured(rows, curves, notes, settings, by_image)


def _note_skipped(skipped: list[str], what: str) -> list[str]:
    if not skipped:
        return []
    more = f" and {len(skipped) - 10} more" if len(skipped) > 10 else ""
    listed = "; ".join(skipped[:10]) + more
    return [f"Left out, as they cannot be read: {len(skipped)} {what}: {listed}"]


def _note_left_out(
    context: Context, rows: list[dict[str, Any]], labels: np.ndarray | None
) -> list[str]:
    affected = {
        method.name: row["left_out"]
        for method, row in zip(context.methods, rows, strict=True)
        if row["left_out"]
    }
    if not affected:
        return []
    counts = np.unique([] if labels is None else labels, return_counts=True)[1]
    return [
        "Images left out, as they have no proxy (the only one of their class, or "
        f"without an active triplet): {affected}. Classes with one image: "
        f"{int((counts == 1).sum())}"
    ]
