"""Learned judges as a stage: a few frames of each clip are decoded, and what judges say of them becomes columns.

    clips ── which frames each judge wants ── decode those ── a few clips at a time ── judges ──> columns

Judges are those of `mutoscope.scorers`: CLIP and what stands on it, classifiers, detectors, models of clips. What a
column means, its unit and direction is in `Learned.scores`; `Thresholds` after this stage puts limits on numbers.
`LearnedTogether` is the same over the whole set, after captions were made.
"""

import json
import multiprocessing
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from hashlib import sha256
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import UInt8

from mutoscope.core import config, media, pictures
from mutoscope.core.errors import MediaError, RecipeError
from mutoscope.core.files import replacing
from mutoscope.core.frames import decode
from mutoscope.curate.ingest import Source, short, tells_of_machine
from mutoscope.curate.score import Score
from mutoscope.curate.stage import CAPTIONS, CLIPS, Reads, SetView, Work, noted, replace_columns, save, with_columns
from mutoscope.curate.view import spread
from mutoscope.scorers.classify import Classifier
from mutoscope.scorers.clip import Aesthetic, Concepts, Embedding, Similarity
from mutoscope.scorers.detect import Detector
from mutoscope.scorers.judge import Judge, Place, Seen, Seer
from mutoscope.scorers.quality import Quality

AnyJudge = Embedding | Aesthetic | Similarity | Concepts | Classifier | Detector | Quality
KINDS = {"number": pa.float64(), "name": pa.string()}
HELD_BYTES = 2**28  # of frames that are judged together; one clip at least, however large

Row = dict[str, Any]
Frame = UInt8[np.ndarray, "H W 3"]


@dataclass(frozen=True)
class Learned:
    """The stage that asks learned judges about the clips that are kept so far; others get null.

    Each process loads the weights for itself, when it comes to its first source: on a GPU, take no more ``--workers``
    than have room there. What was judged is known by the names of the weights, so other weights need another name.

    Args:
        judges: whom to ask; their columns must differ in name.
        place: where they compute.
        name: of the stage.
    """

    judges: tuple[AnyJudge, ...]
    place: Place = Place()
    name: str = "learned"
    version: int = field(default=1, init=False)
    reads: tuple[Reads, ...] = field(default=("pixels", "clips"), init=False)
    makes: Literal["signals", "clips"] = field(default="clips", init=False)

    def __post_init__(self) -> None:
        names = [score.name for score in self.scores]
        twice = sorted({name for name in names if names.count(name) > 1 or name in (*CLIPS.names, CAPTIONS.name)})
        if twice or not self.judges:
            problem = f"a column {twice[0]!r} that is there already" if twice else "no judges"
            raise RecipeError(f"Stage {self.name} has {problem}. Give judges with columns of their own.")
        if any(judge.frames < 1 for judge in self.judges):
            raise RecipeError(f"Stage {self.name} has a judge that looks at no frame. Give frames=1 or more.")

    @property
    def scores(self) -> tuple[Score, ...]:
        """Say what the columns mean; those of vectors have a length that only the weights know."""
        columns = (column for judge in self.judges for column in judge.columns)
        return tuple(
            Score(one.name, one.unit, one.better, one.meaning, kind=KINDS.get(one.kind, pa.list_(pa.float32())))
            for one in columns
        )

    def check(self) -> None:
        """Refuse, before anything slow, what is not here: packages, weights, the device. Fetches weights of the hub.

        Raises:
            MissingExtra: a package is not installed.
            WeightsError: there are no such weights.
            RequestError: there is no such device.
        """
        self.place.check()
        for judge in self.judges:
            judge.check()

    def run(self, work: Work, out: Path) -> None:
        """Judge the clips of one source."""
        rows = work.clips.to_pylist()
        kept = [row for row in rows if not row["dropped_by"]]
        for group in _groups(work, kept, self.judges, self.place.batch) if kept else ():
            self._judge(group, work.source.caption)
        save(pa.Table.from_pylist(rows, self.extended(work.clips.schema, kept)), out)

    def _judge(self, group: Sequence["_Picked"], caption: str) -> None:
        """Write what the judges say into the rows of some clips."""
        seers = [_open(judge, self.place) for judge in self.judges]
        for judge, seer in zip(self.judges, seers, strict=True):
            seen = [Seen(one.frames_for(judge), _text(one.row, caption)) for one in group]
            for one, said in zip(group, seer(seen), strict=True):
                for column in judge.columns:
                    value = said.get(column.name)
                    one.row[column.name] = value.tolist() if isinstance(value, np.ndarray) else value
                    if value is None:
                        one.row["notes"] = noted(one.row["notes"], f"{column.name}: there is no text to compare with")

    def extended(self, schema: pa.Schema, rows: Sequence[Row]) -> pa.Schema:
        """Add the columns; one of vectors only where there is one, because its length is not known before."""
        kinds: dict[str, pa.DataType | None] = {score.name: score.kind for score in self.scores}
        for name in [name for name, kind in kinds.items() if pa.types.is_list(kind)]:
            length = next((len(row[name]) for row in rows if row.get(name)), None)
            kinds[name] = None if length is None else pa.list_(pa.float32(), length)
        return with_columns(schema, kinds)


@dataclass(frozen=True)
class LearnedTogether:
    """The same as a stage over the set: in the one process that gathers, and after the stage that captions.

    So `Similarity` compares clips with their own captions, and a GPU holds the weights once. What was judged of a
    source is kept in the stage's folder, by its bytes, clips, texts and judges, and is not judged again.

    Args:
        learned: whom to ask, and where; its name is that of the stage.
    """

    learned: Learned
    version: int = field(default=1, init=False)

    @property
    def name(self) -> str:
        """The name of the stage."""
        return self.learned.name

    def check(self) -> None:
        """Refuse, before anything slow, what is not here; see `Learned.check`."""
        self.learned.check()

    def run(self, clips: pa.Table, view: SetView) -> pa.Table:
        """Add the columns; the clips of a source that cannot be read are dropped for it.

        Raises:
            MutoscopeError: a package or weights are missing.
        """
        rows = clips.to_pylist()
        for source, some in groupby(sorted(rows, key=itemgetter("source")), key=itemgetter("source")):
            kept = [row for row in some if not row["dropped_by"]]
            if not kept:
                continue
            try:
                judged = pq.read_table(self._judged(view, view.sources[source], kept, clips.schema)).to_pylist()
            except MediaError as error:
                if tells_of_machine(error):
                    view.again.append(f"{view.sources[source].path}: {error}")
                    continue
                for row in kept:
                    row["dropped_by"], row["reason"] = self.name, short(error, view.sources[source].path)
                continue
            for row, told in zip(kept, judged, strict=True):
                row |= told
        schema = self.learned.extended(clips.schema, rows)
        names = [name for name in schema.names if name in ("dropped_by", "reason", "notes") or name in self._columns]
        table = pa.Table.from_pylist(rows, schema)
        return replace_columns(clips, {name: table[name].combine_chunks() for name in names})

    @property
    def _columns(self) -> tuple[str, ...]:
        return tuple(score.name for score in self.learned.scores)

    def _judged(self, view: SetView, source: Source, rows: Sequence[Row], schema: pa.Schema) -> Path:
        """Return the file of what was said of the clips of one source; judge them where there is none."""
        clips = [(row["id"], row["notes"], _text(row, source.caption)) for row in rows]
        judges = config.to_json(self.learned)["judges"]
        means = [self.version, self.learned.version, judges, self.learned.place.dtype, source.sha256, clips]
        path = view.folder / f"{sha256(json.dumps(means, ensure_ascii=False).encode()).hexdigest()}.parquet"
        if not path.exists():
            work = Work(source, pa.Table.from_pylist(list(rows), schema), None, partial(view.fetch_source, source))
            with replacing(path) as temporary:
                self.learned.run(work, temporary)
                told = pq.read_table(temporary)
                save(told.select([name for name in (*self._columns, "notes") if name in told.column_names]), temporary)
        return path


@cache
def _open(judge: Judge, place: Place) -> Seer:
    """Open a judge once in the life of a process."""
    if multiprocessing.parent_process() is not None:
        torch.set_num_threads(1)  # there is a process for each core
    return judge.open(place)


def _text(row: Row, caption: str) -> str:
    """Return the first caption of a clip or, where it has none of its own, that of its source."""
    captions = row.get(CAPTIONS.name)
    return captions[0]["text"] if captions else caption


# ---- frames ----------------------------------------------------------------------------------------------------------


class _Picked(NamedTuple):
    """A clip and those of its frames that any judge wants, by their numbers in the source."""

    row: Row
    frames: dict[int, Frame]

    def frames_for(self, judge: Judge) -> UInt8[np.ndarray, "N H W 3"]:
        return np.stack([self.frames[number] for number in _wanted(self.row, judge)])


def _wanted(row: Row, judge: Judge) -> list[int]:
    return [row["start"] + number for number in spread(judge.frames, row["end"] - row["start"])]


def _groups(work: Work, rows: Sequence[Row], judges: Sequence[Judge], most: int) -> Iterator[list[_Picked]]:
    """Yield the clips with their frames, so many together as there is room for."""
    path = work.fetch()
    wanted = [sorted({number for judge in judges for number in _wanted(row, judge)}) for row in rows]
    frames = glimpses(path, [number for numbers in wanted for number in numbers])
    group, held = [], 0
    for row, numbers in zip(rows, wanted, strict=True):
        group.append(_Picked(row, {number: next(frames) for number in numbers}))
        held += sum(frame.nbytes for frame in group[-1].frames.values())
        if held >= HELD_BYTES or len(group) >= most:
            yield group
            group, held = [], 0
    if group:
        yield group


def glimpses(path: Path, numbers: Sequence[int]) -> Iterator[Frame]:
    """Yield some frames of a video, or of a picture, decoding little besides.

    Args:
        path: the file.
        numbers: of the frames, best in rising order: from one to the next it reads on where no key frame lies between.

    Raises:
        MediaError: the file cannot be read, or has no such frame.
    """
    if pictures.photo_size(media.existing(path)) is not None:
        yield from (pictures.read_image(path) for _ in numbers)
        return
    found = media.probe(path)
    stamps = [round((time + found.start_s) / found.time_base) for time in found.times]
    stream, before = iter(()), -1
    for number in numbers:
        if not 0 <= number < found.num_frames:
            raise MediaError(f"{path} has no frame {number}, only {found.num_frames}. Measure it again.")
        at = bisect_right(found.keyframes, stamps[number])  # of the first key frame after it
        is_ahead = before >= 0 and number > before and (not at or found.keyframes[at - 1] <= stamps[before])
        if not is_ahead:
            stream = decode(path, found, number)
        frame = next(islice(stream, number - before - 1 if is_ahead else 0, None), None)
        if frame is None:
            raise MediaError(f"{path} ends before frame {number}. Fetch the file again.")
        yield frame
        before = number
