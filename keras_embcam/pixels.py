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

from keras_embcam.method import Method
from keras_embcam.network.inputs import check_model
from keras_embcam.network.relu_gradients import DECONVNET, GUIDED
from keras_embcam.running.chosen_proxies import ProxyChooser
from keras_embcam.running.compiled_functions import run_batches
from keras_embcam.running.image_batches import ImageSource
from keras_embcam.running.pixel_gradients import explain_pixels

# The rule for ReLUs, and whether the heatmap of `explain` is multiplied in.
PIXEL_METHODS: dict[str, tuple[str | None, bool]] = {
    "saliency": (None, False),
    "guided_backpropagation": (GUIDED, False),
    "deconvnet": (DECONVNET, False),
    "guided_gradcam": (GUIDED, True),
    "deconvnet_gradcam": (DECONVNET, True),
}


def pixel_maps(
    model: keras.Model,
    images: Any,
    proxies: Any = None,
    *,
    method: str = "guided_gradcam",
    target_class: Any = None,
    conv_layer: Any = None,
    embedding_layer: Any = None,
    batch_size: int = 32,
) -> np.ndarray:
    """Return the gradient of the score at each pixel and channel, by a method.

    Args:
        model: any Keras model of channels_last images (n, H, W, c) with a
            convolution; inference mode, not changed. Compiled once and cached until
            the model is garbage-collected. All methods but saliency need a ReLU
            between the images and the embedding.
        images: an array or tensor (n, H, W, c) in the range that the model expects,
            a list of files, or a folder; see `explain`.
        proxies: what to explain: (d,) for all images, (n, d) one for each, or a
            function of the embeddings that returns one of these, held constant;
            None for the image's own unit embedding.
        method: "saliency", "guided_backpropagation", "deconvnet", "guided_gradcam" or
            "deconvnet_gradcam"; see the functions of these names.
        target_class: instead of proxies, the class of a classifier to explain, on its
            logits: an integer for all images or (n,).
        conv_layer: for the two with a heatmap, whose: name, path or object of one
            layer; None for the last convolution with more than one position.
        embedding_layer: name, path or object of the layer that makes the embedding;
            None for the model's output, before an L2 normalisation or a softmax.
        batch_size: images at a time, >= 1.

    Returns:
        (n, H, W, c) float32, signed, in units of the score for one step of pixel
        value; for the two with a heatmap all zero where that is empty.

    Raises:
        ValueError: for an unknown method, several layers, images, proxies or classes
            that do not fit, where no gradient reaches the images, or where it
            overflows in half precision. With a rule for ReLUs: where the model has
            none on the way, or hides one in a compiled function.
        TypeError: for images of an unknown kind.

    Example:

    >>> import numpy as np
    >>> from keras import Input, Sequential, layers
    >>> model = Sequential([Input((1, 2, 1)), layers.ReLU(), layers.Flatten()])
    >>> images = np.float32([[[[1], [-1]]]])
    >>> pixel_maps(model, images, [3, 3], method="deconvnet")[..., 0].tolist()
    [[[3.0, 3.0]]]
    """
    if method not in PIXEL_METHODS:
        raise ValueError(
            f"`method` must be one of {list(PIXEL_METHODS)}. Received: {method!r}"
        )
    if isinstance(conv_layer, list | tuple):
        raise ValueError(
            f"`conv_layer` must be one layer: {method} takes the heatmap of one. "
            f"Received: {conv_layer!r}"
        )
    check_model(model)
    source = ImageSource(images, model, batch_size)
    batches = run_batches(
        model,
        source,
        Method(
            conv_layer=conv_layer, embedding_layer=embedding_layer, joins_branches=False
        ),
        explain_pixels,
        *PIXEL_METHODS[method],
        chooser=ProxyChooser(
            proxies, target_class=target_class, num_images=source.num_images
        ),
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
    Convolutional Networks", 2014, section 3.1): (n, H, W) float32, >= 0. Arguments
    and errors as in `pixel_maps`.

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
    maps = pixel_maps(
        model,
        images,
        proxies,
        method="saliency",
        target_class=target_class,
        embedding_layer=embedding_layer,
        batch_size=batch_size,
    )
    return np.abs(maps).max(axis=-1)


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
    Arguments, result and errors as in `pixel_maps`.

    Example: the second ReLU is closed.

    >>> import numpy as np
    >>> from keras import Input, Sequential, layers
    >>> model = Sequential([Input((1, 2, 1)), layers.ReLU(), layers.Flatten()])
    >>> images = np.float32([[[[1], [-1]]]])
    >>> guided_backpropagation(model, images, [3, 3])[..., 0].tolist()
    [[[3.0, 0.0]]]
    """
    return pixel_maps(
        model,
        images,
        proxies,
        method="guided_backpropagation",
        target_class=target_class,
        embedding_layer=embedding_layer,
        batch_size=batch_size,
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
    same pattern for all images (Springenberg et al., 2015, section 3.4). Arguments,
    result and errors as in `pixel_maps`, which has an example.
    """
    return pixel_maps(
        model,
        images,
        proxies,
        method="deconvnet",
        target_class=target_class,
        embedding_layer=embedding_layer,
        batch_size=batch_size,
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
    (Selvaraju et al., "Grad-CAM", 2017, section 3.2). Arguments, result and errors
    as in `pixel_maps`.

    Example:

    >>> import numpy as np
    >>> from keras import Input, Sequential, layers
    >>> model = Sequential([
    ...     Input((1, 2, 1)),
    ...     layers.Conv2D(1, 1, kernel_initializer="ones", activation="relu"),
    ...     layers.Flatten(),
    ... ])
    >>> images = np.float32([[[[1], [4]]]])
    >>> guided_gradcam(model, images, [1, 1])[..., 0].tolist()
    [[[0.25, 1.0]]]
    """
    return pixel_maps(
        model,
        images,
        proxies,
        method="guided_gradcam",
        target_class=target_class,
        conv_layer=conv_layer,
        embedding_layer=embedding_layer,
        batch_size=batch_size,
    )


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
    section 3.2, compare the two). Arguments, result and errors as in `pixel_maps`.
    """
    return pixel_maps(
        model,
        images,
        proxies,
        method="deconvnet_gradcam",
        target_class=target_class,
        conv_layer=conv_layer,
        embedding_layer=embedding_layer,
        batch_size=batch_size,
    )
