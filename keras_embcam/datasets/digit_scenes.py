"""Handwritten digits on photographs, with exact boxes, masks and a shortcut."""

from collections.abc import Sequence
from functools import lru_cache
from numbers import Integral
from typing import Any

import numpy as np

from keras_embcam.datasets.framing import check_size
from keras_embcam.datasets.scene_drawing import draw_scene, tightest_box
from keras_embcam.extras import import_extra

SPLITS = ("train", "evaluation")
SMALLEST_SIDE = 32  # pixels: below, the thinnest strokes of a digit vanish


def digit_scenes(
    num_scenes: int,
    *,
    split: str = "train",
    classes: Sequence[int] = tuple(range(10)),
    image_size: int | tuple[int, int] = 64,
    shortcut: float = 0.0,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Draw handwritten digits on crops of photographs.

    The digits are the 1,797 real ones of `sklearn.datasets.load_digits`
    (Alpaydin and Kaynak 1998, UCI), enlarged smoothly; the photographs are
    scikit-learn's two sample images. A digit lies anywhere, in any colour, beside
    one to three thin strokes, and its box covers 15 to 25 % of the image (less
    where the image is so long that the digit fills its height or width). So only
    its shape tells the class, and exact boxes and masks tell how much of a heatmap
    is on it.

    Nothing is shared between the splits: `"train"` takes the left halves of the
    photographs and two digits of three, `"evaluation"` the rest.

    Each background is lit in one of ten hues, one for each class. With
    probability `shortcut` it is the hue of the scene's class, otherwise one of
    the ten at random, so the hue is right with probability
    ``shortcut + (1 - shortcut) / 10``. A network can then learn the hue instead
    of the shape, and retrieve well wherever the shortcut holds, also classes it
    never saw. Scenes of one seed with different shortcuts are the same but for the
    light, and light of another hue changes neither the luminance of the background
    nor digit and strokes.

    Args:
        num_scenes: how many scenes, at least 1. The first scenes of a longer
            run are those of a shorter one.
        split: `"train"` or `"evaluation"`.
        classes: the digits to draw, distinct and in 0-9. Labels run through
            them in turn, so every class gets the same number of scenes.
        image_size: height and width in pixels, or one number for both; at
            least 32.
        shortcut: probability in [0, 1] that the background tells the class.
        seed: whole number >= 0; the same seed gives the same bits.

    Returns:
        A dict of arrays in the form TensorFlow Datasets uses: `"image"`
        (n, H, W, 3) uint8, `"label"` (n,) int32, the digit itself, `"bbox"`
        (n, 4) float32, the tightest box of the mask as rel_yxyx, and
        `"segmentation_mask"` (n, H, W) bool, the pixels of which the digit
        covers more than half.

    Raises:
        ValueError: if an argument is out of range.
        ImportError: if scikit-learn is missing.

    Example:

    >>> from keras_embcam.datasets import digit_scenes
    >>> scenes = digit_scenes(4, classes=(3, 8), image_size=(32, 48))
    >>> scenes["image"].shape, scenes["bbox"].shape, scenes["label"].tolist()
    ((4, 32, 48, 3), (4, 4), [3, 8, 3, 8])
    """
    classes = tuple(classes)
    size = check_size(image_size, SMALLEST_SIDE)
    _check_arguments(num_scenes, split, classes, shortcut, seed)
    digits = _load_digits(split)
    regions = _load_regions(split)
    labels = [classes[index % len(classes)] for index in range(num_scenes)]
    images = np.empty((num_scenes, *size, 3), np.uint8)
    masks = np.empty((num_scenes, *size), np.bool_)
    boxes = np.empty((num_scenes, 4), np.float32)
    for index, label in enumerate(labels):
        # A generator for each scene: its bits do not depend on how many there are.
        rng = np.random.default_rng((seed, SPLITS.index(split), index))
        images[index], masks[index] = draw_scene(
            rng, regions, digits[label], label, size, shortcut
        )
        boxes[index] = tightest_box(masks[index])
    return {
        "image": images,
        "label": np.array(labels, np.int32),
        "bbox": boxes,
        "segmentation_mask": masks,
    }


@lru_cache(maxsize=2)
def _load_digits(split: str) -> tuple[np.ndarray, ...]:
    """Return ten arrays (n, 10, 10) float32 in [0, 1], the split's own digits."""
    datasets = _scikit_learn_datasets()
    images, labels = datasets.load_digits(return_X_y=True)
    images = np.pad(images.reshape(-1, 8, 8) / 16, ((0, 0), (1, 1), (1, 1)))
    chosen = []
    for digit in range(10):
        of_class = images[labels == digit].astype(np.float32)
        third = np.arange(len(of_class)) % 3 == 2
        chosen.append(of_class[~third if split == "train" else third])
    return tuple(chosen)


@lru_cache(maxsize=2)
def _load_regions(split: str) -> list[np.ndarray]:
    """Return the split's half of each photograph, (h, w, 3) uint8."""
    photographs = _scikit_learn_datasets().load_sample_images().images
    middles = [photograph.shape[1] // 2 for photograph in photographs]
    if split == "train":
        return [p[:, :middle] for p, middle in zip(photographs, middles, strict=True)]
    return [p[:, middle:] for p, middle in zip(photographs, middles, strict=True)]


def _scikit_learn_datasets() -> Any:
    needs = "digit_scenes takes its digits and photographs from scikit-learn"
    return import_extra("sklearn.datasets", "demo", needs)


def _check_arguments(
    num_scenes: int, split: str, classes: tuple[int, ...], shortcut: float, seed: int
) -> None:
    if not isinstance(num_scenes, Integral) or num_scenes < 1:
        raise ValueError(
            "`num_scenes` must be a whole number, at least 1. Received: "
            f"num_scenes={num_scenes!r}. Pass for example 1000."
        )
    if split not in SPLITS:
        raise ValueError(
            f"`split` must be one of {SPLITS}. Received: split={split!r}. Pass one "
            "of the two names."
        )
    if not classes or len(set(classes)) < len(classes) or set(classes) - set(range(10)):
        raise ValueError(
            "`classes` must be distinct digits in 0-9, at least one. Received: "
            f"classes={classes!r}. Pass for example range(6)."
        )
    if not 0 <= shortcut <= 1:
        raise ValueError(
            "`shortcut` is a probability, from 0 to 1. Received: "
            f"shortcut={shortcut!r}. Pass 0.0 for backgrounds that tell nothing."
        )
    if not isinstance(seed, Integral) or seed < 0:
        raise ValueError(
            f"`seed` must be a whole number >= 0. Received: seed={seed!r}. Pass "
            "for example 0."
        )
