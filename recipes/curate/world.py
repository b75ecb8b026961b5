"""A data set from raw footage of the procedural world, small enough for a laptop, and what to train on it.

mutoscope world footage --out raw
mutoscope curate raw --out set --recipe recipes/curate/world.py
"""

from mutoscope.curate.filter import Threshold, Thresholds
from mutoscope.curate.ingest import Ingest
from mutoscope.curate.runner import Curation, Signals, Split
from mutoscope.curate.score import Scores, thresholds
from mutoscope.curate.split import SplitSettings
from mutoscope.curate.write import Write


def recipe() -> Curation:
    # Things of this world stand still for a while: that is no defect of it. Only a whole clip of one picture is.
    motion = (Threshold("still", "mean", at_most=0.9999, unit="of the picture", better="lower", images=False),)
    return Curation(
        name="Footage of the procedural world",
        stages=(
            Signals(),
            Split(SplitSettings(min_shot_s=1.0, max_shot_s=4.0)),
            Scores(),
            thresholds("freeze_longest_s", "duplicate_share"),
            Thresholds(motion, name="motion"),
        ),
        ingest=Ingest(licence="Apache-2.0"),  # drawn by this package
        write=Write(shard_clips=64, quality="best"),
    )
