"""Make a model forget what it learned, layer by layer, and remember it again."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_embcam.evaluation.correlation import rank_correlation
from keras_embcam.evaluation.measure import FAITHFULNESS, Column, Measured, fills
from keras_embcam.evaluation.measure_input import Context
from keras_embcam.keras_private import flatten_layers
from keras_embcam.metrics.statistics import mean_of
from keras_embcam.network.inputs import check_model
from keras_embcam.network.trial_run import list_operations

# How often maps are compared on the way; the last time all layers are random.
NUM_STAGES = 6


@fills(FAITHFULNESS, Column("randomized", "randomised rank corr. (low)"))
def measure_randomized(context: Context) -> Measured:
    """Measure the rank correlation with the maps of a network that knows nothing."""
    sample = context.sample  # made now, with the maps of the trained network
    num_layers = len(_list_layers(context.model))
    stops = np.unique(np.linspace(1, num_layers, NUM_STAGES).round().astype(int))
    y: list[list[float]] = [[] for _ in context.methods]
    with randomize_weights(context.model, context.seed) as paths:
        for num_done, _ in enumerate(paths, start=1):
            if num_done not in stops:
                continue
            maps = sample.explain(sample.images)
            for values, after, before in zip(y, maps, sample.maps, strict=True):
                values.append(mean_of(rank_correlation(after, before)))
    curve = {
        "x": stops.tolist(),
        "x_name": f"layers with random weights, from the top, of {num_layers}",
        "y": {
            method.name: values
            for method, values in zip(context.methods, y, strict=True)
        },
    }
    title = "Rank correlation with the maps of the trained network"
    return Measured([{"randomized": values[-1]} for values in y], {title: curve})


@contextlib.contextmanager
def randomize_weights(model: keras.Model, seed: int = 0) -> Iterator[Iterator[str]]:
    """Give an iterator that re-initialises one layer at a time, the top one first.

    The sanity check of Adebayo et al. ("Sanity Checks for Saliency Maps", NeurIPS
    2018, section 4.1, cascading randomisation): a map that stays as it was while the
    layers lose their weights does not show what the network has learned. Compare the
    maps with ``correlation.rank_correlation``.

    Each step draws all weights of one layer anew with the layer's own initialisers
    under other seeds; batch-norm statistics go back to 0 and 1, so that the signal of
    a deep network fades (to 1e-10 in MobileNetV2, which half precision cannot hold:
    such maps are empty). Layers are taken in the reversed order of the graph, or of
    creation in subclassed models; those without weights are passed over. At the end
    of the ``with`` block all weights are what they were before it, bit for bit, also
    after an early exit or an exception.

    Args:
        model: a built Keras model. It must not be used elsewhere meanwhile.
        seed: of the random weights.

    Yields:
        An iterator over the paths of the layers (``"backbone/block_16_project"``),
        each given when its weights have just been drawn.

    Raises:
        TypeError: where this is not a Keras model.
        ValueError: for a layer with weights that cannot be made again from its
            config, when its turn comes.

    Example:

    >>> dense = keras.layers.Dense(2, name="top")
    >>> model = keras.Sequential(
    ...     [keras.Input((3,)), keras.layers.Dense(2, name="first"), dense]
    ... )
    >>> kernel = dense.kernel.numpy()
    >>> with randomize_weights(model) as paths:
    ...     for path in paths:
    ...         print(path, bool((dense.kernel.numpy() == kernel).any()))
    top False
    first False
    >>> bool((dense.kernel.numpy() == kernel).all())
    True
    """
    check_model(model)
    kept = [(x, np.array(ops.convert_to_numpy(x.value))) for x in model.weights]
    try:
        yield _randomize(model, np.random.default_rng(seed))
    finally:
        for weight, values in kept:
            weight.assign(values)


def _randomize(model: keras.Model, random: np.random.Generator) -> Iterator[str]:
    for path, (layer, own) in _list_layers(model).items():
        fresh = _make_again(layer, path, random)
        for weight, other in zip(layer.weights, fresh.weights, strict=True):
            if id(weight) in own:
                weight.assign(other)
        yield path


def _list_layers(model: keras.Model) -> dict[str, tuple[keras.layers.Layer, set[int]]]:
    """Return the layers with weights of their own, and the ids of these weights.

    By path, the top one first.
    """
    found = {}
    layers = {model.name: model, **list_operations(model)}
    for path, layer in reversed(layers.items()):
        if not isinstance(layer, keras.layers.Layer):
            continue  # an operation of a graph
        inner = flatten_layers(layer, include_self=False)
        not_own = {id(weight) for part in inner for weight in part.weights}
        own = {id(weight) for weight in layer.weights} - not_own
        if own:
            found[path] = layer, own
    return found


def _make_again(layer: Any, path: str, random: np.random.Generator) -> Any:
    """Return another layer of the same config, built, with other weights."""
    try:
        fresh = type(layer).from_config(_change_seeds(layer.get_config(), random))
        fresh.build_from_config(layer.get_build_config())
        is_alike = [x.shape for x in fresh.weights] == [x.shape for x in layer.weights]
    except Exception as error:  # whatever the layer's own code raises
        raise _refusal(path) from error
    if not is_alike:
        raise _refusal(path)
    return fresh


def _refusal(path: str) -> ValueError:
    return ValueError(
        "Every layer with weights must be such that it can be made again from its "
        "config: give it a `get_config`, and its weights in `build`. Received: the "
        f"layer {path!r}"
    )


def _change_seeds(config: Any, random: np.random.Generator) -> Any:
    """Return a config in which every seed is another, at any depth."""
    if isinstance(config, list | tuple):
        return type(config)(_change_seeds(x, random) for x in config)
    if not isinstance(config, dict):
        return config
    return {
        key: int(random.integers(2**31))
        if key == "seed" and not isinstance(value, dict)
        else _change_seeds(value, random)
        for key, value in config.items()
    }
