"""The recipe that is used when none is given: for videos of one's own, careful not to drop what is good."""

from mutoscope.curate.duplicates import Duplicates
from mutoscope.curate.filter import Threshold, Thresholds
from mutoscope.curate.runner import Curation, Signals, Split

LIGHT = (
    Threshold("luma_mean", "median", at_least=0.06, at_most=0.95, unit="of white"),
    Threshold("luma_high", "p95", at_least=0.2, unit="of white"),
)
MOTION = (Threshold("still", "mean", at_most=0.995, unit="of the picture", better="lower", images=False),)


def default() -> Curation:
    """Split at transitions; drop what is black, blank, frozen or there twice."""
    return Curation(
        name="Clips",
        stages=(Signals(), Split(), Thresholds(LIGHT, name="light"), Thresholds(MOTION, name="motion")),
        together=(Duplicates(),),
    )
