"""Captum and pytorch-grad-cam as witnesses: the same weights, the same maps.

tests/witnesses/record_cams.py recorded what the two libraries say about a small
PyTorch network; here its twin in Keras is explained and compared.
"""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_embcam import EmbeddingCAM
from keras_embcam.heatmaps import combine_channels
from keras_embcam.pixels import (
    deconvnet,
    deconvnet_gradcam,
    guided_backpropagation,
    guided_gradcam,
    saliency,
)
from keras_embcam.weightings import get_weighting

TOLERANCE = 1e-5  # of the largest value of the witness
LAYERS = ["middle", "last"]


def gradcam_plus_plus_of_pytorch(activations, gradients):
    """Return the Grad-CAM++ weights with the 1e-6 that pytorch-grad-cam adds."""
    total = ops.sum(activations, axis=(1, 2), keepdims=True)
    denominator = 2 * gradients**2 + total * gradients**3 + 1e-6
    weights = ops.relu(gradients) * gradients**2 / denominator
    return ops.sum(weights, axis=(1, 2), keepdims=True)


METHODS: list[tuple[str, str | Callable]] = [
    ("GradCAM", "gradcam"),
    ("GradCAMPlusPlus", gradcam_plus_plus_of_pytorch),
    ("LayerCAM", "layercam"),
    ("HiResCAM", "hirescam"),
    ("XGradCAM", "xgradcam"),
]


@pytest.fixture(scope="module")
def witness() -> dict[str, np.ndarray]:
    """Return the recorded arrays."""
    with np.load(Path(__file__).parent / "witnesses" / "cams.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def twin(witness) -> keras.Model:
    """Return the Keras twin; its ReLUs are written in all the usual ways."""
    images = keras.Input((16, 16, 3))
    maps = layers.Conv2D(6, 3, padding="same", activation="relu", name="first")(images)
    maps = layers.MaxPooling2D(2)(maps)
    maps = layers.Conv2D(8, 3, padding="same", name="second")(maps)
    maps = layers.Activation("relu", name="middle")(maps)
    # PyTorch pads a strided convolution on all sides, "same" on two of them only.
    maps = layers.ZeroPadding2D(1)(maps)
    maps = layers.ReLU()(layers.Conv2D(8, 3, strides=2, name="strided")(maps))
    residual = layers.Conv2D(8, 3, padding="same", name="last")(maps)
    maps = layers.ReLU()(layers.Add()([residual, maps]))
    features = layers.GlobalAveragePooling2D()(maps)
    features = layers.Dense(12, activation="relu", name="hidden")(features)
    model = keras.Model(images, layers.Dense(8, name="embedding")(features))
    for layer in model.layers:
        if layer.weights:
            names = (f"{layer.name}/kernel", f"{layer.name}/bias")
            layer.set_weights([witness[name] for name in names])
    return model


def assert_agrees(actual, expected: np.ndarray) -> None:
    """Compare to a fraction of the largest value expected, which is not zero."""
    actual = np.asarray(actual)
    assert actual.shape == expected.shape
    largest = np.abs(expected).max()
    assert largest > 0
    assert np.abs(actual - expected).max() / largest < TOLERANCE


def explain_twin(twin, witness, layer_name, weighting) -> np.ndarray:
    """Return the raw heatmaps of the product, and check its embeddings."""
    cam = EmbeddingCAM(
        twin, conv_layer=layer_name, weighting=weighting, resize=False, normalize=False
    )
    embeddings, heatmaps = cam(witness["images"], witness["proxies"])
    assert_agrees(embeddings, witness["embeddings"])
    return np.asarray(heatmaps)


def test_twin_computes_the_same(twin, witness):
    assert_agrees(twin(witness["images"]), witness["embeddings"])


@pytest.mark.parametrize("layer_name", LAYERS)
def test_twin_has_the_same_activations_and_gradients(twin, witness, layer_name):
    """By a plain split of the graph, so that a fault of the twin shows as one."""
    split = keras.Model(twin.input, [twin.get_layer(layer_name).output, twin.output])
    with tf.GradientTape() as tape:
        activations, embeddings = split(witness["images"])
        score = tf.reduce_sum(embeddings * witness["proxies"])
    gradients = tape.gradient(score, activations)
    assert_agrees(activations, witness[f"activations/{layer_name}"])
    assert_agrees(gradients, witness[f"gradients/{layer_name}"])


def test_witness_is_worth_comparing_with(witness):
    """Signs to cut, positions that differ, a dead channel, two that agree."""
    for layer_name in LAYERS:
        signed = witness[f"captum/LayerGradCam/signed/{layer_name}"]
        assert (signed < 0).any(axis=(1, 2)).all()
        assert (signed > 0).any(axis=(1, 2)).all()
        assert (witness[f"gradients/{layer_name}"].std(axis=(1, 2)) > 0).any()
        assert_agrees(signed, witness[f"grad_cam/GradCAM/{layer_name}"])
    assert (witness["activations/middle"] == 0).all(axis=(0, 1, 2)).any()
    assert (witness["activations/last"] < 0).any()


@pytest.mark.parametrize("layer_name", LAYERS)
@pytest.mark.parametrize(("cam_name", "weighting"), METHODS)
def test_weighting_of_recorded_gradients(witness, layer_name, cam_name, weighting):
    activations = witness[f"activations/{layer_name}"]
    weights = get_weighting(weighting)(activations, witness[f"gradients/{layer_name}"])
    expected = np.maximum(witness[f"grad_cam/{cam_name}/{layer_name}"], 0)
    assert_agrees(combine_channels(activations, weights), expected)


@pytest.mark.parametrize("layer_name", LAYERS)
@pytest.mark.parametrize(("cam_name", "weighting"), METHODS)
def test_heatmaps_are_those_of_pytorch_grad_cam(
    twin, witness, layer_name, cam_name, weighting
):
    heatmaps = explain_twin(twin, witness, layer_name, weighting)
    expected = np.maximum(witness[f"grad_cam/{cam_name}/{layer_name}"], 0)
    assert_agrees(heatmaps, expected)


@pytest.mark.parametrize("layer_name", LAYERS)
def test_heatmaps_are_those_of_captum(twin, witness, layer_name):
    heatmaps = explain_twin(twin, witness, layer_name, "gradcam")
    assert_agrees(heatmaps, witness[f"captum/LayerGradCam/{layer_name}"])


@pytest.mark.parametrize("layer_name", LAYERS)
def test_gradcam_plus_plus_is_its_formula(twin, witness, layer_name):
    """Without the 1e-6: ``sum relu(G) / (2 + G * sum(A))``, position by position."""
    activations = witness[f"activations/{layer_name}"].astype("float64")
    gradients = witness[f"gradients/{layer_name}"].astype("float64")
    expected = np.zeros(activations.shape[:3])
    num_negative = 0
    for image in range(activations.shape[0]):
        for channel in range(activations.shape[3]):
            total = activations[image, :, :, channel].sum()
            weight = 0.0
            for gradient in gradients[image, :, :, channel].ravel():
                denominator = 2 + gradient * total
                if gradient > 0 and denominator > 0:
                    weight += gradient / denominator
                num_negative += gradient > 0 and denominator < 0
            expected[image] += weight * activations[image, :, :, channel]
    # Where the denominator is negative, in the signed layer, nothing counts.
    assert (num_negative > 0) == (layer_name == "last")
    heatmaps = explain_twin(twin, witness, layer_name, "gradcam++")
    assert_agrees(heatmaps, np.maximum(expected, 0))


def test_saliency_is_that_of_captum(twin, witness):
    maps = saliency(twin, witness["images"], witness["proxies"])
    assert_agrees(maps, np.abs(witness["captum/Saliency"]).max(axis=-1))


@pytest.mark.parametrize(
    ("function", "name"),
    [(guided_backpropagation, "GuidedBackprop"), (deconvnet, "Deconvolution")],
)
def test_guided_maps_are_those_of_captum(twin, witness, function, name):
    maps = function(twin, witness["images"], witness["proxies"])
    assert_agrees(maps, witness[f"captum/{name}"])


@pytest.mark.parametrize("layer_name", LAYERS)
def test_guided_gradcam_is_that_of_captum(twin, witness, layer_name):
    """Captum repeats the raw map's values up to image size; we resize bilinearly."""
    guided = guided_backpropagation(twin, witness["images"], witness["proxies"])
    heatmaps = explain_twin(twin, witness, layer_name, "gradcam")
    factor = guided.shape[1] // heatmaps.shape[1]
    repeated = heatmaps.repeat(factor, axis=1).repeat(factor, axis=2)
    expected = witness[f"captum/GuidedGradCam/{layer_name}"]
    assert_agrees(guided * repeated[..., None], expected)


@pytest.mark.parametrize("layer_name", LAYERS)
@pytest.mark.parametrize(
    ("function", "name"),
    [(guided_gradcam, "GuidedBackprop"), (deconvnet_gradcam, "Deconvolution")],
)
def test_products_of_two_witnesses(twin, witness, function, name, layer_name):
    """Captum's guided map times its Grad-CAM, resized and scaled as we do it."""
    heatmaps = witness[f"captum/LayerGradCam/{layer_name}"][..., None]
    resized = tf.image.resize(heatmaps, (16, 16)).numpy()
    scaled = resized / resized.max(axis=(1, 2), keepdims=True)
    maps = function(twin, witness["images"], witness["proxies"], conv_layer=layer_name)
    assert_agrees(maps, witness[f"captum/{name}"] * scaled)
