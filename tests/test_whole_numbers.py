"""Tests of keras_embcam.whole_numbers."""

import doctest

import numpy as np
import pytest

from keras_embcam import whole_numbers
from keras_embcam.whole_numbers import check_integer


def test_the_examples_run() -> None:
    results = doctest.testmod(whole_numbers)
    assert results.attempted and not results.failed


@pytest.mark.parametrize("value", [1, 3, np.int64(2), np.uint8(3)])
def test_integers_within_the_bounds_pass(value) -> None:
    check_integer("k", value, 1, 3)


def test_a_word_may_stand_in_its_place() -> None:
    check_integer("update_freq", "epoch", 1, other="epoch")
    with pytest.raises(ValueError, match='must be "epoch" or an integer >= 1.*: 0'):
        check_integer("update_freq", 0, 1, other="epoch")
    with pytest.raises(ValueError, match="must be an integer >= 1. Received: 'epoch'"):
        check_integer("update_freq", "epoch", 1)


@pytest.mark.parametrize("value", [0, 4, 2.0, True, "2", None, np.array([1, 2])])
def test_everything_else_is_refused(value) -> None:
    with pytest.raises(ValueError, match="`k` must be an integer between 1 and 3. Rec"):
        check_integer("k", value, 1, 3)
