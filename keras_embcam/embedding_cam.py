"""EmbeddingCAM: heatmaps of ``y . p`` at a convolution of any Keras model."""

import dataclasses
from typing import Any

import keras
import tensorflow as tf
from keras import KerasTensor, ops, tree

from keras_embcam.method import Method
from keras_embcam.network.inputs import check_model, declared_inputs
from keras_embcam.network.noise_images import find_images
from keras_embcam.network.view import ModelView
from keras_embcam.proxies import check_proxies_shape
from keras_embcam.running.one_batch import explain_images
from keras_embcam.weightings import Weighting

Tensor = Any


@keras.saving.register_keras_serializable(package="keras_embcam")
class EmbeddingCAM(keras.layers.Wrapper):
    """Wrap a model so that it returns where it looks beside its embeddings.

    The heatmap of an image with the activations A (h, w, k) of one convolution and
    the raw embedding y (d,) is ``relu(sum_k W_k A_k)``, where the weights W come
    from the gradient of the score ``y . p`` at A for a proxy p (d,) (Bachhawat,
    "Generalizing GradCAM for Embedding Networks", eq. 9, 10, 4, 5). One forward
    pass; only the part behind the convolution is differentiated. Always inference
    mode; the model is not changed.

    Args:
        model: any Keras model with channels_last images (n, H, W, c).
        conv_layer: name at any depth, path ``"outer/inner"`` or object of the layer
            to explain, or a list of several, whose maps are each divided by their
            maximum and averaged at the size of the largest; None for the last one
            with more than one position that reaches the embedding and holds no gate
            values. Where several parallel branches reach it, the last one of each:
            their maps, all in units of the score, are added.
        embedding_layer: name, path or object of the layer that makes the embedding;
            None for the model's output. A final L2 normalisation or softmax is
            stepped over: the raw embedding is what goes into it.
        weighting: "auto", which is Grad-CAM for maps and the preset "tokens" for
            transformers; "gradcam", "gradcam++", "layercam", "hirescam", "xgradcam",
            or a function ``(activations, gradients) -> weights``.
        top_channels: how many channels to keep, those with the highest weights;
            None for all.
        preset: a name that stands for layers and weighting; None for the arguments
            above. "localize" finds the object's extent better and costs more: from
            the peak of the last layer's Grad-CAM map heat flows through the LayerCAM
            maps of the last layers of the two next finer sizes
            (`keras_embcam.presets.localize`); a ``conv_layer`` may name others. Its
            boxes: ``find_boxes(..., "otsu_4th_root")``.
            For transformers "tokens", "attention_gradient" (Chefer et al.),
            "legrad" (Bousselham et al.) and baselines: `keras_embcam.presets`.
        resize: True for heatmaps of the size of the images (bilinear, pixel centres
            aligned), False for the size of the activations.
        normalize: True to divide each heatmap by its maximum.
        token_grid: (h, w) of the patches among the tokens of a transformer; None to
            find it.
        num_prefix_tokens: tokens before the patches; None to find it.

    Call arguments:
        images: (n, H, W, c) in the range that the model expects, or the structure
            of inputs that it takes.
        proxies: what to explain, used as float32 under any dtype policy: (d,) for
            all images, (n, d) one for each, (n, m, d) for m explanations of each
            image, or a function of the embeddings that returns one of these (by
            keyword: Keras takes only tensors by position). None for the image's own
            unit embedding (*single point*).

    Returns:
        A tuple ``(embeddings, heatmaps)``, both float32: raw embeddings (n, d), and
        heatmaps (n, H, W) or, for (n, m, d) proxies, (n, m, H, W), in [0, 1] (with
        ``normalize=False``: >= 0). A map without any heat is all zero.

    Raises:
        TypeError: where the model is not a Keras model.
        ValueError: where a layer is not found or cannot be recorded, the embedding
            is normalised and what goes into the normalisation is not found, or
            images or proxies have the wrong shape.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([
    ...     keras.Input((32, 32, 3)),
    ...     keras.layers.Conv2D(8, 3, activation="relu"),
    ...     keras.layers.GlobalAveragePooling2D(),
    ...     keras.layers.Dense(4),
    ...     keras.layers.UnitNormalization(),
    ... ])
    >>> cam = EmbeddingCAM(model)
    >>> embeddings, heatmaps = cam(np.ones((2, 32, 32, 3)))
    >>> embeddings.shape, heatmaps.shape
    (TensorShape([2, 4]), TensorShape([2, 32, 32]))
    """

    def __init__(
        self,
        model: keras.Model,
        conv_layer: Any = None,
        embedding_layer: Any = None,
        *,
        weighting: str | Weighting = "auto",
        top_channels: int | None = None,
        preset: str | None = None,
        resize: bool = True,
        normalize: bool = True,
        token_grid: tuple[int, int] | None = None,
        num_prefix_tokens: int | None = None,
        **kwargs: Any,
    ) -> None:
        check_model(model)
        # The wrapped model casts its images as its own policy says; a half-precision
        # policy of this layer would cast the proxies.
        kwargs["dtype"] = "float32"
        super().__init__(model, autocast=False, **kwargs)
        # Layers by their path: Keras would track an object kept here as one more child.
        self.method = Method(
            weighting=weighting,
            top_channels=top_channels,
            conv_layer=conv_layer,
            embedding_layer=embedding_layer,
            preset=preset,
            resize=resize,
            normalize=normalize,
            token_grid=token_grid,
            num_prefix_tokens=num_prefix_tokens,
        ).bind(model)
        self._view: ModelView | None = None

    def build(self, images_shape: Any, proxies_shape: Any = None) -> None:
        """Mark as built; `view` builds the wrapped model where it has to."""
        self.built = True

    def view(self, images: Any = None) -> ModelView:
        """Return what was found in the model: convolution, embedding and sizes.

        Args:
            images: as in a call, where the model leaves their shape open.
        """
        if self._view is None:
            self._view = self._look(images)
        return self._view

    def _look(self, images: Any) -> ModelView:
        return self.method.look(self.layer, images)

    def call(self, images: Any, proxies: Any = None) -> tuple[Tensor, Tensor]:
        """Return ``(embeddings, heatmaps)``; see the class."""
        num_images = find_images(images).shape[0]  # raises where there are none
        view = self.view(_specification(images))
        if num_images is not None:
            embeddings, heatmaps, _ = explain_images(view, images, proxies, self.method)
            return embeddings, heatmaps
        # A graph may be given no image at all, as the last replica of a strategy, and
        # some kernels fail on an empty batch: run those on one image of zeros.
        num_images = ops.shape(find_images(images))[0]
        if not callable(proxies) and len(getattr(proxies, "shape", ())) > 1:
            images, proxies = _never_empty((images, proxies))
        else:
            images = _never_empty(images)
        embeddings, heatmaps, _ = explain_images(view, images, proxies, self.method)
        return embeddings[:num_images], heatmaps[:num_images]

    def compute_output_shape(
        self, images_shape: Any, proxies_shape: tuple[int | None, ...] | None = None
    ) -> tuple[tuple, tuple]:
        """Return the shapes of ``(embeddings, heatmaps)``."""
        images = tree.map_shape_structure(KerasTensor, images_shape)
        proxies = None if proxies_shape is None else KerasTensor(proxies_shape)
        embeddings, heatmaps = self.compute_output_spec(images, proxies)
        return embeddings.shape, heatmaps.shape

    def compute_output_spec(
        self, images: Any, proxies: Any = None
    ) -> tuple[KerasTensor, KerasTensor]:
        """Return the symbolic ``(embeddings, heatmaps)`` for symbolic images."""
        # Not kept: a model that is being loaded has no weights to judge by yet.
        view = self._view or self._look(images)
        num_images, *image_size = view.images_of(images).shape[:3]
        width = view.embedding_width
        if callable(proxies):
            function = tf.function(proxies, autograph=False)
            specification = tf.TensorSpec((num_images, width))
            proxies = function.get_concrete_function(specification).outputs[0]
        several: list[int | None] = []
        if proxies is not None:
            check_proxies_shape(tuple(proxies.shape), num_images, width)
            several = list(proxies.shape[1:-1])
        if self.method.resize:
            map_size = image_size
        elif tuple(image_size) == view.image_size:
            map_size = list(view.map_size)
        else:
            map_size = [None, None]
        return (
            KerasTensor((num_images, width), "float32"),
            KerasTensor((num_images, *several, *map_size), "float32"),
        )

    def as_model(
        self, input_shape: tuple[int | None, ...] | None = None
    ) -> keras.Model:
        """Return the Keras model ``images -> (embeddings, heatmaps)``.

        It can be saved as ``.keras``, loaded where ``keras_embcam`` is imported, and
        exported to serve where it is not.

        Args:
            input_shape: (H, W, c) of the images, for subclassed models, which do not
                state it.

        Raises:
            ValueError: where the shape of the images is not known.

        Example:

        >>> model = keras.Sequential([
        ...     keras.Input((8, 8, 3)),
        ...     keras.layers.Conv2D(4, 3),
        ...     keras.layers.GlobalAveragePooling2D(),
        ... ])
        >>> [x.shape for x in EmbeddingCAM(model).as_model().outputs]
        [(None, 4), (None, 8, 8)]
        """
        declared = declared_inputs(self.layer)
        if input_shape is not None:
            inputs = keras.Input(input_shape)
        elif declared is not None:
            inputs = tree.map_structure(
                lambda x: keras.Input(x.shape[1:], dtype=x.dtype, name=x.name),
                declared,
            )
        else:
            raise ValueError(
                "The model does not state the shape of its images. Pass `input_shape`"
                ", (H, W, channels)."
            )
        return keras.Model(inputs, self(inputs))

    def get_config(self) -> dict[str, Any]:
        """Return the configuration, with layers by their path."""
        fields = dataclasses.fields(self.method)
        config = {field.name: getattr(self.method, field.name) for field in fields}
        del config["joins_branches"]  # always
        if not isinstance(self.method.weighting, str):
            config["weighting"] = keras.saving.serialize_keras_object(
                self.method.weighting
            )
        if isinstance(self.method.conv_layer, tuple):
            config["conv_layer"] = list(self.method.conv_layer)
        return {**super().get_config(), **config}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Make the layer from its configuration."""
        config = dict(config)
        model = keras.saving.deserialize_keras_object(
            config.pop("layer"), custom_objects=custom_objects
        )
        if not isinstance(config["weighting"], str):
            config["weighting"] = keras.saving.deserialize_keras_object(
                config["weighting"], custom_objects=custom_objects
            )
        return cls(model, **config)


def _specification(images: Any) -> Any:
    """Return symbols in place of tensors that have no values yet."""
    return tree.map_structure(
        lambda x: KerasTensor(x.shape, x.dtype) if tf.is_symbolic_tensor(x) else x,
        images,
    )


def _never_empty(tensors: Any) -> Any:
    """Return tensors with one row of zeros where they have no row."""

    def fill(tensor: Any) -> Tensor:
        tensor = ops.convert_to_tensor(tensor)
        missing = ops.maximum(0, 1 - ops.shape(tensor)[0])
        # Not `tf.pad`, which TensorFlow fuses into a convolution as its padding.
        rows = ops.zeros((missing, *ops.shape(tensor)[1:]), tensor.dtype)
        return ops.concatenate([tensor, rows])

    return tree.map_structure(fill, tensors)
