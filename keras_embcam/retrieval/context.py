"""context_ratio(): does the object or its background decide what a search returns."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_embcam.method import Method
from keras_embcam.metrics import ObjectFormat
from keras_embcam.metrics.regions import cover_boxes, place_boxes, split_masks
from keras_embcam.network.inputs import check_model
from keras_embcam.retrieval.covering import COVERS, cover_images
from keras_embcam.retrieval.pair_maps import divide_by_length
from keras_embcam.retrieval.pairs import check_finite
from keras_embcam.running.compiled_functions import run_batches
from keras_embcam.running.image_batches import ImageSource
from keras_embcam.running.labelled_examples import ExampleStream
from keras_embcam.running.one_batch import embed_images
from keras_embcam.vector_search import find_nearest

SIDES = ("query", "both")


class CoveredRecall(NamedTuple):
    """Recall@1 of covered images.

    Attributes:
        cover: "constant", one colour for all images; "mean", the image's own mean
            colour; or "blur", a strong blur of it.
        sides: "both" where queries and gallery are covered alike, "query" where only
            the queries are.
        object_covered: Recall@1 in [0, 1] with the object covered.
        background_covered: Recall@1 with everything else covered.
        ratio: the first by the second, NaN where the second is 0. Near 0 where the
            object decides; above 1 where its background does.
    """

    cover: str
    sides: str
    object_covered: float
    background_covered: float
    ratio: float


class ContextRatio(NamedTuple):
    """Whether the object or its background decides what a search returns.

    Attributes:
        ratio: of the constant colour on the queries alone.
        rows: all covers and sides, the one of `ratio` first.
        recall: Recall@1 of the images as they are.
        chance: Recall@1 of a search that returns any other image.
        num_images: that were measured.
        num_left_out: images without an object to cover, or with nothing else.
    """

    ratio: float
    rows: tuple[CoveredRecall, ...]
    recall: float
    chance: float
    num_images: int
    num_left_out: int

    def as_logs(self) -> dict[str, float]:
        """Return all figures by name, such as "context_ratio_mean_both".

        Example:

        >>> row = CoveredRecall("blur", "query", 0.2, 0.8, 0.25)
        >>> ContextRatio(0.25, (row,), 0.9, 0.1, 20, 0).as_logs()["context_ratio"]
        0.25
        """
        logs = {"context_ratio": self.ratio}
        for row in self.rows:
            name = f"{row.cover}_{row.sides}"
            logs[f"context_ratio_{name}"] = row.ratio
            logs[f"recall_at_1_object_covered_{name}"] = row.object_covered
            logs[f"recall_at_1_background_covered_{name}"] = row.background_covered
        return logs


def context_ratio(
    model: keras.Model,
    examples: Any,
    *,
    bounding_box_format: str = "rel_yxyx",
    mask_foreground: int | None = None,
    mask_ignored: int | None = None,
    conv_layer: Any = None,
    embedding_layer: Any = None,
    preprocessing_function: str | Callable | None = None,
    batch_size: int = 32,
    verbose: int = 0,
) -> ContextRatio:
    """Measure whether the object or its background decides what a search returns.

    ``Recall@1 with the object covered / Recall@1 with the background covered``
    (after "Jaguars or background", arXiv:2604.09690). It is the causal twin of the
    heatmap ratio: the heat says where the network looks, this what happens without.
    The object is the mask where there are masks, else the box.

    Every example is query and gallery, itself left out, as in `measure_retrieval`; of
    classes with one member there are no queries. Measured six times, with three covers
    on the queries alone or on both sides. The headline is that of one colour for all
    images, the mean of the first batch, on the queries alone. The mean colour of each
    image and a strong blur of it are reported too, but they leak: where the background
    is covered with them, the query still has its hue, and a network that looks at
    nothing else still finds it (docs/context_ratio.md).

    Args:
        model: any Keras model, see `EmbeddingCAM`.
        examples: with "image", "label", and "bbox" or "segmentation_mask", in any of
            the forms of `keras_embcam.evaluation.evaluate`.
        bounding_box_format: of the boxes, as Keras names it.
        mask_foreground: the value of the object in integer masks, None for bool masks.
        mask_ignored: a value of integer masks that is neither; it is always covered.
        conv_layer: see `EmbeddingCAM`.
        embedding_layer: see `EmbeddingCAM`.
        preprocessing_function: see `explain_batches`; applied after the covering.
        batch_size: images at a time, >= 1.
        verbose: 1 for a progress bar.

    Returns:
        A `ContextRatio`: the ratio, and Recall@1 in [0, 1] under each cover.

    Raises:
        ValueError: for examples without labels, without boxes and masks, with no class
            of two members, or that do not fit.
        TypeError: for examples of an unknown kind, or what is no Keras model.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 3)),
    ...     keras.layers.Conv2D(6, 3, activation="relu"),
    ...     keras.layers.GlobalAveragePooling2D(),
    ... ])
    >>> examples = {
    ...     "image": np.random.default_rng(0).random((6, 8, 8, 3)),
    ...     "label": [0, 0, 1, 1, 2, 2],
    ...     "bbox": np.float32([[0.25, 0.25, 0.75, 0.75]] * 6),
    ... }
    >>> found = context_ratio(model, examples)
    >>> {row.cover for row in found.rows} == {"constant", "mean", "blur"}
    True
    >>> found.rows[0].cover, found.rows[0].sides
    ('constant', 'query')
    >>> found.chance
    0.2
    """
    check_model(model)
    stream = ExampleStream(examples, batch_size=batch_size)
    stream.look_at(model)
    return measure_context(
        model,
        stream,
        Method(
            conv_layer=conv_layer,
            embedding_layer=embedding_layer,
        ),
        ObjectFormat(bounding_box_format, mask_foreground, mask_ignored),
        preprocessing_function=preprocessing_function,
        batch_size=batch_size,
        verbose=verbose,
    )


def measure_context(
    model: keras.Model,
    stream: ExampleStream,
    method: Method,
    objects: ObjectFormat,
    *,
    preprocessing_function: str | Callable | None = None,
    batch_size: int = 32,
    verbose: int = 0,
) -> ContextRatio:
    """Return the same as `context_ratio` of a stream of examples.

    Args:
        model: see `context_ratio`, also for what is not named here.
        stream: that has looked at the model.
        method: names the layers.
        objects: how boxes and masks are stated.
        preprocessing_function: for a stream that has none of its own.
        batch_size: see `context_ratio`.
        verbose: see `context_ratio`.

    Raises:
        ValueError: see `context_ratio`.
    """
    for needed in ({"label"}, {"bbox", "segmentation_mask"}):
        if not needed & stream.keys:
            raise ValueError(
                f"`examples` must have {' or '.join(map(repr, sorted(needed)))}. "
                f"Received: {sorted(stream.keys)}"
            )
    bar = keras.utils.Progbar(None, verbose=verbose, unit_name="image")
    parts: dict[Any, list[np.ndarray]] = {}
    labels, num_left_out = [], 0
    constant = None
    for batch in stream:
        if constant is None:  # of any images, as long as all have the same
            constant = batch["image"].mean(axis=(0, 1, 2), dtype="float64")
        inside, outside = _find_object(batch, objects)
        kept = np.flatnonzero(inside.any(axis=(1, 2)) & outside.any(axis=(1, 2)))
        num_left_out += len(inside) - len(kept)
        bar.add(len(inside))
        if not len(kept):
            continue
        batch = {key: values[kept] for key, values in batch.items()}
        labels.append(batch["label"])
        for key, images in _cover(
            batch["image"], inside[kept], outside[kept], constant
        ):
            inputs = stream.inputs_of({**batch, "image": images})
            source = ImageSource(inputs, model, batch_size, preprocessing_function)
            for _, (found,) in run_batches(model, source, method, embed_images):
                parts.setdefault(key, []).append(found)
    if not labels:
        raise ValueError(
            "`examples` must have objects to cover: boxes with an area inside the "
            "image, and smaller than it, or masks of both. Received none such."
        )
    units = {key: _unit(np.concatenate(found)) for key, found in parts.items()}
    return _measure(units, np.concatenate(labels), num_left_out)


def _find_object(
    batch: dict[str, np.ndarray], objects: ObjectFormat
) -> tuple[np.ndarray, np.ndarray]:
    """Return how much of each pixel to cover for the object, and for all else."""
    like = np.zeros(batch["image"].shape[:3], "float32")
    if "segmentation_mask" in batch:
        masks, counted = (
            ops.convert_to_numpy(x)
            for x in split_masks(
                batch["segmentation_mask"],
                objects.mask_foreground,
                objects.mask_ignored,
                like,
            )
        )
        # What is neither is covered both times, so that no edge gives a shape away.
        inside = (masks | ~counted).astype("float32")
        outside = 1 - masks.astype("float32")
        return inside * masks.any(axis=(1, 2), keepdims=True), outside
    boxes = place_boxes(batch["bbox"], objects.bounding_box_format, like)
    inside = ops.convert_to_numpy(cover_boxes(boxes, like))
    return inside, 1 - inside


def _cover(
    images: np.ndarray, inside: np.ndarray, outside: np.ndarray, constant: np.ndarray
) -> Iterator[tuple[Any, np.ndarray]]:
    yield None, images
    for cover in COVERS:
        yield (cover, "object"), cover_images(images, inside, cover, constant)
        yield (cover, "background"), cover_images(images, outside, cover, constant)


def _unit(embeddings: np.ndarray) -> np.ndarray:
    check_finite("examples", embeddings)
    return divide_by_length(embeddings, embeddings)


def _measure(
    units: dict[Any, np.ndarray], labels: np.ndarray, num_left_out: int
) -> ContextRatio:
    classes, sizes = np.unique(labels, return_counts=True)
    others = sizes[np.searchsorted(classes, labels)] - 1
    queries = np.flatnonzero(others)
    if not len(queries):
        raise ValueError(
            "`examples` must have a class of two members, or there is nothing to find. "
            f"Received {len(labels)} examples of as many classes."
        )

    def recall(asked: Any, gallery: Any) -> float:
        rows, _ = find_nearest(
            units[asked][queries], units[gallery], 1, own_rows=queries
        )
        return float(np.mean(labels[rows[:, 0]] == labels[queries]))

    rows = []
    for cover in COVERS:
        for sides in SIDES:
            found = [
                recall((cover, part), (cover, part) if sides == "both" else None)
                for part in ("object", "background")
            ]
            ratio = found[0] / found[1] if found[1] else np.nan
            rows.append(CoveredRecall(cover, sides, found[0], found[1], float(ratio)))
    chance = float(np.mean(others[queries] / (len(labels) - 1)))
    whole = recall(None, None)
    return ContextRatio(
        rows[0].ratio, tuple(rows), whole, chance, len(labels), num_left_out
    )
