"""What a model does to images before its first convolution: crop, pad, scale."""

import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import ops, tree

from keras_embcam.network.first_convolution import input_of_first_convolution
from keras_embcam.resizing import Field

# Pixels by which a side of the field may miss that of the image: what rounds to the
# nearest pixel misses by a half.
TOLERANCE = 0.75
# Of what an image adds up to, that the sum of two may miss in bfloat16.
ROUNDING = 0.02
# Positions along a line of pixels that are looked at.
NUM_LINES = 64
# Of images that a graph leaves open: what crops or pads at all does so to one of them.
OPEN_SIZES = (224, 224), (256, 448), (448, 256)


class Front(NamedTuple):
    """What reaches the first convolution of a model.

    Attributes:
        field: the rectangle of the image that its input shows, see `resize_heatmaps`.
            None for the whole image.
        scale: what a pixel value is multiplied by on the way, None where that is not
            one number for all values.
        offset: what is added to it then.
        is_distorted: whether the input is a linear function of the image, and no
            upright rectangle of it.
        input_size: (h, w) of this input; None where it is not known.
        consumed: of rows and of columns, how many of this input at both ends are
            padding that the convolution takes away again.
    """

    field: Field | None = None
    scale: float | None = None
    offset: float = 0.0
    is_distorted: bool = False
    input_size: tuple[int, int] | None = None
    consumed: tuple[tuple[int, int], ...] = ((0, 0), (0, 0))


class Fronts:
    """The fronts of a model for images of any size, each looked at once.

    Does not keep the model alive.

    Args:
        model: a built Keras model.
        like: inputs of the model, of which images of this size are not kept.
        size: (H, W) of those that are looked at.
    """

    def __init__(self, model: keras.Model, like: Any, size: tuple[int, int]) -> None:
        self._model = weakref.ref(model)
        self._like = tree.map_structure(
            lambda x: (
                keras.KerasTensor((1, None, None, x.shape[-1]), x.dtype)
                if len(x.shape) == 4 and tuple(x.shape[1:3]) == size
                else x[:1]
            ),
            like,
        )
        self._found: dict[tuple[int, int], Front] = {}
        self._moves_parts = False

    def check_places(self, locality: Callable[[], bool]) -> None:
        """Look closer at what is no linear function of the image.

        Such as a part of it that the model chooses by itself.

        Args:
            locality: whether the places that reach the first convolution are those of
                the image.
        """
        [front] = self._found.values()
        is_known = front.scale is not None or front.is_distorted
        self._moves_parts = not is_known and not locality()

    def at(self, image_size: tuple[int, int]) -> Front:
        """Return the front for images of a size (H, W).

        Raises:
            ReferenceError: where the model no longer exists.
        """
        if image_size not in self._found:
            model = self._model()
            if model is None:
                raise ReferenceError("The model of this view no longer exists.")
            arguments = model, image_size, self._like
            if tf.executing_eagerly():
                self._found[image_size] = look_at_front(*arguments)
            else:  # see `ModelView`
                with ThreadPoolExecutor(1) as executor:
                    found = executor.submit(look_at_front, *arguments)
                    self._found[image_size] = found.result()
        return self._found[image_size]

    def field(self, image_size: tuple[int | None, int | None]) -> Field | None:
        """Return the rectangle that maps of images of a size show.

        Args:
            image_size: (H, W), None where a graph leaves them open.

        Raises:
            ValueError: where the model moves the image in another way, or the size is
                open and the rectangle depends on it.
        """
        height, width = image_size
        if height is not None and width is not None:
            front = self.at((height, width))
            if front.is_distorted or self._moves_parts:
                how = (
                    "takes a part of each image that depends on the image"
                    if self._moves_parts
                    else "turns or bends images"
                )
                raise ValueError(
                    f"The model {how} before its first convolution, so that its maps "
                    "show no upright rectangle of all of them. Do that before you give "
                    "images to the model, or pass `resize=False` for maps as the model "
                    "sees them."
                )
            return front.field
        for size in OPEN_SIZES:
            size = height or size[0], width or size[1]
            if self.at(size)[:4] != self.at(OPEN_SIZES[0])[:4] or self.at(size).field:
                raise ValueError(
                    "The model crops or pads images, so where its maps lie depends on "
                    f"the size of the images, which is {image_size} here. State the "
                    "size, as with `EmbeddingCAM.as_model(input_shape=(H, W, c))`, or "
                    "pass `resize=False`."
                )
        return None


def look_at_front(
    model: keras.Model, image_size: tuple[int, int], images: Any = None
) -> Front:
    """Find out what a model does to images, from four that rise evenly or not at all.

    Of the images 0, 1, "column number" and "row number", a crop, a resizing and a
    rescaling in any order leave at each position ``a``, ``a + b`` and ``a + b x`` with
    the coordinate x that the position shows: whatever the layers are, and whether they
    are layers at all. Padding leaves ``b = 0``. Each run ends at the first convolution.

    Padding that a convolution without padding of its own takes away again is no
    padding: many networks begin so.

    Args:
        model: a built Keras model; called eagerly.
        image_size: (H, W) of the images.
        images: see `make_noise_images`, where the model leaves other sizes open.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((80, 100, 3)),
    ...     keras.layers.CenterCrop(40, 50),
    ...     keras.layers.Rescaling(1 / 127.5, offset=-1),
    ...     keras.layers.Conv2D(4, 3),
    ... ])
    >>> front = look_at_front(model, (80, 100))
    >>> print(front.field, round(255 * front.scale, 3), front.offset)
    (0.25, 0.25, 0.75, 0.75) 2.0 -1.0
    """
    for highest in (255.0, 1.0):  # what clips to [0, 1] is not linear in the first
        found = _look(model, image_size, images, highest)
        if found is not None:
            return found
    given = input_of_first_convolution(model, images, np.zeros(image_size, "float32"))
    return Front(input_size=None if given is None else given[0].shape[:2])


def _look(
    model: keras.Model, size: tuple[int, int], images: Any, highest: float
) -> Front | None:
    """Return the front for values in [0, highest], None where it is not linear."""
    skipped: list[Any] = []

    def run(make: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Any:
        rows, columns = (np.arange(n, dtype="float32") / max(n - 1, 1) for n in size)
        pixels = highest * make(rows[:, None], columns[None])
        return input_of_first_convolution(model, images, pixels, skipped)

    fixed = [x for x in tree.flatten(images) if ops.is_tensor(x) and x.ndim == 4]
    while (first := run(lambda y, x: 0 * (y + x))) is not None:
        zeros, convolution = first
        ones = run(lambda y, x: 0 * (y + x) + 1)[0]
        if not fixed or np.any(ones != zeros):
            break
        skipped.append(convolution)  # of another image, which stays as it is
    else:
        return None
    # One channel tells: of the others some may be empty, as for a colour.
    some = tuple(slice(None, None, max(1, n // NUM_LINES)) for n in zeros.shape[:2])
    channel = np.argmax(np.abs(ones[some] - zeros[some]).mean(axis=(0, 1)))
    zeros = zeros[..., channel].copy()
    spans = ones[..., channel] - zeros
    del ones, first
    typical = np.median(np.abs(spans[spans != 0])) if spans.any() else 0.0
    shown = np.abs(spans) > 0.5 * typical
    if not np.isfinite(typical) or not typical or shown.sum() < 4:
        return None
    divisors = np.where(shown, spans, 1)

    def coordinates(make: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Any:
        return (run(make)[0][..., channel] - zeros) / divisors

    ys, xs = coordinates(lambda y, x: y + 0 * x), coordinates(lambda y, x: x + 0 * y)
    both = coordinates(lambda y, x: (y + x) / 2)
    if np.abs(both - (xs + ys) / 2)[shown].max() > ROUNDING:
        return None
    consumed = tuple(_find_consumed(shown, axis, convolution) for axis in (0, 1))
    field = _find_field(shown, ys, xs, size, consumed)
    is_whole = field is not None and all(
        abs(side - whole) * length < TOLERANCE
        for side, whole, length in zip(field, (0, 0, 1, 1), 2 * size, strict=True)
    )
    scale = float(np.median(spans[shown]) / highest)
    offset = float(np.median(zeros[shown]))
    place = None if is_whole else field
    return Front(place, scale, offset, field is None, zeros.shape, consumed)


def _find_field(
    shown: np.ndarray,
    ys: np.ndarray,
    xs: np.ndarray,
    size: tuple[int, int],
    consumed: tuple[tuple[int, int], ...],
) -> Field | None:
    """Return the field, None where coordinates do not rise evenly along the axes."""
    sides: list[Any] = []
    for axis, (coordinates, length) in enumerate(zip((ys, xs), size, strict=True)):
        grid = np.where(shown, coordinates * (length - 1), np.nan)
        grid = grid if axis == 0 else grid.T
        # All lines, at some places each: the middle of the padding may be one of them.
        grid = grid[:, :: max(1, grid.shape[1] // NUM_LINES)]
        known = np.flatnonzero(np.isfinite(grid).any(axis=1))
        if length == len(grid) == 1:  # of one row or column no step can be seen
            sides.append((0.0, 1.0))
            continue
        lines = grid[known]
        middle = np.nanmedian(lines, axis=1)
        lag = len(known) // 2
        if not lag:
            return None
        # Medians: a resizing repeats the border.
        step = np.median((middle[lag:] - middle[:-lag]) / (known[lag:] - known[:-lag]))
        start = np.median(middle - step * known)
        allowed = 2 * TOLERANCE * max(1.0, abs(step), length / 255)
        inner = slice(len(known) // 10, len(known) - len(known) // 10)
        misses = np.abs(lines - (start + step * known)[:, None])[inner]
        if not step or np.nanmax(misses) > allowed:
            return None
        before, behind = consumed[axis]
        ends = before - 0.5, len(grid) - 0.5 - behind
        # To a hundredth of a pixel: a crop is one of whole pixels.
        sides.append([round(start + step * x + 0.5, 2) / length for x in ends])
    (top, bottom), (left, right) = sides
    return float(top), float(left), float(bottom), float(right)


def _find_consumed(shown: np.ndarray, axis: int, convolution: Any) -> tuple[int, int]:
    """Return how much of the padding at both ends a convolution takes away again."""
    if getattr(convolution, "padding", None) != "valid":
        return 0, 0
    reach = convolution.dilation_rate[axis] * (convolution.kernel_size[axis] - 1)
    known = np.flatnonzero(shown.any(axis=1 - axis))
    before, behind = int(known[0]), int(shown.shape[axis] - 1 - known[-1])
    return (
        before if before <= reach else reach // 2,
        behind if behind <= reach else reach // 2,
    )
