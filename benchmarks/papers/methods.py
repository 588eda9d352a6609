"""The methods that the rows of the tables measure."""

from dataclasses import replace

from benchmarks.papers import names
from keras_embcam.evaluation import METHODS, Method, central_box

BASELINES = {
    "uniform": names.UNIFORM,
    "activation_sum": "activation sum",
    "centred_gaussian": "centred Gaussian",
    "edges": "edges",
}


def make_single_methods(share: float) -> list[Method]:
    """Return the methods of Bachhawat's table, the baselines and our preset.

    Args:
        share: of the central box.
    """
    # Beside the papers' thresholds.
    threshold = "otsu"
    baselines = {x: replace(METHODS[x], name=shown) for x, shown in BASELINES.items()}
    summed = baselines["activation_sum"]
    baselines["activation_sum"] = replace(summed, box_threshold=threshold)
    return [
        Method(names.SINGLE, box_threshold=threshold),
        Method(names.SINGLE_TOP, top_channels=50),
        Method(names.MEAN, "class_mean", box_threshold=threshold),
        Method(names.MEAN_TOP, "class_mean", top_channels=50),
        Method(names.MEAN_OF_OTHERS, "class_mean_leave_one_out"),
        *baselines.values(),
        Method(names.CENTRAL_BOX, heatmaps=central_box(share)),
        Method(names.LOCALIZE, preset="localize"),
        Method(names.LOCALIZE_MEAN, "class_mean", preset="localize"),
    ]


def make_direct_methods() -> list[Method]:
    """Return the methods that back-propagate triplets and pairs of the test images."""
    asked = [
        ("gradcam", proxy, sign, top)
        for proxy in ("triplet", "distance_difference", "pairwise_distance")
        for sign in names.SIGNS
        for top in (False, True)
    ]
    # Takes a backward pass for each of 50 triplets, so this row alone.
    asked += [("gradcam++", "triplet", sign, True) for sign in names.SIGNS]
    return [
        Method(
            names.name_direct(weighting, proxy, sign, top),
            proxy,
            weighting=weighting,
            top_channels=50 if top else None,
            sign=sign,
        )
        for weighting, proxy, sign, top in asked
    ]


def is_localized(name: str) -> bool:
    """Tell whether the boxes of a row of triplets are measured: they take longest.

    Those of the triplet score are, with all channels and the highest 50.

    Example:

    >>> is_localized("Grad-CAM, +L, 50 triplets, top 50")
    True
    >>> is_localized("Grad-CAM, +L, 50 triplets, top 1")
    False
    """
    return ", triplet, " in name or name.endswith(("50 triplets", "triplets, top 50"))


def make_faithfulness_methods() -> list[Method]:
    """Return the few methods whose faithfulness is compared."""
    return [
        replace(METHODS["activation_sum"], name=BASELINES["activation_sum"]),
        Method(names.SINGLE),
        Method(names.MEAN, "class_mean"),
        Method(names.LOCALIZE, preset="localize"),
        Method(names.LOCALIZE_MEAN, "class_mean", preset="localize"),
    ]
