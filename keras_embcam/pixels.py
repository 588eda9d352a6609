"""Maps at the images themselves, from the gradient of ``y . p`` in all pixels.

The methods differ in how the gradient g passes a ReLU of x: ``g * (x > 0)`` for
saliency, ``g * (g > 0)`` for deconvnet, ``g * (g > 0) * (x > 0)`` for guided
back-propagation. That holds for each ``relu`` and ``relu6`` wherever it stands: as a
layer or an activation, within ``hard_swish``, in the code of a subclassed model. A
leaky ReLU (also PReLU) is no ReLU, and neither is ``maximum(x, 0)``: these keep their
own gradient. The model is not changed.
"""

from typing import Any

import keras
import numpy as np

from keras_embcam.network.inputs import check_model
from keras_embcam.running.chosen_proxies import ProxyChooser
from keras_embcam.running.compiled_functions import run_batches
from keras_embcam.running.image_batches import ImageSource
from keras_embcam.running.pixel_gradients import DECONVNET, GUIDED, explain_pixels


def saliency(
    model: keras.Model,
    images: Any,
    proxies: Any = None,
    *,
    target_class: Any = None,
    embedding_layer: Any = None,
    batch_size: int = 32,
) -> np.ndarray:
    """Return how much each pixel moves the score: the largest ``|d(y . p)/dx|``.

    The maximum is over the channels of the image (Simonyan et al., "Deep Inside
    Convolutional Networks", 2014, section 3.1).

    Args:
        model: any Keras model of channels_last images (n, H, W, c) with a
            convolution; inference mode, not changed. Compiled once and kept as long
            as the model lives.
        images: an array or tensor (n, H, W, c) in the range that the model expects,
            a list of files, or a folder; see `explain`.
        proxies: what to explain: (d,) for all images, (n, d) one for each, or a
            function of the embeddings that returns one of these, held constant;
            None for the image's own unit embedding.
        target_class: instead, the class of a classifier to explain, on its logits:
            an integer for all images or (n,).
        embedding_layer: name, path or object of the layer that makes the embedding;
            None for the model's output, before an L2 normalisation or a softmax.
        batch_size: images at a time, >= 1.

    Returns:
        (n, H, W) float32, >= 0, in units of the score for one step of pixel value.

    Raises:
        ValueError: for images, layers, proxies or classes that do not fit, where no
            gradient reaches the images, or where it overflows in half precision.
        TypeError: for images of an unknown kind.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([
    ...     keras.Input((4, 4, 2)),
    ...     keras.layers.Conv2D(1, 1, kernel_initializer="ones"),
    ...     keras.layers.GlobalAveragePooling2D(),
    ... ])
    >>> saliency(model, np.ones((1, 4, 4, 2)), proxies=np.float32([16]))[0, 0].tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    gradients = _compute_maps(
        model, images, proxies, target_class, embedding_layer, batch_size
    )
    return np.abs(gradients).max(axis=-1)


def guided_backpropagation(
    model: keras.Model,
    images: Any,
    proxies: Any = None,
    *,
    target_class: Any = None,
    embedding_layer: Any = None,
    batch_size: int = 32,
) -> np.ndarray:
    """Return the gradient of the score that only positive evidence has passed.

    At each ReLU the gradient goes on where it is positive and the ReLU is open:
    ``g * (g > 0) * (0 < x)``, and ``x < 6`` for relu6 (Springenberg et al., "Striving
    for Simplicity", 2015, section 3.4). Sharp, but says little about the score: it
    mostly shows edges (Adebayo et al., "Sanity Checks for Saliency Maps", 2018).

    Args:
        model: see `saliency`; with a ReLU between the images and the embedding.
        images: see `saliency`.
        proxies: see `saliency`.
        target_class: see `saliency`.
        embedding_layer: see `saliency`.
        batch_size: see `saliency`.

    Returns:
        (n, H, W, c) float32, signed.

    Raises:
        ValueError: as `saliency`, and where the model has no ReLU on the way or
            hides one in a compiled function.
        TypeError: for images of an unknown kind.

    Example:

    >>> import numpy as np
    >>> from keras import Input, Sequential, layers
    >>> model = Sequential([Input((1, 2, 1)), layers.ReLU(), layers.Flatten()])
    >>> images = np.float32([[[[1], [-1]]]])
    >>> guided_backpropagation(model, images, np.float32([3, 3]))[..., 0].tolist()
    [[[3.0, 0.0]]]
    """
    return _compute_maps(
        model, images, proxies, target_class, embedding_layer, batch_size, GUIDED
    )


def deconvnet(
    model: keras.Model,
    images: Any,
    proxies: Any = None,
    *,
    target_class: Any = None,
    embedding_layer: Any = None,
    batch_size: int = 32,
) -> np.ndarray:
    """Return the score sent back through the network with ReLUs on the way back.

    At each ReLU the gradient goes on where it is positive, ``g * (g > 0)``, whether
    the ReLU was open or not (Zeiler and Fergus, "Visualizing and Understanding
    Convolutional Networks", 2014, section 2.1, in the form of Simonyan et al.,
    2014, section 4). What the image decides is then only where each max pooling had
    its maximum: a network without max pooling, such as MobileNet, gives nearly the
    same pattern for all images (Springenberg et al., 2015, section 3.4).

    Args:
        model: see `saliency`; with a ReLU between the images and the embedding.
        images: see `saliency`.
        proxies: see `saliency`.
        target_class: see `saliency`.
        embedding_layer: see `saliency`.
        batch_size: see `saliency`.

    Returns:
        (n, H, W, c) float32, signed.

    Raises:
        ValueError: as `guided_backpropagation`.
        TypeError: for images of an unknown kind.

    Example:

    >>> import numpy as np
    >>> from keras import Input, Sequential, layers
    >>> model = Sequential([Input((1, 2, 1)), layers.ReLU(), layers.Flatten()])
    >>> images = np.float32([[[[1], [-1]]]])
    >>> deconvnet(model, images, np.float32([3, 3]))[..., 0].tolist()
    [[[3.0, 3.0]]]
    """
    return _compute_maps(
        model, images, proxies, target_class, embedding_layer, batch_size, DECONVNET
    )


def guided_gradcam(
    model: keras.Model,
    images: Any,
    proxies: Any = None,
    *,
    target_class: Any = None,
    conv_layer: Any = None,
    embedding_layer: Any = None,
    batch_size: int = 32,
) -> np.ndarray:
    """Return `guided_backpropagation` times the Grad-CAM heatmap of `explain`.

    The heatmap is resized to the image and scaled to [0, 1], and the same for all
    channels: the fine detail of the one where the other says that the model looks
    (Selvaraju et al., "Grad-CAM", 2017, section 3.2).

    Args:
        model: see `saliency`; with a ReLU between the images and the embedding.
        images: see `saliency`.
        proxies: see `saliency`.
        target_class: see `saliency`.
        conv_layer: whose heatmap: name, path or object of a layer; None for the last
            convolution with more than one position; see `EmbeddingCAM`.
        embedding_layer: see `saliency`.
        batch_size: see `saliency`.

    Returns:
        (n, H, W, c) float32, signed; all zero where the heatmap is empty.

    Raises:
        ValueError: as `guided_backpropagation`.
        TypeError: for images of an unknown kind.

    Example:

    >>> import numpy as np
    >>> from keras import Input, Sequential, layers
    >>> model = Sequential([Input((1, 2, 1)), layers.ReLU(), layers.Flatten()])
    >>> images = np.float32([[[[1], [4]]]])
    >>> guided_gradcam(model, images, np.float32([3, 3]))[..., 0].tolist()
    [[[0.75, 3.0]]]
    """
    options = (target_class, embedding_layer, batch_size, GUIDED, conv_layer)
    return _compute_maps(model, images, proxies, *options, times_heatmaps=True)


def deconvnet_gradcam(
    model: keras.Model,
    images: Any,
    proxies: Any = None,
    *,
    target_class: Any = None,
    conv_layer: Any = None,
    embedding_layer: Any = None,
    batch_size: int = 32,
) -> np.ndarray:
    """Return `deconvnet` times the Grad-CAM heatmap of `explain`.

    As `guided_gradcam`, with the other rule (Selvaraju et al., "Grad-CAM", 2017,
    section 3.2, compare the two).

    Args:
        model: see `saliency`; with a ReLU between the images and the embedding.
        images: see `saliency`.
        proxies: see `saliency`.
        target_class: see `saliency`.
        conv_layer: see `guided_gradcam`.
        embedding_layer: see `saliency`.
        batch_size: see `saliency`.

    Returns:
        (n, H, W, c) float32, signed; all zero where the heatmap is empty.

    Raises:
        ValueError: as `guided_backpropagation`.
        TypeError: for images of an unknown kind.

    Example:

    >>> import numpy as np
    >>> from keras import Input, Sequential, layers
    >>> model = Sequential([Input((1, 2, 1)), layers.ReLU(), layers.Flatten()])
    >>> images = np.float32([[[[1], [4]]]])
    >>> deconvnet_gradcam(model, images, np.float32([3, 3]))[..., 0].tolist()
    [[[0.75, 3.0]]]
    """
    options = (target_class, embedding_layer, batch_size, DECONVNET, conv_layer)
    return _compute_maps(model, images, proxies, *options, times_heatmaps=True)


def _compute_maps(
    model: keras.Model,
    images: Any,
    proxies: Any,
    target_class: Any,
    embedding_layer: Any,
    batch_size: int,
    rule: str | None = None,
    conv_layer: Any = None,
    times_heatmaps: bool = False,
) -> np.ndarray:
    check_model(model)
    source = ImageSource(images, model, batch_size)
    chooser = ProxyChooser(proxies, None, None, target_class, source.num_images)
    batches = run_batches(
        model,
        source,
        chooser,
        conv_layer,
        embedding_layer,
        explain_pixels,
        rule,
        times_heatmaps,
    )
    maps = np.concatenate([maps for _, (maps,) in batches])
    finite = np.isfinite(maps).all(axis=(1, 2, 3))
    if not finite.all():
        raise ValueError(
            "The gradient at the images must be finite. Not so for the images "
            f"{np.flatnonzero(~finite)[:20].tolist()}. In half precision it may "
            "overflow: build the model again with the dtype policy 'float32' (the "
            "weights fit unchanged)."
        )
    return maps
