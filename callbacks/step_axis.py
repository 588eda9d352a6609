"""Where on the axes of TensorBoard a training stands, also one that was resumed."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from keras import ops


class StepAxis:
    """Counts the batches and epochs of one logger, over several calls of `fit`.

    Args:
        find_last_step: returns the last step that is in the logs already, -1 for none.
        counts_batches: whether steps are batches; else they are epochs.

    Attributes:
        num_batches: that were trained on up to now.
    """

    def __init__(self, find_last_step: Callable[[], int], counts_batches: bool) -> None:
        self._find_last_step = find_last_step
        self._counts_batches = counts_batches
        self._is_new_fit = True
        # Steps below this one are in the event files already.
        self._next_step: int | None = None
        self._offset = 0
        self.num_batches = 0
        self._num_before_epoch = 0
        self._names_first_of_several: bool | None = None

    def begin_fit(self) -> None:
        """Look again at where the training stands, in the first epoch that comes."""
        self._is_new_fit = True

    def begin_epoch(self, epoch: int, model: Any, steps_per_epoch: int | None) -> bool:
        """Find where this epoch begins.

        Args:
            epoch: as Keras numbers it.
            model: that is trained.
            steps_per_epoch: None where it is not known yet.

        Returns:
            Whether a new training begins here, none that goes on with an earlier one.
        """
        begins_anew = False
        if self._is_new_fit:
            self._is_new_fit = False
            trained = count_trained_batches(model, epoch, steps_per_epoch)
            self.num_batches = max(self.num_batches, trained)
            self._offset = 0
            if self._next_step is not None:
                # Another `fit`: go on behind what the last one wrote.
                self._offset = max(0, self._next_step - epoch)
            elif epoch or (self._counts_batches and self.num_batches):
                # Resumed: what was written before the interruption stays as it is.
                self._next_step = self._find_last_step() + 1
            else:
                begins_anew = True
        self._num_before_epoch = self.num_batches
        self._names_first_of_several = None
        return begins_anew

    def end_batch(
        self, batch: int, steps_per_execution: int, steps_per_epoch: int | None
    ) -> tuple[int, int]:
        """Count a batch, or those that ran at once.

        Batches and not `optimizer.iterations`, which advances once for several of
        them with `gradient_accumulation_steps`.

        Args:
            batch: the number in its epoch that Keras passes.
            steps_per_execution: how many batches run at once.
            steps_per_epoch: None where it is not known yet.

        Returns:
            How many batches there were before and after.
        """
        if self._names_first_of_several is None:
            # Of batches that run at once Keras 3.8 names the first, 3.15 the last.
            self._names_first_of_several = batch == 0 and steps_per_execution > 1
        num_done = batch + 1
        if self._names_first_of_several:
            num_done = batch + steps_per_execution
            if steps_per_epoch is not None:
                num_done = min(num_done, steps_per_epoch)
        before = self.num_batches
        self.num_batches = self._num_before_epoch + num_done
        return before, self.num_batches

    def step_of(self, epoch: int) -> int:
        """Return the step of an epoch."""
        return epoch + self._offset

    def is_written(self, step: int) -> bool:
        """Tell whether the logs have this step already."""
        return self._next_step is not None and step < self._next_step

    def note_written(self, step: int) -> None:
        """Note that the logs have this step now."""
        self._next_step = step + 1


def count_trained_batches(model: Any, epoch: int, steps_per_epoch: int | None) -> int:
    """Return how many batches a model was trained on, by its optimizer.

    With `gradient_accumulation_steps` the optimizer knows it only in multiples of
    these; the number of whole epochs gives the rest.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        return 0
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    accumulated = getattr(inner, "gradient_accumulation_steps", None) or 1
    # A variable of a distribution strategy is no number by itself.
    iterations = tf.identity(ops.convert_to_tensor(optimizer.iterations))
    at_least = int(iterations) * accumulated
    by_epochs = epoch * (steps_per_epoch or 0)
    is_rest = 0 <= by_epochs - at_least < accumulated
    return by_epochs if is_rest else at_least
