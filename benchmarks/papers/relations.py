"""The relations that the papers report, with what came out here."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from benchmarks.papers import names
from benchmarks.papers.published import (
    BACHHAWAT_LOCALIZATION,
    CHEN_LOCALIZATION,
    COST_OF_PLUS_PLUS,
    PUBLISHED,
    STABLE_CHANNELS,
    Range,
)

Rows = Mapping[str, Mapping[str, Any]]
Curve = Mapping[str, Any]

BOXES_FOUND = "localization_accuracy_0.2"
# What the papers' words are taken for, in heatmap ratio.
FAR = 0.05
CLOSE = 0.02
RULES = (
    f'"Far above" means by {FAR} or more, "slightly below" lower by less than {FAR}, '
    f'"close" and "stable" within {CLOSE}. The other comparisons count any difference, '
    "however small. None is tested for significance. Triplets are those of the loss "
    "itself (+L), as in the papers."
)


class Relation(NamedTuple):
    """What a paper says of two figures, and what came out.

    Attributes:
        claim: of the paper, in short.
        where: which rows or figures.
        published: the two figures of the paper, "–" where it gives none.
        first: our figure that the claim begins with, NaN where it is missing.
        second: the other.
        outcome: "holds", "does not hold here" or "n/a".
    """

    claim: str
    where: str
    published: str
    first: float
    second: float
    outcome: str


def find_relations(
    rows: Rows, localization: Curve, by_channels: Curve, seconds: Mapping[str, float]
) -> list[Relation]:
    """Return the relations in the order of the papers.

    Args:
        rows: by method.
        localization: accuracy of boxes: thresholds "x" (T,) and "y" by method.
        by_channels: heatmap ratio: numbers of channels "x" and "y" by method.
        seconds: an image to fit a database, by weighting.
    """
    single, mean = names.SINGLE, names.MEAN
    triplet, whole, top, centres, first = (
        names.name_transferred("gradcam", +1, x) for x in names.VARIANTS
    )
    plus_triplet, plus_whole, plus_top, *_ = (
        names.name_transferred("gradcam++", +1, x) for x in names.VARIANTS
    )
    difference, distance = (
        names.name_transferred("gradcam", +1, f"50 {x}, top 50")
        for x in ("distance differences", "pair-wise distances")
    )

    def compare(
        claim: str,
        one: str,
        other: str,
        holds: Callable[[float, float], bool] = _above,
        column: str = "heatmap_ratio_bbox",
    ) -> Relation:
        figures = [_figure(rows.get(name, {}).get(column)) for name in (one, other)]
        return _judge(
            claim, f"{one} / {other}", _published(one, other, column), *figures, holds
        )

    return [
        compare("class mean above single point", mean, single),
        compare("... and below it in localisation", mean, single, _below, BOXES_FOUND),
        compare("single point far above uniform", single, names.UNIFORM, _far_above),
        compare("single point above transferred triplets", single, top),
        compare("... and below it in localisation", single, top, _below, BOXES_FOUND),
        compare("top 50 slightly below all", names.SINGLE_TOP, single, _slightly_below),
        compare("top 50 slightly below all", names.MEAN_TOP, mean, _slightly_below),
        _exceed(localization, single, BACHHAWAT_LOCALIZATION),
        _exceed(localization, mean, BACHHAWAT_LOCALIZATION),
        compare("50 triplets above one", whole, triplet),
        compare("top 50 far above all", top, whole, _far_above),
        compare(
            "... with a smaller deviation", top, whole, _below, "heatmap_ratio_bbox_std"
        ),
        compare("Grad-CAM++ above Grad-CAM", plus_triplet, triplet),
        compare("Grad-CAM++ above Grad-CAM", plus_whole, whole),
        compare("Grad-CAM++ above Grad-CAM", plus_top, top),
        compare("Grad-CAM++: top 50 close to all", plus_top, plus_whole, _close),
        compare("50 centres close to all images", centres, top, _close),
        compare("the top channel below top 50", first, top, _below),
        compare("the top channel above all", first, whole),
        _is_stable(by_channels, names.name_transferred("gradcam", +1, "transferred")),
        compare("triplet above distance difference", top, difference),
        compare("triplet above pair-wise distance", top, distance),
        _exceed(localization, top, CHEN_LOCALIZATION),
        _compare_cost(seconds),
    ]


def _above(first: float, second: float) -> bool:
    return first > second


def _below(first: float, second: float) -> bool:
    return first < second


def _far_above(first: float, second: float) -> bool:
    return first >= second + FAR


def _slightly_below(first: float, second: float) -> bool:
    return second - FAR < first < second


def _close(first: float, second: float) -> bool:
    return abs(first - second) <= CLOSE


def _figure(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _judge(
    claim: str,
    where: str,
    published: str,
    first: float,
    second: float,
    holds: Callable[[float, float], bool],
) -> Relation:
    if math.isnan(first) or math.isnan(second):
        outcome = "n/a"
    else:
        outcome = "holds" if holds(first, second) else "does not hold here"
    return Relation(claim, where, published, first, second, outcome)


def _published(one: str, other: str, column: str) -> str:
    field = "localization_accuracy" if column == BOXES_FOUND else column
    figures = [getattr(PUBLISHED.get(name), field, None) for name in (one, other)]
    return "–" if None in figures else "{:.3f} / {:.3f}".format(*figures)


def _exceed(curve: Curve, name: str, claim: Range) -> Relation:
    values = curve.get("y", {}).get(name, [])
    inside = [
        _figure(y)
        for x, y in zip(curve.get("x", []), values, strict=False)
        if claim.least - 1e-6 <= x <= claim.most + 1e-6
    ]
    return _judge(
        f"localisation above {claim.above} at thresholds {claim.least} to {claim.most}",
        f"{name}: the lowest of these / {claim.above}",
        f"above {claim.above}",
        # min() of a list that holds NaN may be another value.
        math.nan if not inside or any(map(math.isnan, inside)) else min(inside),
        claim.above,
        _above,
    )


def _is_stable(curve: Curve, name: str) -> Relation:
    low, high = STABLE_CHANNELS
    values = curve.get("y", {}).get(name, [])
    inside = [
        _figure(y)
        for x, y in zip(curve.get("x", []), values, strict=False)
        if low <= x <= high
    ]
    return _judge(
        f"the ratio stable from {low} to {high} channels",
        f"{name}: the lowest / the highest",
        "stable",
        min(inside, default=math.nan),
        max(inside, default=math.nan),
        _close,
    )


def _compare_cost(seconds: Mapping[str, float]) -> Relation:
    low, high = COST_OF_PLUS_PLUS
    return _judge(
        f"Grad-CAM++ {low} to {high} times slower",
        "seconds an image to fit a database of 50 triplets: Grad-CAM++ / Grad-CAM",
        f"{low} to {high} times",
        seconds.get("gradcam++", math.nan),
        seconds.get("gradcam", math.nan),
        lambda slow, fast: low <= slow / fast <= high,
    )
