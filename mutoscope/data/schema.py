"""The clip record: what is known of one training clip, one line of JSON."""

import json
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Literal

from mutoscope.core.errors import MediaError

Part = Literal["train", "held_out", "any"]  # of a larger whole that a clip belongs to


@dataclass(frozen=True)
class Caption:
    """One description of a clip.

    Args:
        text: what it says.
        language: two letters, such as ``en``.
        length: ``short`` (one sentence) or ``dense``.
    """

    text: str
    language: str = "en"
    length: str = "short"


@dataclass(frozen=True)
class Clip:
    """One training clip.

    Args:
        id: unique in its data set.
        source: the file or world it comes from.
        num_frames: frames of the clip.
        height: pixels down, as trained on.
        width: pixels across, as trained on.
        fps: frames a second, an exact fraction written like ``8`` or ``30000/1001``.
        split: ``train``, ``held_out``, or ``any`` where no difference is made.
        captions: descriptions of a real clip.
        scene_seed: seed of a world clip's scene, from which captions are drawn while training.
        source_height: pixels down before any resizing.
        source_width: pixels across before any resizing.
        crop_top: rows of the resized picture cut off above.
        crop_left: columns of the resized picture cut off at the left.
        stride: every how many frames of the source one was taken.
    """

    id: str
    source: str
    num_frames: int
    height: int
    width: int
    fps: str
    split: Part = "train"
    captions: tuple[Caption, ...] = ()
    scene_seed: int | None = None
    source_height: int = 0
    source_width: int = 0
    crop_top: int = 0
    crop_left: int = 0
    stride: int = 1

    def __post_init__(self) -> None:
        if self.scene_seed is None and not self.captions:
            raise MediaError(f"Clip {self.id} has no caption. Give it one, or the text that describes nothing: ''.")

    @property
    def frames_a_second(self) -> Fraction:
        """The frame rate as a number."""
        return Fraction(self.fps)

    def to_line(self) -> str:
        """Return the record as one line of JSON, without its line feed."""
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_line(cls, line: str) -> "Clip":
        """Read a record back."""
        fields = json.loads(line)
        fields["captions"] = tuple(Caption(**caption) for caption in fields["captions"])
        return cls(**fields)
