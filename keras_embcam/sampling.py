"""Class-balanced batches: P classes with K images of each."""

import numbers
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf


def sample_balanced_batches(
    images: Any,
    labels: Any,
    *,
    classes_per_batch: int,
    images_per_class: int,
    seed: int = 0,
) -> tf.data.Dataset:
    """Make a dataset of batches with P classes and K images of each class.

    The pairs and triplets of a metric-learning loss come from within a batch, so a
    batch needs several images of a class (Hermans et al., In Defense of the Triplet
    Loss, 2017, section 2: "PK batches").

    One pass over the dataset is an epoch, drawn without replacement:

    * no image comes twice in an epoch, and no class twice in a batch;
    * each class of m images is shuffled and cut into ``m // K`` groups of K. The
      ``m % K`` images that are left over wait for another epoch, where the shuffling
      leaves out others;
    * an epoch has as many batches as the groups allow: the highest B for which ``Σ
      min(groups of a class, B) >= P·B``. A class with more groups than B, one that is
      larger than its share, gives B of them, again others in each epoch. Of the other
      classes together fewer than P groups stay out. No image is repeated to make a
      small class larger;
    * B depends on the sizes alone, so each epoch has the same number of batches, and
      ``len`` of the dataset tells it.

    Each further pass draws a new epoch; the sequence of epochs follows from the seed.

    Args:
        images: array (n, ...) of any dtype, one entry for each example: pixels, file
            paths to be read by ``.map`` afterwards, or positions. A memory-mapped array
            is read batch by batch.
        labels: integer array (n,) or (n, 1), the class of each example.
        classes_per_batch: int, P.
        images_per_class: int, K. Every class must have at least as many images.
        seed: int.

    Returns:
        A ``tf.data.Dataset`` of (images, labels) with P·K examples in each batch, the K
        images of a class beside each other.

    Raises:
        ValueError: if lengths differ, a count is not an integer above 0, there are
            fewer classes than P, or a class has fewer than K images.

    Example:
    >>> dataset = sample_balanced_batches(
    ...     np.arange(6), [7, 7, 8, 8, 9, 9], classes_per_batch=3, images_per_class=2
    ... )
    >>> for images, labels in dataset:
    ...     print(sorted(images.numpy().tolist()), sorted(labels.numpy().tolist()))
    [0, 1, 2, 3, 4, 5] [7, 7, 8, 8, 9, 9]
    """
    images, labels = np.asarray(images), np.asarray(labels)
    classes_per_batch = _check_count("classes_per_batch", classes_per_batch)
    images_per_class = _check_count("images_per_class", images_per_class)
    positions = _find_classes(images, labels, classes_per_batch, images_per_class)
    sizes = np.array([len(members) for members in positions])
    num_batches = _count_batches(sizes // images_per_class, classes_per_batch)
    seeds = np.random.SeedSequence(seed)

    def generate() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        # Each pass has its own generator: a pass that is stopped early, or that runs
        # beside another one, does not change the next.
        generator = np.random.default_rng(seeds.spawn(1)[0])
        shuffled = [generator.permutation(members) for members in positions]
        num_groups = sizes // images_per_class
        for chosen in _choose_classes(
            num_groups, classes_per_batch, num_batches, generator
        ):
            indices = np.concatenate([shuffled[i][-images_per_class:] for i in chosen])
            for i in chosen:
                shuffled[i] = shuffled[i][:-images_per_class]
            yield images[indices], labels[indices]

    batch_size = classes_per_batch * images_per_class
    signature = tuple(
        tf.TensorSpec((batch_size, *array.shape[1:]), tf.as_dtype(array.dtype))
        for array in (images, labels)
    )
    dataset = tf.data.Dataset.from_generator(generate, output_signature=signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(num_batches))


def _check_count(name: str, value: int) -> int:
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or value < 1:
        raise ValueError(
            f"{name} must be an integer above 0. Received: {name}={value!r}. Pass "
            "classes_per_batch=8, images_per_class=4, for example."
        )
    return int(value)


def _find_classes(
    images: np.ndarray, labels: np.ndarray, num_classes: int, num_images: int
) -> list[np.ndarray]:
    """Return the positions of the examples of each class, after checking them."""
    if labels.ndim == 0 or labels.ndim > 2 or labels.shape[1:] not in [(), (1,)]:
        raise ValueError(
            "labels must hold one label for each image, with shape (n,) or (n, 1). "
            f"Received: labels of shape {labels.shape}. Pass numpy.argmax(labels, "
            "axis=-1) where they are one-hot."
        )
    if images.ndim == 0 or len(images) != len(labels):
        raise ValueError(
            "images and labels must be of the same length. Received: images of shape "
            f"{images.shape} and labels of shape {labels.shape}. Pass one label for "
            "each image."
        )
    classes, sizes = np.unique(labels, return_counts=True)
    if len(classes) < num_classes:
        raise ValueError(
            "A batch cannot hold more classes than there are. Received: "
            f"classes_per_batch={num_classes} and labels of {len(classes)} classes. "
            "Lower classes_per_batch."
        )
    if sizes.min() < num_images:
        small = sizes < num_images
        raise ValueError(
            "Every class needs at least images_per_class images. Received: "
            f"images_per_class={num_images} and {small.sum()} smaller class(es), "
            f"of which class {classes[small][0]} has {sizes[small][0]} image(s). Lower "
            "images_per_class, or leave these classes out."
        )
    by_class = np.argsort(labels.ravel(), kind="stable")
    return np.split(by_class, np.cumsum(sizes)[:-1])


def _count_batches(num_groups: np.ndarray, classes_per_batch: int) -> int:
    """Return the highest B with Σ min(groups of a class, B) >= P·B."""
    num_batches = int(num_groups.sum()) // classes_per_batch
    while True:
        num_usable = int(np.minimum(num_groups, num_batches).sum())
        if num_usable >= classes_per_batch * num_batches:
            return num_batches
        num_batches = num_usable // classes_per_batch


def _choose_classes(
    num_groups: np.ndarray,
    classes_per_batch: int,
    num_batches: int,
    generator: np.random.Generator,
) -> Iterator[np.ndarray]:
    """Yield the indices of the classes of each batch.

    A class is drawn with a chance in proportion to the groups it has left. One with as
    many groups as there are batches to come must be in each of them, or the groups
    would run out before the batches do.
    """
    num_left = num_groups.copy()
    for num_to_come in range(num_batches, 0, -1):
        # The largest of u^(1/w) are a draw without replacement with the weights w
        # (Efraimidis and Spirakis, 2006).
        keys = generator.random(len(num_left)) ** (1 / np.maximum(num_left, 1))
        keys[num_left == 0] = -1
        keys[num_left >= num_to_come] += 1
        chosen = np.argpartition(keys, -classes_per_batch)[-classes_per_batch:]
        num_left[chosen] -= 1
        yield chosen
