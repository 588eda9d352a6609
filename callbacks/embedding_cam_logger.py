"""EmbeddingCAMLogger: watch in TensorBoard where a network looks while it trains."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_embcam.callbacks.event_files import check_log_dir, find_last_step
from keras_embcam.callbacks.explained_proxies import ExplainedProxies
from keras_embcam.callbacks.other_callbacks import look_at_others
from keras_embcam.callbacks.retrieval_log import ContextCurves
from keras_embcam.callbacks.step_axis import StepAxis
from keras_embcam.callbacks.update import Update, warn_of_missing, warn_of_rare_updates
from keras_embcam.callbacks.update_log import UpdateLog
from keras_embcam.callbacks.validation_run import ValidationRun
from keras_embcam.method import Method
from keras_embcam.metrics import ObjectFormat
from keras_embcam.running.labelled_examples import ExampleStream
from keras_embcam.weightings import Weighting
from keras_embcam.whole_numbers import check_integer


class EmbeddingCAMLogger(keras.callbacks.Callback):
    """Log heatmaps, heatmap ratios and retrieval of validation examples.

    In TensorBoard, under `log_dir`:

    ====================  ===================================  =======================
    run                   tag                                  what
    ====================  ===================================  =======================
    ``validation``        ``heatmaps/00``, ``heatmaps/01`` ..  one each: heat, true box
                                                               green, found box white
    ``validation``        ``heatmaps/worst``                   lowest ratios now
    ``validation``        ``heatmaps/retrieval_errors``        most similar wrong ones
    both                  ``epoch_heatmap_ratio_bbox``         mean share of heat in the
                                                               box; uniform maps in
                                                               ``uniform_baseline``
    both                  ``epoch_heatmap_ratio_mask``         the same in the mask
    ``validation``        ``epoch_localization_accuracy``      boxes found (IoU >= 0.5,
                                                               threshold 0.2)
    ``validation``        ``epoch_pointing_game``              maxima on the object
    ``validation``        ``epoch_empty_heatmaps``             share of all-zero maps
    ``validation``        ``epoch_recall_at_1`` (2, 4, 8),     retrieval among the
                          ``epoch_map_at_r``                   examples
    ``validation``        ``epoch_context_ratio`` and more     with `context_ratio`
    ``validation``        ``heatmap_ratio_bbox_per_image``,    histograms over images
                          ``heatmap_ratio_mask_per_image``
    ====================  ===================================  =======================

    With an integer `update_freq` the curves are called ``heatmap_ratio_bbox_vs_
    iterations`` and so on, and all steps are training steps. The numbers of an epoch's
    last update are put into `logs` as ``val_heatmap_ratio_bbox`` and so on, where
    `ModelCheckpoint`, `EarlyStopping`, `CSVLogger` and `History` find them, if they
    come after this callback in the list. `keras.callbacks.TensorBoard` may come
    before or after it, with the same `log_dir`: each curve is written once.

    Everything is checked when the training begins, and what is explained is printed
    once (unless ``fit(verbose=0)``) and written as a text, with the ratio of a uniform
    map. Training is never changed or stopped: an error ends the logging with one
    warning. An update writes at most ``num_images`` pictures and one grid, less than
    ``6 W H (num_images)`` bytes (W, H: size of a picture, at most 512), one of at most
    6 wrong matches, up to 0.5 MB each, and for the tab ``h w + 31`` bytes an example
    (h, w: of the feature map, at most 28), ``2 h w + 2`` for 24 pairs, and 16 kB once.

    Args:
        log_dir: folder of the logs; also an address that `tf.io.gfile` knows, such as
            "gs://bucket/logs".
        validation_examples: an array of images (n, H, W, c) in the range that the
            model takes, ``(images, labels)``, a dict with "image" and perhaps "label",
            "bbox", "segmentation_mask" and "name", or a `tf.data.Dataset` of these, in
            the same order each time. Labels may be integers or strings; boxes (n, 4),
            (n, m, 4), ragged, or lists of arrays. Further inputs of the model go by
            their names, or ``({"image": ..., "age": ...}, labels)``.
        conv_layer: name, path or object of a layer to explain, a list, or None.
        embedding_layer: name, path or object of the layer that makes the embedding,
            where the output is another (similarities to proxies, siamese distances).
        proxy: what is explained: "single_point", the image's own unit embedding;
            "class_mean", the mean of its class among the examples; "trained", the
            proxy of its label in a `Proxies` layer; or a function of the embeddings.
        class_proxies: (classes, d), fixed proxies by label instead.
        proxy_layer: name of the layer for "trained", if there is more than one.
        weighting: a name, or a function of activations and gradients; see `explain`.
        top_channels: how many channels to keep, those with the highest weights.
        preset: a name that stands for layers and weighting, such as "localize".
        token_grid: (h, w) of the patches among a transformer's tokens; None to find it.
        num_prefix_tokens: tokens before the patches; None to find it.
        update_freq: "epoch", or every so many batches.
        image_freq: pictures at every so many updates.
        num_images: how many examples to show, 0 for no pictures.
        picture_indices: which: None for the first, "class_balanced" for as many of
            each class, or the numbers of the examples.
        num_tab_examples: how many of the first TensorBoard's tab shows, 0 for no tab.
        batch_size: of the examples, where they are not batched.
        embedding_model: the model to explain, if not the trained one. The branch of a
            siamese network is found where it is a model that runs once for each image.
        bounding_box_format: of the boxes, as Keras names it.
        mask_foreground: the value of the object in integer masks.
        mask_ignored: the value of pixels that do not count in integer masks.
        projector: write the embeddings for TensorBoard's projector, with overlays,
            when training ends.
        context_ratio: True for curves of `keras_embcam.context_ratio`: 7 more runs.
        strict: raise errors instead of warning.

    Raises:
        ValueError: for arguments out of range, or examples that lack what is needed.
        TypeError: for examples of an unknown kind.

    Example:
    >>> import keras, numpy as np, tempfile
    >>> from keras_embcam.losses import TripletSemiHardLoss
    >>> images, labels = np.random.rand(8, 16, 16, 3), np.repeat([0, 1], 4)
    >>> layers = [keras.layers.Conv2D(4, 3), keras.layers.GlobalAveragePooling2D()]
    >>> model = keras.Sequential([keras.Input((16, 16, 3)), *layers])
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
        weighting: str | Weighting = "auto",
        top_channels: int | None = None,
        preset: str | None = None,
        token_grid: tuple[int, int] | None = None,
        num_prefix_tokens: int | None = None,
        update_freq: str | int = "epoch",
        image_freq: int = 1,
        num_images: int = 16,
        picture_indices: Sequence[int] | str | None = None,
        num_tab_examples: int = 1000,
        batch_size: int = 32,
        embedding_model: keras.Model | None = None,
        bounding_box_format: str = "rel_yxyx",
        mask_foreground: int | None = None,
        mask_ignored: int | None = None,
        projector: bool = False,
        context_ratio: bool = False,
        strict: bool = False,
    ) -> None:
        super().__init__()
        check_integer("update_freq", update_freq, 1, other="epoch")
        self.log_dir = check_log_dir(log_dir)
        self.update_freq = update_freq
        self.embedding_model = embedding_model
        self.projector = projector
        self.strict = strict
        self._stream = ExampleStream(
            validation_examples,
            batch_size=batch_size,
            strict=True,
            name="validation_examples",
        )
        self._proxies = ExplainedProxies(proxy, class_proxies, proxy_layer)
        self._proxies.check(self._stream.keys)
        self._method = Method(
            weighting=weighting,
            top_channels=top_channels,
            conv_layer=conv_layer,
            embedding_layer=embedding_layer,
            preset=preset,
            token_grid=token_grid,
            num_prefix_tokens=num_prefix_tokens,
        )
        self._objects = ObjectFormat(bounding_box_format, mask_foreground, mask_ignored)
        self._context = ContextCurves(context_ratio, self._stream, self._objects)
        self._num_images = num_images
        self._log = UpdateLog(
            self.log_dir,
            self._stream,
            self._objects,
            self._method.box_threshold,
            num_images,
            picture_indices,
            image_freq,
            num_tab_examples,
            strict,
        )
        self._axis = StepAxis(
            lambda: find_last_step(tf.io.gfile.join(self.log_dir, "validation")),
            counts_batches=update_freq != "epoch",
        )
        self._stopped = False
        self._run: ValidationRun | None = None
        self._explained: keras.Model | None = None
        self._update: Any = None
        self._is_new = False  # measured in this epoch
        self._keras_writes_scalars = False
        self._warned_of: set[str] = set()

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Look at the other callbacks, and check all that the updates will need."""
        self._axis.begin_fit()
        self._guard(self._look_at_other_callbacks)
        self._guard(self._prepare)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Find where on the axes this training stands."""
        self._guard(self._begin_epoch, epoch)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Update after every `update_freq` steps."""
        if not isinstance(self.update_freq, int):
            return
        at_once = getattr(self.model, "steps_per_execution", 1)
        before, step = self._axis.end_batch(batch, at_once, self._steps_per_epoch)
        if step // self.update_freq > before // self.update_freq:
            self._guard(self._write_update, "{}_vs_iterations", step, True)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Update, and put the numbers into the logs."""
        if self.update_freq == "epoch":
            step, scalars = self._axis.step_of(epoch), not self._keras_writes_scalars
            self._guard(self._write_update, "epoch_{}", step, scalars)
        elif self._update is None:
            self._guard(self._measure)  # the logs need the numbers from the first row
            self._guard(warn_of_rare_updates, self.update_freq, self._steps_per_epoch)
        # Of this epoch only; once the logging has ended none: NaN ends EarlyStopping.
        if logs is not None and self._is_new and not self._stopped:
            for name, value in self._update.values.items():
                logs[f"val_{name}"] = value

    def on_train_end(self, logs: dict | None = None) -> None:
        """Write the projector's files, if asked for, and close all files."""
        if self.projector and self._update is not None:
            self._guard(self._log.write_projector, self._update, self._run)
        self._guard(self._log.close)

    @property
    def _steps_per_epoch(self) -> int | None:
        return (self.params or {}).get("steps")

    def _begin_epoch(self, epoch: int) -> None:
        self._is_new = False
        if self._axis.begin_epoch(epoch, self.model, self._steps_per_epoch):
            self._log.warn_of_earlier_run()

    def _look_at_other_callbacks(self) -> None:
        self._keras_writes_scalars = look_at_others(self, self.log_dir)

    def _prepare(self) -> ValidationRun:
        """Look at the model and the examples, once, and say what is explained."""
        model = self.embedding_model or self.model
        if self._run is not None and self._explained is model:
            return self._run
        run = ValidationRun(
            self.embedding_model,
            self.model,
            self._stream,
            self._method,
            self._objects,
            self._proxies,
        )
        run.prepare()
        self._context.check(run)
        self._log.begin(run, (self.params or {}).get("verbose", 0))
        self._run, self._explained = run, model
        return run

    def _measure(self) -> Update:
        run = self._prepare()
        self._update = run.measure(self._num_images, self._log.kept_map_side)
        self._context.measure(run, self._update)
        self._warned_of |= warn_of_missing(self._update, self._warned_of)
        self._is_new = True
        return self._update

    def _write_update(self, tag: str, step: int, scalars: bool) -> None:
        update = self._measure()
        if not self._axis.is_written(step):
            self._log.write(update, self._prepare(), tag, step, scalars)
            self._axis.note_written(step)

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
