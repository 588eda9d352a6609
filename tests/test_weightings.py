"""Tests of keras_embcam.weightings."""

import doctest

import keras
import numpy as np
import pytest
from keras import layers

from keras_embcam import EmbeddingCAM
from keras_embcam import weightings as module
from keras_embcam.weightings import WEIGHTINGS, get_weighting, keep_top_channels

# Two channels of a 2x2 image, and the gradients at them. The sums of the activations
# are 6 and 5, the means of the gradients 1 and -1/2.
A1, A2 = np.float64([[1, 2], [3, 0]]), np.float64([[1, 1], [1, 2]])
G1, G2 = np.float64([[1, 0], [2, 1]]), np.float64([[-1, 1], [0, -2]])
IMAGES = np.stack([A1, A2], axis=-1)[None]

MAPS = {
    # 1 A1 - 1/2 A2 = [[1/2, 3/2], [5/2, -1]]
    "gradcam": [[0.5, 1.5], [2.5, 0]],
    # channel 1: 1/(2+6) + 2/(2+12) + 1/(2+6) = 11/28; channel 2: 1/(2+5) = 1/7
    "gradcam++": 11 / 28 * A1 + 1 / 7 * A2,
    # [[1*1 + 0, 0 + 1*1], [2*3 + 0, 1*0 + 0]]
    "layercam": [[1, 1], [6, 0]],
    # [[1*1 - 1*1, 0 + 1*1], [2*3 + 0, 1*0 - 2*2]]
    "hirescam": [[0, 1], [6, 0]],
    # channel 1: (1 + 0 + 6 + 0)/6 = 7/6; channel 2: (-1 + 1 + 0 - 4)/5 = -4/5
    "xgradcam": np.maximum(7 / 6 * A1 - 4 / 5 * A2, 0),
}
# With the weights of channel 1 alone.
TOP_MAPS = {
    "gradcam": A1,
    "gradcam++": 11 / 28 * A1,
    "layercam": [[1, 0], [6, 0]],
    "hirescam": [[1, 0], [6, 0]],
    "xgradcam": 7 / 6 * A1,
}


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """Return a model of fixed weights whose activations are its images."""
    images = keras.Input((2, 2, 2))
    maps = layers.Conv2D(2, 1, use_bias=False, name="conv")(images)
    embedding = layers.Dense(2, use_bias=False)(layers.Flatten()(maps))
    model = keras.Model(images, embedding)
    gradients = np.stack([G1, G2], axis=-1).reshape(8)
    # The gradient of y . (1, -1) is the difference of the columns.
    columns = np.stack([gradients + 3, np.full(8, 3)], axis=1)
    model.set_weights([np.eye(2).reshape(1, 1, 2, 2), columns])
    return model


def explain_toy(model, weighting, proxy=(1, -1), **options) -> np.ndarray:
    """Return the raw 2x2 map of the toy."""
    cam = EmbeddingCAM(
        model, weighting=weighting, resize=False, normalize=False, **options
    )
    return np.asarray(cam(IMAGES, np.float32(proxy))[1])[0]


def test_the_examples_run() -> None:
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_maps_worked_by_hand(model, name) -> None:
    np.testing.assert_allclose(explain_toy(model, name), MAPS[name], atol=1e-6)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_top_channel_maps_worked_by_hand(model, name) -> None:
    # Channel 1 has the higher mean weight under each of them: relu(G) has the means
    # 4/4 and 1/4, G has 1 and -1/2, the other weights are above.
    heatmap = explain_toy(model, name, top_channels=1)
    np.testing.assert_allclose(heatmap, TOP_MAPS[name], atol=1e-6)


def test_all_channels_kept_is_no_choice(model) -> None:
    heatmap = explain_toy(model, "xgradcam", top_channels=2)
    np.testing.assert_array_equal(heatmap, explain_toy(model, "xgradcam"))


def test_channels_are_ranked_by_value_not_by_magnitude(model) -> None:
    # With -p the channel weights are -1 and 1/2: the smaller magnitude is higher.
    heatmap = explain_toy(model, "gradcam", proxy=(-1, 1), top_channels=1)
    np.testing.assert_allclose(heatmap, A2 / 2, atol=1e-6)


def test_channels_of_position_weights_are_ranked_by_their_mean() -> None:
    weights = np.zeros((1, 1, 2, 3), "float32")
    weights[0, 0, :, 0] = [9, -9]  # mean 0, the highest value
    weights[0, 0, :, 1] = [1, 2]
    weights[0, 0, :, 2] = [-1, 0]
    kept = np.asarray(keep_top_channels(weights, 1))
    np.testing.assert_array_equal(kept[..., 1], weights[..., 1])
    assert not kept[..., [0, 2]].any()


def test_each_image_has_its_own_top_channels() -> None:
    weights = np.float32([[3, 1, 2], [1, 2, 3]]).reshape(2, 1, 1, 3)
    kept = np.asarray(keep_top_channels(weights, 2)).reshape(2, 3)
    assert kept.tolist() == [[3, 0, 2], [0, 2, 3]]


def test_top_channels_keeps_negative_weights_where_there_are_no_others() -> None:
    weights = np.float32([-3, -1, -2]).reshape(1, 1, 1, 3)
    assert np.asarray(keep_top_channels(weights, 2)).ravel().tolist() == [0, -1, -2]


@pytest.mark.parametrize(
    ("total", "gradient", "expected"),
    [
        (-3, 1, 0.0),  # 2 - 3 < 0: counts nothing
        (-2, 1, 0.0),  # 2 - 2 = 0: counts nothing, and is no division by zero
        (-1, 1, 1.0),  # 1 / (2 - 1)
        (5, -1, 0.0),  # a negative gradient counts nothing
        (0, 4, 2.0),  # 4 / 2
        (1e30, 1, 0.0),  # 1 / 1e30
    ],
)
def test_gradcam_plus_plus_at_its_edges(total, gradient, expected) -> None:
    activations = np.full((1, 1, 1, 1), total, "float32")
    gradients = np.full((1, 1, 1, 1), gradient, "float32")
    weights = np.asarray(get_weighting("gradcam++")(activations, gradients))
    np.testing.assert_allclose(weights.ravel(), [expected], atol=1e-9)


def test_xgradcam_of_a_channel_that_sums_to_zero_counts_nothing() -> None:
    activations = np.float32([1, -1, 0, 0, 1, 2]).reshape(3, 1, 2, 1)
    gradients = np.float32([5, 3, 1, 1, 3, 0]).reshape(3, 1, 2, 1)
    weights = np.asarray(get_weighting("xgradcam")(activations, gradients))
    assert weights.ravel().tolist() == [0, 0, 1]  # the last: (3*1 + 0*2) / 3


def test_a_function_serves_as_a_weighting(model) -> None:
    heatmap = explain_toy(model, lambda activations, gradients: gradients * 0 + 2)
    np.testing.assert_allclose(heatmap, 2 * (A1 + A2), atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 2, 2, 1), (1, 1, 1, 2)])
def test_weights_need_only_broadcast(model, shape) -> None:
    heatmap = explain_toy(model, lambda activations, gradients: np.full(shape, 2.0))
    np.testing.assert_allclose(heatmap, 2 * (A1 + A2), atol=1e-6)


@pytest.mark.parametrize("shape", [(2,), (1, 2), (1, 3, 3, 2), (1, 1, 1, 3)])
def test_weights_that_do_not_broadcast_are_refused(model, shape) -> None:
    with pytest.raises(ValueError, match="`weighting` must return weights that broad"):
        explain_toy(model, lambda activations, gradients: np.ones(shape, "float32"))


@pytest.mark.parametrize("identifier", ["gradcamm", None, 3, ["gradcam"]])
def test_an_unknown_weighting_is_refused(model, identifier) -> None:
    message = r"`weighting` must be one of \['gradcam', 'gradcam\+\+', .*Received: "
    with pytest.raises(ValueError, match=message):
        EmbeddingCAM(model, weighting=identifier)


@pytest.mark.parametrize("top_channels", [0, -1, 2.0, "50"])
def test_impossible_top_channels_are_refused_at_once(model, top_channels) -> None:
    with pytest.raises(ValueError, match="`top_channels` must be an integer.*Received"):
        EmbeddingCAM(model, top_channels=top_channels)


def test_more_top_channels_than_channels_are_refused(model) -> None:
    with pytest.raises(ValueError, match=r"`top_channels`.*\(2\).*Received: 3"):
        explain_toy(model, "gradcam", top_channels=3)
