"""Where on the axes a training stands: batches are counted, resumed or not."""

from types import SimpleNamespace

import pytest

from keras_embcam.callbacks.step_axis import StepAxis, count_trained_batches


def make_model(iterations, accumulated=None):
    optimizer = SimpleNamespace(
        iterations=iterations, gradient_accumulation_steps=accumulated
    )
    return SimpleNamespace(optimizer=optimizer)


def run_epoch(axis, epoch, model, batches, at_once=1, steps=None):
    axis.begin_epoch(epoch, model, steps)
    return [axis.end_batch(batch, at_once, steps)[1] for batch in batches]


def new_axis(last_step=-1):
    return StepAxis(lambda: last_step, counts_batches=True)


def test_batches_are_counted_whatever_the_optimizer_counts():
    axis, model = new_axis(), make_model(0, accumulated=4)
    assert run_epoch(axis, 0, model, range(6)) == [1, 2, 3, 4, 5, 6]
    model.optimizer.iterations = 1
    assert run_epoch(axis, 1, model, range(6)) == [7, 8, 9, 10, 11, 12]


@pytest.mark.parametrize(
    ("batches", "expected"),
    [([2, 5, 6], [3, 6, 7]), ([0, 3, 6], [3, 6, 7])],
    ids=["Keras 3.15 tells the last", "Keras 3.8 tells the first"],
)
def test_several_batches_at_once(batches, expected):
    axis = new_axis()
    assert run_epoch(axis, 0, make_model(0), batches, 3, 7) == expected
    assert run_epoch(axis, 1, make_model(9), batches, 3, 7)[-1] == 14


@pytest.mark.parametrize(
    ("iterations", "accumulated", "epoch", "steps", "expected"),
    [
        (0, None, 0, 6, 0),
        (12, None, 2, 6, 12),
        # 18 batches are 4 optimizer steps and 2 batches.
        (4, 4, 3, 6, 18),
        (4, 4, 3, None, 16),
        # In the middle of an epoch, or with other data than now.
        (15, None, 2, 6, 15),
    ],
)
def test_a_resumed_training(iterations, accumulated, epoch, steps, expected):
    model = make_model(iterations, accumulated)
    assert count_trained_batches(model, epoch, steps) == expected
    axis = new_axis(last_step=5)
    axis.begin_epoch(epoch, model, steps)
    assert axis.num_batches == expected
    assert axis.is_written(5) == bool(expected)
    assert not axis.is_written(6)


def test_a_model_without_an_optimizer():
    assert count_trained_batches(SimpleNamespace(optimizer=None), 3, 5) == 0


def test_another_fit_goes_on_behind_the_last():
    axis, model = new_axis(), make_model(0)
    run_epoch(axis, 0, model, range(3))
    axis.note_written(3)
    axis.begin_fit()
    model.optimizer.iterations = 3
    assert run_epoch(axis, 0, model, range(3)) == [4, 5, 6]
    epochs = StepAxis(lambda: -1, counts_batches=False)
    epochs.begin_epoch(0, model, None)
    epochs.note_written(epochs.step_of(0))
    epochs.begin_fit()
    epochs.begin_epoch(0, model, None)
    assert epochs.step_of(0) == 1
