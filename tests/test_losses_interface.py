"""Arguments, error messages, configurations and examples of the losses."""

import doctest
import importlib

import keras
import numpy as np
import pytest

from keras_embcam import losses

ALL = [getattr(losses, name) for name in losses.__all__]
BATCH_LOSSES = [loss for loss in ALL if loss is not losses.ProxyNCALoss]
MODULES = [
    "addons",
    "batch_loss",
    "class_similarities",
    "contrastive",
    "margin",
    "pair_loss",
    "pairwise",
    "proxy_anchor",
    "proxy_nca",
    "triplet",
]
OTHER_ARGUMENTS = {
    losses.ContrastiveLoss: {"margin": 0.4},
    losses.MarginLoss: {"margin": 0.3, "beta": 0.9, "seed": 5},
    losses.ProxyAnchorLoss: {"margin": 0.2, "scale": 12.0},
    losses.ProxyNCALoss: {"temperature": 0.3, "reduction": "sum"},
    losses.TripletAllLoss: {"margin": 0.3, "distance_metric": "angular"},
    losses.TripletHardLoss: {"margin": 0.3, "soft": True, "distance_metric": "angular"},
    losses.TripletSemiHardLoss: {"margin": 0.3, "distance_metric": "squared-L2"},
}


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(f"keras_embcam.losses.{name}")
    results = doctest.testmod(module)
    assert results.failed == 0
    assert results.attempted > 0 or name in ("addons", "batch_loss")


@pytest.mark.parametrize("loss_class", ALL)
def test_configuration_round_trip(loss_class):
    loss = loss_class(**OTHER_ARGUMENTS[loss_class], name="mine")
    for key, value in OTHER_ARGUMENTS[loss_class].items():
        assert loss.get_config()[key] == value
    serialized = keras.losses.serialize(loss)
    assert serialized["registered_name"] == f"keras_embcam>{loss_class.__name__}"
    copy = keras.losses.deserialize(serialized)
    assert type(copy) is loss_class
    assert copy.get_config() == loss.get_config()
    generator = np.random.default_rng(0)
    predictions = generator.uniform(-1, 1, (8, 4))
    labels = np.arange(8) % 4
    assert float(copy(labels, predictions)) == float(loss(labels, predictions))


def test_defaults_are_those_of_tensorflow_addons():
    semi_hard, hard = losses.TripletSemiHardLoss(), losses.TripletHardLoss()
    assert (semi_hard.margin, semi_hard.distance_metric) == (1.0, "L2")
    assert (hard.margin, hard.soft, hard.distance_metric) == (1.0, False, "L2")
    assert losses.ContrastiveLoss().margin == 1.0


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "1", None])
@pytest.mark.parametrize(
    ("loss_class", "argument"),
    [
        (losses.ContrastiveLoss, "margin"),
        (losses.MarginLoss, "margin"),
        (losses.MarginLoss, "beta"),
        (losses.ProxyAnchorLoss, "margin"),
        (losses.ProxyAnchorLoss, "scale"),
        (losses.ProxyNCALoss, "temperature"),
        (losses.TripletAllLoss, "margin"),
        (losses.TripletHardLoss, "margin"),
        (losses.TripletSemiHardLoss, "margin"),
    ],
)
def test_numbers_must_be_above_zero(loss_class, argument, value):
    message = f"{argument} must be a finite number above 0. Received: {argument}="
    with pytest.raises(ValueError, match=message):
        loss_class(**{argument: value})


@pytest.mark.parametrize(
    "loss_class",
    [losses.TripletAllLoss, losses.TripletHardLoss, losses.TripletSemiHardLoss],
)
def test_distance_must_be_known(loss_class):
    with pytest.raises(ValueError, match="one of .*squared-L2.*metric='cosine'"):
        loss_class(distance_metric="cosine")


@pytest.mark.parametrize("loss_class", ALL)
def test_shapes_are_checked(loss_class):
    loss = loss_class()
    with pytest.raises(ValueError, match=r"y_pred must .*shape \(2, 3, 4\)"):
        loss([0, 1], np.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match=r"y_true must .*shape \(2, 5\).*argmax"):
        loss(np.zeros((2, 5)), np.zeros((2, 5)))
    with pytest.raises(ValueError, match=r"same length.*shape \(3,\).*shape \(2, 5\)"):
        loss(np.zeros(3), np.zeros((2, 5)))


@pytest.mark.parametrize("loss_class", BATCH_LOSSES)
def test_sample_weights_are_refused(loss_class):
    with pytest.raises(ValueError, match="no loss per example to be weighted"):
        loss_class()([0, 1], np.zeros((2, 3)), sample_weight=[1.0, 2.0])


@pytest.mark.parametrize("loss_class", ALL)
def test_lists_are_taken_too(loss_class):
    predictions = [[0.1, 0.9], [0.3, -0.4], [0.5, 0.2]]
    value = loss_class()([0, 1, 0], predictions)
    assert float(value) == float(
        loss_class()(np.array([0, 1, 0]), np.array(predictions))
    )
    assert value.shape == ()
    assert value.dtype == "float32"


def test_losses_are_at_least_float32():
    try:
        for floatx, dtype in [("bfloat16", "float32"), ("float64", "float64")]:
            keras.config.set_floatx(floatx)
            assert losses.ContrastiveLoss().dtype == dtype
            assert losses.ProxyNCALoss().dtype == dtype
    finally:
        keras.config.set_floatx("float32")
