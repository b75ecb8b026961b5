"""Stages for tests of the runner: cheap, talkative, and able to fail in every way."""

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from mutoscope.core import media, pictures
from mutoscope.core.errors import MediaError
from mutoscope.core.files import replacing
from mutoscope.core.frames import decode
from mutoscope.curate.stage import CAPTIONS, CLIPS, EMBEDDING, Reads, SetView, Work, clip_id, replace_columns, save


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
        frames = decode(path, media.probe(path), 0) if is_video else [pictures.read_image(path)]
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


@dataclass(frozen=True)
class Vectors:
    """Embeds each clip by the mean level of its frames: an angle, so that clips of like levels point alike."""

    name: str = field(default="vectors", init=False)
    version: int = field(default=1, init=False)
    reads: tuple[Reads, ...] = field(default=("signals", "clips"), init=False)
    makes: Literal["signals", "clips"] = field(default="clips", init=False)

    def run(self, work: Work, out: Path) -> None:
        levels = work.signals(["level"])["level"].to_numpy()
        rows = work.clips.select(["start", "end"]).to_pylist()
        angles = [levels[row["start"] : row["end"]].mean() / 81 for row in rows]
        vectors = [np.array([np.cos(angle), np.sin(angle)], np.float32) for angle in angles]
        save(replace_columns(work.clips, {EMBEDDING: pa.array(vectors, pa.list_(pa.float32(), 2))}), out)


@dataclass(frozen=True)
class Ranks:
    """Looks at the whole set: ranks the clips that are kept by level, drops the darkest, says of each what it is.

    In its folder it remembers the levels of the clips that it has measured, as a stage does whose work is dear.
    """

    drop: int = 1
    name: str = "ranks"
    version: int = field(default=1, init=False)

    def run(self, clips: pa.Table, view: SetView) -> pa.Table:
        rows = clips.to_pylist()
        kept = [row for row in rows if not row["dropped_by"]]
        for row in kept:
            known = view.folder / row["id"]
            if not known.exists():
                assert view.fetch(row["id"]).name == Path(view.source(row["id"]).path).name
                level = float(view.signals(row["id"], ["level"])["level"].to_numpy().mean())
                with replacing(known) as temporary:
                    temporary.write_text(repr(level))
            row["level"] = float(known.read_text())
        for rank, row in enumerate(sorted(kept, key=lambda row: (row["level"], row["id"]))):
            row["rank"] = rank
            row["captions"] = [{"text": f"number {rank}", "language": "en", "length": "short"}]
            if rank < self.drop:
                row["dropped_by"], row["reason"] = self.name, "it is the darkest"
        columns = {
            "dropped_by": pa.array([row["dropped_by"] for row in rows]),
            "reason": pa.array([row["reason"] for row in rows]),
            "rank": pa.array([row.get("rank") for row in rows], pa.int64()),
            CAPTIONS.name: pa.array([row.get("captions") for row in rows], CAPTIONS.type),
        }
        return replace_columns(clips, columns)
