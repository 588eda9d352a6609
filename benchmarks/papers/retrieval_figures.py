"""Figures on retrieval explained: sums, correspondences, deletion, right and wrong."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import cv2
import keras
import numpy as np

from keras_embcam import contributions, embed, explain, explain_neighbors, explain_pair
from keras_embcam.metrics import heatmap_ratio_in_boxes
from keras_embcam.retrieval import PairExplanation

Examples = dict[str, np.ndarray]
Row = tuple[str, ...]

SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)
NUM_RESAMPLES = 1000


class Pairs(NamedTuple):
    """Pairs of different photographs of one species.

    Attributes:
        a: (n,) rows of the examples.
        b: (n,) rows of the examples.
    """

    a: np.ndarray
    b: np.ndarray


def draw_pairs(labels: np.ndarray, number: int, seed: int = 0) -> Pairs:
    """Return random pairs of different images of one class."""
    random = np.random.default_rng(seed)
    pairs = []
    for first in random.choice(len(labels), number, replace=number > len(labels)):
        others = np.flatnonzero(labels == labels[first])
        pairs.append((first, random.choice(others[others != first])))
    return Pairs(*np.array(pairs).T)


def measure_errors(
    name: str, model: keras.Model, images: np.ndarray, steps: tuple
) -> list[Row]:
    """Return the completeness errors of a head by the number of steps."""
    rows = []
    for num_steps in steps:
        found = contributions(model, images, num_steps=num_steps)
        sums = found.values.sum(axis=(1, 2))
        largest = np.abs(sums - found.embeddings).max() / np.abs(found.embeddings).max()
        used = "matrix" if found.num_steps == 0 else str(found.num_steps)
        asked = "default" if num_steps is None else str(num_steps)
        rows.append((name, asked, used, f"{found.errors.max():.1e}", f"{largest:.1e}"))
    return rows


def measure_pair_sums(
    name: str, model: keras.Model, images: np.ndarray, pairs: Pairs
) -> Row:
    """Return how far maps and matrices of pairs are from the cosine, at most."""
    found = explain_pair(model, images[pairs.a], images[pairs.b])
    totals = np.array([found.matrix(i).sum() for i in range(len(found.similarity))])
    sums = [found.signed_a.sum(axis=(1, 2)), found.signed_b.sum(axis=(1, 2)), totals]
    return (name, *(f"{np.abs(x - found.similarity).max():.1e}" for x in sums))


# --- correspondences of parts


def raw_matrices(model: keras.Model, images: np.ndarray, pairs: Pairs) -> Iterator:
    """Yield cosines of the activations (n, h w, k) that a model returns."""
    for a, b in zip(pairs.a, pairs.b, strict=True):
        maps = model.predict(images[[a, b]], verbose=0)
        flat = maps.reshape(2, -1, maps.shape[-1])
        flat = flat / np.maximum(np.linalg.norm(flat, axis=-1, keepdims=True), 1e-12)
        yield (flat[0] @ flat[1].T).reshape(*maps.shape[1:3], *maps.shape[1:3])


def our_matrices(pair: PairExplanation, kind: str) -> Iterator[np.ndarray]:
    """Yield what each pair of positions adds to the cosine.

    Or the cosines of their contributions, for the kind "direction".
    """
    for index in range(len(pair.similarity)):
        matrix = pair.matrix(index)
        if kind == "direction":
            norms = [
                np.linalg.norm(x[index], axis=-1)
                for x in (pair.contributions_a, pair.contributions_b)
            ]
            matrix = matrix / np.maximum(
                norms[0][:, :, None, None] * norms[1][None, None], 1e-12
            )
        yield matrix


def find_parts(matrices: Iterator, examples: Examples, pairs: Pairs) -> np.ndarray:
    """Return how far each part is found from where it is, by the size of the box.

    For each part that both photographs show: from the position of the first image
    that holds it to the position of the second that corresponds most.
    """
    distances = []
    for matrix, a, b in zip(matrices, pairs.a, pairs.b, strict=True):
        size = np.array(matrix.shape[:2])
        size_b = np.array(matrix.shape[2:])
        for part_a, part_b in _visible_parts(examples, a, b):
            row, column = np.minimum((part_a * size).astype(int), size - 1)
            target = np.unravel_index(matrix[row, column].argmax(), size_b)
            centre = (np.array(target) + 0.5) / size_b
            distances.append(_distance(centre, part_b, examples, b))
    return np.array(distances)


def guess_parts(examples: Examples, pairs: Pairs, inside: bool) -> np.ndarray:
    """Return the distances of random positions, of the image or of its box."""
    random = np.random.default_rng(0)
    distances = []
    for a, b in zip(pairs.a, pairs.b, strict=True):
        low, high = np.split(examples["bbox"][b], 2) if inside else (0.0, 1.0)
        for _, part_b in _visible_parts(examples, a, b):
            point = random.uniform(low, high, 2)
            distances.append(_distance(point, part_b, examples, b))
    return np.array(distances)


def _visible_parts(examples: Examples, a: int, b: int) -> Iterator:
    parts_a, parts_b = examples["parts"][a], examples["parts"][b]
    for index in np.flatnonzero((parts_a[:, 2] > 0) & (parts_b[:, 2] > 0)):
        yield parts_a[index, :2], parts_b[index, :2]


def _distance(point: Any, part: np.ndarray, examples: Examples, image: int) -> float:
    box = examples["bbox"][image]
    return float(np.linalg.norm(point - part) / (box[2:] - box[:2]).max())


def describe_distances(name: str, distances: np.ndarray, num_pairs: int) -> Row:
    """Return a row with the shares of parts within 0.1 and 0.2 of the box."""
    shares = [f"{np.mean(distances <= x):.3f}" for x in (0.1, 0.2)]
    return (name, *shares, f"{len(distances)} of {num_pairs} pairs")


# --- deletion and insertion


def cover_hottest(images: np.ndarray, heat: np.ndarray, share: float) -> np.ndarray:
    """Return images whose hottest pixels are strongly blurred."""
    covered = images.copy()
    for image, result, heatmap in zip(images, covered, heat, strict=True):
        hot = np.argsort(-heatmap, axis=None, kind="stable")
        hot = np.unravel_index(hot[: round(share * heatmap.size)], heatmap.shape)
        result[hot] = blur(image)[hot]
    return covered


def cover_coldest(images: np.ndarray, heat: np.ndarray, share: float) -> np.ndarray:
    """Return images of which only the hottest pixels are not blurred."""
    return cover_hottest(images, -heat, 1 - share)


def blur(image: np.ndarray) -> np.ndarray:
    """Return an image blurred so that only its colours are left."""
    return cv2.GaussianBlur(image, (0, 0), image.shape[0] / 10)


def measure_deletion(
    model: keras.Model, images: np.ndarray, pairs: Pairs
) -> tuple[list[Row], np.ndarray]:
    """Return the cosine of pairs after one or both images lost what maps call hot.

    Returns:
        Rows of a table, and per pair the mean drop by the pair map minus that by
        plain maps, when both images lose it.
    """
    a, b = images[pairs.a], images[pairs.b]
    found = explain_pair(model, a, b)
    random = np.random.default_rng(0)
    coarse = random.random((len(a), 7, 7)).astype("float32")
    noise = np.stack([cv2.resize(x, a.shape[2:0:-1]) for x in coarse])
    heat = {
        "pair map": (found.heatmaps_a, found.heatmaps_b),
        "plain maps (single point)": (explain(model, a), explain(model, b)),
        "random smooth map": (noise, noise[::-1]),
    }
    rows, means = [("no cover", f"{found.similarity.mean():.3f}", "", "", "")], {}
    for name, (on_a, on_b) in heat.items():
        cells: list[float] = []
        for cover in (cover_hottest, cover_coldest):
            of_shares = [
                cosines(model, cover(a, on_a, x), cover(b, on_b, x)) for x in SHARES
            ]
            one_side = [cosines(model, cover(a, on_a, x), b) for x in SHARES]
            cells += [np.mean(one_side), np.mean(of_shares)]
            if cover is cover_hottest:
                means[name] = np.mean(of_shares, axis=0)
        rows.append((name, *(f"{x:.3f}" for x in cells)))
    return rows, means["plain maps (single point)"] - means["pair map"]


def cosines(model: keras.Model, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cosines of the embeddings of pairs of images (n,)."""
    units = []
    for images in (a, b):
        embeddings = embed(model, images)
        units.append(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True))
    return np.sum(units[0] * units[1], axis=1)


# --- right and wrong first matches


def judge_matches(model: keras.Model, examples: Examples) -> tuple[list[Row], str]:
    """Return the AUC of figures of pair maps for right against wrong first matches."""
    images, labels, boxes = examples["image"], examples["label"], examples["bbox"]
    found = explain_neighbors(model, images, k=1, labels=labels, batch_size=32)
    is_right = found.is_right[:, 0]
    matches = found.indices[:, 0]
    on_query = heatmap_ratio_in_boxes(found.heatmaps_queries[:, 0], boxes, "rel_yxyx")
    on_match = heatmap_ratio_in_boxes(
        found.heatmaps_matches[:, 0], boxes[matches], "rel_yxyx"
    )
    both = np.nan_to_num(np.minimum(np.asarray(on_query), np.asarray(on_match)))
    strongest = found.correspondences.values[:, 0].sum(axis=-1)
    figures = {
        "similarity": found.similarities[:, 0],
        "share of heat on the object, lesser of both sides": both,
        "part of the cosine of the 10 strongest correspondences": strongest
        / np.maximum(found.similarities[:, 0], 1e-6),
    }
    order = _match_by_similarity(found.similarities[:, 0], is_right)
    rows = []
    for name, values in figures.items():
        cells = [name]
        for chosen in (np.arange(len(values)), order):
            low, high = resample(
                lambda x, y: auc(x, y), values[chosen], is_right[chosen]
            )
            cells.append(
                f"{auc(values[chosen], is_right[chosen]):.3f} ({low:.3f} to {high:.3f})"
            )
        rows.append(tuple(cells))
    note = (
        f"{len(is_right)} queries, {np.sum(~is_right)} first matches wrong; "
        f"{len(order) // 2} matched pairs of equal similarity."
    )
    return rows, note


def _match_by_similarity(similarities: np.ndarray, is_right: np.ndarray) -> np.ndarray:
    """Return wrong matches and, for each, the right one nearest in similarity."""
    right = list(np.flatnonzero(is_right))
    chosen: list[int] = []
    for wrong in np.flatnonzero(~is_right):
        if not right:
            break
        nearest = int(np.abs(similarities[right] - similarities[wrong]).argmin())
        chosen += [int(wrong), int(right.pop(nearest))]
    return np.array(chosen, int)


def auc(values: np.ndarray, is_right: np.ndarray) -> float:
    """Return how often a right match has the higher value; equal ones count half."""
    right, wrong = values[is_right], values[~is_right]
    if not len(right) or not len(wrong):
        return float("nan")
    higher = (right[:, None] > wrong[None]).mean()
    return float(higher + 0.5 * (right[:, None] == wrong[None]).mean())


def resample(function: Callable, *arrays: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of a figure over images drawn again."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(NUM_RESAMPLES):
        rows = random.integers(0, len(arrays[0]), len(arrays[0]))
        found.append(function(*(x[rows] for x in arrays)))
    return tuple(np.nanpercentile(found, [2.5, 97.5]))  # type: ignore[return-value]
