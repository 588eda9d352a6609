"""evaluate(): a table of methods on one model and one labelled set."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from keras_embcam.evaluation.cost import measure_costs
from keras_embcam.evaluation.faithfulness_run import measure_faithfulness
from keras_embcam.evaluation.measures import (
    NAMED_THRESHOLDS,
    THRESHOLDS,
    Measures,
    Regions,
    choose_metrics,
)
from keras_embcam.evaluation.method import DEFAULT_METHODS, Method
from keras_embcam.evaluation.report import Report
from keras_embcam.evaluation.set_run import (
    LayerFacts,
    SetRun,
    choose_methods,
    find_single_layer,
    look_at_layers,
    measure_set,
)
from keras_embcam.network.inputs import check_model
from keras_embcam.running.labelled_examples import ExampleStream


def evaluate(
    model: keras.Model,
    examples: Any,
    methods: Iterable[str | Method] = DEFAULT_METHODS,
    *,
    metrics: Iterable[str] | None = None,
    calibration_examples: Any = None,
    bounding_box_format: str = "rel_yxyx",
    mask_foreground: int | None = None,
    mask_ignored: int | None = None,
    conv_layer: Any = None,
    embedding_layer: Any = None,
    preprocessing_function: Any = None,
    batch_size: int = 32,
    faithfulness_images: int = 0,
    num_timings: int = 3,
    seed: int = 0,
    strict: bool = False,
    name: str = "model",
    framing: str = "as given",
) -> Report:
    """Compare methods of explanation on a model and a set of examples.

    The model runs once an image for each layer that is explained, whatever the number
    of methods; memory grows by a few numbers an image and method, and by the
    embeddings where a proxy needs those of the whole set.

    Heatmap ratios are means over images, beside the uniform map's over the same
    images. A found box counts as right at an IoU of 0.5 or more; MaxBoxAcc is the
    accuracy at the best threshold (Choe et al., CVPR 2020), chosen on
    `calibration_examples`, else on the set itself, which flatters (the table says
    so). The pointing game has no tolerance. Empty maps are left out of ratios and
    counted; for localisation and pointing they are misses.

    Args:
        model: any Keras model, see `explain`.
        examples: dict of arrays, ``(images, labels)``, or a `tf.data.Dataset` of
            dicts {"image", "label", "bbox", "segmentation_mask"} in the same order
            each time; see `ExampleStream`.
        methods: `Method` objects and names of `METHODS`. Those of the default that
            need labels are left out where there are none.
        metrics: among "ratio_box", "ratio_mask", "localization", "pxap" and
            "pointing_game"; None for all that the examples allow.
        calibration_examples: other examples with boxes, to choose thresholds on.
        bounding_box_format: of the boxes, as Keras names it.
        mask_foreground: see `heatmap_ratio_in_masks`.
        mask_ignored: see `heatmap_ratio_in_masks`.
        conv_layer: of the methods that name none and have no preset; see
            `EmbeddingCAM`.
        embedding_layer: see `EmbeddingCAM`.
        preprocessing_function: see `explain`.
        batch_size: images at a time, >= 1.
        faithfulness_images: how many images to measure faithfulness on; 0 for none.
            Takes 42 runs of the model for each image and method, some 50 for each
            image and proxy, and some 20 for each image.
        num_timings: of each method alone, on one batch; 0 for no costs. Each method
            is compiled by itself for it.
        seed: of sampled triplets, chosen images and random weights.
        strict: raise for an example that cannot be read, instead of leaving it out
            and saying so.
        name: of the model and its weights, for the table.
        framing: how images were brought to their size, for the table.

    Returns:
        A `Report`.

    Raises:
        ValueError: for unknown methods or metrics, examples without what they need
            or without images, and whatever does not fit.
        TypeError: for what is no Keras model, or examples of an unknown kind.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 3)),
    ...     keras.layers.Conv2D(4, 3, activation="relu"),
    ...     keras.layers.GlobalAveragePooling2D(),
    ... ])
    >>> examples = {
    ...     "image": np.random.default_rng(0).random((4, 8, 8, 3)),
    ...     "bbox": np.float32([[0, 0, 1, 0.5]] * 4),
    ... }
    >>> report = evaluate(model, examples, ["uniform", "single_point"])
    >>> report.rows[0]["ratio_box"], report.rows[0]["pointing_game"]
    (0.5, 1.0)
    """
    check_model(model)
    _check_count("faithfulness_images", faithfulness_images)
    _check_count("num_timings", num_timings)
    options = (model, batch_size, preprocessing_function, strict)
    stream = ExampleStream(examples, *options)
    wanted = choose_metrics(metrics, stream.keys)
    if not wanted and not faithfulness_images:
        raise ValueError(
            '`examples` must have a "bbox" or a "segmentation_mask" to measure on, or '
            "`faithfulness_images` must be above 0. Received examples with "
            f"{sorted(stream.keys)}"
        )
    chosen, notes = choose_methods(methods, conv_layer, stream.keys)
    regions = Regions(bounding_box_format, mask_foreground, mask_ignored)
    common = {"embedding_layer": embedding_layer, "seed": seed}
    calibration = None
    if calibration_examples is not None:
        other = ExampleStream(calibration_examples, *options)
        if "localization" not in wanted:
            raise ValueError(
                "`calibration_examples` choose thresholds for boxes: pass `examples` "
                f'with a "bbox" too. Received examples with {sorted(stream.keys)}'
            )
        needed = choose_metrics(("localization",), other.keys)
        calibration = measure_set(model, other, chosen, needed, regions, **common)
    run = measure_set(
        model,
        stream,
        chosen,
        wanted,
        regions,
        embed_first=faithfulness_images > 0,
        **common,
    )
    notes += _note_skipped(stream.skipped, "examples")
    if calibration_examples is not None:
        notes += _note_skipped(other.skipped, "calibration examples")
    rows = _make_rows(chosen, run, calibration)
    notes += _note_left_out(rows, run)
    curves = (
        _draw_localization(chosen, run.measures) if "localization" in wanted else {}
    )
    first = next(iter(stream))
    layers = look_at_layers(model, chosen, embedding_layer, first["image"])
    for row, layer in zip(rows, layers, strict=True):
        if layer is not None:
            row["conv_layer"] = ", ".join(layer.names)
            row["map_size"] = ", ".join(" x ".join(map(str, x)) for x in layer.shapes)
    if faithfulness_images:
        found, more_curves, more_notes = measure_faithfulness(
            model,
            stream,
            chosen,
            run,
            num_images=faithfulness_images,
            regions=regions,
            **common,
        )
        curves |= more_curves
        notes += more_notes
        for row, values in zip(rows, found, strict=True):
            row |= values
    if num_timings:
        rows_of_batch = np.arange(len(first["image"]))
        costs = measure_costs(
            model,
            chosen,
            first["image"],
            run.proxies.choose(chosen, rows_of_batch, first.get("label")),
            layers,
            conv_layer=find_single_layer(chosen),
            embedding_layer=embedding_layer,
            num_timings=num_timings,
        )
        for row, cost in zip(rows, costs, strict=True):
            row |= cost
    settings = {"model": name, "images": run.num_images, "framing": framing}
    settings |= _describe(model, layers, first["image"], seed)
    if "localization" in wanted:
        settings["thresholds of MaxBoxAcc"] = (
            "chosen on the set itself (oracle threshold)"
            if calibration is None
            else f"chosen on {calibration.num_images} other images"
        ) + f", of {THRESHOLDS[0]} to {THRESHOLDS[-1]} in steps of 0.05"
    return Report(rows, settings, curves, notes)


def _make_rows(
    methods: Sequence[Method], run: SetRun, calibration: SetRun | None
) -> list[dict[str, Any]]:
    rows = []
    for number, (method, measures) in enumerate(
        zip(methods, run.measures, strict=True)
    ):
        chosen = None
        if calibration is not None:
            chosen = calibration.measures[number].choose_thresholds()
        rows.append(
            {
                "method": method.name,
                "proxy": method.describe_proxy(),
                "weights": method.describe_weights(),
                **measures.row(chosen),
            }
        )
    return rows


def _draw_localization(
    methods: Sequence[Method], measures: Sequence[Measures]
) -> dict[str, Any]:
    return {
        "Localisation accuracy by threshold": {
            "x": list(THRESHOLDS),
            "x_name": "threshold, share of each map's maximum",
            "y": {
                method.name: of_method.localization_curve().tolist()
                for method, of_method in zip(methods, measures, strict=True)
            },
        }
    }


def _describe(
    model: keras.Model,
    layers: Sequence[LayerFacts | None],
    images: np.ndarray,
    seed: int,
) -> dict[str, Any]:
    known = [layer for layer in layers if layer is not None]
    described: dict[str, Any] = {
        "image size": " x ".join(str(x) for x in images.shape[1:3]),
        "parameters": model.count_params(),
    }
    if known:
        described["embedding"] = f"{known[0].embedding}, width {known[0].width}"
    described["localisation thresholds"] = ", ".join(map(str, NAMED_THRESHOLDS))
    return described | {"seed": seed}


def _note_skipped(skipped: list[str], what: str) -> list[str]:
    if not skipped:
        return []
    more = f" and {len(skipped) - 10} more" if len(skipped) > 10 else ""
    listed = "; ".join(skipped[:10]) + more
    return [f"Left out, as they cannot be read: {len(skipped)} {what}: {listed}"]


def _note_left_out(rows: list[dict[str, Any]], run: SetRun) -> list[str]:
    affected = {row["method"]: row["left_out"] for row in rows if row["left_out"]}
    if not affected:
        return []
    labels = np.empty(0, int) if run.labels is None else run.labels
    _, counts = np.unique(labels, return_counts=True)
    return [
        "Images left out, as they have no proxy (the only one of their class, or "
        f"without an active triplet): {affected}. Classes with one image: "
        f"{int((counts == 1).sum())}"
    ]


def _check_count(name: str, number: Any) -> None:
    if not isinstance(number, int | np.integer) or number < 0:
        raise ValueError(f"`{name}` must be an integer >= 0. Received: {number!r}")
