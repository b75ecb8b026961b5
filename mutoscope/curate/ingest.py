"""What there is: every input becomes one row, fine or not, found without decoding more than one frame of a video.

sources on a command line ── listing ──> Input ── examine ──> Source
"""

import errno
import hashlib
import os
import shutil
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal

import av
from av.error import FFmpegError
from PIL import Image
from PIL.Image import DecompressionBombWarning

from mutoscope.core import media, pictures
from mutoscope.core.errors import MediaError
from mutoscope.core.files import spelled
from mutoscope.curate import members, places
from mutoscope.curate.listing import Input
from mutoscope.curate.manifest import Manifest, Task
from mutoscope.data.schema import Caption

VERSION = 2
UNPACKED = 4  # members of shards that a process has on its disk at once
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
        captions: what it shows.
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
    captions: tuple[Caption, ...] = ()
    problem: str = ""

    @property
    def caption(self) -> str:
        """The text of its first caption, "" where it has none."""
        return self.captions[0].text if self.captions else ""


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
        if not places.is_url(path):
            return media.existing(places.unspelled(path))
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
        if places.is_url(path):
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
    if places.is_web(path):  # fsspec would need two more packages for it
        with urllib.request.urlopen(path, timeout=SILENCE_S) as answer:
            yield answer
    else:
        system, name = places.system(path)
        with system.open(name, "rb") as file:
            yield file


# ---- examining -------------------------------------------------------------------------------------------------------


def examine(source: Input, settings: Ingest, manifest: Manifest, shelf: Shelf) -> Source:
    """Say what a file holds, or what is wrong with it; a file that has not changed since is not read again.

    Raises:
        OSError: the network or the disk failed, which says nothing about the file.
    """
    if source.problem:
        return Source(_id_of_path(source.path), source.path, captions=source.captions, problem=source.problem)
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
    fields: dict[str, Any] = {**(entry.value or {}), "captions": source.captions}
    return replace(Source(**fields), licence=licence, provenance=source.provenance)


def _state(path: str) -> str:
    """Return a text that changes when the file does."""
    return places.state(members.parted(path)[1] if members.is_member(path) else path)


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
        says = "it is a tar shard, which is given by itself, not in a table"
        return replace(known, problem=members.members(path, _state(path)).problem or says)
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
    found = pictures.photo(file)
    if found is None:
        return None
    _refuse_huge(found.height, found.width, settings)
    pictures.check_whole(file)
    return replace(known, kind="image", height=found.height, width=found.width, num_frames=1, codec=found.codec)


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
    return spelled(text).rstrip(".") or type(error).__name__


def _id_of_path(path: str) -> str:
    return hashlib.sha256(path.encode()).hexdigest()[:16]
