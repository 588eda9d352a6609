"""Framing: boxes, masks and parts must move with the pixels."""

import doctest
import importlib

import numpy as np
import pytest
import tensorflow as tf

from keras_embcam.datasets.framing import check_frame, frame_example


def test_doctests() -> None:
    module = importlib.import_module("keras_embcam.datasets.framing")
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


def example_with_block(height: int, width: int, box: tuple[int, int, int, int]) -> dict:
    """A black image with a white block, and its box, mask and corners."""
    top, left, bottom, right = box
    image = np.zeros((height, width, 3), np.uint8)
    image[top:bottom, left:right] = 255
    corners = [[top / height, left / width, 1], [bottom / height, right / width, 1]]
    relative = np.array(box, np.float32) / [height, width, height, width]
    return {
        "image": tf.constant(image),
        "bbox": tf.constant(relative, tf.float32),
        "segmentation_mask": tf.constant(image[..., 0] > 0),
        "parts": tf.constant(corners, tf.float32),
        "label": tf.constant(3),
    }


@pytest.mark.parametrize("framing", ["full_frame", "centre_crop"])
@pytest.mark.parametrize("size", [(60, 60), (30, 90), (120, 60), (61, 43)])
def test_everything_lands_on_the_block(framing: str, size: tuple[int, int]) -> None:
    # The block lies inside every one of these crops of the 120 x 180 image.
    example = example_with_block(120, 180, (45, 72, 69, 96))
    framed = frame_example(example, size, framing)
    assert framed["image"].shape == (*size, 3) and framed["image"].dtype == tf.uint8
    assert framed["segmentation_mask"].dtype == tf.bool
    bright = framed["image"].numpy()[..., 0] > 127
    rows, columns = np.nonzero(bright)
    measured = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
    expected = framed["bbox"].numpy() * [*size, *size]
    # A side measured on pixels is off by half a pixel at most, plus the centring
    # of the crop, which is rounded to whole pixels.
    np.testing.assert_allclose(measured, expected, atol=1.0)
    mask = framed["segmentation_mask"].numpy()
    assert np.mean(mask != bright) < 0.02
    parts = framed["parts"].numpy()
    np.testing.assert_allclose(parts[:, :2].ravel(), framed["bbox"].numpy(), atol=1e-6)
    assert framed["label"] == 3


def test_a_centre_crop_keeps_proportions_and_a_full_frame_does_not() -> None:
    example = example_with_block(120, 180, (45, 72, 69, 96))
    crop = frame_example(example, (60, 60), "centre_crop")["bbox"].numpy()
    full = frame_example(example, (60, 60), "full_frame")["bbox"].numpy()
    # Worked by hand: the crop is the columns 30 to 150, so the box is columns 42
    # to 66 and rows 45 to 69 of 120.
    np.testing.assert_allclose(crop, np.array([45, 42, 69, 66]) / 120, rtol=1e-6)
    np.testing.assert_allclose(
        full, [45 / 120, 72 / 180, 69 / 120, 96 / 180], rtol=1e-6
    )


def test_a_box_is_clipped_to_the_crop_and_empty_outside_it() -> None:
    # The crop of 120 x 180 to a square is the columns 30 to 150.
    partly = example_with_block(120, 180, (0, 0, 60, 90))
    framed = frame_example(partly, (60, 60), "centre_crop")
    np.testing.assert_allclose(framed["bbox"], [0, 0, 0.5, 0.5], rtol=1e-6)
    # Its left upper corner is not visible any more, the other one is.
    np.testing.assert_allclose(framed["parts"], [[0, 0, 0], [0.5, 0.5, 1]], rtol=1e-6)
    outside = example_with_block(120, 180, (10, 0, 60, 30))
    framed = frame_example(outside, (60, 60), "centre_crop")
    np.testing.assert_array_equal(framed["bbox"], np.zeros(4))
    assert not framed["segmentation_mask"].numpy().any()


def test_several_boxes_and_masks_of_numbers() -> None:
    image = tf.zeros((8, 8, 1), tf.uint8)
    boxes = tf.constant([[0, 0, 0.5, 0.5], [0.25, 0.25, 1, 1]])
    trimap = tf.constant(np.arange(64).reshape(8, 8) % 3 + 1, tf.uint8)
    example = {"image": image, "bbox": boxes, "segmentation_mask": trimap}
    framed = frame_example(example, (16, 16), "full_frame")
    np.testing.assert_array_equal(framed["bbox"], boxes)
    expected = np.repeat(np.repeat(trimap.numpy(), 2, axis=0), 2, axis=1)
    np.testing.assert_array_equal(framed["segmentation_mask"], expected)
    cropped = frame_example(example, (4, 8), "centre_crop")
    np.testing.assert_allclose(cropped["bbox"], [[0, 0, 0.5, 0.5], [0, 0.25, 1, 1]])


def test_without_a_size_nothing_changes() -> None:
    example = example_with_block(12, 18, (1, 2, 3, 4))
    assert frame_example(example, None, "full_frame") is example


@pytest.mark.parametrize(
    ("image_size", "framing", "message"),
    [
        (64, "stretch", "`framing` must be one of .*Received: framing='stretch'"),
        (None, "centre_crop", "needs the size of the crop.*image_size=None"),
        (0, "full_frame", "`image_size` must be one or two .*image_size=0"),
        ((64, 64, 3), "full_frame", "Received: image_size=\\(64, 64, 3\\)"),
        (64.0, "full_frame", "Received: image_size=64.0"),
    ],
)
def test_errors(image_size: object, framing: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_frame(image_size, framing)
