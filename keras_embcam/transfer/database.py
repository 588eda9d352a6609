"""GradWeightDatabase: weights of training images, lent to the nearest new images."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
from keras import tree

from keras_embcam.method import Method
from keras_embcam.network.inputs import check_model
from keras_embcam.network.trial_run import list_operations
from keras_embcam.running.compiled_functions import run_batches
from keras_embcam.running.image_batches import ImageSource
from keras_embcam.transfer.checks import (
    check_one_layer,
    check_triplet_arguments,
    get_channel_weighting,
    path_of,
)
from keras_embcam.transfer.fitting import fit_weights, gather
from keras_embcam.transfer.lending import TransferExplanation, run_forward, transfer
from keras_embcam.transfer.storage import read_file, write_file
from keras_embcam.transfer.table import GradWeightTable
from keras_embcam.transfer.triplet_draws import Loss, TripletDraws, check_labels
from keras_embcam.weightings import Weighting, gradcam, xgradcam

ARRAYS = ("embeddings", "channels", "values", "left_out")


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class GradWeightDatabase(GradWeightTable):
    """Channel weights of training images, for images without back-propagation.

    A new image borrows the weights of its nearest neighbour in embedding space and
    puts them on its own activations: ``relu(sum_k w_k A_k)`` (Chen et al., Adapting
    Grad-CAM for Embedding Networks, WACV 2020, section 3.3). Made by `fit`.

    Attributes:
        embeddings: see `GradWeightTable`, which also has `query` and `compress`.
        channels: see `GradWeightTable`.
        values: see `GradWeightTable`.
        num_channels: k of the convolution.
        conv_layer: path of the convolution in the model.
        embedding_layer: as it was given to `fit`; None for the model's output.
        weighting: name of the weighting.
        num_triplets: of an image, at most.
        margin: of the triplet loss; None for another loss.
        sign: -1 or +1.
        left_out: numbers of the images of the training set that are not in the
            database, for want of an active triplet. Row i is the i-th of the others;
            in a database from `compress` it is a centre, and of no image.

    Raises:
        ValueError: for arrays that do not belong together.

    Example (needs scikit-learn):

    >>> import keras, numpy as np
    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 3)),
    ...     keras.layers.Conv2D(6, 3, activation="relu", name="conv"),
    ...     keras.layers.GlobalAveragePooling2D(),
    ...     keras.layers.Dense(4),
    ... ])
    >>> images = np.random.default_rng(0).random((6, 8, 8, 3), dtype="float32")
    >>> labels = [0, 0, 0, 1, 1, 1]
    >>> database = GradWeightDatabase.fit(model, images, labels, top_channels=2)
    >>> database
    GradWeightDatabase: 6 entries of width 4, each with 2 of 6 channels of 'conv'
    (gradcam, up to 50 triplets, margin 0.2, sign -1). Memory is O(N (D + M)):
    6 x (4 x 4 + 8 x 2) = 192 bytes.
    >>> database.explain(model, images[:2]).shape
    (2, 8, 8)
    >>> len(database.compress(num_clusters=2))
    2
    """

    conv_layer: str
    embedding_layer: str | None
    weighting: str
    num_triplets: int
    margin: float | None
    sign: int
    left_out: np.ndarray

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
        preprocessing_function: Any = None,
        batch_size: int = 32,
        seed: int = 0,
    ) -> "GradWeightDatabase":
        """Return the database of a training set (Chen et al., section 3.2).

        The weights of an image are the mean over ``num_triplets`` of its active
        triplets, drawn at random with the image as the anchor, then cut to the
        highest by value. One forward pass for each image, and one more where
        ``embeddings`` are not given: triplets cannot be drawn before them. One
        backward pass through the head for each image with gradcam and xgradcam, which
        are linear in the gradient, else one for each triplet. Of the activations,
        one batch is in memory.

        Args:
            model: any Keras model with channels_last images; see `EmbeddingCAM`.
            images: as in `explain_batches`. A data set is read more than once and
                must give the same order each time.
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
            loss: any other loss, ``loss(anchors, positives, negatives) -> (s,)`` of
                raw embeddings (s, d) float32, written with keras.ops or TensorFlow.
                Zero is an inactive triplet. A loss of pairs may ignore an argument;
                one of a pair head calls the head. Where labels are floats, the
                positives have a lower one than the anchor and the negatives a higher
                one: ``cross_entropy(head(a, p), 1) + cross_entropy(head(n, a), 1)``
                explains a siamese network that tells which house costs more. None
                for the triplet loss.
            embeddings: (n, d) raw, from `keras_embcam.embed`, where they are known.
            conv_layer: see `EmbeddingCAM`; a single one.
            embedding_layer: see `EmbeddingCAM`.
            preprocessing_function: see `explain_batches`.
            batch_size: images at a time, >= 1; the result does not depend on it.
            seed: of the triplets, an integer >= 0.

        Returns:
            The database. Warns where images have no active triplet and are left out.

        Raises:
            ValueError: for what does not fit, a spatial weighting or no active triplet.
            TypeError: for images of an unknown kind, or what is no Keras model.
        """
        check_model(model)
        check_triplet_arguments(num_triplets, top_channels, margin, sign, seed)
        check_one_layer(conv_layer)
        weigh = get_channel_weighting(weighting)
        source = ImageSource(images, model, batch_size, preprocessing_function)
        if labels is not None and source.num_images:
            check_labels(labels, source.num_images, loss is not None)
        where = (conv_layer, embedding_layer)
        embeddings, labels = gather(model, source, *where, embeddings, labels)
        draws = TripletDraws(
            embeddings,
            labels,
            num_triplets=num_triplets,
            margin=margin,
            sign=sign,
            loss=loss,
            seed=seed,
        )
        num_proxies = None if weigh in (gradcam, xgradcam) else num_triplets
        fitted = fit_weights(
            model, source, draws, *where, weigh, num_proxies, top_channels
        )
        return cls(
            **fitted._asdict(),
            embedding_layer=path_of(model, embedding_layer),
            weighting=str(getattr(weighting, "__name__", weighting)),
            num_triplets=int(num_triplets),
            margin=None if loss else float(margin),
            sign=int(sign),
        )

    @property
    def num_left_out(self) -> int:
        """How many training images have no entry."""
        return len(self.left_out)

    def __repr__(self) -> str:
        """Return what the database holds and how large it is."""
        num_entries, width = self.embeddings.shape
        num_kept = self.channels.shape[1]
        margin = "another loss" if self.margin is None else f"margin {self.margin}"
        pair = self.channels.itemsize + self.values.itemsize
        num_bytes = sum(x.nbytes for x in (self.embeddings, self.channels, self.values))
        return (
            f"GradWeightDatabase: {num_entries} entries of width {width}, each with "
            f"{num_kept} of {self.num_channels} channels of {self.conv_layer!r}\n"
            f"({self.weighting}, up to {self.num_triplets} triplets, {margin}, sign "
            f"{self.sign:+}). Memory is O(N (D + M)):\n"
            f"{num_entries} x (4 x {width} + {pair} x {num_kept}) = "
            f"{num_bytes:,} bytes."
        )

    def explain(
        self, model: keras.Model, images: Any, *, details: bool = False, **options: Any
    ) -> np.ndarray | TransferExplanation:
        """Return a heatmap of each image, by a forward pass and a neighbour.

        Args:
            model: the one that the database was fitted with.
            images: an array, files or a `tf.data.Dataset`, as the package takes them.
            details: return embeddings, neighbours and images too.
            **options: see `explain_batches`.

        Returns:
            Heatmaps (n, H, W) float32 in [0, 1] (with ``normalize=False``: >= 0);
            with ``details`` a `TransferExplanation`.

        Raises:
            ValueError: for a model of another width, another convolution or another
                number of channels, or images that do not fit.
            TypeError: for images of an unknown kind, or an unknown option.
            ImportError: where the library of the search is missing.
        """
        batches = list(self.explain_batches(model, images, **options))
        if not details:
            return np.concatenate([batch.heatmaps for batch in batches])
        return tree.map_structure(lambda *arrays: np.concatenate(arrays), *batches)

    def explain_batches(
        self,
        model: keras.Model,
        images: Any,
        *,
        num_neighbours: int = 1,
        resize: bool = True,
        normalize: bool = True,
        search: Literal["exact", "faiss"] = "exact",
        batch_size: int = 32,
        preprocessing_function: Any = None,
    ) -> Iterator[TransferExplanation]:
        """Yield a `TransferExplanation` of each batch; nothing is differentiated.

        Args:
            model: as in `explain`.
            images: as in `explain`.
            num_neighbours: entries whose weights are averaged, 1 to N.
            resize: to the size of the images.
            normalize: divide each map by its maximum.
            search: see `query`.
            batch_size: images at a time, >= 1.
            preprocessing_function: see `explain_batches` of the package.

        Raises:
            ValueError: as `explain`.
            TypeError: as `explain`.
            ImportError: as `explain`.
        """
        check_model(model)
        self.check_search(num_neighbours, search)
        if self.conv_layer not in list_operations(model):
            raise ValueError(
                f"The database holds weights of the layer {self.conv_layer!r}, which "
                "this model does not have. Pass the model that it was fitted with."
            )
        source = ImageSource(images, model, batch_size, preprocessing_function)
        return (
            transfer(self, batch, found, num_neighbours, search, resize, normalize)
            for batch, found in run_batches(
                model,
                source,
                Method(
                    conv_layer=self.conv_layer, embedding_layer=self.embedding_layer
                ),
                run_forward,
            )
        )

    def save(self, path: str | Path) -> None:
        """Write the database to a file, an npz archive without pickle.

        Args:
            path: of the file, used as it is. What is there is replaced as a whole.
        """
        settings = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ARRAYS
        }
        write_file(path, settings, {name: getattr(self, name) for name in ARRAYS})

    @classmethod
    def load(cls, path: str | Path) -> "GradWeightDatabase":
        """Read what `save` wrote. Nothing in the file is run.

        Raises:
            ValueError: for a file that is missing, damaged, of another kind or of
                another version, with the reason.
        """
        return read_file(path, set(ARRAYS), cls)
