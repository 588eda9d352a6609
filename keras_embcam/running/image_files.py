"""Image files: found in folders, decoded, turned upright and resized."""

import io
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps, UnidentifiedImageError

# What is looked for in folders. Cameras write HEIC: it cannot be read without a plugin
# of Pillow, and is listed so that it is reported and not passed over in silence.
SUFFIXES = (
    ".avif .bmp .gif .heic .heif .jfif .jp2 .jpe .jpeg .jpg .pgm .png .ppm .tif .tiff "
    ".webp"
).split()

# TensorFlow decodes these (JPEG, PNG, GIF) to the last digit as the pipelines do that
# models are trained with. Pillow's JPEG differs from it by a few levels.
READ_BY_TENSORFLOW = {
    3: (b"\xff\xd8\xff", b"\x89PNG", b"GIF8"),
    1: (b"\xff\xd8\xff", b"\x89PNG"),
}

# Pillow's modes by the number of channels.
MODES = {1: "L", 3: "RGB", 4: "RGBA"}

ORIENTATION = 0x0112  # the tag of EXIF


def list_files(path: Path) -> list[Path]:
    """Return the image files of a folder and its folders, sorted; a file is itself.

    Raises:
        ValueError: where the path does not exist, or there is no image in it.
    """
    if not path.exists():
        raise ValueError(f"`images` must exist. Received: {str(path)!r}")
    if path.is_file():
        return [path]
    files = sorted(x for x in path.rglob("*") if x.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(
            f"The folder {str(path)!r} has no images ({', '.join(SUFFIXES)})."
        )
    return files


def check_image_size(size: Any) -> tuple[int, int] | None:
    """Return (height, width), or None as it is.

    Raises:
        ValueError: for anything else than two integers >= 1.
    """
    if size is None:
        return None
    is_size = (
        isinstance(size, list | tuple)
        and len(size) == 2
        and all(isinstance(x, int | np.integer) and x > 0 for x in size)
    )
    if not is_size:
        raise ValueError(
            "`image_size` must be (height, width), two integers >= 1. Received: "
            f"{size!r}"
        )
    return int(size[0]), int(size[1])


def read_image(
    path: Path, channels: int = 3, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Read an image file as float32 (H, W, channels) in [0, 255], upright.

    Args:
        path: of a file that TensorFlow, Pillow or OpenCV decode: JPEG, PNG, GIF (its
            first picture), BMP, WebP, TIFF, AVIF and others.
        channels: 3 for RGB, 1 for grey, 4 for RGBA.
        size: (H, W) to resize to, bilinearly, or None.

    Raises:
        ValueError: for a file that is missing, truncated or no image.
    """
    try:
        image = decode_image(path.read_bytes(), channels)
    except OSError as error:
        raise ValueError(
            f"Cannot read the image {str(path)!r}: {error.strerror or error}"
        ) from error
    except ValueError as error:
        reason = str(error).removeprefix("Cannot read the image: ")
        raise ValueError(f"Cannot read the image {str(path)!r}: {reason}") from error
    return resize_image(image, size)


def resize_image(image: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Return an image (H, W, c) as float32, resized bilinearly if there is a size."""
    # Not cast before: a large photograph as floats would take four times as much.
    if size is None:
        return image.astype("float32")
    return tf.image.resize(image, size).numpy()


def decode_image(encoded: bytes, channels: int = 3) -> np.ndarray:
    """Return the pixels of an image file, uint8 (H, W, channels).

    Turned as its EXIF data say, as viewers show it.

    Args:
        encoded: the content of the file.
        channels: 3 for RGB, 1 for grey, 4 for RGBA.

    Raises:
        ValueError: for what is truncated or no image, with the reason.
    """
    if channels not in MODES:
        raise ValueError(
            "Cannot read the image: files are read with 1, 3 or 4 channels, and the "
            f"model takes {channels}. Pass arrays."
        )
    try:
        if encoded.startswith(READ_BY_TENSORFLOW.get(channels, ())):
            image = tf.io.decode_image(encoded, channels, expand_animations=False)
            return _turn_upright(image.numpy(), _read_orientation(encoded))
        with Image.open(io.BytesIO(encoded)) as opened:
            return picture_to_array(opened, channels)
    except tf.errors.OpError as error:
        # Without the names of TensorFlow's operations around it.
        reason = re.sub(r"\{\{.*?\}\} | \[Op:.*", "", error.message.splitlines()[0])
        raise ValueError(f"Cannot read the image: {reason}") from error
    except UnidentifiedImageError as error:
        # OpenCV knows kinds of TIFF that Pillow does not.
        content = np.frombuffer(encoded, "uint8")
        found = cv2.imdecode(content, cv2.IMREAD_COLOR) if encoded else None
        if found is None:
            raise ValueError(
                "Cannot read the image: it is empty, or in no format that TensorFlow, "
                "Pillow or OpenCV know (HEIC needs a plugin of Pillow, pillow-heif)."
            ) from error
        return picture_to_array(Image.fromarray(found[..., ::-1]), channels)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"Cannot read the image: {error}") from error


def picture_to_array(picture: Image.Image, channels: int = 3) -> np.ndarray:
    """Return the pixels of a Pillow image, upright, uint8 (H, W, channels).

    Raises:
        ValueError: for pixels that are neither of 8 nor of 16 bits.
    """
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("I", "F"):
        raise ValueError(
            "Cannot read the image: its pixels must have 8 or 16 bits. Received an "
            f"image of Pillow's mode {picture.mode!r}"
        )
    if picture.mode.startswith("I;16"):
        # The higher byte, as TensorFlow reads PNG of 16 bits.
        grey = (np.asarray(picture) >> 8).astype("uint8")
        return np.repeat(grey[..., None], channels, axis=-1)
    array = np.asarray(picture.convert(MODES[channels]))
    return array[..., None] if channels == 1 else array


def _read_orientation(encoded: bytes) -> Any:
    if b"Exif" not in encoded and b"eXIf" not in encoded:
        return 1
    try:
        with Image.open(io.BytesIO(encoded)) as opened:
            return opened.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF data fail in many ways; the pixels are there
        return 1


def _turn_upright(image: np.ndarray, orientation: Any) -> np.ndarray:
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image
