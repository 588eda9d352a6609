"""Tests of keras_embcam.extras."""

import doctest

import pytest

from keras_embcam import extras


def test_the_examples_run() -> None:
    results = doctest.testmod(extras)
    assert results.attempted and not results.failed


def test_a_missing_library_is_named_with_what_to_install() -> None:
    message = (
        "The demo needs x, which is not installed. Install the extra: "
        r'pip install "keras-embcam\[demo\]".'
    )
    with pytest.raises(ImportError, match=message):
        extras.import_extra("nowhere.x", "demo", "The demo needs x")
