"""A data set from videos and pictures of one's own: split into shots, drop what is black, blank, frozen or there twice.

mutoscope curate FOLDER --out set --recipe recipes/curate/clips.py
"""

from mutoscope.curate.duplicates import Duplicates
from mutoscope.curate.filter import Threshold, Thresholds
from mutoscope.curate.ingest import Ingest
from mutoscope.curate.runner import Curation, Signals, Split
from mutoscope.curate.split import SplitSettings
from mutoscope.curate.write import Write


def recipe() -> Curation:
    size = (Threshold("short_side_px", at_least=240, unit="pixels", better="higher"),)
    light = (
        Threshold("luma_mean", "median", at_least=0.06, at_most=0.95, unit="of white"),
        Threshold("luma_high", "p95", at_least=0.2, unit="of white"),
    )
    motion = (Threshold("still", "mean", at_most=0.995, unit="of the picture", better="lower", images=False),)
    return Curation(
        name="Clips",
        stages=(
            Signals(),
            Split(SplitSettings(min_shot_s=1.0, max_shot_s=10.0)),
            Thresholds(size, name="size"),  # each stage is a line of its own in the card
            Thresholds(light, name="light"),
            Thresholds(motion, name="motion"),
        ),
        together=(Duplicates(),),  # of all files; the largest of a group is kept, then the sharpest, then the longest
        ingest=Ingest(licence=""),  # say here on what terms the files are yours to use
        write=Write(short_side_px=720),
    )
