"""GradWeightDatabase: weights of training images, lent to the nearest new images."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from keras_embcam.method import Method
from keras_embcam.network.inputs import check_model
from keras_embcam.proxies.triplet_draws import Loss, TripletDraws, check_triplet_labels
from keras_embcam.running.compiled_functions import run_batches
from keras_embcam.running.image_batches import ImageSource
from keras_embcam.transfer import fitting
from keras_embcam.transfer.fitted_model import check_same_model, hash_weights
from keras_embcam.transfer.lent_heatmaps import (
    TransferExplanation,
    explain_batch,
    join_explanations,
    run_forward,
)
from keras_embcam.transfer.storage import read_file, write_file
from keras_embcam.transfer.weight_table import GradWeightTable
from keras_embcam.weightings import Weighting


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class GradWeightDatabase(GradWeightTable):
    """Channel weights of training images, which explain new images without gradients.

    A new image borrows the weights of its nearest neighbor in embedding space and
    puts them on its own activations: ``relu(sum_k w_k A_k)`` (Chen et al., Adapting
    Grad-CAM for Embedding Networks, WACV 2020, section 3.3). Made by `fit`.

    Attributes:
        embeddings: (N, D) float32 of length 1.
        channels: (N, M) integers, the channels with the highest weights.
        values: (N, M) float32, their weights. Other channels weigh nothing.
        num_channels: k.
        conv_layer: path of the convolution in the model.
        embedding_layer: as it was given to `fit`; None for the model's output.
        weighting: name of the weighting.
        num_triplets: how many triplets of an image were averaged, at most.
        margin: of the triplet loss; None for another loss.
        sign: -1 or +1, the factor of the loss.
        left_out: positions of the training images without an active triplet, which
            have no entry. Row i of the database is the i-th of the other images; rows
            from `compress` are centres of clusters instead.
        weight_hashes: of the model's weights, by which it is known again; may be empty.

    Raises:
        ValueError: for arrays that do not belong together.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 3)),
    ...     keras.layers.Conv2D(6, 3, activation="relu", name="conv"),
    ...     keras.layers.GlobalAveragePooling2D(),
    ...     keras.layers.Dense(4),
    ... ])
    >>> images = np.random.default_rng(0).random((6, 8, 8, 3), dtype="float32")
    >>> database = GradWeightDatabase.fit(
    ...     model, images, [0, 0, 0, 1, 1, 1], top_channels=2
    ... )
    >>> database
    GradWeightDatabase: 6 entries of width 4, each with 2 of 6 channels of 'conv'
    (gradcam, up to 50 triplets, margin 0.2, sign -1). Memory is O(N (D + M)):
    6 x (4 x 4 + 8 x 2) = 192 bytes.
    >>> database.explain(model, images[:2]).shape
    (2, 8, 8)
    """

    conv_layer: str
    embedding_layer: str | None
    weighting: str
    num_triplets: int
    margin: float | None
    sign: int
    left_out: np.ndarray
    weight_hashes: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))

    @classmethod
    def fit(
        cls,
        model: keras.Model,
        images: Any,
        labels: Any = None,
        *,
        num_triplets: int = 50,
        top_channels: int | None = 50,
        margin: float = 0.2,
        sign: int = -1,
        weighting: str | Weighting = "gradcam",
        loss: Loss | None = None,
        embeddings: Any = None,
        conv_layer: Any = None,
        embedding_layer: Any = None,
        preprocessing_function: str | Callable | None = None,
        batch_size: int = 32,
        seed: int = 0,
    ) -> "GradWeightDatabase":
        """Return the database of a training set (Chen et al., section 3.2).

        The weights of an image are the mean over ``num_triplets`` of its active
        triplets, drawn at random with the image as the anchor, then cut to the
        highest by value. Costs one forward pass for each image, and one more where
        ``embeddings`` are not given; and one backward pass through the head for each
        image with gradcam and xgradcam, which are linear in the gradient, else one for
        each triplet. Of the activations, one batch is in memory.

        Args:
            model: any Keras model with channels_last images.
            images: an array, files or a data set, as `keras_embcam.explain` takes them.
                A data set is read more than once and must give the same order each
                time.
            labels: (n,) integer classes; by default those of the data set. Floats,
                with a ``loss`` only, rank the images; see there.
            num_triplets: active triplets of an image (N_s), at most; >= 1.
            top_channels: how many channels to keep (M), or None for all. A layer with
                fewer keeps all.
            margin: of squared distances between unit embeddings, >= 0.
            sign: -1 for what makes the image like its class; +1 for the loss itself,
                as in the paper.
            weighting: "gradcam", "gradcam++", "xgradcam" or a function that returns
                weights (n, 1, 1, k).
            loss: another loss, ``loss(anchors, positives, negatives) -> (s,)`` of raw
                embeddings (s, d) float32, written with keras.ops or TensorFlow; zero
                is an inactive triplet. A loss of pairs ignores an argument; one of a
                pair head calls the head. Where labels are floats, positives have a
                lower one than the anchor and negatives a higher one: ``cross_entropy(
                head(a, p), 1) + cross_entropy(head(n, a), 1)`` explains a siamese
                network that tells which house costs more. None for the triplet loss.
            embeddings: (n, d) raw, from `keras_embcam.embed`, where they are known.
            conv_layer: name, path or object of a single layer; None for the last
                convolution with more than one position.
            embedding_layer: name, path or object of the layer that makes the
                embedding; None for the model's output.
            preprocessing_function: applied to each batch of images before the model,
                or its name.
            batch_size: images at a time, >= 1; the result does not depend on it.
            seed: of the triplets, an integer >= 0.

        Returns:
            The database. Warns where images have no active triplet and are left out.

        Raises:
            ValueError: for what does not fit, a spatial weighting or no active triplet.
            TypeError: for images of an unknown kind, or what is no Keras model.
        """
        check_model(model)
        method = Method(
            weighting=weighting,
            top_channels=top_channels,
            conv_layer=conv_layer,
            embedding_layer=embedding_layer,
            joins_branches=False,
        )
        fitting.check_arguments(method, num_triplets, margin, sign, seed)
        source = ImageSource(images, model, batch_size, preprocessing_function)
        if labels is not None and source.num_images:
            check_triplet_labels(labels, source.num_images, loss is not None)
        method = method.bind(model)
        draws = TripletDraws(
            *fitting.collect_embeddings(model, source, method, embeddings, labels),
            num_triplets=num_triplets,
            margin=margin,
            sign=sign,
            loss=loss,
            seed=seed,
        )
        fitted = fitting.fit_weights(model, source, draws, method)
        return cls(
            **fitted._asdict(),
            weight_hashes=hash_weights(model),
            embedding_layer=method.embedding_layer,
            weighting=str(getattr(weighting, "__name__", weighting)),
            num_triplets=int(num_triplets),
            margin=None if loss else float(margin),
            sign=int(sign),
        )

    def __repr__(self) -> str:
        """Return what the database holds and how large it is."""
        num_entries, width = self.embeddings.shape
        num_kept = self.channels.shape[1]
        margin = "another loss" if self.margin is None else f"margin {self.margin}"
        pair = self.channels.itemsize + self.values.itemsize
        num_bytes = num_entries * (4 * width + pair * num_kept)
        return (
            f"GradWeightDatabase: {num_entries} entries of width {width}, each with "
            f"{num_kept} of {self.num_channels} channels of {self.conv_layer!r}\n"
            f"({self.weighting}, up to {self.num_triplets} triplets, {margin}, sign "
            f"{self.sign:+}). Memory is O(N (D + M)):\n"
            f"{num_entries} x (4 x {width} + {pair} x {num_kept}) = "
            f"{num_bytes:,} bytes."
        )

    def explain(
        self,
        model: keras.Model,
        images: Any,
        *,
        num_neighbors: int = 1,
        search: Literal["exact", "faiss"] = "exact",
        resize: bool = True,
        normalize: bool = True,
        details: bool = False,
        preprocessing_function: str | Callable | None = None,
        batch_size: int = 32,
    ) -> np.ndarray | TransferExplanation:
        """Return a heatmap of each image, by a forward pass and a neighbor.

        Args:
            model: the one that the database was fitted with.
            images: an array, files or a data set, as `keras_embcam.explain` takes them.
            num_neighbors: entries whose weights are averaged, 1 to N.
            search: "exact" or "faiss", as in `query`.
            resize: True for maps of the size of the images.
            normalize: True to divide each map by its maximum.
            details: True to return embeddings, neighbors and images too.
            preprocessing_function: applied to each batch of images before the model,
                or its name.
            batch_size: images at a time, >= 1.

        Returns:
            Heatmaps (n, H, W) float32 in [0, 1] (with ``normalize=False``: >= 0);
            with ``details`` a `TransferExplanation`.

        Raises:
            ValueError: for another model, or images that do not fit.
            TypeError: for images of an unknown kind, or what is no Keras model.
            ImportError: where the library of the search is missing.
        """
        joined = join_explanations(
            self.explain_batches(
                model,
                images,
                num_neighbors=num_neighbors,
                search=search,
                resize=resize,
                normalize=normalize,
                preprocessing_function=preprocessing_function,
                batch_size=batch_size,
            )
        )
        return joined if details else joined.heatmaps

    def explain_batches(
        self,
        model: keras.Model,
        images: Any,
        *,
        num_neighbors: int = 1,
        search: Literal["exact", "faiss"] = "exact",
        resize: bool = True,
        normalize: bool = True,
        preprocessing_function: str | Callable | None = None,
        batch_size: int = 32,
    ) -> Iterator[TransferExplanation]:
        """Yield a `TransferExplanation` of each batch; nothing is differentiated.

        Arguments and errors are those of `explain`.
        """
        check_model(model)
        self.check_search(num_neighbors, search)
        check_same_model(model, self.conv_layer, self.weight_hashes)
        method = Method(
            conv_layer=self.conv_layer,
            embedding_layer=self.embedding_layer,
            resize=resize,
            normalize=normalize,
        )
        source = ImageSource(images, model, batch_size, preprocessing_function)
        return (
            explain_batch(self, batch, found, method, num_neighbors, search)
            for batch, found in run_batches(model, source, method, run_forward)
        )

    def save(self, path: str | Path) -> None:
        """Write the database to a file, an npz archive without pickle.

        The path is used as it is. What is there is replaced as a whole.

        Raises:
            ValueError: where there is no such folder.
        """
        write_file(path, self)

    @classmethod
    def load(cls, path: str | Path) -> "GradWeightDatabase":
        """Read what `save` wrote. No code in the file is run.

        Raises:
            ValueError: with the reason, where it cannot be read.
        """
        return read_file(path, cls)
