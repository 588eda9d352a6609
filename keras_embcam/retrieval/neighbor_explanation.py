"""What explain_neighbors() returns."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_embcam.drawing import to_uint8
from keras_embcam.network.noise_images import find_images
from keras_embcam.retrieval.drawing import draw_result
from keras_embcam.retrieval.pair_maps import Correspondences
from keras_embcam.showing import check_indices, plot_pictures, to_html


@dataclass(frozen=True, eq=False)
class NeighborExplanation:
    """What a search returned for n queries, and why.

    In a notebook it shows the pictures of the first queries.

    Attributes:
        queries: (n,) int64, the numbers of the queries as they were given: all, but for
            those that could not be read, unless `only_errors`.
        indices: (n, k) int64, numbers of images of the gallery as they were given, the
            most similar first.
        similarities: (n, k) float32, cosines.
        is_right: (n, k) bool, or None without labels.
        labels: (n,) of the queries as given, None without labels.
        match_labels: (n, k) of the matches, likewise.
        heatmaps_queries: what of the query makes it similar to each match,
            (n, k, H, W) float32 in [0, 1].
        heatmaps_matches: what of each match makes it similar to the query, the same
            shape; None where the gallery has no images.
        correspondences: the pairs of positions of query and match that add most to
            the cosine, with the axes (n, k, m); None like `heatmaps_matches`.
        best_right: (n,) int64, the most similar row of the query's own class; -1 where
            there is none or no labels.
        best_right_similarities: (n,) float32, NaN where there is none.
        contrasts: for a query whose first match is wrong, what on it speaks for that
            match rather than for the best right one, (n, H, W) float32 in [0, 1]. All
            zero for other queries.
        contrasts_signed: the same (n, h, w) float32 with its sign; it sums to the
            difference of the two similarities.
        errors: (n, k) the larger one of the completeness errors of query and match;
            see `Contributions`.
        query_images: as given or read.
        match_images: (n, k, H, W, c) as given or read; None like `heatmaps_matches`.
        best_right_images: (n, H, W, c), zeros where the first match is right or there
            is none; None likewise, and where all are zeros.
        lines: correspondences for pictures, each position at most once.
    """

    queries: np.ndarray
    indices: np.ndarray
    similarities: np.ndarray
    is_right: np.ndarray | None
    labels: np.ndarray | None
    match_labels: np.ndarray | None
    heatmaps_queries: np.ndarray
    heatmaps_matches: np.ndarray | None
    correspondences: Correspondences | None
    best_right: np.ndarray
    best_right_similarities: np.ndarray
    contrasts: np.ndarray
    contrasts_signed: np.ndarray
    errors: np.ndarray
    query_images: Any
    match_images: np.ndarray | None
    best_right_images: np.ndarray | None
    lines: Correspondences | None

    def __repr__(self) -> str:
        """Return a line in place of pages of numbers."""
        num_queries, k = self.indices.shape
        wrong = ""
        if self.is_right is not None:
            num_wrong = np.count_nonzero(~self.is_right[:, 0])
            wrong = f", first match wrong for {num_wrong}"
        return (
            f"<NeighborExplanation of {num_queries} queries: {k} matches each{wrong}>"
        )

    def draw(self, captions: Any = None) -> list[np.ndarray]:
        """Return one picture a query.

        In a row the query and its matches, framed green where they are right and red
        where they are wrong; below each match the heat on the query, below that the
        heat on the match, and lines between the positions that match most. Where the
        first match is wrong, below the query what speaks for it rather than for the
        best right match, and that match.

        Args:
            captions: (n, k) texts in place of the matches' labels and numbers.

        Returns:
            A list of (height, width, 3) uint8.

        Raises:
            ValueError: where the gallery has no images, or captions do not fit.
        """
        if captions is not None:
            captions = np.asarray(captions, object)
            if captions.shape != self.indices.shape:
                raise ValueError(
                    "`captions` must hold one text for each match, "
                    f"{self.indices.shape}. Received the shape {captions.shape}"
                )
        return self._draw(range(len(self.queries)), captions)

    def plot(self, ax: Any = None, indices: Any = None) -> Any:
        """Show the pictures of `draw` on matplotlib's axes.

        Args:
            ax: the axes, None for new ones.
            indices: rows of the results to show, None for the first eight.

        Returns:
            The axes.

        Raises:
            ImportError: without matplotlib.
            ValueError: for rows that are not there, or where the gallery has no images.
        """
        indices = check_indices(indices, len(self.queries))
        return plot_pictures(self._draw(indices), None, ax)

    def _repr_html_(self) -> str | None:
        if self.match_images is None:
            return None  # there is nothing to draw
        rows = check_indices(None, len(self.queries))
        captions = [f"query {self.queries[row]}" for row in rows]
        return to_html(self._draw(rows), captions, len(self.queries))

    def _draw(self, rows: Iterable[int], captions: Any = None) -> list[np.ndarray]:
        maps, lines = self.heatmaps_matches, self.lines
        if self.match_images is None or maps is None or lines is None:
            raise ValueError(
                "A picture needs the images of the matches. Pass `gallery`, beside "
                "`gallery_embeddings` where you have them."
            )
        queries = to_uint8(find_images(self.query_images))
        shape = self.match_images.shape
        matches = to_uint8(self.match_images.reshape(-1, *shape[2:]))
        matches = matches.reshape(*shape[:2], *matches.shape[1:])
        pictures = []
        for row in rows:
            query = queries[row]
            numbers = range(shape[1])
            heat = list(zip(self.heatmaps_queries[row], maps[row], strict=True))
            pictures.append(
                draw_result(
                    query,
                    matches[row],
                    heat,
                    [Correspondences(*(x[row, i] for x in lines)) for i in numbers],
                    [self._caption(row, i, captions) for i in numbers],
                    None if self.is_right is None else self.is_right[row].tolist(),
                    self._extra(row, query),
                    "query" + _name(self.labels, row, ", "),
                )
            )
        return pictures

    def _caption(self, row: int, number: int, captions: Any) -> str:
        name = _name(self.match_labels, (row, number), end=", ")
        name += f"image {self.indices[row, number]}"
        if captions is not None:
            name = str(captions[row][number])
        return f"{self.similarities[row, number]:.2f}  {name}"

    def _extra(self, row: int, query: np.ndarray) -> list[tuple[Any, Any, str]]:
        is_wrong = self.is_right is not None and not self.is_right[row, 0]
        if not is_wrong or self.best_right[row] < 0 or self.best_right_images is None:
            return []
        best = to_uint8(self.best_right_images[row][None])[0]
        similarity = self.best_right_similarities[row]
        return [
            (query, self.contrasts[row], "speaks for the wrong match"),
            (best, None, f"{similarity:.2f}  best right match"),
        ]


def _name(labels: np.ndarray | None, place: Any, start: str = "", end: str = "") -> str:
    """Return "label 3" for a number and the label itself for a string."""
    if labels is None:
        return ""
    kind = "label " if labels.dtype.kind in "iub" else ""
    return f"{start}{kind}{labels[place]}{end}"
