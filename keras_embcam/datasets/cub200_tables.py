"""The text files of Caltech-UCSD Birds-200-2011."""

from pathlib import Path

import numpy as np

SPLITS = ("all", "first_half", "second_half", "official_train", "official_test")


def read_images(folder: Path, split: str) -> dict[str, np.ndarray]:
    r"""Return one row for each image of a split, in the order of `images.txt`.

    Args:
        folder: the folder of the data set.
        split: one of `SPLITS`.

    Returns:
        A dict of arrays: `"id"` (n,) int64, `"path"` (n,) str below `images/`,
        `"label"` (n,) int32 from 0 on, `"bbox"` (n, 4) float32 as x, y, width,
        height in pixels.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for an unknown split, a split without images, or a file that
            is not of this layout.

    Example:

    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for name, text in {
    ...     "classes.txt": "1 001.Mallard\n2 002.Teal",
    ...     "images.txt": "7 001.Mallard/pond.png\n9 002.Teal/reed.png",
    ...     "image_class_labels.txt": "7 1\n9 2",
    ...     "bounding_boxes.txt": "7 40.0 10.0 80.0 20.0\n9 0.0 0.0 5.0 5.0",
    ...     "train_test_split.txt": "7 1\n9 0",
    ... }.items():
    ...     _ = (folder / name).write_text(text)
    >>> read_images(folder, "second_half")["path"].tolist()
    ['002.Teal/reed.png']
    """
    if split not in SPLITS:
        raise ValueError(
            f"`split` must be one of {SPLITS}. Received: split={split!r}. Pass "
            "'first_half' to train and 'second_half' to evaluate on unseen classes."
        )
    classes = sorted(_read_names(folder / "classes.txt"))
    paths = _read_names(folder / "images.txt")
    ids = list(paths)
    class_ids = _read_values(folder / "image_class_labels.txt", 1, ids)[:, 0]
    unknown = sorted(set(class_ids.astype(int).tolist()) - set(classes))
    if unknown:
        raise ValueError(
            f"{folder / 'image_class_labels.txt'} names classes that classes.txt does "
            f"not have: {unknown[:5]}. Pass the folder of one complete data set."
        )
    labels = np.searchsorted(classes, class_ids).astype(np.int32)
    official = _read_values(folder / "train_test_split.txt", 1, ids)[:, 0]
    half = len(classes) // 2
    chosen = {
        "all": np.ones(len(ids), np.bool_),
        "first_half": labels < half,
        "second_half": labels >= half,
        "official_train": official == 1,
        "official_test": official == 0,
    }[split]
    if not chosen.any():
        raise ValueError(
            f"The split holds no image. Received: split={split!r} of {len(ids)} images "
            f"in {len(classes)} classes in {folder}. Pass another split."
        )
    table = {
        "id": np.array(ids, np.int64),
        "path": np.array(list(paths.values())),
        "label": labels,
        "bbox": _read_values(folder / "bounding_boxes.txt", 4, ids),
    }
    return {name: rows[chosen] for name, rows in table.items()}


def read_parts(folder: Path, ids: np.ndarray) -> np.ndarray:
    """Return the part points of images.

    Args:
        folder: the folder of the data set, with `parts/part_locs.txt`.
        ids: (n,) int64, the images.

    Returns:
        (n, num_parts, 3) float32: x and y in pixels, and 1 where visible, else 0.
        A part without a line is not visible.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for a file that is not of this layout.

    Example:

    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> (folder / "parts").mkdir()
    >>> _ = (folder / "parts/part_locs.txt").write_text("7 2 31.0 12.0 1")
    >>> read_parts(folder, np.array([7])).tolist()
    [[[0.0, 0.0, 0.0], [31.0, 12.0, 1.0]]]
    """
    numbers = _read_numbers(folder / "parts" / "part_locs.txt", 5)
    part_ids = numbers[:, 1].astype(int)
    points = np.zeros((len(ids), part_ids.max(), 3), np.float32)
    row_of = {image_id: row for row, image_id in enumerate(ids.tolist())}
    rows = np.array([row_of.get(image_id, -1) for image_id in numbers[:, 0].tolist()])
    asked = rows >= 0
    points[rows[asked], part_ids[asked] - 1] = numbers[asked, 2:]
    return points


def _read_values(path: Path, num_values: int, ids: list[int]) -> np.ndarray:
    """Return the values (n, num_values) float32 of the images, in their order."""
    numbers = _read_numbers(path, num_values + 1)
    row_of = {image_id: row for row, image_id in enumerate(numbers[:, 0].tolist())}
    missing = [image_id for image_id in ids if image_id not in row_of]
    if missing:
        raise ValueError(
            f"{path} has no line for {len(missing)} images of images.txt, such as "
            f"{missing[:5]}. Pass the folder of one complete data set."
        )
    return numbers[[row_of[image_id] for image_id in ids], 1:].astype(np.float32)


def _read_numbers(path: Path, num_columns: int) -> np.ndarray:
    """Return a file of numbers as (lines, num_columns) float64."""
    rows = []
    for number, line in _read_lines(path):
        try:
            rows.append([float(column) for column in line.split()])
        except ValueError:
            rows.append([])
        if len(rows[-1]) != num_columns:
            raise _wrong_layout(path, number, line, f"{num_columns} numbers")
    return np.array(rows, np.float64)


def _read_names(path: Path) -> dict[int, str]:
    """Return a file of lines `id name`, in their order."""
    names = {}
    for number, line in _read_lines(path):
        start, _, name = line.partition(" ")
        if not (start.isdecimal() and name.strip()):
            raise _wrong_layout(path, number, line, "a number and a name")
        names[int(start)] = name.strip()
    return names


def _read_lines(path: Path) -> list[tuple[int, str]]:
    """Return the lines that are not empty, with their numbers."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing. Pass the folder of Caltech-UCSD Birds-200-2011 that "
            "holds images.txt, usually named CUB_200_2011."
        )
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    filled = [(number, line) for number, line in lines if line.strip()]
    if not filled:
        raise ValueError(f"{path} is empty. Pass the folder of a complete data set.")
    return filled


def _wrong_layout(path: Path, number: int, line: str, rule: str) -> ValueError:
    return ValueError(
        f"{path} is not in the layout of CUB-200-2011: each line holds {rule}. "
        f"Received in line {number}: {line!r}. Pass the official file."
    )
