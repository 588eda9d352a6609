"""Figures that the papers report, and where each of them was read.

The tables of the papers themselves were not at hand when this was written. The
figures here are second-hand, as the project's issues quote them; the other cells say
that theirs is not at hand.
"""

from typing import NamedTuple

BACHHAWAT = "Bachhawat, Generalizing GradCAM for Embedding Networks, arXiv 2402.00909"
CHEN = (
    "Chen, Chen, Hajimirsadeghi and Mori, Adapting Grad-CAM for Embedding Networks, "
    "WACV 2020, arXiv 2001.06538"
)
NOT_AT_HAND = "not at hand"
OURS = "ours"
# Heatmap ratios of Chen et al. Of which basic method they are is not known.
FULL_DATABASE = 0.760
FIFTY_CENTRES = 0.750
TOP_CHANNEL = 0.68
UNIFORM_BOX = "0.52 to 0.54, framing not stated"
# How many times slower Grad-CAM++ is (Chen et al.).
COST_OF_PLUS_PLUS = (5, 10)


class Claim(NamedTuple):
    """A localisation accuracy that a paper reports over a range of thresholds.

    Attributes:
        paper: short name.
        above: the accuracy is higher than this,
        least: from this threshold
        most: to this one.
    """

    paper: str
    above: float
    least: float
    most: float


CHEN_LOCALIZATION = Claim("Chen et al.", 0.75, 0.15, 0.25)
BACHHAWAT_LOCALIZATION = Claim("Bachhawat", 0.6, 0.05, 0.4)
