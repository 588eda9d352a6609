"""evaluate(): a table of methods on one model and one labelled set."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import keras

from keras_embcam.evaluation.compared_method import ComparedMethod
from keras_embcam.evaluation.context_ratio import measure_context_ratio
from keras_embcam.evaluation.correlation import check_scipy
from keras_embcam.evaluation.cost import describe_methods, measure_costs
from keras_embcam.evaluation.known_measures import FAITHFULNESS_MEASURES, TABLES
from keras_embcam.evaluation.known_methods import (
    DEFAULT_METHODS,
    prepare_methods,
)
from keras_embcam.evaluation.measure import Measured
from keras_embcam.evaluation.measure_input import Context
from keras_embcam.evaluation.report import Report
from keras_embcam.evaluation.several_models import describe_architecture
from keras_embcam.evaluation.weight_randomization import measure_randomized
from keras_embcam.evaluation.whole_set import choose_metrics, measure_figures
from keras_embcam.metrics import ObjectFormat
from keras_embcam.network.inputs import check_model, name_inputs
from keras_embcam.running.labelled_examples import ExampleStream
from keras_embcam.whole_numbers import check_integer


def evaluate(
    model: keras.Model,
    examples: Any,
    methods: Iterable[str | ComparedMethod] = DEFAULT_METHODS,
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
    context_ratio: bool = False,
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
        methods: `evaluation.Method` objects and names of `METHODS`. Those of the
            default that need labels are left out where there are none.
        metrics: among "heatmap_ratio_bbox", "heatmap_ratio_mask",
            "localization_accuracy", "pxap" and "pointing_game"; None for all that the
            examples allow.
        calibration_examples: other examples with boxes, to choose thresholds on.
        bounding_box_format: of the boxes, as Keras names it.
        mask_foreground: the value of the object in integer masks, None for bool masks.
        mask_ignored: the value of integer masks to leave out, None for none.
        conv_layer: of the methods that name none and have no preset: name, path or
            object of a layer, a list of several, or None for the last convolution.
        embedding_layer: name, path or object of the layer whose output is the raw
            embedding, or None to find it.
        preprocessing_function: applied to each batch of images, its name, or None.
        batch_size: images at a time, >= 1.
        faithfulness_images: how many images to measure faithfulness on; 0 for none.
            Takes 42 runs of the model for each image and method, some 50 for each
            image and proxy, and some 20 for each image.
        context_ratio: True to measure Recall@1 with the object and with everything
            else covered too, see `keras_embcam.context_ratio`: seven runs of the model
            for each image. It stands among the settings, since it is the model's.
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
        ImportError: where faithfulness is asked for and SciPy is missing.

    Example:

    >>> import keras, numpy as np
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
    >>> report.rows[0]["heatmap_ratio_bbox"], report.rows[0]["pointing_game"]
    (0.5, 1.0)
    """
    check_model(model)
    names = name_inputs(model)
    if len(names) > 1:
        raise ValueError(
            "`evaluate` takes models of one input, the images, since its measures "
            f"change them. The model takes {names}. Pass a model of the images alone, "
            "which feeds the other inputs with constants."
        )
    check_integer("faithfulness_images", faithfulness_images, 0)
    check_integer("num_timings", num_timings, 0)
    if faithfulness_images:
        check_scipy()  # before minutes of work that would be lost
    options = (model, batch_size, preprocessing_function, strict)
    stream = ExampleStream(examples, *options)
    wanted = choose_metrics(metrics, stream.keys)
    if not wanted and not faithfulness_images:
        raise ValueError(
            '`examples` must have a "bbox" or a "segmentation_mask" to measure on, or '
            "`faithfulness_images` must be above 0. Received examples with "
            f"{sorted(stream.keys)}"
        )
    chosen, notes = prepare_methods(methods, conv_layer, embedding_layer, stream.keys)
    objects = ObjectFormat(bounding_box_format, mask_foreground, mask_ignored)
    make_context = partial(
        Context, model, chosen, embedding_layer=embedding_layer, seed=seed
    )
    calibration = None
    if calibration_examples is not None:
        if "localization_accuracy" not in wanted:
            raise ValueError(
                "`calibration_examples` choose thresholds for boxes: pass `examples` "
                f'with a "bbox" too. Received examples with {sorted(stream.keys)}'
            )
        other = ExampleStream(calibration_examples, *options)
        calibration = make_context(other, objects)
    measures: list[Callable[[Context], Measured]] = [
        describe_methods,
        partial(measure_figures, metrics=wanted, calibration=calibration),
    ]
    if faithfulness_images:
        # The one that can fail for a reason in the model comes first.
        measures += sorted(
            FAITHFULNESS_MEASURES, key=lambda x: x is not measure_randomized
        )
    if context_ratio:
        measures.append(measure_context_ratio)
    if num_timings:
        measures.append(partial(measure_costs, num_timings=num_timings))
    context = make_context(stream, objects, num_sampled=faithfulness_images)
    # The number of images is known in the end, and stands here in the text.
    settings = {"model": name, "images": None, "framing": framing}
    return _measure_all(context, measures, settings, notes)


def _measure_all(
    context: Context,
    measures: Iterable[Callable[[Context], Measured]],
    settings: dict[str, Any],
    notes: list[str],
) -> Report:
    rows: list[dict[str, Any]] = [{"method": x.name} for x in context.methods]
    report = Report(rows, settings, notes=notes)
    report.architecture = describe_architecture(context.model)
    printed = {column.key for columns in TABLES.values() for column in columns}
    for measure in measures:
        measured = measure(context)
        for row, columns in zip(rows, measured.columns, strict=True):
            row |= columns
            if columns.keys() - printed:
                raise ValueError(
                    "Every column must be named by its measure (`fills`), and the "
                    "measure by `known_measures`, or no table prints it. Received: "
                    f"{sorted(columns.keys() - printed)}"
                )
        report.settings |= measured.settings
        report.curves |= measured.curves
        report.notes += measured.notes
        report.by_image += [
            {"method": method.name, **figures}
            for method, figures in zip(
                context.methods, measured.by_image, strict=bool(measured.by_image)
            )
        ]
    report.settings["seed"] = context.seed
    return report
