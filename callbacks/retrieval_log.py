"""What a logger tells of retrieval: context ratios, and why first matches are wrong."""

import warnings
from typing import Any

import cv2
import numpy as np
from keras import tree

from keras_embcam.callbacks.update import Update
from keras_embcam.callbacks.validation_run import ValidationRun
from keras_embcam.drawing import make_grid
from keras_embcam.metrics import ObjectFormat
from keras_embcam.retrieval import ContextRatio, CoveredRecall, explain_neighbors
from keras_embcam.retrieval.context import SIDES, measure_context
from keras_embcam.retrieval.covering import COVERS
from keras_embcam.retrieval.pair_maps import divide_by_length
from keras_embcam.running.labelled_examples import ExampleStream
from keras_embcam.vector_search import find_nearest

MAX_ERRORS = 6  # in one grid
NUM_COLUMNS = 3
MARGIN = 24  # white pixels around each picture
SCALE = 0.6  # of the pictures that `draw` makes; their texts can still be read


class ContextCurves:
    """Measures whether the object or its background decides, at each update.

    Args:
        is_wanted: False to do nothing at all.
        stream: of the examples.
        objects: how their boxes and masks are stated.

    Raises:
        ValueError: for examples without labels, or without boxes and masks.
    """

    def __init__(
        self, is_wanted: bool, stream: ExampleStream, objects: ObjectFormat
    ) -> None:
        self._is_wanted = is_wanted
        self._stream = stream
        self._objects = objects
        keys = stream.keys
        has_all = "label" in keys and keys & {"bbox", "segmentation_mask"}
        if is_wanted and not has_all:
            raise ValueError(
                '`context_ratio=True` needs `validation_examples` with "label", and '
                f'with "bbox" or "segmentation_mask". Received: {sorted(keys)}'
            )

    def check(self, run: ValidationRun) -> None:
        """Check that there is something to find; after the run's `prepare`.

        Raises:
            ValueError: where no class has two members.
        """
        labels = run.labels
        if self._is_wanted and labels is not None:
            if len(np.unique(labels)) == len(labels):
                raise ValueError(
                    "`context_ratio=True` needs `validation_examples` with a class of "
                    "two members, or there is nothing to find. Received "
                    f"{len(labels)} examples of as many classes."
                )

    def measure(self, run: ValidationRun, update: Update) -> None:
        """Put the figures among the values of an update, if they are wanted.

        Args:
            run: whose network is measured.
            update: what the run has just found. Embeddings that are not finite, as of
                a network that has diverged, make all figures NaN.
        """
        if not self._is_wanted:
            return
        found = _unknown_context()
        if np.isfinite(update.embeddings).all():
            found = measure_context(run.model, self._stream, run.method, self._objects)
        update.values.update(found.as_logs())


def _unknown_context() -> ContextRatio:
    nan = float("nan")
    rows = tuple(
        CoveredRecall(cover, sides, nan, nan, nan)
        for cover in COVERS
        for sides in SIDES
    )
    return ContextRatio(nan, rows, nan, nan, 0, 0)


def find_errors(
    embeddings: np.ndarray, labels: np.ndarray, num_errors: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the wrong first matches with the highest similarity.

    As in `measure_retrieval`, an example whose class has no other member is no query.
    Of two examples that are each other's wrong match, one is returned.

    Args:
        embeddings: (n, d), raw.
        labels: (n,).
        num_errors: how many to return at most.

    Returns:
        The numbers of the queries, of their first matches, and of their most similar
        examples of the same class, each (m,), the most similar pair first. Empty
        where embeddings are not finite.

    Example:

    >>> embeddings = np.float32([[1, 0], [0, 1], [0.9, 0.1], [0.1, 0.9]])
    >>> [x.tolist() for x in find_errors(embeddings, np.array([0, 0, 1, 1]), 2)]
    [[0, 1], [2, 3], [1, 0]]
    """
    _, classes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    queries = np.flatnonzero(sizes[classes] > 1)
    nothing = np.empty(0, "int64")
    if not num_errors or not len(queries) or not np.isfinite(embeddings).all():
        return nothing, nothing, nothing
    units = divide_by_length(embeddings, embeddings)
    found, similarities = find_nearest(units[queries], units, 1, own_rows=queries)
    matches = found[:, 0]
    wrong = classes[matches] != classes[queries]
    pairs: dict[tuple[int, int], None] = {}
    for place in np.argsort(-similarities[:, 0], kind="stable"):
        pair = int(queries[place]), int(matches[place])
        if wrong[place] and pair[::-1] not in pairs:
            pairs[pair] = None
        if len(pairs) == num_errors:
            break
    rights = []
    for query, _ in pairs:
        own = np.flatnonzero(classes == classes[query])
        own = own[own != query]
        rights.append(own[np.argmax(units[own] @ units[query])])
    rows = np.array(list(pairs), "int64").reshape(-1, 2)
    return rows[:, 0], rows[:, 1], np.array(rights, "int64")


class RetrievalErrors:
    """Draws the wrong first matches with the highest similarity, with heat on both.

    The update knows embeddings and neighbors already. What is left is to read the
    images of a few examples, and to run the network on these.

    Args:
        stream: of the examples.
        num_images: how many examples the logger shows; half as many errors are shown,
            at most `MAX_ERRORS`.
        strict: raise errors instead of warning once and drawing no more.
    """

    def __init__(self, stream: ExampleStream, num_images: int, strict: bool) -> None:
        self._stream = stream
        self._num_errors = min(num_images // 2, MAX_ERRORS)
        self._strict = strict
        self._has_failed = False

    def draw(self, update: Update, run: ValidationRun) -> np.ndarray | None:
        """Return a grid (height, width, 3) uint8, None where there is nothing to show.

        Args:
            update: what was found.
            run: that found it.
        """
        if update.labels is None or self._has_failed:
            return None
        try:
            return self._draw(update.embeddings, update.labels, run)
        except Exception as error:
            if self._strict:
                raise
            self._has_failed = True
            warnings.warn(
                "EmbeddingCAMLogger leaves out heatmaps/retrieval_errors; everything "
                f"else goes on. {type(error).__name__}: {error}",
                stacklevel=2,
            )
            return None

    def _draw(
        self, embeddings: np.ndarray, labels: np.ndarray, run: ValidationRun
    ) -> np.ndarray | None:
        queries, matches, rights = find_errors(embeddings, labels, self._num_errors)
        if not len(queries):
            return None
        # The search among these few finds what the search among all has found.
        rows = np.unique(np.concatenate([queries, matches, rights]))
        examples = self._stream.take(rows)
        inputs: Any = self._stream.inputs_of(examples)
        places = np.searchsorted(rows, queries)
        layer = run.method.conv_layer
        found = explain_neighbors(
            run.model,
            tree.map_structure(lambda x: x[places], inputs),
            inputs,
            k=1,
            labels=labels[queries],
            gallery_labels=labels[rows],
            gallery_embeddings=embeddings[rows],
            own_rows=places,
            num_correspondences=1,  # the lines of a picture are found by themselves
            # Contributions are those of one layer.
            conv_layer=None if isinstance(layer, tuple) else layer,
            embedding_layer=run.method.embedding_layer,
        )
        names = [[f"label {labels[row]}, image {row}"] for row in matches]
        captions = [f"image {row}, label {labels[row]}" for row in queries]
        columns = min(len(queries), NUM_COLUMNS)
        # What belongs together is nearer than what does not.
        margins = [(0, MARGIN), (MARGIN, MARGIN), (0, 0)]
        pictures = [np.pad(x, margins, constant_values=255) for x in found.draw(names)]
        grid = make_grid(pictures, captions, num_columns=columns)
        size = [round(side * SCALE) for side in grid.shape[1::-1]]
        return cv2.resize(grid, size, interpolation=cv2.INTER_AREA)
