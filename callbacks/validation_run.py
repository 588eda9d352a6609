"""Explain and measure the validation examples with the current weights."""

import dataclasses
from collections.abc import Iterator
from itertools import chain, repeat
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_embcam.callbacks.class_means import measure_class_means
from keras_embcam.callbacks.explained_proxies import ExplainedProxies
from keras_embcam.callbacks.object_figures import ObjectFigures
from keras_embcam.callbacks.siamese_branch import find_branch
from keras_embcam.callbacks.update import (
    Shown,
    Update,
    gather,
    keep_worst,
    shrink_heatmaps,
)
from keras_embcam.heatmaps import find_boxes
from keras_embcam.method import Method
from keras_embcam.metrics import ObjectFormat, measure_retrieval
from keras_embcam.metrics.heatmap_figures import RATIOS
from keras_embcam.metrics.localization import compare_boxes, find_hits
from keras_embcam.metrics.statistics import mean_of
from keras_embcam.network.inputs import fit_images
from keras_embcam.network.view import ModelView
from keras_embcam.resizing import spread_size
from keras_embcam.running.box_checks import BoxCheck
from keras_embcam.running.chosen_proxies import ProxyChooser
from keras_embcam.running.compiled_functions import list_compiled, run_batches
from keras_embcam.running.finite_check import FiniteCheck
from keras_embcam.running.image_batches import ImageSource
from keras_embcam.running.labelled_examples import Examples, ExampleStream
from keras_embcam.running.mask_checks import MaskCheck
from keras_embcam.running.one_batch import embed_and_keep, explain_images


class ValidationRun:
    """Explains and measures validation examples with the current weights of a model.

    Args:
        model: that is explained; None for the trained one, or its branch if it is a
            siamese network.
        trained_model: that is trained.
        stream: of the examples.
        method: how heatmaps are made.
        objects: how boxes and masks are stated.
        proxies: what is explained.

    Attributes:
        model: that is explained.
        method: how, with the embedding's layer as it is called in the model.
        labels: (n,) as the user gave them, None before `prepare` or without labels.
        num_examples: n, 0 before `prepare`.
    """

    def __init__(
        self,
        model: keras.Model | None,
        trained_model: keras.Model,
        stream: ExampleStream,
        method: Method,
        objects: ObjectFormat,
        proxies: ExplainedProxies,
    ) -> None:
        layer = method.embedding_layer
        if model is None:
            model, layer = find_branch(trained_model, layer)
        self.model = model
        self._trained_model = trained_model
        self._stream = stream
        self.method = dataclasses.replace(method, embedding_layer=layer)
        self._objects = objects
        self._proxies = proxies
        self.labels: np.ndarray | None = None
        self.num_examples = 0
        # Each image's ratios of the uniform map never change: measured once.
        self._uniform: dict[str, np.ndarray] = {}
        # By row: the numbers of classes for class means, else the user's own labels.
        self._class_proxies: np.ndarray | None = None
        self._finite = FiniteCheck()
        self._figures = ObjectFigures(objects)

    def prepare(self) -> None:
        """Check all that can be checked before the training, and measure the baseline.

        Explains the first batch, where a wrong layer shows, then reads all examples
        once without the network.

        Raises:
            ValueError: for images, labels, boxes, masks, layers or proxies that do not
                fit.
        """
        self._stream.look_at(self.model)
        first = next(iter(self._stream))
        self._find_proxies([first])
        width = self._explain(first)[0].shape[1]
        labels: list[np.ndarray] = []
        self.num_examples = 0
        uniform: dict[str, list[np.ndarray]] = {}
        boxes = BoxCheck(self._objects.bounding_box_format, "validation_examples")
        values = self._objects.mask_foreground, self._objects.mask_ignored
        masks = MaskCheck(values[0], "validation_examples", values[1])
        for batch in self._stream:
            images = batch["image"]
            inputs = self._stream.inputs_of(batch)
            fit_images(inputs, self.model, self.num_examples)
            if "bbox" in batch:
                boxes.update(batch["bbox"], images.shape[1:3])
            if "segmentation_mask" in batch:
                masks.update(batch["segmentation_mask"])
            gather(uniform, self._figures.measure_uniform(batch))
            if "label" in batch:
                labels.append(batch["label"])
            self.num_examples += len(images)
        if "bbox" in self._stream.keys:
            boxes.finish()
        masks.finish()
        self._uniform = {name: np.concatenate(x) for name, x in uniform.items()}
        if labels:
            self.labels = self._stream.classes[np.concatenate(labels)]
        if self._class_proxies is not None and self._proxies.proxy != "class_mean":
            # A label without a proxy is an error now, whichever batch it is in.
            classes = self._stream.classes
            chooser = ProxyChooser(labels=classes, class_proxies=self._class_proxies)
            chooser.choose(0, len(classes), None, width)

    def describe(self) -> dict[str, str]:
        """Return what is explained, for people; after `prepare`."""
        view: ModelView = list_compiled(self.model)[-1].view
        layers = ", ".join(tree.flatten(view.conv_layer))
        weighting = self.method.preset or self.method.weighting
        uniform = [f"{name} {mean_of(x):.3f}" for name, x in self._uniform.items()]
        classes = "" if self.labels is None else f", {len(np.unique(self.labels))}"
        return {
            "layer": f"{layers}, {' x '.join(map(str, view.map_size))} positions",
            "embedding": f"{view.embedding}, {view.embedding_width} numbers",
            "proxy": self._proxies.describe(),
            "weighting": str(getattr(weighting, "__name__", weighting)),
            "examples": f"{self.num_examples}{classes and classes + ' classes'}",
            "uniform baseline": ", ".join(uniform) or "none, without boxes and masks",
        }

    def measure(self, num_worst: int, kept_map_side: int | None = None) -> Update:
        """Run over all examples; memory grows by their embeddings only.

        Args:
            num_worst: how many of the examples with the lowest ratios to keep.
            kept_map_side: the longest side of the heatmaps that are kept of all
                examples, at the feature map's size where it is smaller; None to keep
                none.
        """
        # Without an end: of the first batches, then None.
        kept_batches = chain(self._find_proxies(self._stream), repeat(None))
        self._finite, num_seen = FiniteCheck(), 0
        gathered: dict[str, list[np.ndarray]] = {}
        kept: dict[str, list[np.ndarray]] = {}
        worst: Shown | None = None
        for batch, activations in zip(self._stream, kept_batches, strict=False):
            embeddings, heatmaps = self._explain(batch, num_seen, activations)
            num_seen += len(embeddings)
            figures = self._figures.measure(batch, heatmaps)
            found: Any = None
            if "bbox" in batch or kept_map_side is not None:
                found = find_boxes(heatmaps, self.method.box_threshold)
            if "bbox" in batch:
                where = batch["bbox"], self._objects.bounding_box_format
                overlaps = compare_boxes(found, *where, heatmaps)
                figures["localization_accuracy"] = find_hits(overlaps)
            gather(gathered, figures)
            gather(kept, {"embeddings": embeddings})
            if "label" in batch:
                gather(kept, {"label": batch["label"]})
            if kept_map_side is not None:
                size = np.asarray(heatmaps.shape[:0:-1] * 2, "float32")
                view = list_compiled(self.model)[-1].view
                field = view.places.field(heatmaps.shape[1:])
                map_size = spread_size(view.map_size, field)
                small = shrink_heatmaps(heatmaps, map_size, kept_map_side)
                gather(kept, {"heatmaps": small, "found_boxes": found / size})
            if num_worst and set(RATIOS) & set(figures):
                worst = keep_worst(
                    worst, self._show(batch, heatmaps, figures), num_worst
                )
        per_image = {name: np.concatenate(parts) for name, parts in gathered.items()}
        arrays = {name: np.concatenate(parts) for name, parts in kept.items()}
        values = {name: mean_of(x) for name, x in per_image.items()}
        if "label" in arrays:
            values |= measure_retrieval(arrays["embeddings"], arrays["label"])
        uniform = {
            # Of the same images as the mean that this one stands beside.
            name: mean_of(np.where(np.isnan(per_image[name]), np.nan, x))
            for name, x in self._uniform.items()
        }
        return Update(
            values,
            uniform,
            per_image,
            worst,
            arrays["embeddings"],
            self.labels,
            arrays.get("heatmaps"),
            arrays.get("found_boxes"),
        )

    def show(self, examples: Examples) -> Shown:
        """Return the heatmaps of a few examples, by the proxies of the last update."""
        _, heatmaps = self._explain(examples)
        return self._show(examples, heatmaps, self._figures.measure(examples, heatmaps))

    def show_all(self) -> Iterator[Shown]:
        """Yield all examples with their heatmaps, batch by batch."""
        return map(self.show, self._stream)

    def _show(
        self, examples: Examples, heatmaps: np.ndarray, figures: dict[str, np.ndarray]
    ) -> Shown:
        if "label" in examples:
            own = self._stream.classes[examples["label"]]
            examples = {**examples, "label": own}
        ratios = [figures[name] for name in RATIOS if name in figures]
        missing = np.full(len(heatmaps), np.nan)
        heatmaps = np.nan_to_num(heatmaps)  # one that is not finite is drawn empty
        return Shown(examples, heatmaps, ratios[0] if ratios else missing)

    def _find_proxies(self, batches: Any) -> list[np.ndarray]:
        """Find the proxies by class, if any; means take a run over the batches.

        Returns the activations that this run kept of the first batches.
        """
        if self._proxies.proxy != "class_mean":
            self._class_proxies = self._proxies.find_rows(
                self.model, self._trained_model
            )
            return []
        # All that the batches hold: a class is known once it was read.
        self._class_proxies, kept = measure_class_means(
            lambda batch: self._run(batch, embed_and_keep, ProxyChooser()),
            batches,
            len(self._stream.classes),
        )
        return kept

    def _explain(
        self, batch: Examples, first: int = 0, activations: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return raw embeddings and heatmaps.

        Args:
            batch: of examples.
            first: the number of the first one.
            activations: of the batch, where they were kept.
        """
        if self._class_proxies is not None:
            labels = batch["label"]
            if self._proxies.proxy != "class_mean":
                labels = self._stream.classes[labels]
            chooser = ProxyChooser(labels=labels, class_proxies=self._class_proxies)
        else:
            function = self._proxies.proxy if callable(self._proxies.proxy) else None
            chooser = ProxyChooser(function)
        embeddings, heatmaps, _ = self._run(batch, explain_images, chooser, activations)
        self._finite.update(embeddings, heatmaps, first)
        return embeddings, heatmaps

    def _run(
        self,
        batch: Examples,
        function: Any,
        chooser: ProxyChooser,
        activations: np.ndarray | None = None,
    ) -> list[np.ndarray]:
        inputs = self._stream.inputs_of(batch)
        [whole] = ImageSource(inputs, self.model, len(batch["image"]))
        [(_, found)] = run_batches(
            self.model,
            [whole._replace(activations=activations)],
            self.method,
            function,
            chooser=chooser,
        )
        return found
