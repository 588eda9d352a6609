"""The forms that validation examples come in."""

import numpy as np
import pytest
import tensorflow as tf

from keras_embcam.callbacks.validation_examples import ValidationExamples

IMAGES = np.arange(7 * 2 * 2 * 1, dtype="float32").reshape(7, 2, 2, 1)
LABELS = np.array([0, 0, 0, 0, 1, 1, 2])
BOXES = np.tile(np.float32([0, 0, 1, 1]), (7, 1))
DICT = {"image": IMAGES, "label": LABELS, "bbox": BOXES, "other": LABELS}


def slices(values):
    return tf.data.Dataset.from_tensor_slices(values)


@pytest.mark.parametrize(
    ("form", "keys"),
    [
        (IMAGES, {"image"}),
        (tf.constant(IMAGES), {"image"}),
        ((IMAGES, LABELS), {"image", "label"}),
        (DICT, {"image", "label", "bbox"}),
        (slices(IMAGES), {"image"}),
        (slices((IMAGES, LABELS)), {"image", "label"}),
        (slices(DICT), {"image", "label", "bbox"}),
        (slices(DICT).batch(3), {"image", "label", "bbox"}),
    ],
)
def test_forms(form, keys):
    examples = ValidationExamples(form, batch_size=3)
    assert examples.keys == keys
    for _ in range(2):  # every time the same
        batches = list(examples.batches())
        assert [len(batch["image"]) for batch in batches] == [3, 3, 1]
        for key in keys:
            joined = np.concatenate([batch[key] for batch in batches])
            np.testing.assert_array_equal(joined, DICT[key])


@pytest.mark.parametrize("form", [DICT, slices(DICT).batch(2)])
def test_take_keeps_the_order_asked_for(form):
    taken = ValidationExamples(form, batch_size=3).take([5, 0])
    np.testing.assert_array_equal(taken["image"], IMAGES[[5, 0]])
    np.testing.assert_array_equal(taken["label"], [1, 0])


def test_choose():
    examples = ValidationExamples(DICT, batch_size=2)
    assert examples.choose(3, class_balanced=False) == [0, 1, 2]
    assert examples.choose(99, class_balanced=False) == list(range(7))
    # The first of each class, then the second of each, then the third.
    assert examples.choose(6, class_balanced=True) == [0, 4, 6, 1, 5, 2]


def test_errors():
    with pytest.raises(TypeError, match="must be an array of images.*type str"):
        ValidationExamples("folder", 2)
    with pytest.raises(ValueError, match='must have an "image".*label'):
        ValidationExamples({"label": LABELS}, 2)
    with pytest.raises(ValueError, match="as many of each.*'image': 7, 'label': 3"):
        ValidationExamples({"image": IMAGES, "label": LABELS[:3]}, 2)
    with pytest.raises(ValueError, match=r"\(n, H, W, c\).*\(7, 2, 2\)"):
        ValidationExamples(IMAGES[..., 0], 2)
    with pytest.raises(ValueError, match="n >= 1"):
        ValidationExamples(IMAGES[:0], 2)
    examples = ValidationExamples(IMAGES, 2)
    with pytest.raises(ValueError, match=r"There are 7 .*numbers \[7\]"):
        examples.take([7])
    with pytest.raises(ValueError, match="needs labels"):
        examples.choose(2, class_balanced=True)
