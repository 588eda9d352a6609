"""What every measure looks at: a model, the methods compared on it, its examples."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import keras
import numpy as np

from keras_embcam.evaluation.compared_method import ComparedMethod
from keras_embcam.evaluation.layer_facts import LayerFacts, look_at_layers
from keras_embcam.evaluation.sample import Sample, choose_images
from keras_embcam.evaluation.set_proxies import EmbeddedSet, SetProxies
from keras_embcam.evaluation.shared_runs import (
    BATCH_SIZE,
    explain_with_all,
    split,
)
from keras_embcam.method import Method
from keras_embcam.metrics import ObjectFormat
from keras_embcam.running.compiled_functions import run_once
from keras_embcam.running.labelled_examples import Examples, ExampleStream
from keras_embcam.running.one_batch import embed_images


class Context:
    """A model, the methods compared on it, and the examples they are compared on.

    A measure is a function ``context -> Measured``. What several of them need is made
    once, when the first one asks.

    Args:
        model: any Keras model, see `explain`.
        methods: m of them, with their layers.
        stream: of the set.
        objects: how the objects of the set are stated.
        embedding_layer: see `EmbeddingCAM`.
        seed: of all that is drawn: triplets, images, montages, weights.
        num_sampled: how many images the slow measures look at; 0 for none.
    """

    def __init__(
        self,
        model: keras.Model,
        methods: Sequence[ComparedMethod],
        stream: ExampleStream,
        objects: ObjectFormat,
        *,
        embedding_layer: Any = None,
        seed: int = 0,
        num_sampled: int = 0,
    ) -> None:
        self.model = model
        self.methods = list(methods)
        self.stream = stream
        self.objects = objects
        self.seed = seed
        self.num_sampled = num_sampled
        self.first_batch = next(iter(stream))
        explaining = [x for x in self.methods if x.explains_proxy]
        tokens: dict[str, Any] = {}
        if explaining:
            embedding_layer = explaining[0].embedding_layer
            tokens["token_grid"] = explaining[0].token_grid
            tokens["num_prefix_tokens"] = explaining[0].num_prefix_tokens
        # The layer of a method, if one is named, so that no other has to be searched.
        layers = [x.conv_layer for x in explaining if not isinstance(x.layers, tuple)]
        self.embedding_method = Method(
            conv_layer=next((x for x in layers if x is not None), None),
            embedding_layer=embedding_layer,
            **tokens,
        )

    @cached_property
    def embedded(self) -> EmbeddedSet | None:
        """The set, embedded; None where no method and no measure needs it."""
        if not self.num_sampled and not any(x.needs_set for x in self.methods):
            return None
        embeddings: list[np.ndarray] = []
        labels: list[np.ndarray] = []
        for batch in self.stream:
            embeddings.append(self.embed(batch["image"], len(batch["image"])))
            given = self.labels_of(batch)
            labels += [] if given is None else [given]
        if not labels:
            return EmbeddedSet(np.concatenate(embeddings), None, None)
        classes, places = np.unique(np.concatenate(labels), return_inverse=True)
        return EmbeddedSet(np.concatenate(embeddings), places, classes)

    @cached_property
    def layers(self) -> list[LayerFacts | None]:
        """The facts of each method's layers, None for a method that has none."""
        return look_at_layers(self.model, self.methods, self.first_batch["image"])

    @cached_property
    def proxies(self) -> SetProxies:
        """The proxies of all images of the set."""
        if self.embedded is None:
            return SetProxies(None, None, self.seed)
        return SetProxies(self.embedded.embeddings, self.embedded.labels, self.seed)

    @cached_property
    def sample(self) -> Sample:
        """The images that the slow measures look at."""
        if self.embedded is None:
            raise ValueError("A sample needs `num_sampled` to be above 0. Received: 0")
        num_images = len(self.embedded.embeddings)
        rows = choose_images(
            num_images, self.embedded.labels, self.num_sampled, self.seed
        )
        examples = self.stream.take(rows)
        proxies = self.proxies.choose(self.methods, rows, self.labels_of(examples))
        return Sample(
            self.methods, self.embedded, rows, examples, proxies, self.explain
        )

    def labels_of(self, examples: Examples) -> np.ndarray | None:
        """Return the labels (n,) of some examples as they were given, None for none."""
        if "label" not in examples:
            return None
        return self.stream.classes[examples["label"]]

    def embed(self, images: np.ndarray, batch_size: int = BATCH_SIZE) -> np.ndarray:
        """Return raw embeddings (n, d).

        Args:
            images: see ``explain``.
            batch_size: how many at a time.
        """
        images = self._as_inputs(images)
        parts = [
            run_once(self.model, images[rows], self.embedding_method, embed_images)[0]
            for rows in split(len(images), batch_size)
        ]
        return np.concatenate(parts)

    def explain(
        self, images: np.ndarray, proxies: Sequence[Any], normalize: bool = True
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the number and the heatmaps of each method; see `explain_with_all`.

        Args:
            images: (n, H, W, c) in the range that the model takes; fractions are
                rounded for a model of integers.
            proxies: m items, see `SetProxies.choose`.
            normalize: see `explain`.
        """
        inputs = self._as_inputs(images)
        return explain_with_all(self.model, self.methods, inputs, proxies, normalize)

    def _as_inputs(self, images: np.ndarray) -> np.ndarray:
        """Return images in the dtype of the model's: blurred ones have fractions."""
        dtype = self.first_batch["image"].dtype
        if images.dtype == dtype or not np.issubdtype(dtype, np.integer):
            return images
        limits = np.iinfo(dtype)
        return np.clip(np.rint(images), limits.min, limits.max).astype(dtype)
