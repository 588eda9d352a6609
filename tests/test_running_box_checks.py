"""Boxes that cannot be what their format says."""

import doctest
import warnings

import numpy as np
import pytest

from keras_embcam.running import box_checks, mask_checks
from keras_embcam.running.box_checks import BoxCheck
from keras_embcam.running.mask_checks import MaskCheck

RELATIVE = np.float32([[[0.1, 0.2, 0.5, 0.9]], [[0.3, 0.1, 0.7, 0.4]]])  # y x y x
PIXELS = RELATIVE * [64, 32, 64, 32]
SIZE = (64, 32)


def finish(boxes, bounding_box_format, size=SIZE):
    check = BoxCheck(bounding_box_format, "examples")
    for batch in np.array_split(np.asarray(boxes, "float32"), 2):
        check.update(batch, size)
    check.finish()


@pytest.mark.parametrize(
    ("boxes", "bounding_box_format"),
    [
        (RELATIVE, "rel_yxyx"),
        (PIXELS, "yxyx"),
        (RELATIVE[..., [1, 0, 3, 2]], "rel_xyxy"),
        # An image without boxes, and padding, are nothing to complain about.
        ([RELATIVE[0], [[-1, -1, -1, -1]]], "rel_yxyx"),
        ([RELATIVE[0], [[0, 0, 0, 0]]], "rel_yxyx"),
        ([[[-0.01, 0.2, 0.5, 1.02]], RELATIVE[1]], "rel_yxyx"),
    ],
)
def test_right_boxes_pass(boxes, bounding_box_format, recwarn):
    finish(boxes, bounding_box_format)
    assert not recwarn


@pytest.mark.parametrize(
    ("boxes", "stated", "meant"),
    [
        (PIXELS, "rel_yxyx", "yxyx"),
        # From the corner on, such boxes cover the whole image: a ratio of 1.
        (PIXELS * [0, 0, 1, 1], "rel_yxyx", "yxyx"),
        (RELATIVE, "yxyx", "rel_yxyx"),
        (RELATIVE, "XYXY", "rel_xyxy"),
    ],
)
def test_the_wrong_unit_is_an_error_that_names_the_right_one(boxes, stated, meant):
    with pytest.raises(ValueError, match=f"Did you mean .*='{meant}'\\?"):
        finish(boxes, stated)


def test_the_error_says_what_the_values_are():
    with pytest.raises(
        ValueError,
        match="No box of `examples` has an area .* from 3.2 to 44.8 .*'rel_yxyx'",
    ):
        finish(PIXELS, "rel_yxyx")


def test_the_wrong_order():
    # Widths and heights that are smaller than the corner they belong to.
    boxes = np.float32([[[0.6, 0.7, 0.2, 0.2]], [[0.5, 0.6, 0.3, 0.1]]])
    with pytest.raises(ValueError, match="Did you mean .*='rel_xywh'"):
        finish(boxes, "rel_yxyx")


def test_some_boxes_without_an_area_are_a_warning():
    boxes = np.float32([[[0.6, 0.7, 0.2, 0.2]], [[0.1, 0.2, 0.3, 0.3]]])
    with pytest.warns(UserWarning, match="1 of 2 boxes .* no area"):
        finish(boxes, "rel_yxyx")


def test_boxes_of_larger_images_are_a_warning():
    with pytest.warns(UserWarning, match="images of another size.* 64 x 32"):
        finish(np.float32([[[10, 10, 200, 100]], [[0, 0, 20, 20]]]), "yxyx")


def test_no_box_at_all():
    with pytest.raises(ValueError, match="has no box: all rows are padding"):
        finish(np.full((2, 3, 4), -1), "rel_yxyx")


def test_doctests():
    finished = doctest.testmod(box_checks, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert finished.attempted and not finished.failed


@pytest.mark.parametrize("bounding_box_format", ["rel_yxyx", "rel_xyxy"])
def test_swapped_corners_are_named(bounding_box_format):
    with pytest.raises(ValueError, match="Are their corners swapped"):
        finish(RELATIVE[..., [2, 3, 0, 1]], bounding_box_format)
    with pytest.raises(ValueError, match="Are their corners swapped"):
        finish(RELATIVE[..., [2, 1, 0, 3]], bounding_box_format)


def test_masks_without_the_value_of_the_object():
    assert doctest.testmod(mask_checks).failed == 0
    check = MaskCheck(30, "examples")
    check.finish()  # no masks
    check.update(np.arange(25).reshape(1, 5, 5))
    with pytest.raises(ValueError, match=r"values \[0, 1, .*, 19, \.\.\.\]. Pass one"):
        check.finish()
    check.update(np.full((1, 5, 5), 30))
    check.finish()


def test_objects_that_cover_every_image_are_told():
    """Trimaps that were cast to bool: every ratio was 1.000, without a word."""
    trimaps = np.random.default_rng(0).integers(1, 4, (3, 8, 8))
    check = MaskCheck(None, "examples")
    check.update(trimaps.astype(bool))
    with pytest.warns(UserWarning, match=r"ratio is 1.000 .*`mask_foreground=1`"):
        check.finish()
    every = MaskCheck(7, "examples")
    every.update(np.full((1, 8, 8), 7))
    with pytest.warns(UserWarning, match="Received mask_foreground=7: pass another"):
        every.finish()
    # One image whose object is smaller is enough, as are trimaps themselves.
    check.update(trimaps > 1)
    other = MaskCheck(1, "examples")
    other.update(trimaps)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check.finish()
        other.finish()
