"""Which proxy explains which image of a stream."""

from typing import Any

import numpy as np
from keras import ops

from keras_embcam.proxies import check_labels, check_proxies_shape, one_hot


class ProxyChooser:
    """The proxies of each batch of images, from one of the ways to state them.

    Args:
        proxies: see `explain_batches`, also for the next three.
        labels: (n,) integers.
        class_proxies: (classes, d).
        target_class: one integer, or (n,).
        num_images: n, where it is known beforehand.

    Raises:
        TypeError: for proxies that are no numbers.
        ValueError: for more than one way, or lengths that do not fit.
    """

    def __init__(
        self,
        proxies: Any = None,
        labels: Any = None,
        class_proxies: Any = None,
        target_class: Any = None,
        num_images: int | None = None,
    ) -> None:
        given = {
            "proxies": proxies,
            "class_proxies": class_proxies,
            "target_class": target_class,
        }
        names = [name for name, value in given.items() if value is not None]
        if len(names) > 1:
            raise ValueError(
                "Pass one of `proxies`, `class_proxies` and `target_class`. "
                f"Received: {names}"
            )
        if labels is not None and class_proxies is None:
            raise ValueError(
                "`labels` choose among `class_proxies`. Pass those too, for example "
                "`keras_embcam.proxies.class_mean(embeddings, labels)`."
            )
        self._proxies = proxies if callable(proxies) else _vectors("proxies", proxies)
        self._class_proxies = _vectors("class_proxies", class_proxies)
        self._labels = None if labels is None else np.asarray(labels)
        self._target_class = None if target_class is None else np.asarray(target_class)
        if num_images is not None:
            self.check_end(num_images)

    @property
    def explains_classes(self) -> bool:
        """Whether the outputs of a classifier are explained: by `target_class`."""
        return self._target_class is not None

    def choose(
        self, start: int, num_images: int, labels: np.ndarray | None, width: int
    ) -> Any:
        """Return the proxies of consecutive images.

        Args:
            start: the number of the first.
            num_images: how many they are.
            labels: (num_images,) where their source has them.
            width: d of the embedding.

        Returns:
            None for the images' own embeddings, a function of the embeddings, or an
            array (num_images, d) or (num_images, m, d).

        Raises:
            ValueError: for a wrong number or width, labels or classes out of range,
                NaN or infinity.
        """
        rows = slice(start, start + num_images)
        if self._target_class is not None:
            return self._choose_targets(rows, width)
        if self._class_proxies is not None:
            if self._labels is not None:
                labels = self._rows("labels", self._labels, rows)
            return self._choose_classes(labels, num_images, width)
        if self._proxies is None or callable(self._proxies):
            return self._proxies
        check_proxies_shape(self._proxies.shape, None, width)
        if self._proxies.ndim == 1:
            chosen = np.broadcast_to(self._proxies, (num_images, width))
        else:
            chosen = self._rows("proxies", self._proxies, rows)
        finite = np.isfinite(chosen.reshape(num_images, -1)).all(axis=-1)
        if not finite.all():
            raise ValueError(
                "`proxies` must be finite (an image without an active triplet has "
                "none). Not so for the images "
                f"{(np.flatnonzero(~finite)[:20] + start).tolist()}"
            )
        return chosen

    def check_end(self, num_images: int) -> None:
        """Check that what is given for each image is as long as the images.

        Raises:
            ValueError: where it is not.
        """
        for name, values in (
            ("proxies", self._proxies),
            ("labels", self._labels),
            ("target_class", self._target_class),
        ):
            if not isinstance(values, np.ndarray):
                continue
            has_rows = values.ndim > (1 if name == "proxies" else 0)
            if has_rows and len(values) != num_images:
                raise ValueError(_count_message(name, len(values), num_images))

    def _choose_targets(self, rows: slice, width: int) -> np.ndarray:
        num_images = rows.stop - rows.start
        targets = self._rows("target_class", self._target_class, rows)
        if not targets.ndim:
            targets = np.full(num_images, targets)
        targets = check_labels(targets, num_images, width, "target_class")
        return ops.convert_to_numpy(one_hot(targets, width))

    def _choose_classes(self, labels: Any, num_images: int, width: int) -> np.ndarray:
        if labels is None:
            raise ValueError("`class_proxies` need `labels`, one for each image.")
        shape = self._class_proxies.shape
        if len(shape) != 2 or shape[1] != width:
            raise ValueError(
                f"`class_proxies` must have the shape (classes, {width}), as wide as "
                f"the embedding. Received the shape {shape}"
            )
        labels = check_labels(labels, num_images, shape[0])
        chosen = self._class_proxies[labels]
        missing = np.unique(labels[~np.isfinite(chosen).all(axis=-1)])
        if len(missing):
            raise ValueError(
                "`class_proxies` must be finite. These classes have none (no images?): "
                f"{missing.tolist()}"
            )
        return chosen

    def _rows(self, name: str, values: Any, rows: slice) -> np.ndarray:
        if values.ndim and len(values) < rows.stop:
            raise ValueError(_count_message(name, len(values), rows.stop))
        return values[rows] if values.ndim else values


def _vectors(name: str, values: Any) -> Any:
    if values is None:
        return None
    try:
        with np.errstate(over="ignore"):  # infinity is reported later
            return np.asarray(values).astype("float32")
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`{name}` must be an array of numbers. Received: {values!r} (of type "
            f"{type(values).__name__})"
        ) from error


def _count_message(name: str, num_values: int, num_images: int) -> str:
    message = (
        f"`{name}` must have one row for each image. Received {num_values} for "
        f"{num_images} images. A single one without that axis serves all images."
    )
    if name == "proxies" and num_images == 1:
        message += (
            " For several maps of one image, as of a query and its gallery, pass "
            "`proxies[None]`, of the shape (1, m, d)."
        )
    return message
