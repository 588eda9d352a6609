"""Pictures read one after another, and what is to be said of them in the end."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from keras_embcam.running.image_files import picture_to_array, read_image, resize_image

NUM_NAMED = 10
# Of a picture: less is an edge or rounded corners.
LARGEST_TRANSPARENT_SHARE = 0.01


class PictureReader:
    """Reads files and Pillow images, and notes what is odd about them.

    Args:
        channels: 3 for RGB, 1 for grey, 4 for RGBA.
        size: (H, W) to resize to, bilinearly, or None.
        strict: whether what cannot be read is an error. Otherwise it is left out.
    """

    def __init__(
        self, channels: int, size: tuple[int, int] | None, strict: bool
    ) -> None:
        self._channels = channels
        self._size = size
        self._strict = strict
        self._skipped: list[str] = []
        self._transparent: list[str] = []

    def read(self, picture: Path | Image.Image) -> np.ndarray | None:
        """Return a picture as float32 (H, W, channels), None where it is left out.

        Raises:
            ValueError: with `strict`, for what cannot be read.
        """
        try:
            if isinstance(picture, Path):
                image = read_image(picture, self._channels, self._size)
            else:
                array = picture_to_array(picture, self._channels)
                image = resize_image(array, self._size)
        except ValueError as error:
            if self._strict:
                raise
            self._skipped.append(str(error).removeprefix("Cannot read the image "))
            return None
        if self._channels < 4 and has_transparent_parts(picture):
            name = picture if isinstance(picture, Path) else f"{picture.mode} image"
            self._transparent.append(str(name))
        return image

    def finish(self, num_pictures: int) -> None:
        """Warn of what was left out, and of transparent pictures.

        Raises:
            ValueError: where none could be read.
        """
        if self._transparent:
            warnings.warn(
                f"{len(self._transparent)} of {num_pictures} images have transparent "
                "parts. The network sees the colours that are hidden there, as with "
                "`keras.utils.load_img`; paste the images onto a background to explain "
                f"what is visible: {_name(self._transparent)}",
                stacklevel=4,
            )
        if self._skipped and len(self._skipped) == num_pictures:
            raise ValueError(f"Cannot read any of the images: {_name(self._skipped)}")
        if self._skipped:
            warnings.warn(
                f"{len(self._skipped)} of {num_pictures} images cannot be read and are "
                "left out (`strict=True` makes that an error): "
                f"{_name(self._skipped)}",
                stacklevel=4,
            )


def has_transparent_parts(picture: Path | Image.Image) -> bool:
    """Tell whether more than a hundredth of a picture is wholly transparent.

    Example:

    >>> has_transparent_parts(Image.new("RGBA", (8, 8), (255, 0, 0, 0)))
    True
    """
    try:
        if isinstance(picture, Path):
            with Image.open(picture) as opened:
                return has_transparent_parts(opened)
        if "A" not in picture.getbands() and "transparency" not in picture.info:
            return False
        alpha = np.asarray(picture.convert("RGBA").getchannel("A"))
    except Exception:  # what TensorFlow or OpenCV read and Pillow does not
        return False
    return bool(np.mean(alpha == 0) > LARGEST_TRANSPARENT_SHARE)


def _name(texts: list[str]) -> str:
    named = "; ".join(texts[:NUM_NAMED])
    num_further = len(texts) - NUM_NAMED
    return f"{named}; and {num_further} more" if num_further > 0 else named
