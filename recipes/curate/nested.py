"""Nested training sets as HunyuanVideo has them: each level larger, and of the better clips of the level before it.

mutoscope curate FOLDER --out set --recipe recipes/curate/nested.py

Training takes a level by its name: DatasetClips("set", ..., level="540p").
"""

from mutoscope.curate.filter import Threshold, Thresholds
from mutoscope.curate.nested import Best, Level, Nested
from mutoscope.curate.runner import Curation, Signals, Split
from mutoscope.curate.score import Scores, thresholds
from mutoscope.curate.split import SplitSettings
from mutoscope.curate.write import Write


def recipe() -> Curation:
    light = (Threshold("luma_mean", "median", at_least=0.06, at_most=0.95, unit="of white"),)
    # Of each level about half goes on to the next: HunyuanVideo keeps between a half and a fifth.
    sharper = Best("sharpness", 0.7, better="higher", unit="levels²")
    livelier = Best("motion_speed", 0.7, better="higher", unit="widths/s", images=False)
    levels = (
        Level("256p", 256),
        Level("360p", 360, (sharper, livelier)),
        Level("540p", 540, (sharper, livelier, Threshold("caption_share", at_most=0.0, name="caption_share"))),
        Level("720p", 720, (sharper, livelier)),
        Level("fine-tune", 720, (Best("sharpness", 0.3, better="higher", unit="levels²"), livelier)),
    )
    return Curation(
        name="Nested sets",
        stages=(
            Signals(),
            Split(SplitSettings(min_shot_s=2.0, max_shot_s=10.0)),
            Scores(),
            Thresholds(light, name="light"),
            thresholds("caption_share"),  # the usual limits but one, which is for the levels
        ),
        together=(Nested(levels),),
        write=Write(short_side_px=720),  # what the highest level trains at
    )
