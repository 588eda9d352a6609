"""The names of the rows of the tables."""

SINGLE = "single point, all channels"
SINGLE_TOP = "single point, top 50"
MEAN = "average proxy, all channels"
MEAN_TOP = "average proxy, top 50"
MEAN_OF_OTHERS = "average proxy without the image itself"
UNIFORM = "uniform"
UNIFORM_OF_CHEN = "uniform, as Chen et al. report it"
CENTRAL_BOX = "fixed central box"
LOCALIZE = 'preset "localize", single point'
LOCALIZE_MEAN = 'preset "localize", average proxy'

WEIGHTINGS = {"gradcam": "Grad-CAM", "gradcam++": "Grad-CAM++"}
# The loss itself, as in the paper, or what makes an image like its class.
SIGNS = {+1: "+L", -1: "-L"}
# What each database of transferred weights is cut to, in the order of the rows.
VARIANTS = (
    "single triplet",
    "50 triplets",
    "50 triplets, top 50",
    "50 triplets, top 50, 50 centres",
    "50 triplets, top 1",
)
# Begins the names of methods that are points of a curve and no rows.
BY_CHANNELS = "by channels: "


def name_transferred(weighting: str, sign: int, variant: str) -> str:
    """Return the name of a row of transferred weights.

    Example:

    >>> name_transferred("gradcam++", -1, "single triplet")
    'Grad-CAM++, -L, single triplet'
    """
    return f"{WEIGHTINGS[weighting]}, {SIGNS[sign]}, {variant}"


def name_direct(weighting: str, proxy: str, sign: int, is_top: bool) -> str:
    """Return the name of a row of back-propagation from triplets or pairs.

    Example:

    >>> name_direct("gradcam", "triplet", -1, is_top=True)
    'Grad-CAM, -L, triplet, top 50'
    """
    channels = "top 50" if is_top else "all channels"
    return name_transferred(weighting, sign, f"{proxy.replace('_', ' ')}, {channels}")
