"""digit_scenes: exact boxes and masks, nothing shared, an honest shortcut."""

import colorsys
import doctest
import importlib

import cv2
import numpy as np
import pytest
from builders import hide_module

from keras_embcam.datasets import digit_scenes

pytest.importorskip("sklearn", reason="scikit-learn is not installed: extra [demo]")

MODULE = importlib.import_module("keras_embcam.datasets.digit_scenes")
DRAWING = importlib.import_module("keras_embcam.datasets.scene_drawing")


@pytest.mark.parametrize("module", [MODULE, DRAWING])
def test_doctests(module) -> None:
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


@pytest.mark.parametrize("size", [32, 64, (33, 160), (150, 48), (224, 224)])
def test_shapes_types_and_labels(size: int | tuple[int, int]) -> None:
    scenes = digit_scenes(7, image_size=size, classes=(6, 0, 9))
    shape = size if isinstance(size, tuple) else (size, size)
    assert scenes["image"].shape == (7, *shape, 3)
    assert scenes["image"].dtype == np.uint8
    assert scenes["label"].tolist() == [6, 0, 9, 6, 0, 9, 6]
    assert scenes["label"].dtype == np.int32
    assert scenes["bbox"].shape == (7, 4) and scenes["bbox"].dtype == np.float32
    assert scenes["segmentation_mask"].shape == (7, *shape)
    assert scenes["segmentation_mask"].dtype == np.bool_


def test_the_box_is_the_tightest_of_the_mask() -> None:
    scenes = digit_scenes(30, image_size=(40, 56))
    for mask, box in zip(scenes["segmentation_mask"], scenes["bbox"], strict=True):
        pixels = [(y, x) for y in range(40) for x in range(56) if mask[y, x]]
        top, left = min(y for y, _ in pixels), min(x for _, x in pixels)
        bottom, right = max(y for y, _ in pixels) + 1, max(x for _, x in pixels) + 1
        expected = [top / 40, left / 56, bottom / 40, right / 56]
        np.testing.assert_allclose(box, expected, rtol=1e-6)


def test_the_mask_is_the_digit() -> None:
    """The pixels well inside have one ink, and around the digit none has it."""
    scenes = digit_scenes(40, image_size=96)
    for image, mask in zip(scenes["image"], scenes["segmentation_mask"], strict=True):
        square = np.ones((3, 3), np.uint8)
        inside = cv2.erode(mask.astype(np.uint8), square) > 0
        near = cv2.dilate(mask.astype(np.uint8), square) > 0
        around = (cv2.dilate(near.astype(np.uint8), square) > 0) & ~near
        ink = np.median(image[inside], axis=0)
        distance = np.abs(image - ink).max(axis=-1)
        # A slit in the digit, narrower than a pixel, can leave a pixel partly bare.
        assert np.mean(distance[inside] > 0) < 0.02
        assert distance[around].min() > 25


def test_digits_cover_a_good_part_of_the_image() -> None:
    boxes = digit_scenes(200)["bbox"]
    share = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    # Rounding to whole pixels moves a side of some 25 pixels by one at most.
    low, high = 0.15 * (1 - 2 / 25), 0.25 * (1 + 2 / 25)
    assert share.min() > low and share.max() < high


def test_no_digit_vanishes_at_the_smallest_size() -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "evaluation"):
        for digit in np.concatenate(MODULE._load_digits(split)):
            coverage = DRAWING._digit_coverage(rng, digit, (32, 32))
            assert (coverage > 0.5).sum() >= 20


def test_same_seed_same_bits() -> None:
    first, again = digit_scenes(12, seed=5), digit_scenes(12, seed=5)
    other, longer = digit_scenes(12, seed=6), digit_scenes(20, seed=5)
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
        np.testing.assert_array_equal(first[name], longer[name][:12])
    assert all(
        np.any(a != b) for a, b in zip(first["image"], other["image"], strict=True)
    )


def test_splits_share_no_digit_and_no_part_of_a_photograph() -> None:
    from sklearn.datasets import load_digits, load_sample_images

    train, evaluation = MODULE._load_digits("train"), MODULE._load_digits("evaluation")
    known = [{d.tobytes() for d in np.concatenate(s)} for s in (train, evaluation)]
    assert not known[0] & known[1]
    every = np.pad(load_digits().images / 16, ((0, 0), (1, 1), (1, 1)))
    assert {d.tobytes() for d in every.astype(np.float32)} == known[0] | known[1]
    # Every class has twice as many digits to train as to evaluate, within one.
    for a, b in zip(train, evaluation, strict=True):
        assert 0 <= len(a) - 2 * len(b) <= 2
    left, right = MODULE._load_regions("train"), MODULE._load_regions("evaluation")
    for photograph, a, b in zip(load_sample_images().images, left, right, strict=True):
        # Side by side they are the photograph: no column is in both.
        np.testing.assert_array_equal(np.concatenate([a, b], axis=1), photograph)


def background_hues(scenes: dict[str, np.ndarray]) -> np.ndarray:
    """The place (n,) on the colour circle, 0 to 9, of the light of each scene."""
    places = []
    for image, mask in zip(scenes["image"], scenes["segmentation_mask"], strict=True):
        background = image[~mask] / 255
        grey = background @ [0.299, 0.587, 0.114]
        light = np.median(background / np.maximum(grey, 0.02)[:, None], axis=0)
        places.append(round(colorsys.rgb_to_hsv(*light)[0] * 10) % 10)
    return np.array(places)


@pytest.mark.parametrize("split", ["train", "evaluation"])
def test_the_shortcut_tells_as_often_as_it_says(split: str) -> None:
    num_scenes = 300
    certain = digit_scenes(num_scenes, image_size=32, split=split, shortcut=1.0)
    hues, labels = background_hues(certain), certain["label"]
    hue_of = {label: set(hues[labels == label]) for label in range(10)}
    assert all(len(places) == 1 for places in hue_of.values())
    places = [hue_of[label].pop() for label in range(10)]
    assert sorted(places) == list(range(10))
    for shortcut in (0.0, 0.5):
        scenes = digit_scenes(
            num_scenes, image_size=32, split=split, shortcut=shortcut, seed=1
        )
        right = np.mean(background_hues(scenes) == np.array(places)[scenes["label"]])
        expected = shortcut + (1 - shortcut) / 10
        deviation = np.sqrt(expected * (1 - expected) / num_scenes)
        assert abs(right - expected) < 4 * deviation


def test_hues_of_unseen_classes_lie_between_those_of_the_seen() -> None:
    seen, unseen = DRAWING.CUE_POSITIONS[:6], DRAWING.CUE_POSITIONS[6:]
    for place in unseen:
        assert (place - 1) % 10 in seen and (place + 1) % 10 in seen


def test_the_shortcut_changes_the_light_and_nothing_else() -> None:
    honest, cheat = (digit_scenes(60, shortcut=p, seed=2) for p in (0.0, 1.0))
    np.testing.assert_array_equal(
        honest["segmentation_mask"], cheat["segmentation_mask"]
    )
    assert np.mean(background_hues(honest) != background_hues(cheat)) > 0.75
    luminance = [s["image"] @ [0.299, 0.587, 0.114] for s in (honest, cheat)]
    # Each of three channels is rounded by half a level, and weights sum to one.
    assert np.abs(luminance[0] - luminance[1]).max() <= 1.0001
    for first, second, mask in zip(
        honest["image"], cheat["image"], honest["segmentation_mask"], strict=True
    ):
        inks = [np.median(image[mask], axis=0) for image in (first, second)]
        np.testing.assert_array_equal(*inks)


def test_place_size_and_ink_tell_nothing() -> None:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import cross_val_score

    scenes = digit_scenes(600, image_size=48)
    boxes, masks = scenes["bbox"], scenes["segmentation_mask"]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    ink = [np.median(i[m], axis=0) for i, m in zip(scenes["image"], masks, strict=True)]
    # Where the box may lie depends on its shape, and the shape is the digit's own:
    # the place is the share of the room that there is.
    room = 1 - (boxes[:, 2:] - boxes[:, :2])
    features = np.column_stack([boxes[:, :2] / room, area, ink])
    assert centres.std(axis=0).min() > 0.1
    forest = RandomForestClassifier(50, random_state=0)
    accuracy = cross_val_score(forest, features, scenes["label"], cv=5).mean()
    assert abs(accuracy - 0.1) < 4 * np.sqrt(0.1 * 0.9 / 600)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_scenes": 0}, "`num_scenes` must be a whole number.*num_scenes=0"),
        ({"num_scenes": 2.5}, "Received: num_scenes=2.5"),
        ({"split": "test"}, "`split` must be one of .*split='test'"),
        ({"classes": ()}, "`classes` must be distinct digits.*classes=\\(\\)"),
        ({"classes": (1, 1)}, "Received: classes=\\(1, 1\\)"),
        ({"classes": (9, 10)}, "Received: classes=\\(9, 10\\)"),
        ({"image_size": 31}, "`image_size` .* at least 32. Received: image_size=31"),
        ({"shortcut": 1.5}, "`shortcut` is a probability.*shortcut=1.5"),
        ({"shortcut": float("nan")}, "Received: shortcut=nan"),
        ({"seed": -1}, "`seed` must be a whole number >= 0. Received: seed=-1"),
    ],
)
def test_errors(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        digit_scenes(**{"num_scenes": 1} | arguments)


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_module(monkeypatch, "sklearn")
    MODULE._load_digits.cache_clear()
    with pytest.raises(ImportError, match=r'pip install "keras-embcam\[demo\]"'):
        digit_scenes(1)
