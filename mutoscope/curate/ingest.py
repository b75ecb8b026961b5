"""What there is: every input becomes one row, fine or not, found without decoding more than one frame of a video.

    files, folders, globs, URLs, lists, tables --listing--> Input --examine--> Source

Beside a file may lie what is said about it: `NAME.txt` (its caption) or `NAME.json` (caption, licence, provenance).
A table (.csv, .jsonl, .parquet) has a column `file` and any of caption, licence, provenance; it is read where it lies
in a folder that is given, or given itself. A list is a .txt file of paths or URLs, one a line, that is given itself.
A tar shard that is given itself, or by a glob, is as many sources as it has media members; see `members`.
"""

import csv
import errno
import hashlib
import json
import os
import shutil
import urllib.request
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from glob import glob
from pathlib import Path
from typing import IO, Any, Literal

import av
import fsspec
from av.error import FFmpegError
from PIL import Image
from PIL.Image import DecompressionBombWarning

from mutoscope.core import media
from mutoscope.core.errors import MediaError, RequestError
from mutoscope.curate import members
from mutoscope.curate.manifest import Manifest, Task

VERSION = 2
TABLES = (".csv", ".jsonl", ".parquet")
BESIDE = (*TABLES, ".json", ".txt", ".md", ".html", ".srt", ".vtt", ".log", ".tar")  # in a folder; no media
OTHER_MEMBERS = (".cls", ".npy", ".npz", ".pkl", ".pth", ".pyd", ".id")  # what shards hold besides; no media either
UNPACKED = 4  # members of shards that a process has on its disk at once
FILE_KEYS = ("file", "file_name", "path", "url")
CAPTION_KEYS = ("caption", "text")
LICENCE_KEYS = ("licence", "license")
PROVENANCE_KEYS = ("provenance", "source_repo", "source", "origin")
CHUNK_BYTES = 1 << 20
MAX_FPS = 10_000
LONGEST_FRAME_S = 60  # on average; beyond these two a header is damaged, and lengths in seconds mean nothing
SILENCE_S = 60  # after which a web server is given up
OURS = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ESTALE)
GROWTH_S = 1 / 50_000  # seconds allowed for each byte: videos are denser, and decode faster


@dataclass(frozen=True)
class Source:
    """One input, fine or not.

    Args:
        id: first 16 hexadecimal digits of `sha256`.
        path: as given: a local path or a URL.
        kind: a photo is an ``image``; an animation is a ``video``.
        sha256: of the bytes.
        size_bytes: of the file.
        width: pixels, as shown; 0 where not known, as for the numbers below.
        height: pixels, as shown.
        fps: frames a second as an exact fraction such as ``30000/1001``, "" where not known.
        num_frames: frames; 1 for a picture.
        duration_s: seconds; 0 for a picture.
        codec: such as ``h264`` or ``jpeg``.
        has_audio: it has a sound track.
        notices: what a reader should know of its frames: turned, interlaced, HDR, begun between key frames and so on.
        licence: as its table or sidecar says, "" if nothing does, as for the two below.
        provenance: where it comes from.
        caption: what it shows.
        problem: why it cannot be used, in one line; "" when it is fine.
    """

    id: str
    path: str
    kind: Literal["video", "image"] = "video"
    sha256: str = ""
    size_bytes: int = 0
    width: int = 0
    height: int = 0
    fps: str = ""
    num_frames: int = 0
    duration_s: float = 0.0
    codec: str = ""
    has_audio: bool = False
    notices: str = ""
    licence: str = ""
    provenance: str = ""
    caption: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Input:
    """A file to be examined, and what is said about it; `size_bytes` is 0 where it is not known before."""

    path: str
    size_bytes: int = 0
    caption: str = ""
    licence: str = ""
    provenance: str = ""


@dataclass(frozen=True)
class Ingest:
    """How sources are taken in.

    Args:
        licence: of all sources of which no table says it.
        max_pixels: of a frame; a header that announces more is not believed.
        limit_s: seconds that a source may take in all; longer files get more, see `allowed_s`.
        keep_fetched: keep files that came over the network until the data set is written, instead of fetching those
            that are cut into clips again.
    """

    licence: str = ""
    max_pixels: int = 8192 * 8192
    limit_s: float = 600.0
    keep_fetched: bool = True

    def allowed_s(self, source: Input) -> float:
        """Return the seconds that a source may take; one of unknown size has as many as 1 GB."""
        return self.limit_s + (source.size_bytes or 10**9) * GROWTH_S


# ---- listing ---------------------------------------------------------------------------------------------------------


def listing(given: Iterable[str], besides: Path | None = None) -> list[Input]:
    """Find every file that the sources on a command line mean, each once, sorted by path.

    Args:
        given: files, folders, globs, URLs of any of these, lists (.txt) and tables (.csv, .jsonl, .parquet).
        besides: a folder that is left out, because the data set is written there.

    Raises:
        RequestError: a source does not exist, or there is none at all.
        MediaError: a list or table cannot be read.
    """
    found: dict[str, Input] = {}
    for source in given:
        before = len(found)
        for entry in _expand(source, besides):
            old = found.get(entry.path)
            found[entry.path] = entry if old is None else _merged(old, entry)
        if len(found) == before and not found:
            raise RequestError(
                f"{source} holds no video or picture. Give a file, a folder, a glob, a URL or a list; "
                "tar shards are given by a glob, such as 'folder/*.tar'."
            )
    if not found:
        raise RequestError("No source was given. Give a file, a folder, a glob, a URL or a list.")
    return [found[path] for path in sorted(found)]


def _expand(source: str, besides: Path | None) -> Iterator[Input]:
    if _is_web(source):
        if members.is_shard(source.partition("?")[0]):
            raise RequestError(
                f"{source} cannot be read member by member over the web. Download it, and give the file."
            )
        yield Input(source)
        return
    if members.is_member(source):
        yield _member(source)
        return
    system, path = _system(source)
    is_glob = any(sign in source for sign in "*?[")
    if is_glob and not system.exists(path):
        names = map(system.unstrip_protocol, system.glob(path)) if _is_url(source) else glob(source, recursive=True)
        for name in sorted(names):
            yield from _expand(name, besides)
        return
    suffix = Path(path).suffix.lower()
    if not _is_folder(system, path, source):
        if suffix in TABLES:
            for name, about in _read_table(system, path, source).items():
                yield replace(about, path=_joined(source, name))
        elif suffix == ".txt":
            for line in _text(system, path, source).splitlines():
                if line.strip() and not line.lstrip().startswith("#"):
                    yield from _expand(_joined(source, line.strip()), besides)
        elif members.is_shard(path):
            yield from _members(source)
        else:
            yield _with_sidecars(system, path, source, None)
        return
    yield from _walk(system, path, source, besides)


def _walk(system: Any, folder: str, source: str, besides: Path | None) -> Iterator[Input]:
    """Yield the media files below a folder, each with what tables and sidecars say."""
    entries = system.find(folder, detail=True)
    root = str(system._strip_protocol(folder)).rstrip("/")
    avoided = str(besides.resolve()) + os.sep if besides is not None and not _is_url(source) else None
    names = {
        name: info
        for name, info in sorted(entries.items())
        if not any(part.startswith(".") for part in name[len(root) :].split("/"))
        and not (avoided and str(Path(name).resolve()).startswith(avoided))
    }
    said: dict[str, Input] = {}
    for name in names:
        if Path(name).suffix.lower() in TABLES:
            try:
                table = _read_table(system, name, name)
            except MediaError:  # in a folder it may be something else
                continue
            for file, about in table.items():
                said[f"{name.rpartition('/')[0]}/{file}"] = about
    for name, info in names.items():
        if Path(name).suffix.lower() in BESIDE:
            continue
        shown = system.unstrip_protocol(name) if _is_url(source) else source.rstrip("/") + name[len(root) :]
        entry = _with_sidecars(system, name, shown, names)
        entry = replace(entry, size_bytes=int(info.get("size") or 0))
        yield _merged(entry, said[name]) if name in said else entry


def _members(shard: str) -> Iterator[Input]:
    """Yield the media files in a tar shard, each with what members of the same name say about it."""
    state = _state(shard)
    found = members.members(shard, state)
    said: dict[str, Input] = {}
    for suffix, parse in ((".txt", _said_in_text), (".json", _said_in_json)):
        names = [name for name in found.places if _key_and_suffix(name)[1] == suffix]
        for name, data in members.contents(shard, state, names):
            key = _key_and_suffix(name)[0]
            try:
                said[key] = _merged(parse(data.decode("utf-8-sig")), said.get(key, Input("")))
            except (MediaError, UnicodeDecodeError):
                continue
    for name, (_, size_bytes) in found.places.items():
        is_hidden = any(part.startswith(".") for part in name.removeprefix("./").split("/"))
        if not is_hidden and Path(name).suffix.lower() not in BESIDE + OTHER_MEMBERS:
            entry = Input(members.joined(name, shard), size_bytes)
            yield _merged(entry, said.get(_key_and_suffix(name)[0], entry))
    if not found.is_whole:
        yield Input(shard)  # to be a row that says so


def _member(path: str) -> Input:
    shard = members.parted(path)[1]
    _is_folder(*_system(shard), shard)  # refuses one that is not there
    found = next((entry for entry in _members(shard) if entry.path == path), None)
    if found is None:
        raise RequestError(f"{path} does not exist. Give {shard} for all of its members.")
    return found


def _key_and_suffix(member: str) -> tuple[str, str]:
    """Return by what a member belongs to others, its name up to the first dot, and the rest."""
    folder, slash, name = member.rpartition("/")
    key, dot, suffix = name.partition(".")
    return folder + slash + key, (dot + suffix).lower()


def _with_sidecars(system: Any, path: str, shown: str, names: Mapping[str, Any] | None) -> Input:
    """Read NAME.txt and NAME.json beside a file; `names` are the files that exist, where they are known."""
    stem, dot, _ = path.rpartition(".")
    entry = Input(shown)
    if not dot:
        return entry
    for suffix, parse in ((".txt", _said_in_text), (".json", _said_in_json)):
        name = stem + suffix
        if name != path and (name in names if names is not None else system.exists(name)):
            try:
                entry = _merged(parse(_text(system, name, name)), replace(entry, path=shown))
            except MediaError:
                continue
    if names is None and not _is_url(shown) and Path(shown).is_file():
        entry = replace(entry, size_bytes=Path(shown).stat().st_size)
    return entry


def _said_in_text(text: str) -> Input:
    return Input("", caption=" ".join(text.split()))


def _said_in_json(text: str) -> Input:
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise MediaError(f"a sidecar is not JSON: {error}. Mend it, or remove it.") from error
    return _about(fields) if isinstance(fields, dict) else Input("")


def _about(fields: Mapping[str, Any]) -> Input:
    def first(keys: Sequence[str]) -> str:
        return next((" ".join(value.split()) for key in keys if isinstance(value := fields.get(key), str)), "")

    return Input("", caption=first(CAPTION_KEYS), licence=first(LICENCE_KEYS), provenance=first(PROVENANCE_KEYS))


def _merged(one: Input, other: Input) -> Input:
    """Join what is said about one file in two places; the first has the word."""
    return Input(
        one.path or other.path,
        one.size_bytes or other.size_bytes,
        one.caption or other.caption,
        one.licence or other.licence,
        one.provenance or other.provenance,
    )


def _read_table(system: Any, path: str, shown: str) -> dict[str, Input]:
    """Return what a table says about each file that it names."""
    needed = f"It needs a column {FILE_KEYS[0]}, and may have caption, licence and provenance."
    try:
        with system.open(path, "rb") as file:
            rows = _rows(file, Path(path).suffix.lower())
    except (OSError, ValueError, csv.Error) as error:
        raise MediaError(f"{shown} cannot be read as a table ({media.reason(error)}). {needed}") from error
    said: dict[str, Input] = {}
    for row in rows:
        name = next((str(row[key]) for key in FILE_KEYS if isinstance(row, dict) and row.get(key)), "")
        if not name:
            raise MediaError(f"{shown} has a row without a file. {needed}")
        said[name] = _merged(said[name], _about(row)) if name in said else _about(row)
    return said


def _rows(file: IO[bytes], suffix: str) -> list[Any]:
    if suffix == ".parquet":
        import pyarrow.parquet

        return pyarrow.parquet.read_table(file).to_pylist()
    lines = file.read().decode("utf-8-sig").splitlines(keepends=True)
    return list(csv.DictReader(lines)) if suffix == ".csv" else [json.loads(line) for line in lines if line.strip()]


def _text(system: Any, path: str, shown: str) -> str:
    try:
        with system.open(path, "rb") as file:
            return file.read().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise MediaError(f"{shown} cannot be read as text ({media.reason(error)}). Save it as UTF-8.") from error


def _is_url(source: str) -> bool:
    return "://" in source or "::" in source


def _is_web(source: str) -> bool:
    """Say whether a source is on the web, where there are neither folders nor globs, as ? begins a query."""
    return source.startswith(("http://", "https://"))


def _system(source: str) -> tuple[Any, str]:
    """Return the file system of a source, and its name there."""
    if not _is_url(source):
        return fsspec.filesystem("file"), source
    try:
        return fsspec.core.url_to_fs(source)
    except (ImportError, ValueError) as error:
        raise RequestError(f"{source} cannot be reached: {error}. Install what it names with pip.") from error


def _is_folder(system: Any, path: str, source: str) -> bool:
    if system.isdir(path):
        return True
    if not system.exists(path):
        raise RequestError(f"{source} does not exist. Give a file, a folder, a glob, a URL or a list of them.")
    return False


def _joined(table: str, name: str) -> str:
    """Return where a file is that a list or table names: a URL, an absolute path, or one beside the table."""
    if _is_url(name) or os.path.isabs(name):
        return name
    folder, slash, _ = table.rpartition("/")
    return f"{folder}{slash}{name}"


# ---- fetching --------------------------------------------------------------------------------------------------------


class Shelf:
    """Where sources are read from: a local one from its place, another from a copy that is fetched once.

    Of the members of tar shards, a process keeps the last few that it asked for and no more.

    Args:
        folder: of the copies.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def local(self, path: str) -> Path:
        """Return a local file with the bytes of a source.

        Raises:
            MediaError: it does not exist.
            OSError: it cannot be fetched now.
        """
        if not _is_url(path):
            return media.existing(path)
        copy = self._copy(path)
        if copy.exists():
            os.utime(copy)
            return copy
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = copy.with_name(f".{os.getpid()}-{copy.name}")
        if members.is_member(path):
            mine = sorted(self.folder.glob(f"{os.getpid()}-*"), key=lambda file: file.stat().st_mtime_ns)
            for old in mine[: max(0, len(mine) + 1 - UNPACKED)]:
                old.unlink()
            with temporary.open("wb") as file:
                file.writelines(members.read(path, _state(path)))
        else:
            with _remote(path) as remote, temporary.open("wb") as file:
                shutil.copyfileobj(remote, file, CHUNK_BYTES)
        os.replace(temporary, copy)
        return copy

    def forget(self, path: str) -> None:
        """Remove the copy of a source."""
        if _is_url(path):
            self._copy(path).unlink(missing_ok=True)

    def _copy(self, path: str) -> Path:
        name, owner, key = path.partition("?")[0], "", path
        if members.is_member(path):  # a copy of one's own, as the others are removed by whoever unpacked them
            name, owner, key = members.parted(path)[0], f"{os.getpid()}-", f"{path} {_state(path)}"
        suffix = Path(name).suffix
        key = hashlib.sha256(key.encode()).hexdigest()[:32]
        return self.folder / f"{owner}{key}{suffix if len(suffix) < 8 else ''}"


@contextmanager
def _remote(path: str) -> Iterator[IO[bytes]]:
    if _is_web(path):  # fsspec would need two more packages for it
        with urllib.request.urlopen(path, timeout=SILENCE_S) as answer:
            yield answer
    else:
        system, name = _system(path)
        with system.open(name, "rb") as file:
            yield file


# ---- examining -------------------------------------------------------------------------------------------------------


def examine(source: Input, settings: Ingest, manifest: Manifest, shelf: Shelf) -> Source:
    """Say what a file holds, or what is wrong with it; a file that has not changed since is not read again.

    Raises:
        OSError: the network or the disk failed, which says nothing about the file.
    """
    task = Task(
        hashlib.sha256(source.path.encode()).hexdigest(),
        "ingest",
        VERSION,
        {"state": _state(source.path), "max_pixels": settings.max_pixels},
    )
    entry = manifest.find(task)
    if entry is None or entry.value is None:
        found = _examine(source.path, shelf, settings)
        entry = manifest.commit_value(task, vars(found))
    licence = source.licence or settings.licence
    fields: dict[str, Any] = dict(entry.value or {})
    return replace(Source(**fields), licence=licence, provenance=source.provenance, caption=source.caption)


def _state(path: str) -> str:
    """Return a text that changes when the file does."""
    if members.is_member(path):
        return _state(members.parted(path)[1])
    if _is_web(path):
        return ""  # an address is taken to mean one file for good
    if _is_url(path):
        system, name = _system(path)
        return str(system.ukey(name))
    try:
        state = os.stat(path)
    except OSError as error:
        return f"missing: {error.strerror}"
    return f"{state.st_size} bytes, {state.st_mtime_ns} ns"


def _examine(path: str, shelf: Shelf, settings: Ingest) -> Source:
    nothing = Source("", path)
    try:
        file = shelf.local(path)
    except MediaError as error:
        return replace(nothing, id=_id_of_path(path), problem=short(error, path))
    with file.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    known = replace(nothing, id=sha256[:16], sha256=sha256, size_bytes=file.stat().st_size)
    if known.size_bytes == 0:
        return replace(known, problem="it is empty: 0 bytes")
    if members.is_shard(path):
        is_whole = members.members(path, _state(path)).is_whole
        says = (
            "it is a tar shard, which is given by itself, not in a table" if is_whole else "it is cut short or damaged"
        )
        return replace(known, problem=says)
    try:
        with _quiet():
            return _photo(file, known, settings) or _video(file, known, settings)
    except MediaError as error:
        if tells_of_machine(error):
            raise
        if isinstance(error.__cause__, Image.DecompressionBombError):
            return replace(known, problem="its header announces more pixels than a picture has")
        return replace(known, problem=short(error, str(file)))
    except (FFmpegError, ValueError, ArithmeticError, SyntaxError, EOFError, IndexError, TypeError) as error:
        # what parsers stumble over in a header that makes no sense
        return replace(known, problem=f"it cannot be read: {media.reason(error)}")


def _photo(file: Path, known: Source, settings: Ingest) -> Source | None:
    size = media.photo_size(file)
    if size is None:
        return None
    _refuse_huge(*size, settings)
    try:
        with Image.open(file, formats=media.PHOTOS) as image:
            codec = (image.format or "").lower()
            image.draft("RGB", (image.width // 8, image.height // 8))  # a JPEG is read through, yet not drawn in full
            image.load()  # a header does not tell whether the rest is there
    except (OSError, SyntaxError, ValueError) as error:
        raise MediaError(f"it cannot be read as a picture: {media.reason(error)}") from error
    height, width = size
    return replace(known, kind="image", height=height, width=width, num_frames=1, codec=codec)


def _video(file: Path, known: Source, settings: Ingest) -> Source:
    _refuse_huge(*_announced_size(file), settings)
    found = media.probe(file)
    _refuse_huge(found.height, found.width, settings)
    if not found.num_frames / MAX_FPS <= found.duration_s <= found.num_frames * LONGEST_FRAME_S:
        raise MediaError(f"its time stamps make no sense: {found.num_frames} frames in {found.duration_s:.3g} s")
    return replace(
        known,
        height=found.height,
        width=found.width,
        fps=str(found.fps),
        num_frames=found.num_frames,
        duration_s=found.duration_s,
        codec=found.codec,
        has_audio=bool(found.audio_streams),
        notices="; ".join(found.notices),
    )


def _announced_size(file: Path) -> tuple[int, int]:
    """Return the greatest height and width that the header announces, before any frame of it is given memory."""
    try:
        with av.open(f"file:{file}") as container:
            codecs = [stream.codec_context for stream in container.streams.video]
    except (FFmpegError, OSError):
        return 0, 0  # what is wrong is told by the probe
    sizes = [(codec.height, codec.width) for codec in codecs if codec is not None]
    return max(sizes, default=(0, 0), key=lambda size: size[0] * size[1])


def _refuse_huge(height: int, width: int, settings: Ingest) -> None:
    if height * width > settings.max_pixels:
        raise MediaError(f"its header announces {width}x{height}, more than max_pixels={settings.max_pixels}")


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DecompressionBombWarning)
        warnings.simplefilter("ignore", UserWarning)  # Pillow's, about broken EXIF and TIFF tags
        yield


def tells_of_machine(error: BaseException | None) -> bool:
    """Say whether an error comes from this machine, full or out of memory, and not from the file."""
    while error is not None:
        is_memory = isinstance(error, MemoryError) and not isinstance(error, FFmpegError)  # FFmpeg: absurd sizes
        if is_memory or (isinstance(error, OSError) and error.errno in OURS):
            return True
        error = error.__cause__
    return False


def short(error: Exception, path: str) -> str:
    """Return what is wrong, without the path, which has its own column, and without advice."""
    text = " ".join(str(error).split()).replace(path, "it", 1)
    for advice in (" Give a", " Fetch the", " Type:", " Split it", " Turn it"):
        text = text.partition(advice)[0]
    return text.rstrip(".") or type(error).__name__


def _id_of_path(path: str) -> str:
    return hashlib.sha256(path.encode()).hexdigest()[:16]
