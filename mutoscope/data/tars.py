"""Clips in tar shards, laid out as WebDataset does, with an index to reach any of them at once.

    folder/00000.tar       for each clip KEY.json, its record, then KEY.mp4 (or .jpg ...), the clip itself
    folder/index.parquet   one row a clip: shard, offset, size, hash, and what a loader sorts clips into buckets by

The same clips give the same bytes: no time, owner or order of the machine goes in. A shard that is begun and not ended
is gone on with after its last whole clip. The index is written last; where it is, all shards are whole.

A record is the JSON of a `Clip` with one more field, "about": licence, provenance, place in the source, scores.
"""

import hashlib
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from mutoscope.core.errors import MediaError, MissingExtra
from mutoscope.core.files import replacing
from mutoscope.data.schema import Caption, Clip

INDEX = "index.parquet"
BLOCK = 512  # bytes, the unit of a tar file
COPY_BYTES = 2**22  # copied at a time
RECORD = 20 * BLOCK  # to a multiple of which a tar file is filled up


@dataclass(frozen=True)
class Sample:
    """A clip as it lies in a shard.

    Args:
        clip: its record.
        suffix: of the kind of file that `payload` is, such as ``.mp4``.
        payload: bytes of a video or picture.
        about: more facts, plain JSON data: licence, provenance, scores.
    """

    clip: Clip
    suffix: str
    payload: bytes = field(repr=False)
    about: Mapping[str, Any] = field(default_factory=dict)

    def record(self) -> bytes:
        """Return the record as JSON."""
        text = json.dumps({**asdict(self.clip), "about": dict(self.about)}, ensure_ascii=False, separators=(",", ":"))
        return text.encode()


@dataclass(frozen=True)
class Row:
    """Where a clip lies, and what tells without opening it which bucket it belongs to.

    `offset` and `size_bytes` are those of the payload in its shard, `record_offset` and `record_bytes` those of the
    JSON before it. `weight` is how often the clip is to be drawn, relative to others, where curation has balanced them.
    `captions` is how many it has that say something, or -1 in an index of before they were counted.
    """

    id: str
    shard: int
    suffix: str
    offset: int
    size_bytes: int
    sha256: str
    record_offset: int
    record_bytes: int
    source: str
    num_frames: int
    height: int
    width: int
    fps: str
    duration_s: float
    split: str
    weight: float = 1.0
    captions: int = -1


class Writer:
    """Writes one shard; it has its name when it is closed, and until then is gone on with by the next writer.

    Args:
        path: of the shard.
        shard: its number.
        partial: where it grows; beside `path` under another name if not given.
    """

    def __init__(self, path: Path, shard: int, partial: Path | None = None) -> None:
        self.path, self.shard = path, shard
        self.partial = partial or path.with_name(f".{path.name}.part")
        self.partial.parent.mkdir(parents=True, exist_ok=True)
        self.rows: list[Row] = []
        self._file = self.partial.open("a+b")
        end = 0
        for row in scan(self._file, shard):
            self.rows.append(row)
            end = _padded(row.offset + row.size_bytes)
        self._file.truncate(end)
        self._file.seek(0, os.SEEK_END)

    def add(self, sample: Sample) -> Row:
        """Append a clip."""
        record = sample.record()
        place = self._file.tell()
        name = sample.clip.id
        self._file.write(_member(f"{name}.json", record) + _member(f"{name}{sample.suffix}", sample.payload))
        self._file.flush()  # a kill of this process then loses at most the clip that comes next
        record_offset = place + BLOCK
        offset = _padded(record_offset + len(record)) + BLOCK
        row = _row(sample, self.shard, offset, record_offset)
        self.rows.append(row)
        return row

    def close(self) -> None:
        """End the shard and give it its name."""
        end = self._file.tell() + 2 * BLOCK
        self._file.write(bytes(2 * BLOCK + -end % RECORD))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self.partial, self.path)

    def abandon(self) -> None:
        """Close the file without ending the shard."""
        self._file.close()


def join(path: Path, parts: Sequence[tuple[Path, Sequence[Row]]]) -> list[Row]:
    """Make one shard of several that hold its clips in order; it is, byte for byte, what one writer would have made.

    Args:
        path: of the shard; it appears when it is whole.
        parts: shards that were closed, with their rows.

    Returns:
        The rows of the clips in the shard.
    """
    rows: list[Row] = []
    with replacing(path) as temporary, temporary.open("wb") as file:
        for part, inside in parts:
            place = file.tell()
            end = _padded(inside[-1].offset + inside[-1].size_bytes) if inside else 0
            with part.open("rb") as source:
                while left := end - source.tell():
                    file.write(source.read(min(left, COPY_BYTES)))
            moves = ((row.offset + place, row.record_offset + place) for row in inside)
            rows += [
                replace(row, offset=offset, record_offset=record)
                for row, (offset, record) in zip(inside, moves, strict=True)
            ]
        file.write(bytes(2 * BLOCK + -(file.tell() + 2 * BLOCK) % RECORD))
        file.flush()
        os.fsync(file.fileno())
    return rows


def scan(file: IO[bytes], shard: int) -> Iterator[Row]:
    """Yield the rows of the clips that are whole in a shard, in their order; stop at what is cut short."""
    size = file.seek(0, os.SEEK_END)
    place = 0
    while True:
        first = _header(file, place, size)
        if first is None or not first.name.endswith(".json"):
            return
        record_offset = place + BLOCK
        following = _header(file, _padded(record_offset + first.size), size)
        if following is None:
            return
        offset = _padded(record_offset + first.size) + BLOCK
        file.seek(record_offset)
        record = file.read(first.size)
        file.seek(offset)
        payload = file.read(following.size)
        clip, about = read_record(record)
        suffix = following.name.removeprefix(clip.id)
        yield _row(Sample(clip, suffix, payload, about), shard, offset, record_offset)
        place = _padded(offset + following.size)


def read_record(record: bytes) -> tuple[Clip, dict[str, Any]]:
    """Return the clip, and what else is said about it."""
    fields = json.loads(record)
    about = fields.pop("about", {})
    fields["captions"] = tuple(Caption(**caption) for caption in fields["captions"])
    return Clip(**fields), about


def write_index(folder: Path, rows: Sequence[Row], metadata: Mapping[str, str] | None = None) -> None:
    """Write the index of a folder of shards.

    Args:
        folder: of the shards.
        rows: of all clips, in the order of the shards.
        metadata: anything to be kept with it.

    Raises:
        MissingExtra: pyarrow is not installed.
    """
    pa, pq = _arrow("Writing an index")
    kinds = {int: pa.int64(), float: pa.float64(), str: pa.string()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in Row.__annotations__.items()], dict(metadata or {}))
    with replacing(folder / INDEX) as temporary:
        pq.write_table(pa.Table.from_pylist([vars(row) for row in rows], schema), temporary)


class Tars:
    """The clips of a folder of shards, by number and in a shuffled stream.

    Args:
        folder: the shards and their index, or a data set that has them in a folder ``shards``.

    Raises:
        MediaError: there is no index, or a shard that it names is missing or of another size.
        MissingExtra: pyarrow is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        self.folder = folder if (folder / INDEX).exists() else folder / "shards"
        _, pq = _arrow("Reading a data set")
        try:
            table = pq.read_table(self.folder / INDEX)
            names = [name for name in Row.__annotations__ if name in table.column_names]  # an older one has fewer
            self.rows = [Row(**row) for row in table.select(names).to_pylist()]
        except (OSError, ValueError, TypeError) as error:
            hint = f"Make it with: mutoscope curate SOURCE --out {folder}"
            raise MediaError(f"{folder} is no finished data set ({INDEX} is missing or damaged). {hint}") from error
        self.metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        ends: dict[int, int] = {}
        for row in self.rows:
            ends[row.shard] = max(ends.get(row.shard, 0), row.offset + row.size_bytes)
        for shard, end in ends.items():
            path = self.path(shard)
            if not path.is_file() or path.stat().st_size < end:
                raise MediaError(f"{path} is missing or cut short. Run the same mutoscope curate again to mend it.")

    def __len__(self) -> int:
        return len(self.rows)

    def path(self, shard: int) -> Path:
        """Return where a shard lies."""
        return self.folder / shard_name(shard)

    def sample(self, index: int) -> Sample:
        """Read one clip.

        Raises:
            MediaError: its bytes are not those that were written.
        """
        row = self.rows[index]
        with self.path(row.shard).open("rb") as file:
            record = _read(file, row.record_offset, row.record_bytes)
            payload = _read(file, row.offset, row.size_bytes)
        if hashlib.sha256(payload).hexdigest() != row.sha256:
            raise MediaError(f"Clip {row.id} of {self.path(row.shard)} is damaged. Fetch or make that shard again.")
        clip, about = read_record(record)
        return Sample(clip, row.suffix, payload, about)

    def captions(self, index: int) -> int:
        """Return how many captions of a clip say something."""
        row = self.rows[index]
        if row.captions >= 0:
            return row.captions
        with self.path(row.shard).open("rb") as file:
            return _telling(read_record(_read(file, row.record_offset, row.record_bytes))[0])

    def order(self, seed: int, epoch: int) -> list[int]:
        """Return the order of an epoch: shards shuffled, and the clips inside each, so that a disk reads ahead.

        It depends on its arguments alone: to go on after k clips is to go on at its entry k.
        """
        by_shard: dict[int, list[int]] = {}
        for index, row in enumerate(self.rows):
            by_shard.setdefault(row.shard, []).append(index)
        shards = _shuffled(by_shard, seed, epoch)
        return [index for shard in shards for index in _shuffled(by_shard[shard], seed, epoch)]

    def stream(self, seed: int, start: int = 0) -> Iterator[Sample]:
        """Yield clips without end, epoch after epoch.

        Args:
            seed: of the order.
            start: how many were read before; with it a stopped reader goes on exactly where it was.
        """
        while self.rows:
            epoch, place = divmod(start, len(self))
            for index in self.order(seed, epoch)[place:]:
                yield self.sample(index)
                start += 1


def shard_name(shard: int) -> str:
    """Return the name of a shard's file."""
    return f"{shard:05d}.tar"


def _shuffled(numbers: Iterable[int], *key: int) -> list[int]:
    """Sort by hash: without torch, whose import would cost each process of a curation more than all its other ones."""
    return sorted(numbers, key=lambda number: hashlib.sha256(repr((*key, number)).encode()).digest())


def _row(sample: Sample, shard: int, offset: int, record_offset: int) -> Row:
    clip, about = sample.clip, sample.about
    lasts_s = 0.0 if clip.num_frames == 1 else float(clip.num_frames / clip.frames_a_second)
    if "start_s" in about and "end_s" in about:  # with a variable rate, number and mean rate do not tell
        lasts_s = about["end_s"] - about["start_s"]
    return Row(
        id=clip.id,
        shard=shard,
        suffix=sample.suffix,
        offset=offset,
        size_bytes=len(sample.payload),
        sha256=hashlib.sha256(sample.payload).hexdigest(),
        record_offset=record_offset,
        record_bytes=len(sample.record()),
        source=clip.source,
        num_frames=clip.num_frames,
        height=clip.height,
        width=clip.width,
        fps=clip.fps,
        duration_s=lasts_s,
        split=clip.split,
        weight=float(about.get("scores", {}).get("weight", 1.0)),
        captions=_telling(clip),
    )


def _telling(clip: Clip) -> int:
    """Return how many captions of a clip say something; those of a world's clip are made when asked for."""
    return 1 if clip.scene_seed is not None else sum(bool(caption.text.strip()) for caption in clip.captions)


def _read(file: IO[bytes], offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def _member(name: str, data: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644  # all else is zero or empty, whoever writes, and whenever
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % BLOCK)


def _header(file: IO[bytes], place: int, size: int) -> tarfile.TarInfo | None:
    """Read the header at a place; None where there is none, or what it announces is not all there."""
    file.seek(place)
    try:
        info = tarfile.TarInfo.frombuf(file.read(BLOCK), tarfile.ENCODING, "strict")
    except (tarfile.HeaderError, UnicodeDecodeError):
        return None
    return info if _padded(place + BLOCK + info.size) <= size else None


def _padded(place: int) -> int:
    return place + -place % BLOCK


def _arrow(what_for: str) -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("curate", "pyarrow", what_for) from error
    return pyarrow, pyarrow.parquet
