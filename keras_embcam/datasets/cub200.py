"""Caltech-UCSD Birds-200-2011, read from its official folder."""

import os
from pathlib import Path

import tensorflow as tf

from keras_embcam.datasets.cub200_tables import read_images, read_parts
from keras_embcam.datasets.framing import Example, check_frame, frame_example


def cub200(
    folder: str | os.PathLike[str],
    *,
    split: str = "all",
    image_size: int | tuple[int, int] | None = None,
    framing: str = "full_frame",
    parts: bool = False,
    segmentations: bool = False,
) -> tf.data.Dataset:
    """Read Caltech-UCSD Birds-200-2011 (Wah et al. 2011) from its official folder.

    Papers on metric learning train on the first half of the classes and evaluate
    on the second half, which the network never saw: `split="first_half"` and
    `split="second_half"`. Images come in the order of `images.txt`, class by class,
    so shuffle before training. Each image is decoded when it is asked for; grey
    files become RGB.

    Boxes that pass the border of the image are clipped to it. With
    `framing="centre_crop"` boxes are clipped to the crop; one that lies outside it
    becomes (0, 0, 0, 0), which the metrics count as no box.

    Args:
        folder: the folder that holds `images.txt`, `image_class_labels.txt`,
            `bounding_boxes.txt` (x y width height in pixels),
            `train_test_split.txt`, `classes.txt` and `images/`. Ids may have gaps.
        split: `"all"`; `"first_half"` or `"second_half"` of the classes (of an odd
            number, the second half is the larger one); `"official_train"` or
            `"official_test"`, the images marked 1 or 0 in `train_test_split.txt`.
        image_size: height and width of the images, or one number for both; None
            leaves each image at its own size, and they cannot be batched.
        framing: how an image is brought to that size: `"full_frame"` resizes all
            of it, whatever its proportions; `"centre_crop"` first cuts out the
            largest centred window of the right proportions.
        parts: adds the part points of `parts/part_locs.txt`.
        segmentations: adds the masks of the folder `segmentations` (a download of
            its own); a pixel belongs to the bird where the file, a mean over
            annotators, is above half.

    Returns:
        A dataset of known length of dicts: `"image"` (H, W, 3) uint8, `"label"`
        int32, the place of the class in `classes.txt` from 0 on, `"bbox"` (4,)
        float32 as rel_yxyx; on request `"parts"` (num_parts, 3) float32, relative
        y and x and 1, or three zeros for a part that is not visible, and
        `"segmentation_mask"` (H, W) bool.

    Raises:
        ValueError: for an unknown option, or a file that is not of this layout.
        FileNotFoundError: for a missing file, or masks that are not there.
        tf.errors.InvalidArgumentError: while the dataset is read, for an image that
            cannot be; the message names the file.

    Example:

    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for name, line in {
    ...     "classes.txt": "1 001.Mallard",
    ...     "images.txt": "7 001.Mallard/pond.png",
    ...     "image_class_labels.txt": "7 1",
    ...     "bounding_boxes.txt": "7 40.0 10.0 80.0 20.0",
    ...     "train_test_split.txt": "7 1",
    ... }.items():
    ...     _ = (folder / name).write_text(line)
    >>> picture = tf.io.encode_png(tf.zeros((40, 80, 3), tf.uint8))
    >>> tf.io.write_file(str(folder / "images/001.Mallard/pond.png"), picture)
    >>> example = next(iter(cub200(folder, image_size=32)))
    >>> example["image"].shape.as_list(), example["bbox"].numpy().tolist()
    ([32, 32, 3], [0.25, 0.5, 0.75, 1.0])
    """
    folder = Path(folder)
    size = check_frame(image_size, framing)
    table = read_images(folder, split)
    ids = table.pop("id")
    if parts:
        table["parts"] = read_parts(folder, ids)
    if segmentations and not (folder / "segmentations").is_dir():
        raise FileNotFoundError(
            f"{folder / 'segmentations'} is missing. The masks are a download of "
            "their own: unpack it there, or pass segmentations=False."
        )

    def load(row: Example) -> Example:
        image = _decode(folder / "images", row["path"], 3)
        extent = tf.cast(tf.shape(image)[1::-1], tf.float32)  # width, height
        example = {"image": image, "label": row["label"]}
        example["bbox"] = _relative_box(row["bbox"], extent)
        if parts:
            example["parts"] = _relative_parts(row["parts"], extent)
        if segmentations:
            path = tf.strings.regex_replace(row["path"], r"\.[^.]*$", ".png")
            mask = _decode(folder / "segmentations", path, 1)
            example["segmentation_mask"] = mask[..., 0] > 127
        return frame_example(example, size, framing)

    rows = tf.data.Dataset.from_tensor_slices(table)
    return rows.map(load, num_parallel_calls=tf.data.AUTOTUNE)


def _relative_box(box: tf.Tensor, extent: tf.Tensor) -> tf.Tensor:
    """Return a box x, y, width, height in pixels as rel_yxyx within the image."""
    low = tf.clip_by_value(box[:2] / extent, 0.0, 1.0)
    high = tf.clip_by_value((box[:2] + box[2:]) / extent, 0.0, 1.0)
    return tf.concat([low[::-1], high[::-1]], axis=0)


def _relative_parts(parts: tf.Tensor, extent: tf.Tensor) -> tf.Tensor:
    """Return parts x, y, visible in pixels as relative y, relative x, visible."""
    visible = parts[:, 2:] > 0
    points = (parts[:, :2] / extent)[:, ::-1]
    return tf.where(visible, tf.concat([points, parts[:, 2:]], axis=1), 0.0)


def _decode(folder: Path, path: tf.Tensor, num_channels: int) -> tf.Tensor:
    """Return an image (H, W, num_channels) uint8; an error names its file."""

    def read(path: tf.Tensor) -> tf.Tensor:
        file = str(folder / path.numpy().decode())
        try:
            return tf.io.decode_image(
                tf.io.read_file(file), channels=num_channels, expand_animations=False
            )
        except tf.errors.OpError as error:
            raise ValueError(
                f"Cannot read the image {file}: {error.message} Replace the file, or "
                "remove its line from images.txt."
            ) from error

    # The error of the decoding operation does not name the broken file.
    image = tf.py_function(read, [path], tf.uint8)
    image.set_shape((None, None, num_channels))
    return image
