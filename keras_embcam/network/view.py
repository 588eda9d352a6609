"""Run any Keras model once and differentiate only what follows a convolution.

The tape lives here and nowhere else.
"""

import functools
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import ops, tree

from keras_embcam.keras_private import flatten_layers
from keras_embcam.network.feature_maps import (
    Scales,
    check_gradient,
    check_layers,
    find_convolutions,
    find_finer_convolutions,
    num_positions,
)
from keras_embcam.network.gradient_scale import cotangent_scale
from keras_embcam.network.hooks import leave_unchanged, observe
from keras_embcam.network.noise_images import find_images, make_noise_images
from keras_embcam.network.raw_embedding import find_embedding
from keras_embcam.network.trial_run import TrialRun

Tensor = Any

# Below this share of a random direction's gradient, the gradient of the embedding's
# length is rounding noise (normalised outputs: 2e-7 to 1e-2; raw ones: above 1).
MIN_LENGTH_GRADIENT = 0.05

# Keras does not build one model in several threads at once. Reentrant, since a model
# may hold a layer that looks at a model of its own.
_build_lock = threading.RLock()


class Recording(NamedTuple):
    """One run of a model.

    Attributes:
        activations: (n, h, w, k) float32, the output of the chosen convolution; a
            list of them where several are chosen.
        embeddings: (n, d) float32, raw.
        pull_back: maps a float32 cotangent (n, d) on the embeddings to its gradient
            at the activations, of their shape and structure. Differentiates only
            the part of the model behind the convolutions; may be called many times.
    """

    activations: Any
    embeddings: Tensor
    pull_back: Callable[[Tensor], Any]


class ModelView:
    """The convolution and the raw embedding of a model, found once.

    The view does not own the model: keep a reference to it elsewhere.

    Args:
        model: a Keras model with channels_last images (n, H, W, c).
        conv_layer: name at any depth, path ``"outer/inner"`` or object of a layer
            with a 4-D output, or a list of them; None for the last one with more
            than one position that reaches the embedding; `Scales` for that one and
            finer ones.
        embedding_layer: see `find_embedding`.
        images: a batch, or symbols of its shape, where the model leaves the shape
            of its images open.

    Attributes:
        conv_layer: path of the convolution, or a list of paths.
        embedding: description of the tensor that is taken for the raw embedding.
        embedding_width: d.
        image_size: (H, W) that the model was tried at, in pixels.
        map_size: (h, w) of the activations at this image size, of the largest where
            there are several.
        length_has_gradient: False where the embedding is normalised by something
            that could not be found, so that single-point maps would be noise.

    Raises:
        ValueError: where either is not found, ambiguous or cannot be recorded, or
            the embedding is normalised and ``embedding_layer`` is None.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((32, 32, 3)),
    ...     keras.layers.Conv2D(8, 3, activation="relu", name="conv"),
    ...     keras.layers.GlobalAveragePooling2D(),
    ...     keras.layers.Dense(4, name="dense"),
    ...     keras.layers.UnitNormalization(name="unit"),
    ... ])
    >>> view = ModelView(model)
    >>> view.conv_layer, view.embedding
    ('conv', "input of 'unit'")
    >>> recording = view.record(np.ones((2, 32, 32, 3)))
    >>> recording.pull_back(np.ones((2, 4), "float32")).shape
    TensorShape([2, 30, 30, 8])
    """

    def __init__(
        self,
        model: keras.Model,
        conv_layer: Any = None,
        embedding_layer: Any = None,
        images: Any = None,
    ) -> None:
        self._model = weakref.ref(model)
        if tf.executing_eagerly():
            self._look(model, conv_layer, embedding_layer, images)
        else:
            # A first call while a `tf.function` is traced. A new thread is eager;
            # `tf.init_scope` would be too, but stops every tape.
            with ThreadPoolExecutor(1) as executor:
                executor.submit(
                    self._look, model, conv_layer, embedding_layer, images
                ).result()

    def _look(
        self, model: keras.Model, conv_layer: Any, embedding_layer: Any, images: Any
    ) -> None:
        # Its variables: `leave_unchanged` keeps a model from making them.
        if not _is_built(model):
            with _build_lock:
                if not _is_built(model):
                    model(make_noise_images(model, images), training=False)
        with leave_unchanged(model):
            trial = TrialRun(model, images)
        self._embedding = find_embedding(trial, embedding_layer)
        self.embedding = self._embedding.description
        self._vectors = trial.list_candidates(rank=2)
        self.image_size = tuple(find_images(trial.probe).shape[1:3])
        ratio = self._choose_convolutions(trial, conv_layer)
        # Those with the smallest maps first: `LayerFusion` counts on it.
        self._convs.sort(key=functools.partial(num_positions, trial))
        self._paths: list[str] = [trial.path(conv) for conv in self._convs]
        self.map_size = (trial.first_call(self._convs[-1]).shape or ())[1:3]
        self.conv_layer = self._as_chosen(self._paths)
        self.embedding_width = self._embedding.width
        self.length_has_gradient = ratio >= MIN_LENGTH_GRADIENT
        if not self.length_has_gradient and embedding_layer is None:
            raise ValueError(self.normalized_message())

    def _choose_convolutions(self, trial: TrialRun, conv_layer: Any) -> float:
        """Find the convolutions, and return the `_length_gradient` at the last."""
        named: list[Any] = [conv_layer]
        num_scales = 1
        if isinstance(conv_layer, Scales):
            named, num_scales = [None], conv_layer.num_scales
        elif isinstance(conv_layer, list | tuple):
            named = check_layers(conv_layer)
        self._convs: list[Any] = []
        self._paths = []
        self._is_list = isinstance(conv_layer, list | tuple | Scales)
        for name in named:
            found = self._add_convolution(trial, find_convolutions(trial, name), name)
        if found is None:
            raise ValueError(
                "No layer with a 4-D output (n, h, w, k) of more than one position "
                f"reaches the embedding ({self.embedding}). Pass `conv_layer` and "
                "`embedding_layer`, or images that are large enough. Layers with a 4-D "
                f"output:\n{trial.list_candidates(rank=4)}"
            )
        for _ in range(num_scales - 1):
            finer = find_finer_convolutions(trial, self._convs[-1])
            # Where the model has no finer map, those found so far serve.
            self._add_convolution(trial, finer, None)
        return found

    def _add_convolution(
        self, trial: TrialRun, candidates: Iterator[Any], conv_layer: Any
    ) -> float | None:
        """Take the first candidate that a gradient reaches, and return how much.

        None, and nothing is taken, if there is none.
        """
        others = self._convs
        for candidate in candidates:
            if any(candidate is other for other in others):
                raise ValueError(
                    "A list as `conv_layer` must name no layer twice. Received "
                    f"{trial.path(candidate)!r} and again {conv_layer!r}"
                )
            self._convs = [*others, candidate]
            self._paths = [trial.path(conv) for conv in self._convs]
            ratio = self._length_gradient(self.record(trial.probe))
            if ratio is not None:
                return ratio
            check_gradient(trial, candidate, conv_layer)
        self._convs = others
        self._paths = self._paths[: len(others)]
        return None

    def _as_chosen(self, values: list[Any]) -> Any:
        return values if self._is_list else values[0]

    def _length_gradient(self, recording: Recording) -> float | None:
        """Return ``|J^T y/|y|| / |J^T u|`` for a random unit vector u (trap 1).

        None where no gradient connects the two; infinite where no image of the
        probe tells, as with an embedding of zeros.
        """
        embeddings = ops.convert_to_numpy(recording.embeddings)
        lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
        along = embeddings / np.maximum(lengths, 1e-30)
        across = np.random.default_rng(0).normal(size=embeddings.shape)
        across /= np.linalg.norm(across, axis=1, keepdims=True)
        norms = []
        for cotangent in (along, across):
            try:
                gradient = recording.pull_back(ops.cast(cotangent, "float32"))
            except _NoGradientError:
                return None
            # Of several layers the last one tells.
            last = ops.convert_to_numpy(tree.flatten(gradient)[-1])
            norms.append(np.linalg.norm(last.reshape(len(embeddings), -1), axis=1))
        told = np.isfinite(norms[0]) & np.isfinite(norms[1]) & (norms[1] > 0)
        told &= lengths[:, 0] > 0
        ratios = norms[0][told] / norms[1][told]
        return float(np.median(ratios)) if told.any() else np.inf

    def __repr__(self) -> str:
        """Return what is explained: layers, map size and embedding."""
        height, width = self.map_size
        paths = ", ".join(repr(path) for path in self._paths)
        return (
            f"<ModelView: maps of {height} x {width} at {paths} for images of "
            f"{self.image_size[0]} x {self.image_size[1]}; embedding: "
            f"{self.embedding}, width {self.embedding_width}>"
        )

    def normalized_message(self) -> str:
        """Return what to tell a user whose embedding turns out to be normalised."""
        return (
            f"The embedding ({self.embedding}) has a fixed length: it is normalised "
            "(L2 or layer normalisation), so the score `embedding . unit embedding` "
            "has no gradient and its heatmap would be noise. Pass `embedding_layer`, "
            "the layer whose output goes into the normalisation. Candidates:\n"
            + self._vectors
        )

    def record(self, images: Any) -> Recording:
        """Run the model once in inference mode; works in eager and in graph code.

        Nothing of the model changes: no weight, no statistics, no random state.

        Args:
            images: (n, H, W, c), or the structure that the model takes.

        Raises:
            ValueError: where the convolution or the embedding was not called
                exactly once, or not in reach of the tape.
            ReferenceError: where the model no longer exists.
        """
        model = self._model()
        if model is None:
            raise ReferenceError("The model of this view no longer exists.")
        graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        seen: dict[int, list[Tensor]] = {id(conv): [] for conv in self._convs}
        embeddings: list[Tensor] = []

        def is_here(tensor: Tensor) -> bool:
            # Not in an inner `tf.function` or a branch, out of reach of the tape.
            return (tensor.graph if tf.is_symbolic_tensor(tensor) else None) is graph

        def see(operation: Any, arguments: Any, outputs: Any) -> None:
            if id(operation) in seen and is_here(outputs):
                tape.watch(outputs)
                seen[id(operation)].append(outputs)
            if operation is self._embedding.operation:
                embedding = self._embedding.value(arguments, outputs)
                if is_here(embedding):
                    embeddings.append(embedding)

        watched = list(self._convs)
        if self._embedding.operation is not None:
            watched.append(self._embedding.operation)
        with (
            tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape,
            observe(watched, see),
            leave_unchanged(model),
        ):
            outputs = model(images, training=False)
            if self._embedding.operation is None:
                embeddings.append(self._embedding.value((), outputs))
        names = [*self._paths, "embedding"]
        for values, name in zip([*seen.values(), embeddings], names, strict=True):
            if len(values) != 1:
                raise ValueError(
                    f"{name!r} must be computed exactly once in a run of the model, "
                    "outside of any inner `tf.function` or control flow. "
                    f"Seen: {len(values)} times."
                )
        activations, embedding = [values[0] for values in seen.values()], embeddings[0]
        finest = max((x.shape[1:3] for x in activations), key=_num_positions)

        def pull_back(cotangents: Tensor) -> Any:
            # TensorFlow would broadcast a wrong number of rows, or leave zeros.
            check = tf.debugging.assert_equal(
                tf.shape(cotangents),
                tf.shape(embedding),
                "There must be one proxy for each image.",
            )
            with tf.control_dependencies([] if check is None else [check]):
                scale = cotangent_scale(cotangents, finest)
            cotangents = ops.cast(cotangents * scale, embedding.dtype)
            gradients = tape.gradient(embedding, activations, cotangents)
            for name, gradient in zip(names, gradients, strict=False):
                if gradient is None:
                    raise _NoGradientError(
                        f"No gradient reaches {name!r} from the embedding."
                    )
            return self._as_chosen(
                [ops.cast(x, "float32") / scale[:, None, None] for x in gradients]
            )

        return Recording(
            self._as_chosen([ops.cast(x, "float32") for x in activations]),
            ops.cast(embedding, "float32"),
            pull_back,
        )


def _is_built(model: keras.Model) -> bool:
    return all(layer.built for layer in flatten_layers(model))


def _num_positions(map_size: tuple) -> int:
    return (map_size[0] or 1) * (map_size[1] or 1)


class _NoGradientError(ValueError):
    pass
