"""What a stage of curation is: a function of one source and of what earlier stages found out about it.

    pixels ── signals ──> one row per frame          the only reading of all frames
                 └─ split ──> one row per clip ── thresholds ──> the same rows, some dropped ── ...

A row is never taken away: what a stage does not want it marks with its own name and a reason, and later stages leave
marked rows alone. So every frame that was given is kept or accounted for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.parquet as pq

from mutoscope.curate.ingest import Source

Reads = Literal["pixels", "signals", "clips"]

# `end` is the frame after the last. `notes` says, stage by stage, what was not judged, and why.
CLIPS = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("start", pa.int32()),
        ("end", pa.int32()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("dropped_by", pa.string()),
        ("reason", pa.string()),
        ("notes", pa.string()),
    ]
)


@dataclass(frozen=True)
class Work:
    """What a stage may look at.

    Args:
        source: the input; it is fine.
        clips: rows of the schema `CLIPS`, and scores; at first one clip that is the whole source.
        signals_path: the table of its frames, None before it is made.
        fetch: returns a local file with the source's bytes; to be called only by a stage that reads pixels.
    """

    source: Source
    clips: pa.Table
    signals_path: Path | None
    fetch: Callable[[], Path]

    def signals(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Read the table of frames, with its metadata, and without its pictures unless they are asked for by name."""
        if self.signals_path is None:
            raise ValueError("no stage before this one makes signals")
        with pq.ParquetFile(self.signals_path) as file:
            names = [name for name in file.schema_arrow.names if name != "picture"] if columns is None else columns
            return file.read(columns=list(names), use_threads=False).replace_schema_metadata(file.metadata.metadata)


@runtime_checkable
class Stage(Protocol):
    """One step of curation; a frozen dataclass of its settings, which are part of what its results are known by."""

    @property
    def name(self) -> str:
        """How rows that it drops are marked; names a folder."""
        ...

    @property
    def version(self) -> int:
        """Raised whenever the same settings give another result."""
        ...

    @property
    def reads(self) -> tuple[Reads, ...]:
        """What its result depends on; it is made again when one of these changes."""
        ...

    @property
    def makes(self) -> Literal["signals", "clips"]:
        """Which of the two tables its result replaces."""
        ...

    def run(self, work: Work, out: Path) -> None:
        """Write the new table to a Parquet file.

        Raises:
            MediaError: something is wrong with the source; it is remembered, and all its clips are dropped.
            Exception: something went wrong here; its clips are dropped too, and the same command tries again.
        """
        ...


def clip_id(source: Source, start: int, end: int) -> str:
    """Return the name of a clip: the same bytes and frames have the same name in every data set."""
    return f"{source.id}-{start:07d}-{end:07d}"


def whole(source: Source) -> pa.Table:
    """Return the one clip that is all of a source."""
    row = {
        "id": clip_id(source, 0, source.num_frames),
        "source": source.id,
        "start": 0,
        "end": source.num_frames,
        "start_s": 0.0,
        "end_s": source.duration_s,
        "dropped_by": "",
        "reason": "",
        "notes": "",
    }
    return pa.Table.from_pylist([row], CLIPS)


def save(table: pa.Table, out: Path) -> None:
    """Write the table of a stage."""
    pq.write_table(table, out, compression="zstd")
