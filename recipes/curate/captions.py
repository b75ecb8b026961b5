"""Clips with captions: split, drop what is black, blank, frozen or there twice, and caption what is left.

vllm serve Qwen/Qwen2.5-VL-7B-Instruct          # any server that speaks OpenAI's protocol
mutoscope curate FOLDER --out set --recipe recipes/curate/captions.py \
    --set together.1.vlm.url=http://localhost:8000/v1 together.1.vlm.model=Qwen/Qwen2.5-VL-7B-Instruct
"""

from mutoscope.core.chat import Endpoint
from mutoscope.curate.describe import Captions
from mutoscope.curate.duplicates import Duplicates
from mutoscope.curate.filter import Threshold, Thresholds
from mutoscope.curate.runner import Curation, Signals, Split
from mutoscope.curate.split import SplitSettings
from mutoscope.curate.write import Write


def recipe() -> Curation:
    light = (Threshold("luma_mean", "median", at_least=0.06, at_most=0.95, unit="of white"),)
    motion = (Threshold("still", "mean", at_most=0.995, unit="of the picture", better="lower", images=False),)
    vlm = Endpoint("http://localhost:8000/v1", at_once=16)  # key_variable="NAME" where a key is needed; never the key
    return Curation(
        name="Captioned clips",
        stages=(
            Signals(),
            Split(SplitSettings(min_shot_s=1.0, max_shot_s=10.0)),
            Thresholds(light, name="light"),
            Thresholds(motion, name="motion"),
        ),
        # last, because it costs most; hallucination=Hallucination(Endpoint(...)) has another model check it
        together=(Duplicates(), Captions(vlm)),
        write=Write(short_side_px=720),
    )
