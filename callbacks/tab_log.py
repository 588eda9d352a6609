"""Give TensorBoard's EmbeddingCAM tab what the updates of a logger found."""

from typing import Any

import numpy as np

from keras_embcam import tab_format
from keras_embcam.callbacks import tab_writer
from keras_embcam.callbacks.tab_pairs import PairMaps
from keras_embcam.callbacks.update import Update
from keras_embcam.callbacks.validation_run import ValidationRun
from keras_embcam.metrics import ObjectFormat
from keras_embcam.metrics.regions import place_boxes, split_masks
from keras_embcam.running.example_names import shorten_paths
from keras_embcam.running.labelled_examples import Examples, ExampleStream

# The ratio that the tab shows: the first that there is.
RATIOS = ("heatmap_ratio_bbox", "heatmap_ratio_mask")


class TabLog:
    """Writes the first examples once, and what each update found of them.

    Args:
        stream: of the examples.
        objects: how boxes and masks are stated.
        num_examples: how many to show at most, 0 for no tab.
        strict: raise errors of the heat of pairs instead of leaving it out.
    """

    def __init__(
        self,
        stream: ExampleStream,
        objects: ObjectFormat,
        num_examples: int,
        strict: bool,
    ) -> None:
        self._stream = stream
        self._objects = objects
        self._num_examples = num_examples
        self._pairs = PairMaps(stream, strict)
        self._key = ""

    def write(self, update: Update, run: ValidationRun, step: int, unit: str) -> None:
        """Write an update into the default `tf.summary` writer.

        Args:
            update: with heatmaps.
            run: that found it.
            step: position on the axis.
            unit: "epoch" or "step", what it counts.
        """
        if not self._num_examples or update.heatmaps is None:
            return
        if not self._key:
            examples = self._describe(update)
            tab_writer.write_examples(examples, step)
            self._key = examples.key
        tab_writer.write_update(self._select(update, run, unit), step)

    def _select(
        self, update: Update, run: ValidationRun, unit: str
    ) -> tab_format.Update:
        some = slice(self._num_examples)
        ratio = next((name for name in RATIOS if name in update.per_image), None)
        missing = np.full(len(update.embeddings), np.nan)
        ratios = missing if ratio is None else update.per_image[ratio]
        neighbors, similarities = tab_writer.find_neighbors(update.embeddings[some])
        values = {
            "mean_ratio": update.values.get(ratio or "", np.nan),
            "uniform_ratio": update.uniform.get(ratio or "", np.nan),
            "recall_at_1": update.values.get("recall_at_1", np.nan),
        }
        heatmaps: Any = update.heatmaps
        found_boxes: Any = update.found_boxes
        return tab_format.Update(
            maps=heatmaps[some],
            ratios=ratios[some],
            found_boxes=found_boxes[some],
            empty=update.per_image["empty_heatmaps"][some] > 0,
            neighbors=neighbors,
            similarities=similarities,
            examples_key=self._key,
            values=values,
            unit=unit,
            **self._pairs.find(update, neighbors, similarities, run),
        )

    def _describe(self, update: Update) -> tab_format.Examples:
        """Read the examples once more, up to the last one that is shown."""
        thumbnails: list[bytes] = []
        boxes: list[np.ndarray] = []
        outlines: list[list[np.ndarray]] = []
        names: list[Any] = []
        for batch in self._stream:
            count = min(len(batch["image"]), self._num_examples - len(thumbnails))
            batch = {key: values[:count] for key, values in batch.items()}
            thumbnails += tab_writer.encode_thumbnails(batch["image"])
            boxes += self._place(batch)
            outlines += self._trace(batch)
            names += batch.get(self._stream.name_key or "", np.empty(0)).tolist()
            if len(thumbnails) == self._num_examples:
                break
        num_shown = len(thumbnails)
        labels = update.labels
        paths = self._stream.file_paths
        if not names and len(paths) == len(update.embeddings):
            names = shorten_paths(paths)[:num_shown]
        return tab_format.Examples(
            names=tab_writer.name_examples(num_shown, names or None),
            thumbnails=thumbnails,
            labels=None if labels is None else [str(x) for x in labels[:num_shown]],
            boxes=boxes,
            outlines=outlines,
            num_measured=len(update.embeddings),
        )

    def _place(self, batch: Examples) -> list[np.ndarray]:
        if "bbox" not in batch:
            return []
        images = batch["image"]
        shape_of_maps = np.broadcast_to(np.float32(0), images.shape[:3])
        placed = place_boxes(
            batch["bbox"], self._objects.bounding_box_format, shape_of_maps
        )
        pixels = np.asarray(placed).reshape(len(images), -1, 4)
        size = np.asarray(images.shape[2:0:-1] * 2, "float32")
        return tab_writer.keep_boxes(pixels / size)

    def _trace(self, batch: Examples) -> list[list[np.ndarray]]:
        if "segmentation_mask" not in batch:
            return []
        shape_of_maps = np.broadcast_to(np.float32(0), batch["image"].shape[:3])
        inside, _ = split_masks(
            batch["segmentation_mask"],
            self._objects.mask_foreground,
            self._objects.mask_ignored,
            shape_of_maps,
        )
        return tab_writer.trace_outlines(np.asarray(inside))
