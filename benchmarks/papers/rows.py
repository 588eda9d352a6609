"""The rows of the tables: their methods, and what the papers say of them."""

from dataclasses import replace
from typing import NamedTuple

from benchmarks.papers import published
from benchmarks.papers.transfer import (
    PAIR_SCORES,
    SIGNS,
    VARIANTS,
    WEIGHTINGS,
    name_row,
)
from keras_embcam.evaluation import METHODS, Method, central_box
from keras_embcam.presets import get_preset

SINGLE = "single point, all channels"
SINGLE_TOP = "single point, top 50"
MEAN = "average proxy, all channels"
MEAN_TOP = "average proxy, top 50"
MEAN_OF_OTHERS = "average proxy without the image itself"
CENTRAL_BOX = "fixed central box"
BASELINES = {
    "uniform": "uniform",
    "activation_sum": "activation sum",
    "centred_gaussian": "centred Gaussian",
    "edges": "edges",
}
LOCALIZE = 'preset "localize", single point'
LOCALIZE_MEAN = 'preset "localize", average proxy'


class Table(NamedTuple):
    """A table of the benchmark.

    Attributes:
        title: above it.
        rows: by the name of the method, what a paper reports of it.
    """

    title: str
    rows: dict[str, str]


def name_direct(weighting: str, proxy: str, sign: int, top: bool) -> str:
    """Return the name of a row of direct back-propagation.

    Example:

    >>> name_direct("gradcam", "triplet", -1, top=True)
    'Grad-CAM, -L, triplet, top 50'
    """
    channels = "top 50" if top else "all channels"
    name = proxy.replace("_", " ")
    return f"{WEIGHTINGS[weighting]}, {SIGNS[sign]}, {name}, {channels}"


def make_single_methods(share: float) -> list[Method]:
    """Return the methods of Bachhawat's table, the baselines and our preset.

    Args:
        share: of the central box.
    """
    # Beside the papers' thresholds, at that of the preset.
    threshold = get_preset("localize").box_threshold
    sum_of_activations = BASELINES["activation_sum"]
    baselines = [replace(METHODS[key], name=shown) for key, shown in BASELINES.items()]
    return [
        Method(SINGLE, box_threshold=threshold),
        Method(SINGLE_TOP, top_channels=50),
        Method(MEAN, "class_mean", box_threshold=threshold),
        Method(MEAN_TOP, "class_mean", top_channels=50),
        Method(MEAN_OF_OTHERS, "class_mean_leave_one_out"),
        *(
            replace(x, box_threshold=threshold) if x.name == sum_of_activations else x
            for x in baselines
        ),
        Method(CENTRAL_BOX, heatmaps=central_box(share)),
        Method(LOCALIZE, preset="localize"),
        Method(LOCALIZE_MEAN, "class_mean", preset="localize"),
    ]


def make_direct_methods() -> list[Method]:
    """Return the methods that back-propagate triplets and pairs of the test images."""
    asked = [
        ("gradcam", proxy, sign, top)
        for proxy in ("triplet", "distance_difference", "pairwise_distance")
        for sign in SIGNS
        for top in (False, True)
    ]
    # Takes a backward pass for each of 50 triplets, so this row alone.
    asked += [("gradcam++", "triplet", sign, True) for sign in SIGNS]
    return [
        Method(
            name_direct(weighting, proxy, sign, top),
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

    >>> is_localized(name_row("gradcam", 1, "50 triplets, top 50"))
    True
    >>> is_localized(name_row("gradcam", 1, "50 triplets, top 1"))
    False
    """
    return ", triplet, " in name or name.endswith(("50 triplets", "triplets, top 50"))


def make_faithfulness_methods() -> list[Method]:
    """Return the few methods whose faithfulness is compared."""
    return [
        replace(METHODS["activation_sum"], name=BASELINES["activation_sum"]),
        Method(SINGLE),
        Method(MEAN, "class_mean"),
        Method(LOCALIZE, preset="localize"),
        Method(LOCALIZE_MEAN, "class_mean", preset="localize"),
    ]


def list_tables(share: float) -> list[Table]:
    """Return the tables with what the papers report of each row.

    Args:
        share: of the central box.
    """
    in_paper = dict.fromkeys(
        (SINGLE, SINGLE_TOP, MEAN, MEAN_TOP), published.NOT_AT_HAND
    )
    transferred = {
        name_row(weighting, sign, variant): _find_published(sign, variant)
        for weighting in WEIGHTINGS
        for sign in SIGNS
        for variant in VARIANTS
    }
    for score in PAIR_SCORES:
        for sign in SIGNS:
            for variant in (score, f"{score}, top 50"):
                name = name_row("gradcam", sign, variant)
                transferred[name] = _find_published(sign, variant)
    direct = {method.name: published.OURS for method in make_direct_methods()}
    baselines = {SINGLE: "see above", MEAN: "see above"}
    baselines |= dict.fromkeys(BASELINES.values(), published.OURS)
    baselines["uniform"] = f"ratio box {published.UNIFORM_BOX}"
    baselines |= dict.fromkeys((CENTRAL_BOX, LOCALIZE, LOCALIZE_MEAN), published.OURS)
    return [
        Table(
            f"{published.BACHHAWAT}: table 1",
            in_paper | {MEAN_OF_OTHERS: published.OURS},
        ),
        Table(
            f"{published.CHEN}: table 1, weights transferred from training images",
            transferred,
        ),
        Table("Back-propagation from triplets and pairs of the test images", direct),
        Table(f"Baselines (box of {share} of each side) and our preset", baselines),
    ]


def _find_published(sign: int, variant: str) -> str:
    if sign < 0:  # the paper differentiates the loss itself
        return published.OURS
    known = {
        "50 triplets, top 50": published.FULL_DATABASE,
        "50 triplets, top 50, 50 centres": published.FIFTY_CENTRES,
        "50 triplets, top 1": published.TOP_CHANNEL,
    }
    if variant not in known:
        return published.NOT_AT_HAND
    return f"{known[variant]:.3f} (of which weighting is not at hand)"
