"""Figures that the papers report, by the name of our row."""

from typing import NamedTuple

from benchmarks.papers import names

BACHHAWAT = "Bachhawat, Generalizing GradCAM for Embedding Networks, arXiv 2402.00909"
CHEN = (
    "Chen, Chen, Hajimirsadeghi and Mori, Adapting Grad-CAM for Embedding Networks, "
    "WACV 2020, arXiv 2001.06538"
)
SETTING = (
    "The papers trained on the classes 1-100 of CUB-200-2011 and report on 101-200, "
    "with a ResNet-50, 7 x 7 x 2048 activations and an embedding of width 128. Their "
    "deviations are over eight trainings (Bachhawat) and over images (Chen et al.). "
    "Neither says how images were cropped for the ratio; 0.52 and 0.54 for evenly "
    "spread heat suggest a crop of the centre. Bachhawat gives one localisation "
    "accuracy for each proxy, whatever the channels; here it stands in the rows of all "
    "channels."
)


class Published(NamedTuple):
    """What a paper reports of a row; None for what it does not.

    Attributes:
        heatmap_ratio_bbox: mean heatmap ratio in boxes.
        heatmap_ratio_bbox_std: its deviation.
        heatmap_ratio_mask: mean heatmap ratio in masks.
        heatmap_ratio_mask_std: its deviation.
        localization_accuracy: share of boxes with IoU >= 0.5 at threshold 0.2.
    """

    heatmap_ratio_bbox: float | None = None
    heatmap_ratio_bbox_std: float | None = None
    heatmap_ratio_mask: float | None = None
    heatmap_ratio_mask_std: float | None = None
    localization_accuracy: float | None = None


def _of_chen(weighting: str, number: int) -> str:
    return names.name_transferred(weighting, +1, names.VARIANTS[number])


PUBLISHED = {
    names.UNIFORM: Published(0.522, None, 0.274),
    names.UNIFORM_OF_CHEN: Published(0.543, None, 0.275),
    names.SINGLE: Published(0.776, 0.004, 0.543, 0.004, 0.776),
    names.SINGLE_TOP: Published(0.757, 0.003, 0.520, 0.004),
    names.MEAN: Published(0.789, 0.005, 0.551, 0.006, 0.768),
    names.MEAN_TOP: Published(0.764, 0.004, 0.524, 0.005),
    _of_chen("gradcam", 0): Published(0.615, 0.278, 0.380, 0.234),
    _of_chen("gradcam", 1): Published(0.643, 0.265, 0.416, 0.231),
    _of_chen("gradcam", 2): Published(0.760, 0.152, 0.534, 0.146, 0.797),
    _of_chen("gradcam", 3): Published(0.750),
    _of_chen("gradcam", 4): Published(0.68),
    _of_chen("gradcam++", 0): Published(0.772, 0.145, 0.543, 0.140),
    _of_chen("gradcam++", 1): Published(0.767, 0.142, 0.538, 0.130),
    _of_chen("gradcam++", 2): Published(0.776, 0.142, 0.549, 0.141),
}
# How many times slower Grad-CAM++ is (Chen et al.).
COST_OF_PLUS_PLUS = (5, 10)
# The ratio is stable from so many channels to so many (Chen et al.).
STABLE_CHANNELS = (32, 1024)


class Range(NamedTuple):
    """A localisation accuracy that a paper reports over a range of thresholds.

    Attributes:
        above: the accuracy is higher than this,
        least: from this threshold
        most: to this one.
    """

    above: float
    least: float
    most: float


CHEN_LOCALIZATION = Range(0.75, 0.15, 0.25)
BACHHAWAT_LOCALIZATION = Range(0.6, 0.05, 0.4)
