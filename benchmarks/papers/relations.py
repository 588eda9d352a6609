"""The relations that the papers report, tested on our own rows."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.papers import published
from benchmarks.papers.rows import (
    MEAN,
    MEAN_TOP,
    SINGLE,
    SINGLE_TOP,
)
from benchmarks.papers.transfer import (
    PAIR_SCORES,
    SIGNS,
    VARIANTS,
    WEIGHTINGS,
    name_row,
)

Rows = Mapping[str, Mapping[str, Any]]

# What the papers' words are taken for, in heatmap ratio.
FAR = 0.05
CLOSE = 0.02
RULES = (
    f'"Far above" is by {FAR} or more, "slightly below" is lower by less than {FAR}, '
    f'"close" is within {CLOSE}; other comparisons take any difference, however small: '
    "none is tested for significance."
)


class Relation(NamedTuple):
    """What a paper says of two figures, and what came out.

    Attributes:
        claim: of the paper, in short.
        where: which rows.
        first: the figure that the claim begins with.
        second: the other; NaN where there is none.
        holds: None where a figure is missing.
    """

    claim: str
    where: str
    first: float
    second: float
    holds: bool | None

    def verdict(self) -> str:
        """Return what came out in words."""
        if self.holds is None:
            return "n/a"
        return "holds" if self.holds else "does not hold here"


def find_relations(
    rows: Rows, curve: Mapping[str, Any], seconds: Mapping[str, float]
) -> list[Relation]:
    """Return the relations in the order of the papers.

    Args:
        rows: by method.
        curve: localisation accuracy: "x" (T,) and "y" by method.
        seconds: an image to fit a database, by weighting.
    """
    found = [_compare(rows, "class mean above single point", MEAN, SINGLE)]
    for whole, top in ((SINGLE, SINGLE_TOP), (MEAN, MEAN_TOP)):
        claim = "top 50 slightly below all channels for proxies"
        found.append(_compare(rows, claim, top, whole, _slightly_below))
    single, whole, top, centres, first = VARIANTS
    for weighting in WEIGHTINGS:
        for sign in SIGNS:
            names = {x: name_row(weighting, sign, x) for x in VARIANTS}
            claim = "top 50 far above all channels for the triplet score"
            found.append(_compare(rows, claim, names[top], names[whole], _far_above))
            claim = "top 50 with a smaller deviation over images than all channels"
            columns = names[top], names[whole], _below, "ratio_box_std"
            found.append(_compare(rows, claim, *columns))
            claim = "50 centres close to the full database"
            found.append(_compare(rows, claim, names[centres], names[top], _close))
            claim = "the top channel alone below top 50"
            found.append(_compare(rows, claim, names[first], names[top], _below))
    for sign in SIGNS:
        for variant in (single, whole, top):
            pair = [name_row(x, sign, variant) for x in ("gradcam++", "gradcam")]
            claim = "Grad-CAM++ above Grad-CAM for triplets"
            found.append(_compare(rows, claim, *pair))
    for sign in SIGNS:
        for end in ("", ", top 50"):
            scores = (f"50 triplets{end}", *(f"{score}{end}" for score in PAIR_SCORES))
            named = [name_row("gradcam", sign, score) for score in scores]
            for better, worse in zip(named[:-1], named[1:], strict=True):
                claim = "triplet above distance difference above pair-wise distance"
                found.append(_compare(rows, claim, better, worse))
    found.append(_compare_cost(seconds))
    for name in (SINGLE, MEAN):
        found.append(_check_claim(curve, name, published.BACHHAWAT_LOCALIZATION))
    for weighting in WEIGHTINGS:
        for sign in SIGNS:
            name = name_row(weighting, sign, top)
            found.append(_check_claim(curve, name, published.CHEN_LOCALIZATION))
    return found


def _compare(
    rows: Rows,
    claim: str,
    first: str,
    second: str,
    holds: Any = None,
    column: str = "ratio_box",
) -> Relation:
    one, other = (
        float(rows.get(name, {}).get(column, math.nan)) for name in (first, second)
    )
    where = f"{first} / {second}" + (" (deviation)" if column.endswith("std") else "")
    if math.isnan(one) or math.isnan(other):
        return Relation(claim, where, one, other, None)
    return Relation(claim, where, one, other, bool((holds or _above)(one, other)))


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


def _compare_cost(seconds: Mapping[str, float]) -> Relation:
    low, high = published.COST_OF_PLUS_PLUS
    claim = f"Grad-CAM++ {low} to {high} times slower"
    where = "seconds an image to fit a database of 50 triplets: Grad-CAM++ / Grad-CAM"
    if not seconds:
        return Relation(claim, where, math.nan, math.nan, None)
    slow, fast = seconds["gradcam++"], seconds["gradcam"]
    return Relation(claim, where, slow, fast, low <= slow / fast <= high)


def _check_claim(
    curve: Mapping[str, Any], name: str, claim: published.Claim
) -> Relation:
    text = (
        f"localisation above {claim.above} for thresholds from {claim.least} to "
        f"{claim.most} ({claim.paper})"
    )
    where = f"{name} (the lowest in that range / {claim.above})"
    if name not in curve.get("y", {}):
        return Relation(text, where, math.nan, claim.above, None)
    inside = _pick(curve["x"], curve["y"][name], claim)
    if any(math.isnan(x) for x in inside):
        return Relation(text, where, math.nan, claim.above, None)
    return Relation(text, where, min(inside), claim.above, min(inside) > claim.above)


def _pick(
    thresholds: Sequence[float], accuracy: Sequence[float], claim: published.Claim
) -> list[float]:
    return [
        y
        for x, y in zip(thresholds, accuracy, strict=True)
        if claim.least - 1e-6 <= x <= claim.most + 1e-6
    ]
