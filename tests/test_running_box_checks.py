"""Boxes that cannot be what their format says."""

import doctest
import re
import warnings

import numpy as np
import pytest
from keras.utils.bounding_boxes import convert_format

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
    with pytest.warns(UserWarning, match=" 64 x 32.*images of another size"):
        finish(np.float32([[[10, 10, 200, 100]], [[0, 0, 20, 20]]]), "yxyx")


@pytest.mark.parametrize(
    ("stated", "meant", "named"),
    [
        ("xyxy", "xywh", "xyxy"),
        ("rel_xyxy", "rel_xywh", "rel_xyxy"),
        ("yxyx", "center_yxhw", "yxyx"),
        ("rel_center_xywh", "rel_xywh", "rel_center_xywh"),
        ("rel_xywh", "rel_center_xywh", "rel_xywh"),
    ],
)
def test_boxes_of_another_format_reach_outside(stated, meant, named):
    corners = np.float32([[[30, 10, 60, 30]], [[2, 3, 40, 25]], [[20, 8, 62, 31]]])
    boxes = convert_format(corners, "xyxy", stated, height=SIZE[1], width=SIZE[0])
    with pytest.warns(
        UserWarning, match=f"outside their images.*Did you mean .*='{named}'"
    ):
        finish(boxes, meant, SIZE[::-1])


@pytest.mark.parametrize("bounding_box_format", ["xywh", "center_xywh"])
def test_corners_of_larger_images_are_a_warning(bounding_box_format):
    # No value is far above a side of the image.
    corners = np.float32([[[10, 20, 80, 90]], [[30, 20, 90, 88]], [[5, 6, 30, 40]]])
    boxes = convert_format(corners, "xyxy", bounding_box_format)
    with pytest.warns(UserWarning, match="2 of 3 boxes .* images of another size"):
        finish(boxes, bounding_box_format, (60, 60))


def test_a_few_boxes_may_reach_outside(recwarn):
    boxes = np.tile(RELATIVE, (5, 1, 1))
    boxes[1, 0, 2:] = 1.2
    finish(boxes, "rel_yxyx")
    assert not recwarn


@pytest.mark.parametrize("odd", [np.nan, 0.4])
def test_boxes_that_are_no_boxes_are_a_warning(odd):
    boxes = np.concatenate([RELATIVE, np.full((1, 1, 4), odd)])
    with pytest.warns(UserWarning, match="1 of 3 boxes .* do not count"):
        finish(boxes, "rel_yxyx")


def test_rows_of_nan_beside_a_box_are_padding(recwarn):
    finish(np.concatenate([RELATIVE, np.full((2, 1, 4), np.nan)], 1), "rel_yxyx")
    assert not recwarn


def test_boxes_of_nan_alone():
    with pytest.raises(ValueError, match="No box .* values not finite"):
        finish(np.full((2, 1, 4), np.nan), "rel_yxyx")


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
    other = MaskCheck(1, "examples", 3)
    other.update(trimaps)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check.finish()
        other.finish()


@pytest.mark.parametrize(
    ("values", "foreground", "ignored", "further"),
    [
        ([0, 1, 255], 1, None, "background: \\[255\\]. .* mask_ignored=255"),
        ([1, 2, 3], 1, None, "background: \\[3\\]. .* mask_ignored=3"),
        ([0, 80, 160, 255], 255, None, "background: \\[80, 160\\]. .* nearest value"),
        ([0, 1, 255], 1, 255, None),
        ([1, 2], 1, None, None),
    ],
)
def test_masks_with_further_values(values, foreground, ignored, further, recwarn):
    check = MaskCheck(foreground, "examples", ignored)
    for value in values:
        check.update(np.full((1, 2, 2), value, "uint8"))
    check.finish()
    assert len(recwarn) == bool(further)
    if further:
        assert re.search(further, str(recwarn[0].message))


def test_bool_masks_without_an_object():
    check = MaskCheck(None, "examples")
    check.update(np.zeros((2, 3, 3), bool))
    with pytest.raises(ValueError, match="all False. Leave out"):
        check.finish()
    check.update(np.ones((1, 3, 3), bool))
    check.finish()
