"""One run over the validation examples: numbers, and the heatmaps to show."""

from functools import partial
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_embcam.callbacks.settings import Settings
from keras_embcam.callbacks.validation_examples import Examples, ValidationExamples
from keras_embcam.explaining import embed, explain
from keras_embcam.metrics import (
    find_empty_maps,
    heatmap_ratio_in_boxes,
    heatmap_ratio_in_masks,
    localization_accuracy,
    measure_retrieval,
    pointing_game_in_boxes,
    pointing_game_in_masks,
)
from keras_embcam.proxies import RunningClassMean, trained


class Shown(NamedTuple):
    """Examples to show, with their heatmaps (n, H, W) and ratios (n,), NaN for none."""

    examples: Examples
    heatmaps: np.ndarray
    ratios: np.ndarray


class Numbers(NamedTuple):
    """What one run over all examples measured.

    Attributes:
        values: by name, such as "heatmap_ratio_bbox".
        uniform: those of the uniform map, for the ratios.
        per_image: each image's ratios (n,), NaN for an empty map.
        worst: the examples with the lowest ratios, None without boxes and masks.
        embeddings: (n, d) float32, raw.
        labels: (n,), or None.
    """

    values: dict[str, float]
    uniform: dict[str, float]
    per_image: dict[str, np.ndarray]
    worst: Shown | None
    embeddings: np.ndarray
    labels: np.ndarray | None


class ValidationRun:
    """Explain and measure validation examples with the current weights of a model.

    Args:
        model: that is trained.
        examples: to measure on.
        settings: how.
    """

    def __init__(
        self, model: keras.Model, examples: ValidationExamples, settings: Settings
    ) -> None:
        self._model = model
        self._examples = examples
        self._settings = settings
        # Each image's ratios of the uniform map never change: measured once.
        self._uniform: dict[str, np.ndarray] | None = None
        # Run eagerly, these took as long as small images take to explain.
        self._compiled = tf.function(
            partial(_compare, settings), autograph=False, reduce_retracing=True
        )

    def find_proxies(self) -> dict[str, Any]:
        """Return the arguments of `explain` that state what to explain.

        Class means of all examples take a run of their own.
        """
        settings = self._settings
        if settings.class_proxies is not None:
            return {"class_proxies": settings.class_proxies}
        if settings.proxy == "trained":
            return {"class_proxies": trained(self._model, settings.proxy_layer)}
        if settings.proxy == "class_mean":
            return {"class_proxies": self._measure_class_means()}
        return {"proxies": settings.proxy if callable(settings.proxy) else None}

    def _measure_class_means(self) -> np.ndarray:
        batches = [
            (
                embed(
                    self._model,
                    batch["image"],
                    conv_layer=self._settings.conv_layer,
                    embedding_layer=self._settings.embedding_layer,
                    batch_size=len(batch["image"]),
                ),
                batch["label"],
            )
            for batch in self._examples.batches()
        ]
        means = RunningClassMean(1 + max(int(labels.max()) for _, labels in batches))
        for embeddings, labels in batches:
            means.update(embeddings, labels)
        return means.result()

    def explain(self, examples: Examples, proxies: dict[str, Any]) -> Any:
        """Return the `Explanation` of a batch of examples."""
        if "class_proxies" in proxies:
            proxies = {**proxies, "labels": examples["label"]}
        return explain(
            self._model,
            examples["image"],
            details=True,
            conv_layer=self._settings.conv_layer,
            embedding_layer=self._settings.embedding_layer,
            weighting=self._settings.weighting,
            top_channels=self._settings.top_channels,
            preset=self._settings.preset,
            batch_size=len(examples["image"]),
            **proxies,
        )

    def show(self, examples: Examples, proxies: dict[str, Any]) -> Shown:
        """Return the heatmaps of a few examples."""
        heatmaps = self.explain(examples, proxies).heatmaps
        ratios, _ = self._compare(examples, heatmaps)
        return Shown(examples, heatmaps, _first(ratios, len(heatmaps)))

    def measure(self, proxies: dict[str, Any], num_worst: int) -> Numbers:
        """Run over all examples; memory grows by their embeddings only."""
        embeddings, labels, worst = [], [], None
        gathered: dict[str, list[np.ndarray]] = {}
        uniform: dict[str, list[np.ndarray]] = {}
        for batch in self._examples.batches():
            explanation = self.explain(batch, proxies)
            heatmaps = explanation.heatmaps
            embeddings.append(explanation.embeddings)
            if "label" in batch:
                labels.append(batch["label"])
            ratios, others = self._judge(batch, heatmaps)
            _gather(gathered, {**ratios, **others})
            if self._uniform is None:
                _gather(uniform, self._compare(batch, np.ones_like(heatmaps))[0])
            if ratios and num_worst:
                shown = Shown(batch, heatmaps, _first(ratios, len(heatmaps)))
                worst = _keep_worst(worst, shown, num_worst)
        per_image = {name: np.concatenate(parts) for name, parts in gathered.items()}
        if self._uniform is None:
            self._uniform = {x: np.concatenate(parts) for x, parts in uniform.items()}
        values = {name: _mean(x) for name, x in per_image.items()}
        all_embeddings = np.concatenate(embeddings)
        all_labels = np.concatenate(labels) if labels else None
        if all_labels is not None:
            values |= measure_retrieval(all_embeddings, all_labels)
        return Numbers(
            values,
            {
                # Of the same images as the mean that this one stands beside.
                name: _mean(np.where(np.isnan(per_image[name]), np.nan, x))
                for name, x in self._uniform.items()
            },
            {name: per_image[name] for name in self._uniform},
            worst,
            all_embeddings,
            all_labels,
        )

    def _compare(self, examples: Examples, heatmaps: np.ndarray) -> tuple[dict, dict]:
        """Return the ratios of each image, and its other figures but for boxes."""
        keys = {"bbox", "segmentation_mask"} & examples.keys()
        objects = {key: examples[key] for key in keys}
        return tree.map_structure(np.asarray, self._compiled(objects, heatmaps))

    def _judge(self, examples: Examples, heatmaps: np.ndarray) -> tuple[dict, dict]:
        """Return the ratios of each image, and its other figures."""
        ratios, others = self._compare(examples, heatmaps)
        if "bbox" in examples:
            others["localization_accuracy"] = localization_accuracy(
                heatmaps,
                examples["bbox"],
                self._settings.bounding_box_format,
                threshold=self._settings.box_threshold,
            )
        return ratios, others


def _compare(settings: Settings, objects: Examples, heatmaps: Any) -> tuple[dict, dict]:
    """Compare heatmaps with boxes and masks; of what is not there, nothing."""
    ratios, others = {}, {"empty_heatmaps": find_empty_maps(heatmaps)}
    if "segmentation_mask" in objects:
        masks = (
            objects["segmentation_mask"],
            settings.mask_foreground,
            settings.mask_ignored,
        )
        ratios["heatmap_ratio_mask"] = heatmap_ratio_in_masks(heatmaps, *masks)
        if "bbox" not in objects:
            others["pointing_game"] = pointing_game_in_masks(
                heatmaps, *masks, tolerance=0
            )
    if "bbox" in objects:
        boxes = objects["bbox"], settings.bounding_box_format
        ratios["heatmap_ratio_bbox"] = heatmap_ratio_in_boxes(heatmaps, *boxes)
        others["pointing_game"] = pointing_game_in_boxes(heatmaps, *boxes, tolerance=0)
    return ratios, others


def _first(ratios: dict[str, np.ndarray], num_images: int) -> np.ndarray:
    """Return the ratios in boxes, else those in masks, else NaN."""
    missing = np.full(num_images, np.nan)
    return ratios.get("heatmap_ratio_bbox", ratios.get("heatmap_ratio_mask", missing))


def _gather(parts: dict[str, list[np.ndarray]], values: dict[str, np.ndarray]) -> None:
    for name, array in values.items():
        parts.setdefault(name, []).append(array)


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)].astype("float64")
    return float(values.mean()) if len(values) else float("nan")


def _keep_worst(worst: Shown | None, shown: Shown, num_worst: int) -> Shown:
    if worst is not None:
        examples = {
            key: np.concatenate([worst.examples[key], shown.examples[key]])
            for key in shown.examples
        }
        shown = Shown(
            examples,
            np.concatenate([worst.heatmaps, shown.heatmaps]),
            np.concatenate([worst.ratios, shown.ratios]),
        )
    # An image without a ratio, for an empty map or no object, is not the worst.
    order = np.argsort(shown.ratios, kind="stable")[:num_worst]
    return Shown(
        {key: values[order] for key, values in shown.examples.items()},
        shown.heatmaps[order],
        shown.ratios[order],
    )
