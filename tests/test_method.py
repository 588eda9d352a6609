"""Tests of keras_embcam.method: what is equal, what is refused, what is bound."""

import doctest

import keras
import pytest
from keras import layers

from keras_embcam import method as module
from keras_embcam.method import Method
from keras_embcam.weightings import layercam


def make_model() -> keras.Model:
    backbone = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(2, 3, name="conv")], name="backbone"
    )
    images = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(backbone(images))
    return keras.Model(images, layers.Dense(2, name="embedding")(x))


def test_the_examples_run() -> None:
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


def test_bound_methods_name_layers_by_their_path() -> None:
    model = make_model()
    conv, dense = model.get_layer("backbone").layers[-1], model.layers[-1]
    bound = Method(conv_layer=[conv], embedding_layer=dense).bind(model)
    assert bound.conv_layer == ("backbone/conv",)
    assert bound.embedding_layer == "embedding"
    assert bound == Method(
        conv_layer=("backbone/conv",), embedding_layer="embedding"
    ).bind(model)
    assert len({bound, Method(conv_layer=conv).bind(model)}) == 2


@pytest.mark.parametrize("argument", ["conv_layer", "embedding_layer"])
def test_a_layer_of_another_model(argument) -> None:
    method = Method(**{argument: layers.Dense(2, name="stranger")})
    with pytest.raises(ValueError, match=f"`{argument}` must be .*stranger"):
        method.bind(make_model())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weighting": "gradcan"}, "`weighting` must be one of .*'gradcan'"),
        ({"top_channels": 0}, "`top_channels` must be an integer .* Received: 0"),
        ({"preset": "sharpen"}, "`preset` must be one of .*'sharpen'"),
        (
            {"preset": "localize", "weighting": "layercam"},
            "states the weighting and the channels itself.*'layercam'",
        ),
    ],
)
def test_wrong_options_are_refused_when_it_is_made(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        Method(**options)


def test_what_a_preset_stands_for() -> None:
    assert Method(preset="localize").layers.num_scales == 3
    assert Method(preset="localize", conv_layer=["a", "b"]).layers == ("a", "b")
    assert Method(joins_branches=False).layers is None
    assert Method().box_threshold == 0.2
    assert Method(weighting="layercam").weigh is layercam
