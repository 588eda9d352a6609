"""Look at a Keras model: what of it is explained, and its raw embedding."""

import math
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_embcam.keras_private import flatten_layers
from keras_embcam.network.attention_parts import AttentionBlocks
from keras_embcam.network.choose_maps import MapChooser
from keras_embcam.network.feature_map import share_on_other_tokens
from keras_embcam.network.feature_maps import (
    AllBranches,
    AttentionLayers,
    FeatureMaps,
    Scales,
    TokenBlocks,
)
from keras_embcam.network.front import Fronts
from keras_embcam.network.image_input import ImageInput
from keras_embcam.network.locality import Locality
from keras_embcam.network.noise_images import make_noise_images
from keras_embcam.network.places import Places
from keras_embcam.network.positions import Positions
from keras_embcam.network.raw_embedding import find_embedding
from keras_embcam.network.recorded import Recording
from keras_embcam.network.recording import run_and_record
from keras_embcam.network.tokens import check_token_options
from keras_embcam.network.trial_run import TrialRun
from keras_embcam.network.vector_rows import have_lengths

Tensor = Any

# Below this share of a random direction's gradient, the gradient of the embedding's
# length is rounding noise (normalised outputs: 2e-7 to 1e-2; raw ones: above 1).
MIN_LENGTH_GRADIENT = 0.05

# Keras does not build one model in several threads at once. Reentrant, since a model
# may hold a layer that looks at a model of its own.
_build_lock = threading.RLock()


class ModelView:
    """What of a model is explained and its raw embedding, found once.

    The view does not own the model: keep a reference to it elsewhere.

    Args:
        model: a Keras model with channels_last images (n, H, W, c).
        conv_layer: name at any depth, path ``"outer/inner"`` or object of a layer
            with a 4-D output or with tokens (n, t, k), or a list of them; None for the
            best one by `FeatureMaps.find` that reaches the embedding from more than
            one position and is no gate; `Scales` for that one and finer ones;
            `AllBranches` for that one and those of parallel branches; `TokenBlocks`;
            `AttentionLayers` for the attention of all blocks.
        embedding_layer: see `find_embedding`.
        images: a batch, or symbols of its shape, where the model leaves the shape
            of its images open.
        token_grid: (h, w) of the patches among tokens, None to find it.
        num_prefix_tokens: tokens before the patches, None to find it.

    Attributes:
        conv_layer: path of the layer that is explained, or a list of paths.
        num_prefix_tokens: that stand before its patches, or a list; 0 for maps.
        makes_tokens: whether tokens are explained.
        can_go_on: whether the activations are one tensor that makes the embedding, so
            that `record` can run the model from there.
        embedding: description of the tensor that is taken for the raw embedding.
        embedding_width: d.
        cosine_head: path of the layer that makes similarities to classes of it, which
            was stepped over; None where there is none.
        image_input: which images heat lies on, where the model takes several.
        fronts: what the model does to these before its first convolution.
        places: where in these the maps belong.
        image_size: (H, W) that the model was tried at, in pixels.
        map_size: (h, w) of the activations at this image size, of the largest where
            there are several.
        length_has_gradient: False where the embedding is normalised by something
            that could not be found, so that single-point maps would be noise.

    Raises:
        ValueError: where a layer is not found, ambiguous or cannot be recorded, the
            embedding is normalised and ``embedding_layer`` is None, or something is
            said of tokens and none are explained.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((32, 32, 3)),
    ...     keras.layers.Conv2D(8, 3, activation="relu", name="conv"),
    ...     keras.layers.GlobalAveragePooling2D(),
    ...     keras.layers.Dense(4, name="dense"),
    ...     keras.layers.UnitNormalization(name="unit"),
    ... ])
    >>> import numpy as np
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
        *,
        token_grid: Any = None,
        num_prefix_tokens: int | None = None,
    ) -> None:
        self._model = weakref.ref(model)
        self._token_options = check_token_options(token_grid, num_prefix_tokens)
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
        # First of all: inside `leave_unchanged` a model cannot make its variables.
        if not _is_built(model):
            with _build_lock:
                if not _is_built(model):
                    model(make_noise_images(model, images), training=False)
        trial = TrialRun(model, images)
        self._embedding = find_embedding(trial, embedding_layer)
        self.embedding = self._embedding.description
        self.cosine_head = self._embedding.head
        self._vectors = trial.list_candidates(
            2, keep=lambda call: have_lengths(call.output)
        )
        features = FeatureMaps(model, trial, self._token_options)
        is_attention = isinstance(conv_layer, AttentionLayers)
        positions = Positions(trial.calls)
        chooser = MapChooser(model, trial, features, self._embedding, positions)
        chosen = chooser.choose(TokenBlocks() if is_attention else conv_layer)
        self._token_options.check_used(
            [x.layout for x in chosen.maps], trial.path(chosen.maps[-1].operation)
        )
        self.makes_tokens = all(x.layout is not None for x in chosen.maps)
        operations = [x.operation for x in chosen.maps]
        self.image_input = ImageInput(model, trial.probe, operations)
        self.image_size = tuple(self.images_of(trial.probe).shape[1:3])
        self.fronts = Fronts(model, trial.probe, self.image_size)
        self.fronts.at(self.image_size)  # now, since it must not be in a graph
        first = positions.first
        if first is not None:
            self.fronts.check_places(
                lambda: Locality(model, trial, first).shows_places(first)
            )
        of_all_branches = isinstance(conv_layer, AllBranches)
        self._adds_up = of_all_branches and not self.makes_tokens
        self._is_list = isinstance(
            conv_layer, list | tuple | Scales | TokenBlocks | AttentionLayers
        )
        if of_all_branches:
            all_blocks = self.makes_tokens and conv_layer.all_blocks
            self._is_list = all_blocks or len(chosen.maps) > 1
        # Those with the smallest maps first: `LayerFusion` counts on it.
        self._maps = sorted(chosen.maps, key=lambda x: math.prod(x.map_size(trial)))
        self.places = Places(self.fronts, positions, self._maps)
        self._paths = [trial.path(x.operation) for x in self._maps]
        self.map_size = self._maps[-1].map_size(trial)
        self.conv_layer = self._as_chosen(self._paths)
        self._attention: AttentionBlocks | None = None
        layout = self._maps[-1].layout
        if is_attention and layout is not None:
            self._attention = AttentionBlocks(
                model, trial, self._embedding, layout.num_tokens, conv_layer.read_out
            )
            self.conv_layer = self._attention.paths
        self.num_prefix_tokens = self._as_chosen(
            [0 if x.layout is None else x.layout.num_prefix for x in self._maps]
        )
        self.can_go_on = not (
            self._is_list or is_attention or self._maps[0].has_other_tokens
        )
        self.embedding_width = self._embedding.width
        self.length_has_gradient = chosen.length_gradient >= MIN_LENGTH_GRADIENT
        if not self.length_has_gradient and embedding_layer is None:
            raise ValueError(self.normalized_message())

    def __repr__(self) -> str:
        """Return what is explained: layers, map size and embedding."""
        height, width = self.map_size
        paths = ", ".join(repr(path) for path in self._paths)
        named = self.image_input.name
        return (
            f"<ModelView: maps of {height} x {width} at {paths} for images "
            f"{f'{named!r} ' if named else ''}of "
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

    def record(self, images: Any, activations: Tensor | None = None) -> Recording:
        """Run the model once in inference mode; works in eager and in graph code.

        Nothing of the model changes: no weight, no statistics, no random state.

        Args:
            images: (n, H, W, c), or the structure that the model takes.
            activations: (n, h, w, k) that replace the output of the one chosen layer;
                None to keep it. In a compiled graph this runs only the part behind
                the layer, since nothing needs the rest.

        Raises:
            ValueError: where the layer or the embedding was not called exactly once,
                or not in reach of the tape, or the tokens do not fit the images.
            ReferenceError: where the model no longer exists.
        """
        model = self._model()
        if model is None:
            raise ReferenceError("The model of this view no longer exists.")
        operations = [found.operation for found in self._maps]
        image_size = tuple(self.images_of(images).shape[1:3])
        if self._attention is not None:
            run = self._attention.run(model, images, self._embedding)

            def place(relevance: Tensor) -> Tensor:
                return self._maps[-1].arrange(relevance[..., None], image_size)[..., 0]

            embeddings = ops.cast(run.embeddings, "float32")
            return Recording(run.outputs, embeddings, run.pull_back, place=place)

        def replace(outputs: Tensor) -> Tensor:
            return self._maps[0].put_back(outputs, activations, image_size)

        run = run_and_record(
            model,
            images,
            operations,
            self._paths,
            self._embedding,
            None if activations is None else replace,
        )

        def arrange(tensors: list[Tensor]) -> Any:
            return self._as_chosen(
                [
                    found.arrange(ops.cast(x, "float32"), image_size)
                    for found, x in zip(self._maps, tensors, strict=True)
                ]
            )

        def pull_back_and_share(cotangents: Tensor) -> tuple[Any, Tensor]:
            whole = run.pull_back(cotangents)
            shares = share_on_other_tokens(self._maps, whole, image_size)
            return arrange(whole), shares

        has_others = any(x.has_other_tokens for x in self._maps)
        return Recording(
            arrange(run.outputs),
            ops.cast(run.embeddings, "float32"),
            lambda cotangents: arrange(run.pull_back(cotangents)),
            pull_back_and_share if has_others else None,
            adds_up=self._adds_up,
            frames=self.places.frames(image_size),
        )

    def images_of(self, inputs: Any) -> Tensor:
        """Return the images that heat lies on, among the inputs of the model."""
        return self.image_input.of(inputs, self._model())

    def _as_chosen(self, values: list[Any]) -> Any:
        return values if self._is_list else values[0]


def _is_built(model: keras.Model) -> bool:
    return all(layer.built for layer in flatten_layers(model))
