"""A data set from raw footage of the procedural world, small enough for a laptop.

mutoscope world footage --out raw --count 8 --share 0.2 --duplicates 2
mutoscope curate raw --out set --recipe recipes/curate/world.py
mutoscope train recipes/curate/train.py --out runs/first

--share says in how many of the videos each defect occurs. With its default of a half hardly any video is without one,
and as a logo or a border spoils all clips of its video, hardly a clip is kept.
"""

from mutoscope.curate.duplicates import Duplicates
from mutoscope.curate.filter import Threshold, Thresholds
from mutoscope.curate.ingest import Ingest
from mutoscope.curate.runner import Curation, Signals, Split
from mutoscope.curate.score import Scores, thresholds
from mutoscope.curate.split import SplitSettings
from mutoscope.curate.write import Write


def recipe() -> Curation:
    # Things of this world stand still for a while: that is no defect of it. Only a whole clip of one picture is.
    motion = (Threshold("still", "mean", at_most=0.999, unit="of the picture", better="lower", images=False),)
    return Curation(
        name="Footage of the procedural world",
        stages=(
            Signals(),
            Split(SplitSettings(min_shot_s=1.0, max_shot_s=4.0)),
            Scores(),
            thresholds("freeze_longest_s", "duplicate_share"),
            Thresholds(motion, name="motion"),
        ),
        together=(Duplicates(),),  # last: of each group the best of those that are fine
        ingest=Ingest(licence="Apache-2.0"),  # drawn by this package
        write=Write(shard_clips=64, quality="best"),
    )
