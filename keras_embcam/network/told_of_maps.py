"""What users are told of the layers that are explained, and of those that are not."""

import warnings
from collections.abc import Sequence
from typing import Any

from keras_embcam.network.feature_map import FeatureMap
from keras_embcam.network.trial_run import TrialRun


def check_layers(names: Any) -> list[Any]:
    """Check a list of layers to explain, and return it.

    Raises:
        ValueError: where it is empty or names a layer twice.
    """
    if not names or any(x in names[:i] for i, x in enumerate(names)):
        raise ValueError(
            "A list as `conv_layer` must name at least one layer, and none twice. "
            f"Received: {names!r}"
        )
    return list(names)


def tell_of_branches(
    trial: TrialRun, maps: Sequence[FeatureMap], found: Sequence[Any]
) -> None:
    """Warn where parallel branches are left out.

    Args:
        trial: of the model.
        maps: that are explained.
        found: the last layers of all branches.
    """
    paths = [trial.path(x.operation) for x in maps]
    others = [trial.path(x) for x in found]
    others = [repr(path) for path in others if path not in paths]
    if others:
        warnings.warn(
            f"Of several parallel branches only {', '.join(map(repr, paths))} is "
            f"explained. The embedding is also made of {', '.join(others)}. Pass "
            "`conv_layer`: one of them, or a list of those to explain together.",
            stacklevel=2,
        )


def tell_of_moved(trial: TrialRun, moved: FeatureMap, explained: FeatureMap) -> None:
    """Warn of maps that show other places of the images than they are drawn at.

    Args:
        trial: of the model.
        moved: the map.
        explained: what is explained, the same or one in front of it.
    """
    path, other = trial.path(moved.operation), trial.path(explained.operation)
    advice = (
        "Heatmaps of the size of the images show wrong places: pass `resize=False` for "
        "maps as the layer has them."
        if path == other
        else f"So {other!r} is explained, the last layer in front of that; pass "
        "another `conv_layer` if that is too early."
    )
    warnings.warn(
        f"Positions of the maps of {path!r} do not lie where they would be drawn: "
        "something in front of it flips, turns or shifts maps, or picks a part of "
        f"them. {advice}",
        stacklevel=2,
    )
