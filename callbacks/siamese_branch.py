"""The branch of a siamese network, which makes one embedding of one image."""

from collections import Counter
from typing import Any

import keras
from keras import tree

from keras_embcam.network.hooks import leave_unchanged, observe
from keras_embcam.network.inputs import declared_inputs
from keras_embcam.network.noise_images import make_noise_images
from keras_embcam.network.trial_run import list_operations


def find_branch(model: keras.Model, embedding_layer: Any) -> tuple[keras.Model, Any]:
    """Return the model to explain, and the `embedding_layer` in it.

    The branch is a model inside the network that takes one image and runs once for
    each image input.

    Args:
        model: that is trained.
        embedding_layer: see `keras_embcam.EmbeddingCAM`; may name the branch itself or
            a layer inside it.

    Returns:
        The branch, and the layer as it is called there; the arguments where the model
        takes one image only, or no single branch is found.
    """
    declared = declared_inputs(model)
    flat = [] if declared is None else tree.flatten(declared)
    num_images = sum(len(x.shape) == 4 for x in flat)
    if num_images < 2:
        return model, embedding_layer
    operations = list_operations(model)
    candidates = {
        path: x
        for path, x in operations.items()
        if isinstance(x, keras.Model) and _takes_one_image(x)
    }
    num_calls: Counter[int] = Counter()
    with (
        observe(candidates.values(), lambda x, *_: num_calls.update([id(x)])),
        leave_unchanged(model),
    ):
        model(make_noise_images(model), training=False)
    branches = {
        path: x for path, x in candidates.items() if num_calls[id(x)] == num_images
    }
    # A backbone inside the branch runs as often: the outermost is meant.
    branches = {
        path: x
        for path, x in branches.items()
        if not any(path.startswith(f"{outer}/") for outer in branches)
    }
    fitting = [
        (branch, inner)
        for path, branch in branches.items()
        for inner in _name_inside(path, branch, embedding_layer)
    ]
    return fitting[0] if len(fitting) == 1 else (model, embedding_layer)


def _takes_one_image(model: keras.Model) -> bool:
    declared = declared_inputs(model)
    flat = [] if declared is None else tree.flatten(declared)
    return len(flat) == 1 and len(flat[0].shape) == 4


def _name_inside(path: str, branch: keras.Model, layer: Any) -> list[Any]:
    """Return what a layer of the network is called in a branch, nothing if it is not.

    None stands for the output of the branch: where `layer` is the branch, or None.
    """
    inside = list_operations(branch)
    if layer is None or layer is branch or layer in (path, branch.name):
        return [None]
    if not isinstance(layer, str):
        return [layer] if any(x is layer for x in inside.values()) else []
    inner = layer.removeprefix(f"{path}/")
    is_inside = inner in inside or any(x.rsplit("/", 1)[-1] == inner for x in inside)
    return [inner] if is_inside else []
