"""How much the number of channels matters."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import keras

from keras_embcam.evaluation.compared_method import ComparedMethod
from keras_embcam.evaluation.known_methods import (
    prepare_methods,
)
from keras_embcam.evaluation.layer_facts import look_at_layers
from keras_embcam.evaluation.measure_input import Context
from keras_embcam.evaluation.whole_set import choose_metrics, gather_figures
from keras_embcam.metrics import ObjectFormat
from keras_embcam.metrics.statistics import mean_of, std_of
from keras_embcam.network.inputs import check_model
from keras_embcam.running.labelled_examples import ExampleStream

CHANNEL_COUNTS = tuple(x * 10**power for power in range(5) for x in (1, 2, 5))


def sensitivity_to_channels(
    model: keras.Model,
    examples: Any,
    methods: Iterable[str | ComparedMethod] = ("single_point", "class_mean", "triplet"),
    *,
    channels: Sequence[int] | None = None,
    bounding_box_format: str = "rel_yxyx",
    mask_foreground: int | None = None,
    mask_ignored: int | None = None,
    conv_layer: Any = None,
    embedding_layer: Any = None,
    preprocessing_function: Any = None,
    batch_size: int = 32,
    seed: int = 0,
    strict: bool = False,
) -> dict[str, dict[str, Any]]:
    """Return the heatmap ratio by the number of top channels (Chen et al., fig. 7a).

    All numbers of channels of all methods share one run of the model.

    Args:
        model: any Keras model, see `explain`.
        examples: with boxes, else with masks; see `evaluate`.
        methods: that explain by channels.
        channels: numbers of channels; None for 1, 2, 5, 10, 20, 50, ... and all of
            the layer's.
        bounding_box_format: of the boxes, as Keras names it.
        mask_foreground: the value of the object in integer masks, None for bool masks.
        mask_ignored: the value of integer masks to leave out, None for none.
        conv_layer: of the methods that name none.
        embedding_layer: name, path or object of a layer, or None.
        preprocessing_function: applied to each batch of images, its name, or None.
        batch_size: images at a time, >= 1.
        seed: of sampled triplets.
        strict: raise for an example that cannot be read, instead of leaving it out.

    Returns:
        A curve to add to `Report.curves`, by its title: "x", and for each method "y"
        and its standard deviation over images "std".

    Raises:
        ValueError: for examples without boxes and masks, methods that have no
            channels, and whatever does not fit.
    """
    check_model(model)
    stream = ExampleStream(examples, model, batch_size, preprocessing_function, strict)
    metric = "heatmap_ratio_bbox" if "bbox" in stream.keys else "heatmap_ratio_mask"
    wanted = choose_metrics((metric,), stream.keys)
    chosen, _ = prepare_methods(methods, conv_layer, embedding_layer, stream.keys)
    alone = [x.name for x in chosen if x.preset or not x.explains_proxy]
    if alone:
        raise ValueError(
            "`methods` must weight channels, without `heatmaps`, `database` and "
            f"`preset`. Received: {alone}"
        )
    layers = look_at_layers(model, chosen, next(iter(stream))["image"])
    num_channels = min(
        shape[2] for layer in layers if layer is not None for shape in layer.shapes
    )
    if channels is None:
        channels = [x for x in CHANNEL_COUNTS if x < num_channels] + [num_channels]
    variants = [
        replace(method, name=f"{method.name}, top {number}", top_channels=number)
        for method in chosen
        for number in channels
    ]
    objects = ObjectFormat(bounding_box_format, mask_foreground, mask_ignored)
    figures, _ = gather_figures(
        Context(model, variants, stream, objects, seed=seed), wanted
    )
    ratios = [x.of_images()[metric] for x in figures]
    parts = {
        method.name: ratios[start * len(channels) :][: len(channels)]
        for start, method in enumerate(chosen)
    }
    curve = {
        "x": [int(x) for x in channels],
        "x_name": "number of channels",
        "y": {name: [mean_of(x) for x in values] for name, values in parts.items()},
        "std": {name: [std_of(x) for x in values] for name, values in parts.items()},
        "logarithmic": True,
    }
    return {"Heatmap ratio by top channels": curve}
