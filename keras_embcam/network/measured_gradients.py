"""Measure on noise images which gradients the embedding of a model has at layers."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import ops, tree

from keras_embcam.network.embedding_source import EmbeddingSource
from keras_embcam.network.gradient_checks import length_gradient, random_directions
from keras_embcam.network.noise_images import NUM_PROBES
from keras_embcam.network.noise_runs import run_on_noise
from keras_embcam.network.recording import run_and_record
from keras_embcam.unit_vectors import normalize_rows

Tensor = Any


class Measured(NamedTuple):
    """What a run on noise images and two ways back show, float32.

    Attributes:
        outputs: of each layer.
        embeddings: (n, d).
        gradients: of a random direction of the embedding at each output.
        length_gradient: see `length_gradient`, at the last layer.
        goes_around: whether the images may reach the embedding around these layers.
    """

    outputs: list[np.ndarray]
    embeddings: np.ndarray
    gradients: list[np.ndarray]
    length_gradient: float
    goes_around: bool

    @property
    def is_flat(self) -> bool:
        """Whether embeddings other than zero have no gradient at the last layer."""
        has_value = self.embeddings.any(axis=1)
        return bool(has_value.any() and not self.gradients[-1][has_value].any())


def measure_gradients(
    model: keras.Model,
    probe: Any,
    operations: Sequence[Any],
    paths: Sequence[str],
    source: EmbeddingSource,
) -> Measured:
    """Run a model on noise images, and back to some of its layers.

    Args:
        model: see `run_and_record`.
        probe: see `make_noise_images`.
        operations: the layers.
        paths: of the layers.
        source: of the embedding.

    Raises:
        NoGradientError: where the embedding does not use a layer.
        ValueError: as in `run_and_record`.
    """
    goes_around = False

    def measure(images: Any, directions: Tensor) -> Any:
        nonlocal goes_around
        run = run_and_record(model, images, operations, paths, source)
        goes_around = may_go_around(images, run.outputs, run.embeddings)
        _check_rows(paths, run.outputs, run.embeddings.shape[0])
        embeddings = ops.cast(run.embeddings, "float32")
        across = run.pull_back(directions)
        # Of long embeddings the squares are no numbers.
        along = run.pull_back(normalize_rows(embeddings))
        return (
            run.outputs,
            embeddings,
            across,
            _row_lengths(along[-1]),
            _row_lengths(across[-1]),
        )

    shape = (NUM_PROBES, source.width)
    directions = random_directions(shape).astype("float32")
    found = run_on_noise(measure, probe, directions)
    outputs, embeddings, gradients, along, across = found
    embeddings = ops.convert_to_numpy(embeddings)
    _check_rows(paths, outputs, len(embeddings))
    return Measured(
        [_to_numpy(x) for x in outputs],
        embeddings,
        [_to_numpy(x) for x in gradients],
        length_gradient(
            embeddings, _to_numpy(along), _to_numpy(_row_lengths(gradients[-1]))
        ),
        goes_around,
    )


def _check_rows(
    paths: Sequence[str], outputs: Sequence[Tensor], num_images: int | None
) -> None:
    """Refuse layers that make another number of maps than there are images."""
    for path, output in zip(paths, outputs, strict=True):
        num_maps = output.shape[0]
        if None not in (num_maps, num_images) and num_maps != num_images:
            raise ValueError(
                "A layer that is explained must make one map of each image. The layer "
                f"{path!r} makes {num_maps} maps of {num_images} images: the model "
                "folds parts of images, such as tiles, into the batch. Pass the model "
                "that takes one such part, with the parts as images, or another "
                "`conv_layer`."
            )


def may_go_around(images: Any, outputs: Sequence[Tensor], embeddings: Tensor) -> bool:
    """Tell whether a graph leads from images to embeddings around these outputs.

    What takes the shape of the images alone counts too. True without a graph.

    Args:
        images: structure of the inputs.
        outputs: of layers.
        embeddings: of the images.
    """
    if not tf.is_symbolic_tensor(embeddings):
        return True
    starts = {x.op.name for x in tree.flatten(images)}
    seen = {x.op.name for x in outputs}
    waiting = [embeddings.op]
    while waiting:
        operation = waiting.pop()
        if operation.name in starts:
            return True
        if operation.name not in seen:
            seen.add(operation.name)
            waiting += [x.op for x in operation.inputs]
    return False


def _row_lengths(tensor: Tensor) -> Tensor:
    return ops.norm(ops.reshape(tensor, (ops.shape(tensor)[0], -1)), axis=1)


def _to_numpy(tensor: Any) -> np.ndarray:
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))
