"""How results show themselves: in a notebook, and on matplotlib's axes."""

import base64
import html
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from keras_embcam.drawing import make_grid, overlay_heatmap, to_uint8
from keras_embcam.extras import import_extra

NUM_SHOWN = 8  # images, pairs or queries that are shown without being asked for
NUM_MAPS = 4  # maps of one image
MAX_HEIGHT = 960  # pixels: larger pictures would swell a notebook
OVERLAY_HEIGHT = 192


def check_matplotlib() -> None:
    """Check that what draws plots is installed.

    Raises:
        ImportError: without matplotlib.
    """
    import_extra("matplotlib.figure", "evaluation", "Plots need matplotlib")


def check_indices(indices: Any, num_results: int) -> list[int]:
    """Return which results to show: those asked for, or else the first eight.

    Raises:
        ValueError: for numbers that are not there.
    """
    if indices is None:
        return list(range(min(num_results, NUM_SHOWN)))
    chosen = np.atleast_1d(np.asarray(indices))
    if (
        chosen.dtype.kind not in "iu"
        or not ((0 <= chosen) & (chosen < num_results)).all()
    ):
        raise ValueError(
            f"`indices` must be integers from 0 to {num_results - 1}, the numbers of "
            f"the results to show, or None for the first. Received: {indices!r}"
        )
    return chosen.ravel().tolist()


def overlay_all(
    images: Any, heatmaps: Any, indices: Sequence[int]
) -> list[list[np.ndarray]]:
    """Draw the heat of some images: a list of overlays, one a map, for each.

    Args:
        images: (n, H, W, c) of any range that `to_uint8` knows, or a list of images.
        heatmaps: (n, h, w) or (n, m, h, w), >= 0, or a list of n such maps; those
            above 1 are divided by their maximum.
        indices: of the images to draw.
    """
    shown = [np.asarray(images[index]) for index in indices]
    if len({image.shape for image in shown}) == 1:
        shown = list(to_uint8(np.stack(shown)))  # the range is judged by all of them
    else:
        shown = [to_uint8(image[None])[0] for image in shown]
    pictures = []
    for index, image in zip(indices, shown, strict=True):
        height = max(OVERLAY_HEIGHT, min(len(image), 2 * OVERLAY_HEIGHT))
        image = _resize(image, height)
        maps = np.asarray(heatmaps[index], np.float32)
        maps = maps.reshape(-1, *maps.shape[-2:])[:NUM_MAPS]
        pictures.append(
            [overlay_heatmap(image, x / max(1, x.max(initial=0))) for x in maps]
        )
    return pictures


def to_html(
    pictures: Sequence[np.ndarray], captions: Sequence[str], num_results: int
) -> str:
    """Return pictures side by side as HTML that needs nothing else.

    Args:
        pictures: (height, width, 3) uint8 each.
        captions: one for each.
        num_results: how many there are in all; told where not all are shown.
    """
    cells = []
    for picture, caption in zip(pictures, captions, strict=True):
        small = _resize(picture, min(len(picture), MAX_HEIGHT))
        _, data = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
        encoded = base64.b64encode(data.tobytes()).decode()
        text = html.escape(caption)
        cells.append(
            '<figure style="display:inline-block;margin:4px;text-align:center">'
            f'<img alt="{text}" style="max-width:100%" src="data:image/jpeg;base64,'
            f'{encoded}"/><figcaption>{text}</figcaption>'
            "</figure>"
        )
    shown = len(pictures)
    if shown < num_results:
        cells.append(f"<p>The first {shown} of {num_results}.</p>")
    return f"<div>{''.join(cells)}</div>"


def plot_pictures(
    pictures: Sequence[np.ndarray], captions: Sequence[str] | None, ax: Any
) -> Any:
    """Show pictures in a grid on matplotlib's axes, new ones where `ax` is None.

    Returns:
        The axes.

    Raises:
        ImportError: without matplotlib.
    """
    check_matplotlib()
    grid = make_grid(pictures, captions, num_columns=min(4, len(pictures)))
    if ax is None:
        from matplotlib import pyplot

        width = min(12, grid.shape[1] / 80)
        size = (width, width * grid.shape[0] / grid.shape[1])
        ax = pyplot.subplots(figsize=size, layout="constrained")[1]
    ax.imshow(grid)
    ax.set_axis_off()
    return ax


def _resize(picture: np.ndarray, height: int) -> np.ndarray:
    if len(picture) == height:
        return picture
    width = max(1, round(picture.shape[1] * height / len(picture)))
    method = cv2.INTER_AREA if height < len(picture) else cv2.INTER_CUBIC
    return cv2.resize(picture, (width, height), interpolation=method)
