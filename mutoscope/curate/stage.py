"""What a stage of curation is: a function of one source, or of the whole set, and of what earlier stages found out.

    each source:    pixels ── signals ──> one row per frame          the only reading of all frames
                                 └─ split ──> one row per clip ── thresholds ──> the same rows, some dropped ── ...
    the whole set:  all rows ── duplicates ── captions ── ... ──> the same rows, some dropped, some with more columns

A row is never taken away: what a stage does not want it marks with its own name and a reason, and later stages leave
marked rows alone. So every frame that was given is kept or accounted for.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32

from mutoscope.core.errors import RecipeError
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

# A column that a stage may add, one vector a clip: what it shows. It stays in the table, and is no score of a record.
EMBEDDING = "embedding"
# A column that a stage may add: the captions of a clip's record, in place of its source's one where it is not null.
CAPTIONS = pa.field(
    "captions", pa.list_(pa.struct([("text", pa.string()), ("language", pa.string()), ("length", pa.string())]))
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
        return _read_signals(self.signals_path, columns)


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


@dataclass(frozen=True)
class SetView:
    """What a stage over the whole set may look at besides the table of clips. Threads may share it.

    Args:
        folder: of this stage alone, which is there; what it keeps in it is there in the next run too, and in the runs
            after a kill.
        sources: that have clips, by their ids.
        places: source, first frame and frame after the last of each clip, by its id.
        signals_paths: the tables of frames, by the ids of their sources; a source that none was made of has none.
        fetch_source: returns a local file with the bytes of a source.
        again: lines on what could not be done now and is tried by the same command again; for the stage to add to.
    """

    folder: Path
    sources: Mapping[str, Source]
    places: Mapping[str, tuple[str, int, int]]
    signals_paths: Mapping[str, Path]
    fetch_source: Callable[[Source], Path]
    again: list[str] = field(default_factory=list)

    def source(self, clip: str) -> Source:
        """Return the source of a clip."""
        return self.sources[self.places[clip][0]]

    def fetch(self, clip: str) -> Path:
        """Return a local file of a clip's whole source, whose frames [start, end) are the clip.

        Raises:
            MediaError: it cannot be had.
        """
        return self.fetch_source(self.source(clip))

    def signals(self, clip: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Read the rows of a clip's frames, with the metadata of the table that they are from.

        Args:
            clip: its id.
            columns: of the table of frames; all but the pictures if not given.

        Raises:
            RecipeError: no stage made signals.
        """
        source, start, end = self.places[clip]
        return self.source_signals(source, columns).slice(start, end - start)

    def source_signals(self, source: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Read the rows of all frames of a source, for a stage that looks at several clips of it.

        Raises:
            RecipeError: no stage made signals.
        """
        if source not in self.signals_paths:
            raise RecipeError(
                f"{self.folder.name} reads signals, and no stage made any of {self.sources[source].path}. "
                "Put Signals() first among the stages."
            )
        return _read_signals(self.signals_paths[source], columns)


@runtime_checkable
class SetStage(Protocol):
    """One step over the clips of all sources; a frozen dataclass of its settings, listed in `Curation.together`.

    It runs in every run, in the one process that gathers, so it keeps in `SetView.folder` what was dear to get. The
    same clips give the same table in any run: no clock, no order of arrival.
    """

    @property
    def name(self) -> str:
        """How rows that it drops are marked; names a folder."""
        ...

    @property
    def version(self) -> int:
        """Raised whenever the same settings give another result."""
        ...

    def run(self, clips: pa.Table, view: SetView) -> pa.Table:
        """Return the same rows in the same order: some of them marked as dropped, or with more columns.

        Args:
            clips: all of them, sorted by id, also those that were dropped: columns of `CLIPS`, scores, and what stages
                before this one added. Rows that are dropped stay as they are.
            view: what else it may look at.

        Raises:
            MutoscopeError: ends the run, with one line; what is in `SetView.folder` stays.
        """
        ...


def embeddings(clips: pa.Table) -> dict[str, Float32[np.ndarray, " d"]]:
    """Return the vectors in the column `EMBEDDING` of clips that are kept, by their ids; none where there is no such.

    Raises:
        RecipeError: they differ in length, so they are not of one model.
    """
    if EMBEDDING not in clips.column_names:
        return {}
    columns = (clips[name].to_pylist() for name in ("id", "dropped_by"))
    rows = zip(*columns, _vectors(clips[EMBEDDING]), strict=True)
    found = {id: vector for id, by, vector in rows if vector is not None and not by}
    if len({vector.shape for vector in found.values()}) > 1:
        raise RecipeError("The embeddings of the clips differ in length. Embed all of them with one model.")
    return found


def replace_columns(clips: pa.Table, columns: Mapping[str, pa.Array | pa.ChunkedArray]) -> pa.Table:
    """Return a table of clips in which some columns are new or have new values."""
    for name, values in columns.items():
        if name in clips.column_names:
            clips = clips.set_column(clips.column_names.index(name), name, values)
        else:
            clips = clips.append_column(name, values)
    return clips


def with_columns(schema: pa.Schema, kinds: Mapping[str, pa.DataType | None]) -> pa.Schema:
    """Put columns at the end of a schema, in place of those of the same names; one without a kind is only taken out."""
    left = [column for column in schema if column.name not in kinds]
    made = [pa.field(name, kind) for name, kind in kinds.items() if kind is not None]
    return pa.schema([*left, *made], schema.metadata)


def noted(notes: str, *more: str) -> str:
    """Add to the notes of a clip what was not judged, and why; an empty text adds nothing."""
    return "; ".join(filter(None, [notes, *more]))


def is_score(column: pa.Field) -> bool:
    """Say whether a column of the table of clips is a number, a name or tags that belong in records and on the card."""
    if column.name in CLIPS.names:
        return False
    kind = column.type
    kind = kind.value_type if pa.types.is_list(kind) and pa.types.is_string(kind.value_type) else kind
    return pa.types.is_string(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)


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


def _read_signals(path: Path, columns: Sequence[str] | None) -> pa.Table:
    with pq.ParquetFile(path) as file:
        names = [name for name in file.schema_arrow.names if name != "picture"] if columns is None else columns
        return file.read(columns=list(names), use_threads=False).replace_schema_metadata(file.metadata.metadata)


def _vectors(column: pa.ChunkedArray) -> Iterator[Float32[np.ndarray, " d"] | None]:
    """Yield the vectors of a column without making numbers of Python of them."""
    for chunk in column.chunks:
        for scalar in chunk:
            vector = scalar.values
            yield None if vector is None else vector.to_numpy(zero_copy_only=False).astype(np.float32)
