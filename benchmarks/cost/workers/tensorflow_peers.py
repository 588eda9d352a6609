"""Grad-CAM of y.p by other libraries for TensorFlow, on the same ResNet-50.

A program for the environment of the peers; see `serving`. Each library is used as its
manual says, at the same layer; all return maps of the size of the images.
"""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from serving import Job, serve

LAYER = "conv5_block3_out"
LIBRARIES = ["tensorflow", "keras", "xplique", "tf-keras-vis", "tf-explain"]


def make_jobs(arrays: dict[str, np.ndarray]) -> dict[str, Callable[[], Job]]:
    """Return what makes the job of each library."""
    model, proxy = build(arrays), arrays["proxy"]
    return {
        "forward": lambda: make_forward(model),
        "xplique": lambda: make_xplique(model, proxy),
        "tf-keras-vis": lambda: make_tf_keras_vis(model, proxy),
        "tf-explain": lambda: make_tf_explain(model, proxy),
    }


def build(arrays: dict[str, np.ndarray]) -> keras.Model:
    """Return ResNet-50, pooling and a Dense layer with the weights of the file."""
    backbone = keras.applications.ResNet50(
        include_top=False,
        weights=None,
        pooling="avg",
        input_shape=arrays["images"].shape[1:],
    )
    dense = keras.layers.Dense(len(arrays["proxy"]), name="embedding")
    model = keras.Model(backbone.input, dense(backbone.output))
    for layer in model.layers:
        layer.set_weights(
            [arrays[f"{layer.name}/{weight.name}"] for weight in layer.weights]
        )
    return model


def make_forward(model: keras.Model) -> Job:
    """Return the compiled forward pass."""
    run = tf.function(lambda images: model(images, training=False), autograph=False)
    return lambda images: run(tf.constant(images)).numpy()


def make_xplique(model: keras.Model, proxy: np.ndarray) -> Job:
    """Return xplique's Grad-CAM; its score is the output times the targets."""
    from xplique.attributions import GradCAM

    explainers: dict[int, GradCAM] = {}

    def run(images: np.ndarray) -> np.ndarray:
        n = len(images)
        if n not in explainers:
            explainers[n] = GradCAM(model, batch_size=n, conv_layer=LAYER)
        targets = np.tile(proxy, (n, 1))
        return explainers[n].explain(images, targets).numpy()[..., 0]

    return run


def make_tf_keras_vis(model: keras.Model, proxy: np.ndarray) -> Job:
    """Return tf-keras-vis's Grad-CAM."""
    from tf_keras_vis.gradcam import Gradcam

    gradcam = Gradcam(model, clone=False)

    def score(embeddings: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(embeddings * proxy, axis=-1)

    return lambda images: gradcam(
        score, images, penultimate_layer=LAYER, seek_penultimate_conv_layer=False
    )


def make_tf_explain(model: keras.Model, proxy: np.ndarray) -> Job:
    """Return tf-explain's Grad-CAM, without the colours that it draws.

    It takes the number of an output and no score, so the score is an output here. Its
    gradients and its weighted sum are timed, and OpenCV's resizing as it does it.
    """
    import cv2
    from tf_explain.core.grad_cam import GradCAM

    dense = keras.layers.Dense(1, use_bias=False)
    scored = keras.Model(model.input, dense(model.output))
    dense.set_weights([proxy[:, None]])

    def run(images: np.ndarray) -> np.ndarray:
        outputs, gradients = GradCAM.get_gradients_and_filters(
            scored, images, LAYER, 0, use_guided_grads=False
        )
        maps = GradCAM.generate_ponderated_output(outputs, gradients)
        size = images.shape[2], images.shape[1]
        return np.stack([cv2.resize(np.maximum(x.numpy(), 0), size) for x in maps])

    return run


if __name__ == "__main__":
    serve(make_jobs, LIBRARIES)
