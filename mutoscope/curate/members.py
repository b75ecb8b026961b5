"""Members of tar shards as sources: which there are, and one of them as a file when it is needed.

    shards/00000.tar ── members ──> {"a.mp4": (512, 90112), "a.txt": (91136, 21), ...}
    tar://a.mp4::shards/00000.tar ── parted ──> ("a.mp4", "shards/00000.tar") ── read ──> its bytes

The layout is that of WebDataset: what belongs together has one name, up to its last or its first dot. A shard is read
in place, so it must not be compressed; only headers are read to find its members. Several tar files that were joined
are read one after another. A second member of the same name is `NAME#2.SUFFIX`, a third `NAME#3.SUFFIX`, so that both
a.mp4 and its a.txt are found again. The way to write a member is that of fsspec.
"""

import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from posixpath import dirname, join, normpath
from typing import Any

from mutoscope.core.errors import MediaError
from mutoscope.core.files import spelled
from mutoscope.curate import places

SUFFIX = ".tar"
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".tar.zst", ".tzst", ".tar.lz4")
MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
BEGINS, JOINS = "tar://", "::"
CHUNK_BYTES = 1 << 20
BLOCK = 512  # bytes, the unit of a tar file
DAMAGE = (tarfile.TarError, EOFError, ValueError, ArithmeticError, LookupError, RecursionError)


@dataclass(frozen=True)
class Members:
    """What is in a shard.

    Args:
        places: for each member the offset and size of its bytes.
        left_out: members that cannot be read in place, each with the reason.
        problem: what is wrong with the shard, "" if nothing is; what comes before its damage can be read.
    """

    places: Mapping[str, tuple[int, int]]
    left_out: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""


def is_shard(path: str) -> bool:
    """Say whether a path is that of a tar shard, also of one that must be unpacked first, and not of a member."""
    return path.lower().endswith((SUFFIX, *COMPRESSED)) and not is_member(path)


def is_member(path: str) -> bool:
    """Say whether a path is that of a member."""
    return path.startswith(BEGINS) and JOINS in path


def joined(member: str, shard: str) -> str:
    """Return the path of a member."""
    return f"{BEGINS}{member}{JOINS}{shard}"


def parted(path: str) -> tuple[str, str]:
    """Return the name of a member, and the path of its shard."""
    member, _, shard = path.removeprefix(BEGINS).partition(JOINS)
    return member, shard


@lru_cache(maxsize=8)  # the members of a shard follow each other
def members(shard: str, state: str) -> Members:
    """Find the members of a shard.

    Args:
        shard: its path or URL.
        state: changes when the shard does; see `places.state`.

    Raises:
        OSError: it cannot be read now.
    """
    with _opened(shard) as file:
        size = file.seek(0, 2)
        file.seek(0)
        head = file.read(BLOCK)
        for magic, kind in MAGIC.items():
            if head.startswith(magic):
                return Members({}, problem=f"it is compressed ({kind}); unpack it, as shards are read in place")
        if len(head) == BLOCK and any(head) and not _is_header(head):
            return Members({}, problem="it is no tar file: its first header makes no sense")
        found, at = _Found(), 0
        while at is not None:
            file.seek(at)
            if at and not _is_header(file.read(BLOCK)):
                return found.members(f"what follows its byte {at} is no tar file")
            file.seek(at)
            found.begin()
            try:
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    for member in iter(tar.next, None):
                        if member.size < 0 or member.offset_data + member.size > size:
                            return found.members("it is cut short or damaged")
                        found.add(member)
                    end = tar.offset
            except DAMAGE:
                return found.members("it is cut short or damaged")
            if end >= size:  # the empty blocks that end a tar file are missing
                return found.members("it is cut short or damaged")
            at = _next_tar(file, end, size)
    return found.members("")


def _is_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except DAMAGE:
        return False
    return True


def _next_tar(file: Any, at: int, size: int) -> int | None:
    """Find the tar file that follows the end of one: the first block after it that is not empty."""
    while at < size:
        file.seek(at)
        piece = file.read(CHUNK_BYTES)
        filled = len(piece) - len(piece.lstrip(b"\0"))
        if filled < len(piece):
            return at + filled // BLOCK * BLOCK
        at += max(1, len(piece))
    return None


class _Found:
    """The members of a shard, as its headers are read."""

    def __init__(self) -> None:
        self._places: dict[str, tuple[int, int]] = {}
        self._left_out: dict[str, str] = {}
        self._links: list[tuple[str, str]] = []
        self._last: dict[str, str] = {}  # the label of the last member of each name
        self._numbers: dict[str, int] = {}  # the greatest of each stem in this tar file and those before
        self._before: dict[str, int] = {}  # the same, in those before
        self._times: dict[str, int] = {}  # how often each name came in this one

    def begin(self) -> None:
        """Begin a tar file: what it holds belongs together, and to nothing of the same name in those before."""
        self._before, self._times = dict(self._numbers), {}

    def add(self, member: tarfile.TarInfo) -> None:
        if not (member.isreg() or member.issym() or member.islnk()):
            return  # folders and devices hold nothing
        name = member.name
        self._times[name] = self._times.get(name, 0) + 1
        folder, slash, base = spelled(name).replace(JOINS, ":\\x3a").rpartition("/")
        dots = base[: len(base) - len(base.lstrip("."))]  # of a hidden file
        stem, dot, rest = base[len(dots) :].partition(".")
        stem = dots + stem
        number = self._before.get(folder + slash + stem, 0) + self._times[name]
        label = ""
        while not label or label in self._places or label in self._left_out:
            label = f"{folder}{slash}{stem}#{number}{dot}{rest}" if number > 1 else f"{folder}{slash}{base}"
            number += 1
        self._numbers[folder + slash + stem] = max(number - 1, self._numbers.get(folder + slash + stem, 0))
        if member.islnk():  # the same bytes once more, by the name of a member before
            target = self._last.get(member.linkname)
            self._point(label, target, member.linkname)
        elif member.issym():
            self._left_out[label] = ""  # keeps the label until all members are known
            self._links.append((label, normpath(join(dirname(name), member.linkname))))
        elif member.issparse():
            self._left_out[label] = "it is stored with holes (sparse), which cannot be read in place; pack it anew"
        else:
            self._places[label] = (member.offset_data, member.size)
        self._last[name] = label

    def _point(self, label: str, target: str | None, name: str) -> None:
        place = None if target is None else self._places.get(target)
        if place is None:
            self._left_out[label] = f"it is a link to {spelled(name)}, which is not in its shard"
        else:
            self._left_out.pop(label, None)
            self._places[label] = place

    def members(self, problem: str) -> Members:
        by_path = {normpath(name): label for name, label in self._last.items()}
        for label, target in self._links:
            self._point(label, by_path.get(target), target)
        return Members(self._places, self._left_out, problem)


def read(path: str, state: str) -> Iterator[bytes]:
    """Yield the bytes of a member, in pieces.

    Raises:
        MediaError: the shard has no such member, or is cut short in it.
        OSError: it cannot be read now.
    """
    member, shard = parted(path)
    try:
        place = members(shard, state).places.get(member)
    except FileNotFoundError as error:
        raise MediaError(
            f"{path} does not exist: its shard is gone. Give the path of a shard that is there."
        ) from error
    if place is None:
        raise MediaError(f"{path} does not exist: its shard has no such member. Give the shard again.")
    offset, left = place
    with _opened(shard) as file:
        file.seek(offset)
        while left:
            piece = file.read(min(left, CHUNK_BYTES))
            if not piece:
                raise MediaError(f"{path} is cut short: {left} bytes are missing. Fetch the file again.")
            left -= len(piece)
            yield piece


def contents(shard: str, state: str, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Yield small members with their names, in the order in which they lie in the shard.

    Raises:
        OSError: the shard cannot be read now.
    """
    found = members(shard, state).places
    with _opened(shard) as file:
        for name in sorted(names, key=lambda name: found[name]):
            offset, size = found[name]
            file.seek(offset)
            yield name, file.read(size)


def _opened(shard: str) -> Any:  # what fsspec opens has no common type
    there, name = places.system(shard)
    return there.open(name, "rb")
