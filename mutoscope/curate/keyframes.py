"""The first tier: refuse a source by its key frames alone, before all frames of it are decoded.

    packets ── sizes of those between key frames ──┐
    key frames ── cells, light, stillness ─────────┴── small, black, blank, frozen? ──> a reason, or on to `Signals`

Key frames stand ten seconds apart, so they are believed only where nothing happens between them: packets that only
repeat the picture are next to empty. What is let through, in doubt, is what it was: `Signals` measures it in full.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from mutoscope.core import media
from mutoscope.core.errors import MediaError
from mutoscope.curate import signals
from mutoscope.curate.ingest import Source, tells_of_machine
from mutoscope.curate.pixels import CELLS, CHROMA_CELLS
from mutoscope.curate.stage import Reads, Work, save

EMPTY_BYTES, EMPTY_PX = 100, 4000  # a packet that only repeats a picture has fewer bytes, or fewer than pixels / 4000
BUSY_SHARE = 0.02  # of the packets between key frames: from so many others on, the key frames do not tell all
REPEATED_STILL = 0.97  # share of the pixels that a key frame leaves as they are where it shows the same picture anew


@dataclass(frozen=True)
class Keyframes:
    """A stage that refuses sources which their key frames show to be of no use; stands before `Signals`.

    A source is refused only if all of its key frames say so, there are `least_keys` of them, and the packets between
    them hold next to nothing; a picture is judged by its size alone. A refused source has a problem, and no frame of it
    but those was decoded.

    Args:
        least_side_px: pictures and videos with a shorter side are refused; 0 for no such limit.
        black_light: 95th percentile of light, from 0 for black to 1 for white, below which a frame is black; 0 for no
            such limit.
        blank_levels: levels of 8 bits by which the fields of a frame of one colour may differ; 0 for no such limit.
        frozen: refuse videos that show one picture all the time.
        least_keys: key frames of a video that can be judged.
    """

    least_side_px: int = 64
    black_light: float = 0.05
    blank_levels: int = 4
    frozen: bool = True
    least_keys: int = 3
    name: str = field(default="keyframes", init=False)
    version: int = field(default=1, init=False)
    reads: tuple[Reads, ...] = field(default=("pixels",), init=False)
    makes: Literal["signals", "clips"] = field(default="clips", init=False)

    def run(self, work: Work, out: Path) -> None:
        """Leave the clips as they are.

        Raises:
            MediaError: the source is of no use.
        """
        why_not = self._small(work.source)
        if not why_not and work.source.kind == "video":
            why_not = self._seen(work.fetch())
        if why_not:
            raise MediaError(f"it is {why_not}")
        save(work.clips, out)

    def _small(self, source: Source) -> str:
        side = min(source.width, source.height)
        return f"small: {source.width}x{source.height}, below {self.least_side_px}" if side < self.least_side_px else ""

    def _seen(self, path: Path) -> str:
        """Return what is wrong with a video, "" if nothing is known."""
        try:
            if not _is_idle(path):
                return ""
            table = signals.keyframes(path)
        except MediaError as error:
            if tells_of_machine(error):
                raise
            return ""  # who decodes all of it tells what is damaged
        count = table.num_rows
        if count < self.least_keys:
            return ""
        if (table["luma_high"].to_numpy() < self.black_light).all():
            return f"black in all of its {count} key frames"
        if (_spread(table) < self.blank_levels).all():
            return f"of one colour in each of its {count} key frames"
        if self.frozen and (table["still"].to_numpy()[1:] >= REPEATED_STILL).all():
            return f"frozen: all of its {count} key frames show one picture"
        return ""


def _is_idle(path: Path) -> bool:
    """Say whether next to nothing is coded between the key frames; where all are key frames, nothing would be saved."""
    sizes, pixels = media.packet_sizes(path)
    empty = max(EMPTY_BYTES, pixels / EMPTY_PX)
    return bool(sizes) and float(np.mean(np.array(sizes) > empty)) <= BUSY_SHARE


def _spread(table: pa.Table) -> np.ndarray:
    """Return by how many levels the fields of each frame differ, of luma and of both colours the most."""
    cells = table["cells"].combine_chunks()
    levels = cells.flatten().to_numpy().reshape(len(cells), -1).astype(np.int16)
    planes = np.split(levels, [CELLS**2, CELLS**2 + CHROMA_CELLS**2], axis=1)
    return np.max([plane.max(axis=1) - plane.min(axis=1) for plane in planes], axis=0)
