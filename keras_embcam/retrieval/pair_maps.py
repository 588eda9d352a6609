"""From the contributions of two images to maps of their cosine, in numpy."""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_embcam.heatmaps import TINY
from keras_embcam.resizing import Field, resize_heatmaps


class Correspondences(NamedTuple):
    """Pairs of positions of two images, the strongest first.

    Attributes:
        positions_a: (n, m, 2) float32, y and x of the position's centre in the first
            image, as shares of its height and width. NaN where there are fewer pairs.
        positions_b: (n, m, 2), the same in the second image.
        values: (n, m) float32, the part of the cosine that each pair makes; 0 where
            there are fewer pairs.
    """

    positions_a: np.ndarray
    positions_b: np.ndarray
    values: np.ndarray


def measure_lengths(embeddings: np.ndarray) -> np.ndarray:
    """Return the lengths (n,) of embeddings, 1 for those of zeros.

    Divided by it they stay as they are: their cosine with everything is zero.
    """
    # Squares of float32 overflow from 2e19 on and vanish below 3e-23.
    squares = np.einsum("...d,...d->...", embeddings, embeddings, dtype="float64")
    lengths = np.sqrt(squares)
    return np.where(lengths > 0, lengths, 1).astype("float32")


def check_finite(name: str, embeddings: np.ndarray) -> None:
    """Raise a ValueError where embeddings hold NaN or infinity."""
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(bad):
        raise ValueError(
            f"The embeddings of `{name}` must be finite. Those of these rows hold NaN "
            f"or infinity: {bad[:20].tolist()}"
        )


def divide_by_length(values: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
    """Divide contributions (n, h, w, d), or embeddings, by the embeddings' lengths."""
    return values / measure_lengths(embeddings).reshape(-1, *[1] * (values.ndim - 1))


def project(values: np.ndarray, proxies: np.ndarray) -> np.ndarray:
    """Return signed maps whose sum is the embedding times a proxy.

    Args:
        values: (n, h, w, d), contributions.
        proxies: (n, d) one for each image, or (n, m, d) several.

    Returns:
        (n, h, w) or (n, m, h, w) float32; for the unit embedding of another image as
        the proxy, by the length of the own embedding, they sum to the cosine of the
        two.

    Example:

    >>> project(np.float32([[[[3, 0], [0, 1]]]]), np.float32([[1, 2]])).tolist()
    [[[3.0, 2.0]]]
    """
    num_images, height, width, size = values.shape
    flat = values.reshape(num_images, height * width, size)
    maps = (
        proxies @ flat.swapaxes(1, 2)
        if proxies.ndim == 3
        else flat @ proxies[..., None]
    )
    return maps.reshape(*proxies.shape[:-1], height, width)


def compare_positions(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the part of the cosine that each pair of positions makes.

    Args:
        a: (h, w, d), contributions of an image, by the length of its embedding.
        b: (h', w', d), of another.

    Returns:
        (h, w, h', w') float32; its total is the cosine, its sums over either half are
        the signed maps of the two images.

    Example:

    >>> a, b = np.float32([[[1, 0], [0, 1]]]), np.float32([[[2, 3]]])
    >>> compare_positions(a, b).ravel().tolist()
    [2.0, 3.0]
    """
    width = a.shape[-1]
    # Not by numpy: its threads wait for each other longer than such a product takes.
    matrix = ops.matmul(a.reshape(-1, width), ops.transpose(b.reshape(-1, width)))
    return np.array(matrix).reshape(*a.shape[:2], *b.shape[:2])


def find_correspondences(
    matrix: np.ndarray,
    number: int,
    *,
    sign: int = 1,
    each_once: bool = False,
    fields: tuple[Field | None, Field | None] = (None, None),
) -> Correspondences:
    """Return the strongest pairs of positions of one pair of images.

    Args:
        matrix: (h, w, h', w') as of `compare_positions`.
        number: m, how many.
        sign: 1 for what makes the two similar, -1 for what pulls them apart.
        each_once: let each position of either image stand in one pair only, the
            strongest. Without it one strong position may stand in all of them.
        fields: where in either image the positions lie, see `resize_heatmaps`.

    Returns:
        `Correspondences` without their first axis.

    Example:

    >>> matrix = np.float32([[4, -2], [3, 1]]).reshape(1, 2, 1, 2)
    >>> find_correspondences(matrix, 2).values.tolist()
    [4.0, 3.0]
    >>> find_correspondences(matrix, 2, each_once=True).values.tolist()
    [4.0, 1.0]
    >>> find_correspondences(matrix, 2, sign=-1).positions_b.tolist()
    [[0.5, 0.75], [nan, nan]]
    """
    height_a, width_a, height_b, width_b = matrix.shape
    strengths = sign * matrix.reshape(height_a * width_a, -1)
    if each_once:
        found = _pick_each_once(strengths, number)
    else:
        flat = strengths.ravel()
        count = min(number, flat.size)
        found = np.argpartition(-flat, count - 1)[:count]
        found = found[np.argsort(-flat[found], kind="stable")]
    found = found[strengths.ravel()[found] > 0]
    rows_a, rows_b = np.divmod(found, strengths.shape[1])
    positions_a = np.full((number, 2), np.nan, "float32")
    positions_b = positions_a.copy()
    values = np.zeros(number, "float32")
    positions_a[: len(found)] = _centres(rows_a, height_a, width_a, fields[0])
    positions_b[: len(found)] = _centres(rows_b, height_b, width_b, fields[1])
    values[: len(found)] = matrix.ravel()[found]
    return Correspondences(positions_a, positions_b, values)


def _pick_each_once(strengths: np.ndarray, number: int) -> np.ndarray:
    """Return the flat numbers of the strongest pairs that share no row or column."""
    left = strengths.copy()
    found = []
    for _ in range(min(number, *left.shape)):
        found.append(int(left.argmax()))
        row, column = divmod(found[-1], left.shape[1])
        left[row], left[:, column] = -np.inf, -np.inf
    return np.array(found, "int64")


def _centres(
    rows: np.ndarray, height: int, width: int, field: Field | None
) -> np.ndarray:
    y, x = np.divmod(rows, width)
    shares = np.stack([(y + 0.5) / height, (x + 0.5) / width], axis=-1)
    if field is None:
        return shares
    start, end = np.array(field[:2]), np.array(field[2:4])
    # Not in the padding around an image, where there is nothing to point at.
    return np.clip(start + shares * (end - start), 0, 1)


def stack_correspondences(found: list[Correspondences]) -> Correspondences:
    """Return those of several pairs of images with a first axis for the pairs."""
    return Correspondences(*(np.stack(values) for values in zip(*found, strict=True)))


def finish_maps(
    signed: np.ndarray,
    size: tuple[int, int] | None,
    normalize: bool,
    field: Field | None = None,
) -> np.ndarray:
    """Return the positive part of signed maps as heatmaps.

    Args:
        signed: (n, h, w) or (n, m, h, w).
        size: (H, W) to resize to, or None.
        normalize: divide each map by its maximum.
        field: where in the images the maps lie, see `resize_heatmaps`.
    """
    heatmaps: Any = np.maximum(signed, 0).astype("float32")
    if size is not None:
        heatmaps = ops.convert_to_numpy(resize_heatmaps(heatmaps, size, field))
    if normalize:  # in place: of many large maps a copy takes long
        largest = heatmaps.max(axis=(-2, -1), keepdims=True, initial=0)
        heatmaps /= np.maximum(largest, TINY)
    return heatmaps
