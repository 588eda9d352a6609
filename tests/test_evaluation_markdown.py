"""Markdown tables against what a reader of the format expects."""

import math

import numpy as np
import pytest

from keras_embcam.evaluation.markdown import draw_table, format_number


def test_every_row_has_as_many_cells_as_there_are_headings():
    lines = draw_table(["a", "b"], [["x", 1], ["y", 2.5]]).splitlines()
    assert lines == ["| a | b |", "| --- | --- |", "| x | 1 |", "| y | 2.5 |"]


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"one cell for each heading.*\['x'\]"):
        draw_table(["a", "b"], [["x"]])


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12345, "0.12"), (3, "3.00"), (np.float64(1), "1.00"), (math.nan, "n/a")],
)
def test_numbers_have_the_digits_asked_for(value, text):
    assert format_number(value, 2) == text


def test_words_stay_words():
    assert format_number("otsu", 2) == "otsu"
