"""The gradient of the score at the images, with changed gradients of ReLUs."""

from typing import Any

from keras import ops

from keras_embcam.heatmaps import scale_heatmaps
from keras_embcam.method import Method
from keras_embcam.network.gradient_scale import cotangent_scale
from keras_embcam.network.noise_images import find_images
from keras_embcam.network.relu_gradients import differentiate, replace_relu_gradients
from keras_embcam.network.view import ModelView
from keras_embcam.running.one_batch import (
    compute_heatmaps,
    resize_to_images,
    resolve_proxies,
)
from keras_embcam.weightings import gradcam

Tensor = Any

# Gradients grow on the long way to the images: with deconvnet a thousandfold in
# MobileNetV2, whose float16 maps overflow without this and lose nothing by it.
HEADROOM = 2.0**-8


def explain_pixels(
    view: ModelView,
    images: Any,
    proxies: Any,
    method: Method,
    rule: str | None,
    times_heatmaps: bool,
) -> list[Tensor]:
    """Return ``[maps]``, the gradient of ``y . p`` at the images; in graph code only.

    Args:
        view: of the model.
        images: as the model takes them.
        proxies: None, (d,), (n, d), or a function of the embeddings.
        method: names the layer whose heatmap is multiplied in.
        rule: GUIDED, DECONVNET, or None for the ReLUs' own gradient.
        times_heatmaps: True to multiply by the heatmap of `explain`.

    Returns:
        A list of one tensor, (n, H, W, c) float32.

    Raises:
        ValueError: for several proxies an image, where no gradient reaches the
            images, or, with a rule, where there is no ReLU between the images and
            the embedding, or one whose gradient cannot be changed.
    """
    pixels = find_images(images)
    with replace_relu_gradients(rule):
        recording = view.record(images)
    proxies = resolve_proxies(view, recording, proxies)
    if len(proxies.shape) != 2:
        raise ValueError(
            "`proxies` must be one vector for each image, (n, d), or one for all, "
            f"(d,). Received the shape {tuple(proxies.shape)}. Call once for each of "
            "several explanations of one image."
        )
    scale = HEADROOM * cotangent_scale(proxies, recording.activations.shape[1:3])
    gradients = differentiate(recording.embeddings, pixels, proxies * scale, rule)
    maps = ops.cast(gradients, "float32") / scale[:, None, None]
    if times_heatmaps:
        # From the same run: its tape uses the own gradients of ReLUs, not the rule.
        heatmaps = compute_heatmaps(recording, proxies, gradcam)
        heatmaps = resize_to_images(view, heatmaps, images)
        maps *= scale_heatmaps(heatmaps)[..., None]
    return [maps]
