"""Faithfulness of every method, measured on a few images of a set."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_embcam import method as core
from keras_embcam.evaluation.correlation import has_order, rank_correlation
from keras_embcam.evaluation.discrimination_run import (
    measure_discrimination,
    measure_top_5_pointing,
)
from keras_embcam.evaluation.faithfulness import (
    area_under,
    deletion_curve,
    insertion_curve,
    occlusion_maps,
    randomize_weights,
)
from keras_embcam.evaluation.maps import explain_with_all
from keras_embcam.evaluation.measures import Regions, mean_of
from keras_embcam.evaluation.method import Method
from keras_embcam.evaluation.set_run import SetRun, find_single_layer, make_embedder
from keras_embcam.evaluation.stability import (
    add_adversarial_noise,
    shift_images,
    translation_overlap,
)
from keras_embcam.evaluation.vectors import find_missing, make_targets
from keras_embcam.heatmaps import find_boxes
from keras_embcam.proxies import single_point
from keras_embcam.running.compiled_functions import run_once
from keras_embcam.running.labelled_examples import Examples, ExampleStream
from keras_embcam.running.one_batch import explain_pixels

NUM_STEPS = 20
BATCH_SIZE = 32
# Maps are compared after this many stages of randomised layers, all of them last.
NUM_STAGES = 6
# Of the range of the images, the size of a step of 2 in pictures of 0 to 255.
NOISE = 2 / 255
PATCHES_A_SIDE = 7
# Of each side, for the shift that a box has to follow.
SHIFT = 1 / 8
# Of boxes, where a method has no rule of its own.
BOX_THRESHOLD = 0.2

Found = list[dict[str, float]]
Curves = dict[str, dict[str, Any]]


def measure_faithfulness(
    model: keras.Model,
    stream: ExampleStream,
    methods: Sequence[Method],
    run: SetRun,
    *,
    num_images: int,
    regions: Regions,
    embedding_layer: Any = None,
    seed: int = 0,
) -> tuple[Found, Curves, list[str]]:
    """Measure on some images of a set whether maps show what the network uses.

    Deletion, insertion and occlusion look at the similarity to the method's own proxy;
    to the image's own unit embedding for methods without one, and for triplets and
    pairs, whose directions are at right angles to it. The noise is against that
    embedding for all of them.

    Args:
        model: see `explain`.
        stream: of the set.
        methods: m of them.
        run: over the same set, with embeddings.
        num_images: how many; class by class in turn where there are labels.
        regions: how the objects are stated.
        embedding_layer: see `explain`.
        seed: of the choice of images, of the montages and of random weights.

    Returns:
        The columns of each method, curves by title, and notes.
    """
    rows = choose_images(run.num_images, run.labels, num_images, seed)
    examples = stream.take(rows)
    subject = Subject(model, methods, run, rows, examples, embedding_layer)
    found: Found = [{} for _ in methods]
    curves = subject.measure_curves(found)
    subject.measure_occlusion(found)
    subject.measure_noise(found)
    subject.measure_translation(found)
    curves |= subject.measure_randomized(found, seed)
    notes = [
        f"Faithfulness on {len(rows)} images. Deletion, insertion and occlusion: by "
        "the similarity to the proxy of each row, or to the image's own embedding "
        f"where it has none; {NUM_STEPS} steps to a blurred image; patches of "
        f"1/{PATCHES_A_SIDE} of a side. Noise of {NOISE:.4f} of the range, against the "
        f"image's own embedding. A shift of {SHIFT} of each side, boxes at "
        f"{BOX_THRESHOLD} or by the method's own rule"
    ]
    if any(method.is_direction for method in methods):
        notes.append(
            "Triplets and pairs, whose proxies are at right angles to the embedding, "
            "are compared with the image's own embedding too"
        )
    if run.labels is not None:
        options = (model, methods, run, rows, examples, embedding_layer)
        notes += measure_discrimination(found, *options, seed=seed)
        notes += measure_top_5_pointing(found, *options, regions=regions)
    return found, curves, notes


class Subject:
    """The images that faithfulness is measured on, with the maps of every method.

    Args:
        model: see `explain`.
        methods: m of them.
        run: over the set.
        rows: (n,) the images' numbers in it.
        examples: the images.
        embedding_layer: see `explain`.
    """

    def __init__(
        self,
        model: keras.Model,
        methods: Sequence[Method],
        run: SetRun,
        rows: np.ndarray,
        examples: Examples,
        embedding_layer: Any,
    ) -> None:
        self._model, self._methods = model, methods
        self._embedding_layer = embedding_layer
        self._conv_layer = find_single_layer(methods)
        self._images = examples["image"]
        if run.embeddings is None:
            raise ValueError("Faithfulness needs the embeddings of the set.")
        embeddings = run.embeddings[rows]
        self._single_points = ops.convert_to_numpy(single_point(embeddings))
        self._vectors = run.proxies.choose(methods, rows, examples.get("label"))
        self._targets = [
            make_targets(
                vectors if method.has_proxy and not method.is_direction else None,
                embeddings,
                self._single_points,
            )
            for vectors, method in zip(self._vectors, methods, strict=True)
        ]
        self._maps = dict(self._explain(self._images))

    def _explain(self, images: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the maps of each method for the same images, changed or not."""
        parts: dict[int, list[np.ndarray]] = {}
        for start in range(0, len(images), BATCH_SIZE):
            batch = slice(start, start + BATCH_SIZE)
            vectors = {
                id(x): x[batch] if isinstance(x, np.ndarray) else x
                for x in self._vectors
            }
            for number, maps in explain_with_all(
                self._model,
                self._methods,
                images[batch],
                [vectors[id(x)] for x in self._vectors],
                self._embedding_layer,
            ):
                parts.setdefault(number, []).append(maps)
        for number, several in parts.items():
            maps = np.concatenate(several)
            # A map without a proxy means nothing, and NaN counts nowhere.
            maps[find_missing(self._vectors[number], len(maps))] = np.nan
            yield number, maps

    def _embed(self, images: np.ndarray) -> np.ndarray:
        embed = make_embedder(self._model, self._conv_layer, self._embedding_layer)
        starts = range(0, len(images), BATCH_SIZE)
        return np.concatenate([embed(images[x : x + BATCH_SIZE]) for x in starts])

    def measure_curves(self, found: Found) -> Curves:
        """Add deletion and insertion, and return their curves."""
        curves: Curves = {}
        for key, follow in (
            ("deletion", deletion_curve),
            ("insertion", insertion_curve),
        ):
            y = {}
            for number, maps in self._maps.items():
                found[number][key] = float("nan")
                if not has_order(maps.reshape(len(maps), -1)).any():
                    continue  # such as the uniform map: nothing is the hottest
                curve = follow(
                    self._embed, self._images, maps, self._targets[number], NUM_STEPS
                )
                found[number][key] = mean_of(area_under(curve))
                y[self._methods[number].name] = np.nanmean(curve, axis=0).tolist()
            curves[f"{key.capitalize()}: similarity to the proxy"] = {
                "x": [step / NUM_STEPS for step in range(NUM_STEPS + 1)],
                "x_name": f"share of pixels, hottest first ({key})",
                "y": y,
            }
        return curves

    def measure_occlusion(self, found: Found) -> None:
        """Add the rank correlation with the occlusion map."""
        patch_size = max(1, min(self._images.shape[1:3]) // PATCHES_A_SIDE)
        # One for all methods of the same proxy.
        made: list[tuple[np.ndarray, np.ndarray]] = []
        for number, maps in self._maps.items():
            targets = self._targets[number]
            same = [x for known, x in made if np.array_equal(known, targets)]
            if not same:
                same = [occlusion_maps(self._embed, self._images, targets, patch_size)]
                made.append((targets, same[0]))
            found[number]["occlusion"] = mean_of(rank_correlation(maps, same[0]))

    def measure_noise(self, found: Found) -> None:
        """Add the rank correlation with the maps under adversarial noise."""
        gradients = []
        for start in range(0, len(self._images), BATCH_SIZE):
            rows = slice(start, start + BATCH_SIZE)
            images = self._images[rows]
            method = core.Method(
                conv_layer=self._conv_layer, embedding_layer=self._embedding_layer
            )
            (part,) = run_once(
                self._model,
                images,
                method,
                explain_pixels,
                None,
                False,
                proxies=self._single_points[rows],
            )
            gradients.append(part)
        epsilon = NOISE * float(np.ptp(self._images))
        noisy = add_adversarial_noise(self._images, np.concatenate(gradients), epsilon)
        for number, maps in self._explain(noisy):
            correlation = rank_correlation(maps, self._maps[number])
            found[number]["noise"] = mean_of(correlation)

    def measure_translation(self, found: Found) -> None:
        """Add how well the found box follows a shift of the image."""
        height, width = self._images.shape[1:3]
        shift = (max(1, round(height * SHIFT)), max(1, round(width * SHIFT)))
        mean_colour = self._images.mean(axis=(0, 1, 2))
        shifted = shift_images(self._images, *shift, fill=mean_colour)
        for number, maps in self._explain(shifted):
            threshold = self._methods[number].find_box_threshold()
            threshold = BOX_THRESHOLD if threshold is None else threshold
            overlap = translation_overlap(
                find_boxes(self._maps[number], threshold),
                find_boxes(maps, threshold),
                shift,
                size=(height, width),
            )
            found[number]["translation"] = mean_of(overlap)

    def measure_randomized(self, found: Found, seed: int) -> Curves:
        """Add the rank correlation with the maps of a network that knows nothing."""
        with randomize_weights(self._model, seed) as paths:
            num_layers = len(list(paths))
        stops = np.unique(np.linspace(1, num_layers, NUM_STAGES).round().astype(int))
        y: dict[str, list[float]] = {method.name: [] for method in self._methods}
        with randomize_weights(self._model, seed) as paths:
            for num_done, _ in enumerate(paths, start=1):
                if num_done not in stops:
                    continue
                for number, maps in self._explain(self._images):
                    correlation = mean_of(rank_correlation(maps, self._maps[number]))
                    y[self._methods[number].name].append(correlation)
        for values, method in zip(found, self._methods, strict=True):
            values["randomized"] = y[method.name][-1]
        return {
            "Rank correlation with the maps of the trained network": {
                "x": stops.tolist(),
                "x_name": f"layers with random weights, from the top, of {num_layers}",
                "y": y,
            }
        }


def choose_images(
    num_there: int, labels: np.ndarray | None, num_images: int, seed: int
) -> np.ndarray:
    """Choose images, as many of each class as there is room for.

    Args:
        num_there: how many there are.
        labels: (num_there,), or None.
        num_images: how many to choose, at most.
        seed: of the choice within a class, and of the classes that get one more.

    Returns:
        Their numbers, ascending.

    Example:

    >>> labels = np.array([0, 0, 0, 0, 1, 2])
    >>> rows = choose_images(6, labels, num_images=3, seed=0)
    >>> labels[rows].tolist()
    [0, 1, 2]
    """
    order = np.random.default_rng(seed).permutation(num_there)
    if labels is not None:
        # The how-many-th of its class each one is, in a random order.
        rank = np.zeros(num_there, int)
        for label in np.unique(labels):
            members = order[labels[order] == label]
            rank[members] = np.arange(len(members))
        order = order[np.argsort(rank[order], kind="stable")]
    return np.sort(order[:num_images])
