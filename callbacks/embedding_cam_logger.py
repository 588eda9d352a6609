"""EmbeddingCAMLogger: watch in TensorBoard where a network looks while it trains."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_embcam.callbacks.event_files import find_last_step
from keras_embcam.callbacks.event_writer import EventWriter
from keras_embcam.callbacks.neighbours import (
    running_callbacks,
    warn_of_early_monitors,
    writes_same_curves,
)
from keras_embcam.callbacks.projector import write_projector
from keras_embcam.callbacks.settings import Settings, check_count
from keras_embcam.callbacks.validation_examples import Examples, ValidationExamples
from keras_embcam.callbacks.validation_run import Numbers, ValidationRun
from keras_embcam.weightings import Weighting


class EmbeddingCAMLogger(keras.callbacks.Callback):
    """Log heatmaps, heatmap ratios and retrieval of validation examples.

    In TensorBoard, under `log_dir`:

    ====================  ===================================  =======================
    run                   tag                                  what
    ====================  ===================================  =======================
    ``validation``        ``heatmaps/00``, ``heatmaps/01`` ..  one example each: heat,
                                                               true box (green), found
                                                               box (white), caption
    ``validation``        ``heatmaps/worst``                   the examples with the
                                                               lowest ratio now
    both                  ``epoch_heatmap_ratio_bbox``         mean share of heat in the
                                                               box; in the run
                                                               ``uniform_baseline``
                                                               that of a uniform map
    both                  ``epoch_heatmap_ratio_mask``         the same in the mask
    ``validation``        ``epoch_localization_accuracy``      boxes found (IoU >= 0.5,
                                                               threshold 0.2)
    ``validation``        ``epoch_pointing_game``              maxima on the object
    ``validation``        ``epoch_empty_heatmaps``             share of all-zero maps
    ``validation``        ``epoch_recall_at_1`` (2, 4, 8),     retrieval among the
                          ``epoch_map_at_r``                   examples
    ``validation``        ``heatmap_ratio_bbox_per_image``,    histograms over images
                          ``heatmap_ratio_mask_per_image``
    ====================  ===================================  =======================

    With an integer `update_freq` the curves are called ``heatmap_ratio_bbox_vs_
    iterations`` and so on, and all steps are training steps. The same numbers are
    put into `logs` with the prefix ``val_`` (``val_heatmap_ratio_bbox``), where
    `ModelCheckpoint`, `EarlyStopping`, `CSVLogger` and `History` find them, if they
    stand behind this callback in the list. `keras.callbacks.TensorBoard` may stand
    before or behind it, with the same `log_dir`: each curve is written once.

    Training is never changed or stopped: an error ends the logging with one warning.
    An update writes at most ``num_images`` pictures and one grid, so a log grows by
    less than ``6 W H (num_images)`` bytes each (W, H: size of a picture, at most 512).

    Args:
        log_dir: folder of the logs.
        validation_examples: see `ValidationExamples`.
        conv_layer: see `keras_embcam.EmbeddingCAM`.
        embedding_layer: see `keras_embcam.EmbeddingCAM`; for a training model whose
            output is not the embedding (similarities to proxies, several outputs).
        proxy: what is explained: "single_point", the image's own unit embedding;
            "class_mean", the mean of its class among the examples; "trained", the
            proxy of its label in a `Proxies` layer; or a function of the embeddings.
        class_proxies: (classes, d), fixed proxies by label instead.
        proxy_layer: name of the layer for "trained", if there is more than one.
        weighting: see `keras_embcam.EmbeddingCAM`.
        top_channels: see `keras_embcam.EmbeddingCAM`.
        preset: see `keras_embcam.EmbeddingCAM`.
        update_freq: "epoch", or every so many training steps.
        image_freq: pictures at every so many updates.
        num_images: how many examples to show, 0 for no pictures.
        picture_indices: which: None for the first, "class_balanced" for as many of
            each class, or the numbers of the examples.
        batch_size: of the examples, where they are not batched.
        embedding_model: the model to explain, where it is not the one that is
            trained (the branch of a siamese network).
        bounding_box_format: of the boxes, as Keras names them.
        mask_foreground: the value of the object in integer masks.
        mask_ignored: the value of pixels that do not count in integer masks.
        projector: write the embeddings for TensorBoard's projector, with overlays,
            when training ends.
        strict: raise errors instead of warning.

    Raises:
        ValueError: for arguments out of range, or examples that lack what is needed.
        TypeError: for examples of an unknown kind.

    Example:

    >>> import keras, numpy as np, tempfile
    >>> from keras_embcam.losses import TripletSemiHardLoss
    >>> images, labels = np.random.rand(8, 16, 16, 3), np.repeat([0, 1], 4)
    >>> model = keras.Sequential([
    ...     keras.Input((16, 16, 3)),
    ...     keras.layers.Conv2D(4, 3, activation="relu"),
    ...     keras.layers.GlobalAveragePooling2D(),
    ...     keras.layers.Dense(4),
    ... ])
    >>> model.compile("adam", TripletSemiHardLoss())
    >>> logger = EmbeddingCAMLogger(tempfile.mkdtemp(), (images, labels))
    >>> history = model.fit(images, labels, verbose=0, callbacks=[logger])
    >>> "val_recall_at_1" in history.history
    True
    """

    def __init__(
        self,
        log_dir: str | Path,
        validation_examples: Any,
        *,
        conv_layer: Any = None,
        embedding_layer: Any = None,
        proxy: str | Callable = "single_point",
        class_proxies: Any = None,
        proxy_layer: str | None = None,
        weighting: str | Weighting = "gradcam",
        top_channels: int | None = None,
        preset: str | None = None,
        update_freq: str | int = "epoch",
        image_freq: int = 1,
        num_images: int = 16,
        picture_indices: Sequence[int] | str | None = None,
        batch_size: int = 32,
        embedding_model: keras.Model | None = None,
        bounding_box_format: str = "rel_yxyx",
        mask_foreground: int | None = None,
        mask_ignored: int | None = None,
        projector: bool = False,
        strict: bool = False,
    ) -> None:
        super().__init__()
        check_count("update_freq", update_freq, 1, "epoch")
        check_count("image_freq", image_freq, 1)
        check_count("num_images", num_images, 0)
        check_count("batch_size", batch_size, 1)
        if isinstance(picture_indices, str) and picture_indices != "class_balanced":
            raise ValueError(
                '`picture_indices` must be None, "class_balanced" or the numbers of '
                f"examples. Received: {picture_indices!r}"
            )
        self.log_dir = Path(log_dir)
        self.update_freq = update_freq
        self.image_freq = image_freq
        self.num_images = num_images
        self.picture_indices = picture_indices
        self.embedding_model = embedding_model
        self.projector = projector
        self.strict = strict
        self._examples = ValidationExamples(validation_examples, batch_size)
        self._settings = Settings(
            proxy,
            class_proxies,
            proxy_layer,
            conv_layer,
            embedding_layer,
            weighting,
            top_channels,
            preset,
            bounding_box_format,
            mask_foreground,
            mask_ignored,
        )
        self._settings.check(self._examples.keys)
        self._stopped = False
        self._pictured: Any = None
        self._run: ValidationRun | None = None
        self._explained: keras.Model | None = None
        self._writer: EventWriter | None = None
        self._proxies: dict[str, Any] = {}
        self._numbers: Numbers | None = None
        self._num_updates = 0
        # Steps below this one are in the event files already.
        self._next_step: int | None = None
        self._offset: int | None = None
        self._steps_before_epoch = 0
        self._last_update = 0
        self._keras_writes_scalars = False

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Look at the other callbacks."""
        self._offset = None
        self._guard(self._look_at_neighbours, running_callbacks())

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Find where on the axes this training stands."""
        if self._offset is None:
            self._guard(self._place_on_axis, epoch)
        if self.update_freq != "epoch":
            self._steps_before_epoch = self._count_iterations()
            self._last_update = self._steps_before_epoch

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Update after every `update_freq` steps."""
        if not isinstance(self.update_freq, int):
            return
        step = self._steps_before_epoch + batch + 1
        # Several steps may have passed at once (`steps_per_execution`); Keras 3.8
        # tells the first of them, 3.15 the last.
        if step // self.update_freq > self._last_update // self.update_freq:
            step = max(step, self._count_iterations())
            self._last_update = step
            self._guard(self._update, "{}_vs_iterations", step, True)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Update, and put the numbers into the logs."""
        if self.update_freq == "epoch":
            step = epoch + (self._offset or 0)
            self._guard(self._update, "epoch_{}", step, not self._keras_writes_scalars)
        elif self._numbers is None:
            self._guard(self._measure)  # no update yet: the logs need the numbers
        if logs is not None and self._numbers is not None:
            missing = float("nan")
            logs.update(
                {
                    f"val_{name}": missing if self._stopped else value
                    for name, value in self._numbers.values.items()
                }
            )

    def on_train_end(self, logs: dict | None = None) -> None:
        """Write the projector's files, if asked for, and close all files."""
        if self.projector:
            self._guard(self._write_projector)
        if self._writer is not None:
            self._guard(self._writer.close)
            self._writer = None  # another `fit` opens new files

    def _look_at_neighbours(self, neighbours: list[keras.callbacks.Callback]) -> None:
        if self in neighbours:
            position = neighbours.index(self)
            warn_of_early_monitors(neighbours[:position])
            self._keras_writes_scalars = writes_same_curves(
                neighbours[position:], self.log_dir
            )

    def _place_on_axis(self, epoch: int) -> None:
        self._offset = 0
        if self._next_step is not None:
            # Another `fit`: go on behind what the last one wrote.
            self._offset = max(0, self._next_step - epoch)
        elif epoch or (self.update_freq != "epoch" and self._count_iterations()):
            # Resumed: what was written before the interruption stays as it is.
            self._next_step = find_last_step(self.log_dir / "validation") + 1

    def _count_iterations(self) -> int:
        optimizer = getattr(self.model, "optimizer", None)
        return 0 if optimizer is None else int(optimizer.iterations)

    def _measure(self) -> tuple[ValidationRun, Numbers]:
        model = self.embedding_model or self.model
        if self._run is None or self._explained is not model:
            self._run = ValidationRun(model, self._examples, self._settings)
            self._explained = model
        self._proxies = self._run.find_proxies()
        self._numbers = self._run.measure(self._proxies, self.num_images)
        return self._run, self._numbers

    def _update(self, tag: str, step: int, scalars: bool) -> None:
        run, numbers = self._measure()
        if self._next_step is not None and step < self._next_step:
            return
        if self._writer is None:
            self._writer = EventWriter(self.log_dir)
        self._writer.write_numbers(numbers, tag, step, scalars)
        if self.num_images and self._num_updates % self.image_freq == 0:
            if self._pictured is None:
                self._pictured = self._choose_pictured()
            self._writer.write_pictures(
                run.show(self._pictured, self._proxies),
                numbers.worst,
                step,
                self._settings,
            )
        self._writer.flush()
        self._num_updates += 1
        self._next_step = step + 1

    def _choose_pictured(self) -> Examples:
        """Copy the examples to show, the same ones at every update."""
        indices = self.picture_indices
        if indices is None or isinstance(indices, str):
            indices = self._examples.choose(self.num_images, indices is not None)
        return self._examples.take(indices)

    def _write_projector(self) -> None:
        if self._run is None or self._numbers is None:
            return
        shown = (
            self._run.show(batch, self._proxies) for batch in self._examples.batches()
        )
        write_projector(
            self.log_dir / "validation",
            self._numbers.embeddings,
            self._numbers.labels,
            shown,
        )

    def _guard(self, action: Callable, *arguments: Any) -> None:
        """Run an action of the logger that must not end the training."""
        if self._stopped:
            return
        try:
            action(*arguments)
        except Exception as error:
            if self.strict:
                raise
            self._stopped = True
            warnings.warn(
                "EmbeddingCAMLogger stops logging; the training goes on. "
                f"{type(error).__name__}: {error}",
                stacklevel=2,
            )
