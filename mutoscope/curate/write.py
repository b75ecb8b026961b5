"""Write the clips that were kept into tar shards, each encoded once.

    kept rows, sorted by id ── plan ──> shards of so many clips ── pieces of some seconds, one process each ──┐
                                  shards/ <── all whole ── building/00000.tar ... <── joined, in order ─────┘

The new shards grow in a folder of their own, named by what will be in it, and take the place of the old ones when all
are whole. A clip that the old ones hold, cut in the same way, is copied, so that dropping some clips decodes nothing.
The old ones stay beside the work, so that going back to the settings before encodes nothing either.
"""

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image

from mutoscope.core import config, media, pictures
from mutoscope.core.errors import MediaError, MutoscopeError, RequestError
from mutoscope.core.files import replacing
from mutoscope.core.frames import Mending
from mutoscope.curate.ingest import Shelf, Source, tells_of_machine
from mutoscope.curate.remux import remux
from mutoscope.curate.stage import CAPTIONS
from mutoscope.data import tars
from mutoscope.data.schema import Caption, Clip, Part

if TYPE_CHECKING:  # torch comes with it, whose import would cost the processes that only measure more than all else
    from mutoscope.core.video import Video

Score = float | str | list[str]  # list[str]: tags
VERSION = 2
SUFFIXES = {"jpeg": ".jpg", "mpo": ".jpg", "png": ".png", "webp": ".webp"}  # copied as they are
PIECE_FRAMES, PIECE_CLIPS = 240, 32  # after which a piece is long enough; small, so that all processes end together
OLD, EARLIER = ".old-shards", "work/earlier-shards"  # of the settings before: on their way, and kept
FRAME_S = 0.2  # seconds that encoding a frame may take at most


@dataclass(frozen=True)
class Write:
    """How kept clips are written.

    Args:
        shard_clips: clips of a shard.
        short_side_px: clips whose short side is longer are shrunk to it; 0 leaves all as they are.
        quality: of the encoded video.
        keeps_audio: write the sound too.
        deinterlaces: make whole frames of interlaced ones.
        tone_maps: bring HDR to BT.709; without it, bright parts look flat and colours pale in what is written.
        copies: where a clip begins on a key frame and keeps its size, copy its packets instead of encoding them again;
            see `remux`. Few clips do, unless their ends are not trimmed: ``Split(SplitSettings(trim_s=0))``.
        keeps_earlier: keep the shards of the settings before, which takes their size once more.
    """

    shard_clips: int = 256
    short_side_px: int = 0
    quality: Literal["small", "good", "best"] = "good"
    keeps_audio: bool = True
    deinterlaces: bool = False
    tone_maps: bool = False
    copies: bool = False
    keeps_earlier: bool = True

    def digest(self) -> str:
        """Return what tells apart ways of encoding a clip."""
        changes_nothing = ("shard_clips", "keeps_earlier")  # of a clip
        fields = {name: value for name, value in config.to_json(self).items() if name not in changes_nothing}
        return hashlib.sha256(json.dumps([VERSION, fields], sort_keys=True).encode()).hexdigest()

    def size(self, source: Source) -> tuple[int, int]:
        """Return height and width of a source's clips; of videos even, as H.264 stores colour for pairs of pixels."""
        height, width = source.height, source.width
        short = min(height, width)
        if 0 < self.short_side_px < short:
            height, width = (round(side * self.short_side_px / short) for side in (height, width))
        if source.kind == "video":
            height, width = max(2, height - height % 2), max(2, width - width % 2)
        return height, width


@dataclass(frozen=True)
class Kept:
    """A clip that is to be written: where it is cut from, and its record."""

    source: Source
    start: int
    clip: Clip
    about: str  # JSON


@dataclass(frozen=True)
class Failed:
    """A clip that could not be written, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What became of the clips of one shard."""

    rows: tuple[tars.Row, ...]
    failed: tuple[Failed, ...]

    @classmethod
    def load(cls, path: Path) -> "Outcome":
        """Read it back."""
        told = json.loads(path.read_text(encoding="utf-8"))
        return cls(tuple(tars.Row(**row) for row in told["rows"]), tuple(Failed(**one) for one in told["failed"]))


@dataclass(frozen=True)
class Piece:
    """Clips of one shard that follow each other, to be written by one process; `number` is its place in the shard."""

    shard: int
    number: int
    clips: tuple[Kept, ...]

    @property
    def name(self) -> str:
        """Return the name of its file."""
        return f"{tars.shard_name(self.shard)}.{self.number:05d}"

    @property
    def num_frames(self) -> int:
        """Frames in all of its clips."""
        return sum(kept.clip.num_frames for kept in self.clips)


@dataclass(frozen=True)
class ShardTask:
    """One shard to be written."""

    number: int
    clips: tuple[Kept, ...]

    def pieces(self, parts_sources: bool = True) -> list[Piece]:
        """Cut the shard into pieces, which are the same for any number of processes.

        Args:
            parts_sources: the clips of one source may be in two pieces, which may be at work at the same time.
        """
        found: list[list[Kept]] = []
        frames = 0
        for kept in self.clips:
            is_full = frames >= PIECE_FRAMES or (bool(found) and len(found[-1]) >= PIECE_CLIPS)
            if not found or (is_full and (parts_sources or found[-1][-1].source != kept.source)):
                found.append([])
                frames = 0
            found[-1].append(kept)
            frames += kept.clip.num_frames
        return [Piece(self.number, number, tuple(clips)) for number, clips in enumerate(found)]


def plan(kept: Sequence[Kept], settings: Write) -> list[ShardTask]:
    """Deal the clips out to shards, in the order of their names, which mixes the sources."""
    ordered = sorted(kept, key=lambda one: one.clip.id)
    starts = range(0, len(ordered), settings.shard_clips)
    return [ShardTask(i, tuple(ordered[at : at + settings.shard_clips])) for i, at in enumerate(starts)]


def plan_digest(tasks: Sequence[ShardTask], settings: Write) -> str:
    """Return what tells apart sets of shards."""
    found = hashlib.sha256(settings.digest().encode())
    for task in tasks:
        for kept in task.clips:
            found.update(f"{task.number} {kept.clip.to_line()} {kept.about}\n".encode())
    return found.hexdigest()


@dataclass(frozen=True)
class Shards:
    """The shards of a data set, old and new.

    Args:
        out: folder of the data set.
        plan: digest of what is to be in the new ones.
        settings: how clips are encoded.
        fetched: where copies of remote sources are.
        keep_fetched: leave them there.
    """

    out: Path
    plan: str
    settings: Write
    fetched: Path
    keep_fetched: bool = True

    @property
    def final(self) -> Path:
        """Return where the shards are when all are whole."""
        return self.out / "shards"

    @property
    def building(self) -> Path:
        """Return where they grow."""
        return self.out / f".building-{self.plan[:16]}"

    @property
    def earlier(self) -> Path:
        """Return where those of the settings before are."""
        return self.out / EARLIER

    def are_there(self) -> bool:
        """Say whether exactly these shards are in place; those of the settings before are put there."""
        _recover(self.out, self.settings.keeps_earlier)
        if _plan_of(self.final) == self.plan:
            return True
        if _plan_of(self.earlier) != self.plan:
            return False
        self._replace(self.earlier)
        return True

    def _replace(self, shards: Path) -> None:
        """Put other shards in the place of those that are there."""
        if self.final.exists():
            os.replace(self.final, self.out / OLD)
        os.replace(shards, self.final)
        _recover(self.out, self.settings.keeps_earlier)

    def left(self, task: ShardTask) -> list[Piece]:
        """Return the pieces of a shard that must be there before it can be joined; none where it is."""
        path = self.building / tars.shard_name(task.number)
        return [] if path.exists() and path.with_suffix(".json").exists() else task.pieces(self.keep_fetched)

    def __call__(self, piece: Piece) -> tuple[Failed, ...]:
        """Write one piece, or go on with it; say which clips could not be written."""
        path = self.building / piece.name
        told = self._told(piece)
        if path.exists() and told.exists():
            return Outcome.load(told).failed
        writer = tars.Writer(path, piece.shard)
        try:
            failed = self._fill(writer, piece)
        except BaseException:
            writer.abandon()
            raise
        _tell(told, Outcome(tuple(writer.rows), failed))
        writer.close()  # last, so that where the piece is, what is told of it is too
        return failed

    def join(self, task: ShardTask, pieces: Sequence[Piece]) -> None:
        """Join the pieces of a shard, all of which are there, and remove them."""
        path = self.building / tars.shard_name(task.number)
        outcomes = [Outcome.load(self._told(piece)) for piece in pieces]
        parts = [(self.building / piece.name, one.rows) for piece, one in zip(pieces, outcomes, strict=True)]
        rows = tars.join(path, parts)
        _tell(path.with_suffix(".json"), Outcome(tuple(rows), tuple(lost for one in outcomes for lost in one.failed)))
        for piece in pieces:
            (self.building / piece.name).unlink()
            self._told(piece).unlink()

    def _told(self, piece: Piece) -> Path:
        return self.building / f"{piece.name}.json"

    def _fill(self, writer: tars.Writer, task: Piece) -> tuple[Failed, ...]:
        olds = [_OldSamples(folder, self.settings) for folder in (self.final, self.earlier)]
        there, failed = {row.id for row in writer.rows}, []
        last = max((number for number, kept in enumerate(task.clips) if kept.clip.id in there), default=-1)
        cutter = _Cutter(self.settings, Shelf(self.fetched), self.keep_fetched)
        for number, kept in enumerate(task.clips):
            if kept.clip.id in there:
                continue
            try:
                copies = (copy for old in olds if (copy := old.get(kept)) is not None)
                sample = next(copies, None) or cutter.cut(kept)
            except (MediaError, RequestError) as error:
                if tells_of_machine(error):
                    raise
                failed.append(Failed(kept.clip.id, " ".join(str(error).split())))
                continue
            if number < last:  # it could not be written before, and would now come out of its order
                raise MutoscopeError(f"{writer.partial} has clips out of order. Remove it, and run the same again.")
            writer.add(sample)
        cutter.close()
        return tuple(failed)

    def finish(self, tasks: Sequence[ShardTask]) -> None:
        """Write the index, and put the new shards in the place of the old ones."""
        tells = [(self.building / tars.shard_name(task.number)).with_suffix(".json") for task in tasks]
        outcomes = [Outcome.load(told) for told in tells]
        rows = [row for outcome in outcomes for row in outcome.rows]
        failed = json.dumps([asdict(one) for outcome in outcomes for one in outcome.failed])
        metadata = {"plan": self.plan, "encoding": self.settings.digest(), "failed": failed}
        for pattern in (".*", "*.tar.*"):  # what killed processes left there
            for half in self.building.glob(pattern):
                half.unlink()
        tars.write_index(self.building, rows, metadata)
        self._replace(self.building)

    def failed(self) -> list[Failed]:
        """Return the clips that could not be written into the shards that are in place."""
        return [Failed(**one) for one in json.loads(tars.Tars(self.final).metadata["failed"])]

    def clear(self) -> None:
        """Remove what was begun for another plan."""
        for folder in self.out.glob(".building-*"):
            if folder != self.building:
                shutil.rmtree(folder, ignore_errors=True)


def _tell(path: Path, outcome: Outcome) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(asdict(outcome)), encoding="utf-8")


def _plan_of(folder: Path) -> str | None:
    with suppress(MutoscopeError):
        return tars.Tars(folder).metadata.get("plan")
    return None


def _recover(out: Path, keeps_earlier: bool) -> None:
    """Bring the old shards back where a kill came between two renames, and remove what is of no use."""
    old, final, earlier = out / OLD, out / "shards", out / EARLIER
    if old.exists() and not final.exists():
        os.replace(old, final)
    if old.exists():
        shutil.rmtree(earlier, ignore_errors=True)
        if keeps_earlier:
            earlier.parent.mkdir(parents=True, exist_ok=True)
            os.replace(old, earlier)
    shutil.rmtree(old, ignore_errors=True)
    for told in final.glob("*.json"):
        told.unlink()


def forget_earlier(out: Path) -> int:
    """Remove the shards of the settings before from the folder of a data set; return how many bytes they took."""
    size_bytes = sum(path.stat().st_size for path in (out / EARLIER).rglob("*") if path.is_file())
    shutil.rmtree(out / EARLIER, ignore_errors=True)
    return size_bytes


class _OldSamples:
    """The clips of shards that are there, where they were encoded in the same way."""

    def __init__(self, folder: Path, settings: Write) -> None:
        self._tars, self._places = None, {}
        with suppress(MutoscopeError):
            found = tars.Tars(folder)
            if found.metadata.get("encoding") == settings.digest():
                self._tars, self._places = found, {row.id: index for index, row in enumerate(found.rows)}

    def get(self, kept: Kept) -> tars.Sample | None:
        if self._tars is None or kept.clip.id not in self._places:
            return None
        try:
            old = self._tars.sample(self._places[kept.clip.id])
        except MediaError:  # it is damaged, and will be made again
            return None
        return replace(old, clip=kept.clip, about=json.loads(kept.about))


class _Cutter:
    """Cuts clips out of sources; the last source stays open, as its clips follow each other."""

    def __init__(self, settings: Write, shelf: Shelf, keep_fetched: bool) -> None:
        self._settings, self._shelf, self._keep = settings, shelf, keep_fetched
        self._mending = Mending(settings.deinterlaces, settings.tone_maps)
        self._source: Source | None = None
        self._video: "Video | None" = None
        self._found: media.Probe | None = None

    def cut(self, kept: Kept) -> tars.Sample:
        file = self._shelf.local(kept.source.path)
        about = json.loads(kept.about)
        if kept.source.kind == "image":
            suffix, payload = self._picture(file, kept)
            return tars.Sample(kept.clip, suffix, payload, about)
        from mutoscope.core.video import Video

        if self._video is None or self._source != kept.source:
            self.close()
            self._source, self._video = kept.source, Video.open(file, self._mending)
        if self._settings.copies:
            copied = self._copy(file, kept)
            if copied is not None:
                return tars.Sample(kept.clip, ".mp4", copied, about)
        video = _sized(self._video.take(kept.start, kept.clip.num_frames), kept.clip.height, kept.clip.width)
        if not self._settings.keeps_audio:
            video = video.with_audio(None)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "clip.mp4"
            video.save(path, quality=self._settings.quality)
            return tars.Sample(kept.clip, ".mp4", path.read_bytes(), about)

    def close(self) -> None:
        if self._source is not None and not self._keep:
            self._shelf.forget(self._source.path)
        self._source = self._video = self._found = None

    def _copy(self, file: Path, kept: Kept) -> bytes | None:
        """Return the clip's own packets as a file, None where it must be encoded."""
        if (kept.clip.height, kept.clip.width) != (kept.source.height, kept.source.width):
            return None
        if self._found is None:
            self._found = media.probe(file)
        if self._mending.changes(self._found):
            return None
        end = kept.start + kept.clip.num_frames
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "clip.mp4"
            why_not = remux(file, self._found, kept.start, end, path, keeps_audio=self._settings.keeps_audio)
            return None if why_not else path.read_bytes()

    def _picture(self, file: Path, kept: Kept) -> tuple[str, bytes]:
        """Copy a picture that is plain and small enough as it is; write any other as PNG."""
        suffix = SUFFIXES.get(kept.source.codec)
        height, width = kept.clip.height, kept.clip.width
        found = pictures.photo(file)
        is_plain = found is not None and found.is_plain
        if suffix and is_plain and (height, width) == (kept.source.height, kept.source.width):
            return suffix, file.read_bytes()
        picture = Image.fromarray(pictures.read_image(file))
        if picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        with io.BytesIO() as buffer:
            picture.save(buffer, "PNG")
            return ".png", buffer.getvalue()


def _sized(video: "Video", height: int, width: int) -> "Video":
    """Shrink a video, and cut off the last row or column where a side is odd."""
    if max(video.height - height, video.width - width) > 1:
        video = video.resized(height, width, crop=True)
    if (video.height, video.width) == (height, width):
        return video

    def read(start: int) -> Iterator[media.Frame]:
        return (frame[:height, :width] for frame in video.read(start))

    return replace(video, height=height, width=width, read=read)


def keep(source: Source, row: dict[str, Any], settings: Write, scores: dict[str, Score], split: Part) -> Kept:
    """Make the record of a kept clip.

    Args:
        source: that it is cut from.
        row: its row in the table of clips; its captions, where it has any, take the place of its source's.
        settings: how it will be encoded.
        scores: what was measured of it, by name.
        split: as in `Clip`.
    """
    start, end = row["start"], row["end"]
    told = tuple(Caption(**caption) for caption in row.get(CAPTIONS.name) or ())
    height, width = settings.size(source)
    clip = Clip(
        id=row["id"],
        source=source.path,
        num_frames=end - start,
        height=height,
        width=width,
        fps=source.fps or "1",
        split=split,
        captions=told or source.captions or (Caption(""),),
        source_height=source.height,
        source_width=source.width,
    )
    about = {
        "kind": source.kind,
        "licence": source.licence,
        "provenance": source.provenance,
        "source_sha256": source.sha256,
        "start": start,
        "end": end,
        "start_s": row["start_s"],
        "end_s": row["end_s"],
        "scores": scores,
    }
    return Kept(source, start, clip, json.dumps(about, ensure_ascii=False, sort_keys=True))


def limit_s(task: Piece, settings_limit_s: float) -> float:
    """Return the seconds that a piece may take."""
    return settings_limit_s + FRAME_S * task.num_frames + 60 * len(task.clips)
