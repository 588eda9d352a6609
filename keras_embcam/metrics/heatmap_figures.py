"""Every figure of a heatmap by its name, in training logs and in tables alike."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from keras import ops

from keras_embcam.metrics.heatmap_ratio import (
    find_empty_maps,
    heatmap_ratio_in_boxes,
    heatmap_ratio_in_masks,
)
from keras_embcam.metrics.pointing_game import (
    pointing_game_in_boxes,
    pointing_game_in_masks,
)

Tensor = Any


class ObjectFormat(NamedTuple):
    """How labelled examples state where their objects are.

    Attributes:
        bounding_box_format: as Keras names it, for example "rel_yxyx".
        mask_foreground: the value of the object in integer masks, None for bool masks.
        mask_ignored: the value of integer masks to leave out, None for none.
    """

    bounding_box_format: str = "rel_yxyx"
    mask_foreground: int | None = None
    mask_ignored: int | None = None


class Figure(NamedTuple):
    """One number of each heatmap.

    Attributes:
        heading: of its column in a table.
        needs: the entries of an example that it is measured on, one of which is
            enough; none for a figure of the map alone.
        measure: ``(heatmaps, examples, objects) -> (n,)``, for `tf.function` too.
    """

    heading: str
    needs: tuple[str, ...]
    measure: Callable[[Tensor, Mapping[str, Tensor], ObjectFormat], Tensor]


def _find_empty(heatmaps: Tensor, *_: Any) -> Tensor:
    return find_empty_maps(heatmaps)


def _share_in_boxes(
    heatmaps: Tensor, examples: Mapping[str, Tensor], objects: ObjectFormat
) -> Tensor:
    boxes = examples["bbox"]
    return heatmap_ratio_in_boxes(heatmaps, boxes, objects.bounding_box_format)


def _share_in_masks(
    heatmaps: Tensor, examples: Mapping[str, Tensor], objects: ObjectFormat
) -> Tensor:
    masks = examples["segmentation_mask"]
    return heatmap_ratio_in_masks(heatmaps, masks, *objects[1:])


def _point(
    heatmaps: Tensor, examples: Mapping[str, Tensor], objects: ObjectFormat
) -> Tensor:
    if "bbox" in examples:
        boxes = examples["bbox"], objects.bounding_box_format
        return pointing_game_in_boxes(heatmaps, *boxes, tolerance=0)
    masks = examples["segmentation_mask"], *objects[1:]
    return pointing_game_in_masks(heatmaps, *masks, tolerance=0)


# In the order of their columns. Training logs and tables take them from here.
FIGURES = {
    "empty_heatmaps": Figure("empty", (), _find_empty),
    "heatmap_ratio_bbox": Figure("ratio bbox", ("bbox",), _share_in_boxes),
    "heatmap_ratio_mask": Figure("ratio mask", ("segmentation_mask",), _share_in_masks),
    "pointing_game": Figure("pointing", ("bbox", "segmentation_mask"), _point),
}
# Those that are read beside the figure of the uniform map.
RATIOS = ("heatmap_ratio_bbox", "heatmap_ratio_mask")


def measure_heatmaps(
    heatmaps: Tensor,
    examples: Mapping[str, Tensor],
    objects: ObjectFormat,
    figures: Iterable[str] = FIGURES,
) -> dict[str, Tensor]:
    """Return the figures of each heatmap that its example allows, by name.

    "empty_heatmaps"
        whether nothing is there: ``find_empty_maps``.
    "heatmap_ratio_bbox"
        share of the heat in the boxes: ``heatmap_ratio_in_boxes``.
    "heatmap_ratio_mask"
        share of the heat on the mask: ``heatmap_ratio_in_masks``.
    "pointing_game"
        whether the maximum lies on a box, or on the mask where there are no boxes,
        without a tolerance.

    Works inside ``tf.function``, unlike ``localization_accuracy``, which is therefore
    not among them.

    Args:
        heatmaps: (n, H, W) float, >= 0, at the size of the input image.
        examples: perhaps with "bbox" (n, 4) or (n, m, 4), and perhaps with
            "segmentation_mask" (n, H, W) or (n, H, W, 1).
        objects: how these are stated.
        figures: the names of those to measure.

    Returns:
        (n,) each; NaN where a figure is not defined.

    Raises:
        ValueError: for shapes or values that do not fit, or an unknown figure.

    Example:

    >>> import numpy as np
    >>> heatmaps, examples = np.float32([[[3, 1]]]), {"bbox": [[0, 0, 1, 0.5]]}
    >>> found = measure_heatmaps(heatmaps, examples, ObjectFormat("rel_yxyx"))
    >>> {name: np.asarray(x).tolist() for name, x in found.items()}
    {'empty_heatmaps': [False], 'heatmap_ratio_bbox': [0.75], 'pointing_game': [1.0]}
    """
    figures = tuple(figures)
    unknown = [name for name in figures if name not in FIGURES]
    if unknown:
        raise ValueError(
            f"`figures` must be among {tuple(FIGURES)}. Received: {unknown}"
        )
    return {
        name: figure.measure(heatmaps, examples, objects)
        for name, figure in FIGURES.items()
        if name in figures and (not figure.needs or {*figure.needs} & {*examples})
    }


def measure_uniform_heatmaps(
    heatmaps: Tensor, examples: Mapping[str, Tensor], objects: ObjectFormat
) -> dict[str, Tensor]:
    """Return the heatmap ratios of uniform maps, the baseline of any other map.

    That is the area of the object over the area of the image.

    Args:
        heatmaps: (n, H, W), of which only the shape counts.
        examples: see ``measure_heatmaps``.
        objects: see ``measure_heatmaps``.

    Returns:
        (n,) each, by the names of ``measure_heatmaps``.
    """
    uniform = ops.ones_like(heatmaps, dtype="float32")
    return measure_heatmaps(uniform, examples, objects, RATIOS)
