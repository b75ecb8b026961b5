"""Uncut stretches of real clips, of which footage can be assembled beside the shots of the world.

A folder of clips may hold a table, `MANIFEST.csv`, with a line for each file. Of its columns these are read, and all
but the first may be missing or empty:

    file, caption, licence     which, what it shows, under what licence
    cuts                       first frames of new shots, such as 283;376
    transitions, notes         text; every range of frames in it, such as 150-179, is left out of the stretches

A file that its notes call DERIVED (made of others) or synthetic is not used. Without a table each clip is taken for one
shot, so give clips without cuts. Photos serve as shots that stand still.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from mutoscope.core.errors import MediaError
from mutoscope.core.video import Video
from mutoscope.data import tables

VIDEOS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".gif")
PHOTOS = (".jpg", ".jpeg", ".png", ".webp")
TABLE = "MANIFEST.csv"
SHORTEST = 12  # frames, of a stretch worth keeping
NOT_USED = ("DERIVED", "synthetic")

Frame = UInt8[np.ndarray, "H W 3"]


@dataclass(frozen=True)
class Take:
    """Frames [start, end) of a file, without a cut; a photo has one."""

    file: str
    start: int
    end: int
    is_photo: bool = False
    caption: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Clips:
    """A folder and its stretches, in the order of their names."""

    folder: Path
    takes: tuple[Take, ...]

    @classmethod
    def open(cls, folder: Path) -> "Clips":
        """Find the uncut stretches of a folder's clips, of which no frame but the first is decoded.

        Raises:
            MediaError: no folder, no clips in it, or one that cannot be read.
        """
        if not folder.is_dir():
            raise MediaError(f"{folder} is not a folder. Name one that holds clips with --clips.")
        rows = _table(folder / TABLE)
        takes: list[Take] = []
        for path in sorted(folder.iterdir()):
            row = rows.get(path.name, {})
            if path.suffix.lower() not in VIDEOS + PHOTOS or (row.get("notes") or "").startswith(NOT_USED):
                continue
            number = Video.open(path).num_frames or 0
            about = row.get("caption") or "", row.get("licence") or ""
            if path.suffix.lower() in PHOTOS:
                takes.append(Take(path.name, 0, number, True, *about))
            else:
                takes += [Take(path.name, *stretch, False, *about) for stretch in _stretches(row, number)]
        if all(take.is_photo for take in takes):
            raise MediaError(f"{folder} holds no clips to take shots from. Put some there: {', '.join(VIDEOS)}.")
        return cls(folder, tuple(takes))

    def frames(self, file: str, start: int, num_frames: int, size: tuple[int, int]) -> Iterator[Frame]:
        """Read frames as they are asked for, at another size; what has no room in its shape is cut at the edges."""
        return Video.open(self.folder / file).take(start, num_frames).resized(*size, crop=True).frames()


def _table(path: Path) -> dict[str, Mapping[str, str]]:
    if not path.exists():
        return {}
    return {row.fields.get("file", ""): row.fields for row in tables.rows(path.read_bytes(), str(path))}


def _stretches(row: Mapping[str, str], num_frames: int) -> list[tuple[int, int]]:
    """Split at the cuts that the table names, and leave out the ranges that it names."""
    cuts = [int(number) for number in re.findall(r"\d+", row.get("cuts") or "")]
    text = f"{row.get('transitions') or ''}; {row.get('notes') or ''}"
    left_out = np.zeros(num_frames, bool)
    for first, last in re.findall(r"\b(\d+)-(\d+)\b", text):
        left_out[int(first) : int(last) + 1] = True
    ends = {0, num_frames, *(cut for cut in cuts if cut < num_frames)}
    ends |= {int(index) + 1 for index in np.flatnonzero(np.diff(left_out))}
    return [(start, end) for start, end in pairwise(sorted(ends)) if end - start >= SHORTEST and not left_out[start]]
