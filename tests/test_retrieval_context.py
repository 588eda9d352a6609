"""The context ratio: networks that see only the object, or only what is around it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_embcam import context_ratio
from keras_embcam.evaluation import evaluate
from keras_embcam.metrics import measure_retrieval
from keras_embcam.retrieval.covering import cover_images

RNG = np.random.default_rng(0)
NUM_CLASSES, SIDE = 4, 12
COLORS = RNG.permutation(np.eye(3)[[0, 1, 2, 0]] * 0.7 + 0.1)
COLORS[3] = [0.9, 0.9, 0.1]


def draw(num_each=5):
    """Objects whose colour is their class, on backgrounds whose colour is too."""
    labels = np.repeat(np.arange(NUM_CLASSES), num_each)
    images = np.zeros((len(labels), SIDE, SIDE, 3))
    images[:] = COLORS[::-1][labels][:, None, None]
    images[:, 3:9, 3:9] = COLORS[labels][:, None, None]
    images += RNG.normal(scale=0.02, size=images.shape)
    masks = np.zeros(images.shape[:3], bool)
    masks[:, 3:9, 3:9] = True
    boxes = np.full((len(labels), 4), [0.25, 0.25, 0.75, 0.75], "float32")
    return {
        "image": np.clip(images, 0, 1).astype("float32"),
        "label": labels,
        "bbox": boxes,
        "segmentation_mask": masks,
    }


def look_at(where):
    """Return a network that averages the object's pixels, or the border's."""
    weights = np.zeros((SIDE, SIDE, 1), "float32")
    if where == "object":
        weights[4:8, 4:8] = 1 / 16
    else:
        weights[[0, -1]] = 1 / 24
    inputs = keras.Input((SIDE, SIDE, 3))
    conv = layers.Conv2D(3, 1, name="conv", use_bias=False)
    # Minus the middle of all colours, or every cosine would be high.
    maps = conv(layers.Rescaling(1.0, offset=-0.4)(inputs))
    outputs = layers.Lambda(lambda x: ops.sum(x * weights, axis=(1, 2)))(maps)
    conv.set_weights([np.eye(3, dtype="float32").reshape(1, 1, 3, 3)])
    return keras.Model(inputs, outputs)


def drop(examples, key):
    return {name: values for name, values in examples.items() if name != key}


@pytest.mark.parametrize("without", ["bbox", "segmentation_mask"])
def test_a_network_that_looks_at_the_object(without):
    examples = drop(draw(), without)
    found = context_ratio(look_at("object"), examples, batch_size=8)
    assert found.recall == 1 and found.num_images == 20 and found.num_left_out == 0
    assert found.chance == pytest.approx(4 / 19)
    for row in found.rows:
        assert row.background_covered == 1
    # One colour for all images leaves nothing to find; the mean colour of the whole
    # image still tells the class on both sides.
    assert (found.rows[0].cover, found.rows[0].sides) == ("constant", "query")
    assert found.ratio == found.rows[0].ratio == pytest.approx(found.chance, abs=0.06)
    leaking = next(x for x in found.rows if (x.cover, x.sides) == ("mean", "both"))
    assert leaking.object_covered > 2 * found.chance


def test_a_network_that_looks_at_the_background():
    found = context_ratio(look_at("background"), draw())
    for row in found.rows:
        assert row.object_covered == 1
        assert row.ratio == pytest.approx(1 / row.background_covered)
    assert found.ratio > 3


def test_recall_without_cover_is_that_of_measure_retrieval():
    keras.utils.set_random_seed(0)
    conv = layers.Conv2D(4, 3, activation="relu")
    model = keras.Sequential(
        [keras.Input((SIDE, SIDE, 3)), conv, layers.GlobalAveragePooling2D()]
    )
    examples = {**draw(), "image": RNG.random((20, SIDE, SIDE, 3), "float32")}
    examples["label"] = np.r_[np.repeat(np.arange(6), 3), 6, 7]  # two are alone
    found = context_ratio(model, examples)
    embeddings = model.predict(examples["image"], verbose=0)
    expected = measure_retrieval(embeddings, examples["label"])["recall_at_1"]
    assert found.recall == pytest.approx(expected) and 0 < found.recall < 1
    covered = cover_images(
        examples["image"], examples["segmentation_mask"].astype("float32"), "blur", 0
    )
    embeddings = model.predict(covered, verbose=0)
    expected = measure_retrieval(embeddings, examples["label"])["recall_at_1"]
    row = next(x for x in found.rows if (x.cover, x.sides) == ("blur", "both"))
    assert row.object_covered == pytest.approx(expected)


def test_data_sets_bytes_and_trimaps_give_the_same():
    examples = draw()
    examples["image"] = np.rint(255 * examples["image"]).astype("uint8")
    trimaps = np.where(examples.pop("segmentation_mask"), 1, 2).astype("uint8")
    model = keras.Sequential(
        [keras.Input((SIDE, SIDE, 3)), layers.Rescaling(1 / 255), look_at("object")]
    )
    masks = trimaps == 1
    plain = context_ratio(model, {**examples, "segmentation_mask": masks})
    data = tf.data.Dataset.from_tensor_slices(
        {**examples, "segmentation_mask": trimaps}
    )
    other = context_ratio(model, data.batch(7), mask_foreground=1, mask_ignored=3)
    assert other == plain
    scaled = context_ratio(
        look_at("object"),
        data,
        mask_foreground=1,
        preprocessing_function=lambda x: x / 255,
    )
    np.testing.assert_allclose(scaled.rows[1][2:], plain.rows[1][2:])


def test_images_without_an_object_are_counted():
    examples = drop(draw(), "segmentation_mask")
    examples["bbox"][[0, 6]] = [[0, 0, 0, 0], [0, 0, 1, 1]]
    found = context_ratio(look_at("object"), examples)
    assert (found.num_images, found.num_left_out) == (18, 2)


def test_figures_by_name():
    found = context_ratio(look_at("background"), draw())
    logs = found.as_logs()
    assert len(logs) == 19 and logs["context_ratio"] == found.ratio
    assert logs["recall_at_1_object_covered_blur_query"] == 1


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        (drop(draw(), "label"), "must have 'label'"),
        ({"image": draw()["image"], "label": draw()["label"]}, "'bbox' or 'seg"),
        (
            {**drop(draw(), "segmentation_mask"), "label": np.arange(20)},
            "of two members",
        ),
        (
            {**drop(draw(), "segmentation_mask"), "bbox": np.zeros((20, 4))},
            "must have objects to cover",
        ),
    ],
)
def test_bad_input(examples, message):
    with pytest.raises(ValueError, match=message):
        context_ratio(look_at("object"), examples)


def test_evaluate_reports_it():
    examples = drop(draw(), "segmentation_mask")
    examples["bbox"][0] = 0
    model = look_at("background")
    found = context_ratio(model, examples)
    report = evaluate(model, examples, ["uniform"], context_ratio=True, num_timings=0)
    text = report.settings["context ratio (constant cover, query)"]
    assert text.startswith(f"{found.ratio:.3f} = Recall@1 1.000 without the object")
    assert any(x.startswith("1 images have no object") for x in report.notes)
    without = evaluate(model, examples, ["uniform"], num_timings=0)
    assert not any("context" in key for key in without.settings)


def test_embeddings_that_are_not_finite_and_images_of_another_size():
    examples = drop(draw(), "segmentation_mask")
    model = look_at("object")
    with pytest.raises(ValueError, match="takes images of the shape"):
        context_ratio(model, {**examples, "image": examples["image"][:, :6]})
    model.get_layer("conv").set_weights([np.full((1, 1, 3, 3), np.nan)])
    with pytest.raises(ValueError, match="`examples` must be finite"):
        context_ratio(model, examples)
    with pytest.raises(ValueError, match="n >= 1"):
        context_ratio(model, {key: x[:0] for key, x in examples.items()})
