"""Data sets of TensorFlow Datasets, brought to one form."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf

from keras_embcam.datasets.framing import Example, check_frame, frame_example
from keras_embcam.extras import import_extra

ENTRIES = ("image", "label", "bbox", "segmentation_mask")
Leaf = tuple[tuple[str, ...], Any, bool]  # keys, feature, whether in a sequence
Foreground = int | Callable[[tf.Tensor], tf.Tensor] | None


def from_tfds(
    builder: Any,
    split: str,
    *,
    image_size: int | tuple[int, int] | None = None,
    framing: str = "full_frame",
    features: Mapping[str, str] | None = None,
    foreground: Foreground = None,
) -> tf.data.Dataset:
    """Read a data set of TensorFlow Datasets as labelled examples.

    The entries of an example are found among the builder's features by type and
    name, at any depth:

    * `"image"`: the `Image` named so, else the only `Image` of three channels;
    * `"label"`: the `ClassLabel` named so, else the only one (those of single
      objects, inside a `Sequence`, do not count);
    * `"bbox"`: the `BBoxFeature` named so, also inside a `Sequence`
      (`objects/bbox` of coco and stanford_dogs): then there are several boxes;
    * `"segmentation_mask"`: the feature named so.

    A box or a mask of another name is never taken by itself, because it may
    outline something else (oxford_iiit_pet's `head_bbox`), and an entry for which
    several features would do is left out: name them in `features`.
    Masks for each object, videos and boxes that are not rel_yxyx are not supported.

    Args:
        builder: a builder, or its name, such as `"caltech_birds2011"`. Its data
            must be prepared: nothing is downloaded here.
        split: such as `"train"` or `"test[:10%]"`.
        image_size: height and width of the images, or one number for both; None
            leaves each image at its own size.
        framing: how an image is brought to that size: `"full_frame"` resizes all
            of it, whatever its proportions; `"centre_crop"` first cuts out the
            largest centred window of the right proportions.
        features: the feature to take for an entry, by its path, for example
            `{"bbox": "head_bbox", "label": "species"}`.
        foreground: what counts as the object in a mask of numbers: the one value
            of it (1 for oxford_iiit_pet), or a function of the mask, such as
            ``lambda mask: mask > 127``. None keeps the numbers, so that a value
            for undecided pixels is not lost.

    Returns:
        A dataset of dicts: `"image"` (H, W, c) uint8 and, where the builder has
        them, `"label"` () int32, `"bbox"` float32 as rel_yxyx, (4,) or (m, 4) with
        m differing from image to image (batch those with `padded_batch` or
        `ragged_batch`), `"segmentation_mask"` (H, W) bool, or uint8 where
        `foreground` is None.

    Raises:
        ImportError: if tensorflow-datasets is missing.
        ValueError: for data that are not prepared, for an unknown entry or feature,
            and for a builder without an image or with boxes of another format.

    Example (needs the extra `[tfds]`):

    >>> import tensorflow_datasets as tfds
    >>> with tfds.testing.mock_data(num_examples=1):
    ...     birds = from_tfds("caltech_birds2011", "train", image_size=64)
    >>> sorted(birds.element_spec)
    ['bbox', 'image', 'label', 'segmentation_mask']
    """
    needs = "from_tfds needs tensorflow-datasets"
    tfds = import_extra("tensorflow_datasets", "tfds", needs)
    size = check_frame(image_size, framing)
    if isinstance(builder, str):
        builder = tfds.builder(builder)
    leaves = _walk(tfds.features, builder.info.features)
    known = {"/".join(leaf[0]): leaf for leaf in leaves}
    paths = _choose_features(tfds.features, known, dict(features or {}))
    try:
        dataset = builder.as_dataset(split=split)
    except AssertionError as error:
        raise ValueError(
            f"The data of {builder.info.full_name} are not prepared. Call the "
            f"builder's download_and_prepare() first. ({error})"
        ) from error

    def convert(row: Mapping[str, Any]) -> Example:
        example = {entry: _get(row, known[path][0]) for entry, path in paths.items()}
        if "label" in example:
            example["label"] = tf.cast(example["label"], tf.int32)
        if "segmentation_mask" in example:
            mask = _binarise(example["segmentation_mask"], foreground)
            example["segmentation_mask"] = mask
        return frame_example(example, size, framing)

    return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def _walk(
    kinds: Any, feature: Any, keys: tuple[str, ...] = (), in_sequence: bool = False
) -> Iterator[Leaf]:
    """Yield every feature that holds no others."""
    if isinstance(feature, kinds.Sequence):
        yield from _walk(kinds, feature.feature, keys, True)
    elif isinstance(feature, kinds.FeaturesDict):
        for name, child in feature.items():
            yield from _walk(kinds, child, (*keys, name), in_sequence)
    else:
        yield keys, feature, in_sequence


def _choose_features(
    kinds: Any, known: dict[str, Leaf], named: dict[str, str]
) -> dict[str, str]:
    """Return the path of the feature of each entry that there is."""
    unknown = [entry for entry in named if entry not in ENTRIES]
    unknown += [path for path in named.values() if path not in known]
    if unknown:
        raise ValueError(
            f"`features` maps entries of {ENTRIES} to features of the builder. "
            f"Received: features={named!r}, of which {unknown} are unknown. Pass "
            f"features of {sorted(known)}."
        )
    paths = {entry: _find(kinds, known, entry) for entry in ENTRIES} | named
    if not paths["image"]:
        raise ValueError(
            "No feature is plainly the image. Received: a builder with the features "
            f"{sorted(known)}. Name it: features={{'image': ...}}."
        )
    if paths["bbox"]:
        box_format = getattr(known[paths["bbox"]][1], "bbox_format", "REL_YXYX")
        if getattr(box_format, "name", box_format) != "REL_YXYX":
            raise ValueError(
                "Boxes must be rel_yxyx, the form TensorFlow Datasets recommends. "
                f"Received: {paths['bbox']!r} with bbox_format={box_format}. Convert "
                "them in a builder of your own."
            )
    return {entry: path for entry, path in paths.items() if path}


def _find(kinds: Any, known: dict[str, Leaf], entry: str) -> str:
    """Return the path of the feature that is plainly meant, or an empty one."""
    kind, in_sequence = {
        "image": (kinds.Image, False),
        "label": (kinds.ClassLabel, False),
        "bbox": (kinds.BBoxFeature, True),
        "segmentation_mask": (object, False),
    }[entry]
    fitting = {
        path: leaf
        for path, leaf in known.items()
        if isinstance(leaf[1], kind) and (in_sequence or not leaf[2])
    }
    chosen = [path for path, leaf in fitting.items() if leaf[0][-1] == entry]
    if not chosen and entry == "image":
        chosen = [path for path, leaf in fitting.items() if leaf[1].shape[-1] == 3]
    if not chosen and entry == "label":
        chosen = list(fitting)
    return chosen[0] if len(chosen) == 1 else ""


def _get(row: Any, keys: tuple[str, ...]) -> tf.Tensor:
    for key in keys:
        row = row[key]
    return row


def _binarise(mask: tf.Tensor, foreground: Foreground) -> tf.Tensor:
    """Return a mask (H, W) or (H, W, 1) as (H, W), boolean where that is stated."""
    if mask.shape.rank == 3:
        mask = mask[..., 0]
    if foreground is None:
        return mask
    return foreground(mask) if callable(foreground) else mask == foreground
