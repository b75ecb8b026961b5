"""Stages for tests of the runner: cheap, talkative, and able to fail in every way."""

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from mutoscope.core import media
from mutoscope.core.errors import MediaError
from mutoscope.curate.stage import CLIPS, Reads, Work, clip_id, save


@dataclass(frozen=True)
class Levels:
    """Reads all frames into a table of their mean levels, and writes down that it did.

    A file named TROUBLE-x.mp4, where `trouble` is a folder with a file TROUBLE in it, goes wrong in that way: "dies",
    "hangs", "damaged", "fails".
    """

    log: str
    trouble: str = ""
    name: str = field(default="levels", init=False)
    version: int = field(default=1, init=False)
    reads: tuple[Reads, ...] = field(default=("pixels",), init=False)
    makes: Literal["signals", "clips"] = field(default="signals", init=False)

    def run(self, work: Work, out: Path) -> None:
        path = work.fetch()
        with Path(self.log).open("a") as file:
            file.write(f"{path.name}\n")
        kind = path.name.partition("-")[0]
        if self.trouble and (Path(self.trouble) / kind).exists():
            if kind == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            if kind == "hangs":
                signal.pause()
            if kind == "damaged":
                raise MediaError(f"{path} has holes.")
            raise ValueError("a stage has a bug")
        is_video = work.source.kind == "video"
        frames = media.decode(path, media.probe(path), 0) if is_video else [media.read_image(path)]
        levels = np.array([frame.mean() for frame in frames], np.float32)
        times = np.arange(len(levels)) * work.source.duration_s / len(levels)
        save(pa.table({"index": np.arange(len(levels), dtype=np.int32), "time_s": times, "level": levels}), out)


@dataclass(frozen=True)
class Pieces:
    """Cuts a source into clips of so many frames; what is left over is dropped."""

    length: int = 4
    name: str = field(default="pieces", init=False)
    version: int = field(default=1, init=False)
    reads: tuple[Reads, ...] = field(default=("signals",), init=False)
    makes: Literal["signals", "clips"] = field(default="clips", init=False)

    def run(self, work: Work, out: Path) -> None:
        total = work.signals(["index"]).num_rows
        step_s = work.source.duration_s / total
        rows = []
        for start in range(0, total, self.length):
            end = min(total, start + self.length)
            is_short = end - start < self.length and work.source.kind == "video"
            rows.append(
                {
                    "id": clip_id(work.source, start, end),
                    "source": work.source.id,
                    "start": start,
                    "end": end,
                    "start_s": start * step_s,
                    "end_s": end * step_s,
                    "dropped_by": self.name if is_short else "",
                    "reason": f"{end - start} frames are too few" if is_short else "",
                    "notes": "",
                }
            )
        save(pa.Table.from_pylist(rows, CLIPS), out)
