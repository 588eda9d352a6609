"""Everything that a logger writes under its folder, update by update."""

import warnings
from collections.abc import Sequence

import tensorflow as tf

from keras_embcam.callbacks.event_files import holds_a_run
from keras_embcam.callbacks.event_writer import EventWriter
from keras_embcam.callbacks.pictures import choose_examples, draw_examples
from keras_embcam.callbacks.projector import write_projector
from keras_embcam.callbacks.retrieval_log import RetrievalErrors
from keras_embcam.callbacks.tab_log import TabLog
from keras_embcam.callbacks.tab_writer import MAX_MAP_SIDE
from keras_embcam.callbacks.update import Update
from keras_embcam.callbacks.validation_run import ValidationRun
from keras_embcam.drawing import make_grid
from keras_embcam.metrics import ObjectFormat
from keras_embcam.running.labelled_examples import Examples, ExampleStream
from keras_embcam.tab_format import MAX_EXAMPLES
from keras_embcam.whole_numbers import check_integer


class UpdateLog:
    """Writes updates for TensorBoard: numbers, pictures, and the projector's files.

    Args:
        log_dir: any path that `tf.io.gfile` knows.
        stream: of the examples.
        objects: how their boxes and masks are stated.
        box_threshold: of the boxes to find in heatmaps; see `find_boxes`.
        num_images: how many examples to show.
        picture_indices: which; see `EmbeddingCAMLogger`.
        image_freq: pictures at every so many updates.
        num_tab_examples: how many examples TensorBoard's EmbeddingCAM tab shows.
        strict: raise errors of what shows wrong matches instead of leaving it out.

    Raises:
        ValueError: for arguments out of range.
    """

    def __init__(
        self,
        log_dir: str,
        stream: ExampleStream,
        objects: ObjectFormat,
        box_threshold: float | str,
        num_images: int,
        picture_indices: Sequence[int] | str | None,
        image_freq: int,
        num_tab_examples: int,
        strict: bool,
    ) -> None:
        check_integer("image_freq", image_freq, 1)
        check_integer("num_images", num_images, 0)
        check_integer("num_tab_examples", num_tab_examples, 0)
        if num_tab_examples > MAX_EXAMPLES:
            raise ValueError(
                f"`num_tab_examples` must be at most {MAX_EXAMPLES}, as examples are "
                f"numbered in 16 bits. Received: {num_tab_examples}"
            )
        if isinstance(picture_indices, str) and picture_indices != "class_balanced":
            raise ValueError(
                '`picture_indices` must be None, "class_balanced" or the numbers of '
                f"examples. Received: {picture_indices!r}"
            )
        self._log_dir = log_dir
        self._stream = stream
        self._boxes = objects.bounding_box_format, box_threshold
        self._num_images = num_images
        self._picture_indices = picture_indices
        self._image_freq = image_freq
        # Of the heatmaps that an update must keep of all examples, None for none.
        self.kept_map_side = MAX_MAP_SIDE if num_tab_examples else None
        self._tab = TabLog(stream, objects, num_tab_examples, strict)
        self._errors = RetrievalErrors(stream, num_images, strict)
        self._num_updates = 0
        self._has_begun = self._follows_a_run = False
        self._pictured: Examples | None = None
        self._writer: EventWriter | None = None

    def begin(self, run: ValidationRun, verbose: int) -> None:
        """Write what is explained, as a text; fails where nothing can be written.

        Args:
            run: that is prepared.
            verbose: above 0 to print the text too.

        Raises:
            ValueError: where there is no example of a number in `picture_indices`.
        """
        self._check_indices(run.num_examples)
        if not self._has_begun:
            run_dir = tf.io.gfile.join(self._log_dir, "validation")
            self._follows_a_run, self._has_begun = holds_a_run(run_dir), True
        facts = {**run.describe(), "logs": self._log_dir}
        self._open().write_text(facts)
        if verbose:
            print("EmbeddingCAMLogger explains")
            print("\n".join(f"  {name}: {fact}" for name, fact in facts.items()))

    def warn_of_earlier_run(self) -> None:
        """Warn where a training begins anew in the folder of another."""
        if self._follows_a_run:
            warnings.warn(
                "`log_dir` holds a run already: its curves are mixed with those of "
                "this training, which take the place of its heatmaps in the "
                f"EmbeddingCAM tab. Received: log_dir={self._log_dir!r}. Pass a new "
                "log_dir for each training, or initial_epoch= to fit() to go on with "
                "one.",
                stacklevel=2,
            )

    def write(
        self, update: Update, run: ValidationRun, tag: str, step: int, scalars: bool
    ) -> None:
        """Write an update; fails where it cannot be written.

        Args:
            update: what was found.
            run: that found it, to explain the examples that are shown.
            tag: of a curve, with the name of the value in place of `{}`.
            step: position on the axis.
            scalars: False where somebody else writes the values themselves.
        """
        writer = self._open()
        writer.write_numbers(update, tag, step, scalars)
        with writer.as_default():
            unit = "epoch" if "epoch" in tag else "step"
            self._tab.write(update, run, step, unit)
        if self._num_images and self._num_updates % self._image_freq == 0:
            if self._pictured is None:
                # Copied once: the same ones at every update.
                self._pictured = self._stream.take(self._choose(update, run))
            worst = update.worst
            shown = run.show(self._pictured)
            writer.write_pictures(draw_examples(shown, *self._boxes), step)
            if worst is not None and len(worst.heatmaps):
                grid = make_grid(draw_examples(worst, *self._boxes))
                writer.write_grid("worst", grid, step)
            errors = self._errors.draw(update, run)
            if errors is not None:
                writer.write_grid("retrieval_errors", errors, step)
        writer.flush()
        # A file that is deleted while it is open takes what is written, and is no more.
        if "://" not in self._log_dir and not tf.io.gfile.exists(writer.run_dir):
            raise FileNotFoundError(
                "`log_dir` must stay where it is while a training runs. Received: "
                f"{writer.run_dir!r}, which was deleted with what was written there"
            )
        self._num_updates += 1

    def write_projector(self, update: Update, run: ValidationRun) -> None:
        """Write embeddings, labels and overlays for TensorBoard's projector."""
        write_projector(
            tf.io.gfile.join(self._log_dir, "validation"),
            update.embeddings,
            update.labels,
            run.show_all(),
        )

    def close(self) -> None:
        """Close the files; what is written afterwards goes into new ones."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self) -> EventWriter:
        if self._writer is None:
            self._writer = EventWriter(self._log_dir)
        return self._writer

    def _check_indices(self, num_examples: int) -> None:
        """Refuse numbers of examples that are not there, before an epoch is over."""
        indices = self._picture_indices
        if indices is None or isinstance(indices, str):
            return
        missing = sorted({x for x in indices if not 0 <= x < num_examples})
        if missing:
            raise ValueError(
                f"`picture_indices` must lie between 0 and {num_examples - 1}, one "
                f"for each of {num_examples} examples. Received: {missing}"
            )

    def _choose(self, update: Update, run: ValidationRun) -> Sequence[int]:
        indices = self._picture_indices
        if indices is None or isinstance(indices, str):
            return choose_examples(
                run.num_examples, self._num_images, indices, update.labels
            )
        return indices
