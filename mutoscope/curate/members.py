"""Members of tar shards as sources: which there are, and one of them as a file when it is needed.

    shards/00000.tar ── members ──> {"a.mp4": (512, 90112), "a.txt": (91136, 21), ...}
    tar://a.mp4::shards/00000.tar ── parted ──> ("a.mp4", "shards/00000.tar") ── read ──> its bytes

The layout is that of WebDataset: what belongs together has one name up to its first dot. A shard is read in place, so
it must not be compressed; only headers are read to find its members. The way to write a member is that of fsspec.
"""

import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import fsspec

from mutoscope.core.errors import MediaError

SUFFIX = ".tar"
BEGINS, JOINS = "tar://", "::"
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Members:
    """What is in a shard.

    Args:
        places: for each member the offset and size of its bytes.
        is_whole: whether the shard ends as a tar file should; what comes before its damage can be read.
    """

    places: dict[str, tuple[int, int]]
    is_whole: bool


def is_shard(path: str) -> bool:
    """Say whether a path is that of a tar shard, and not of a member of one."""
    return path.lower().endswith(SUFFIX) and not is_member(path)


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
        state: changes when the shard does; see `ingest`.

    Raises:
        OSError: it cannot be read now.
    """
    places: dict[str, tuple[int, int]] = {}
    try:
        with _opened(shard) as file:
            size = file.seek(0, 2)
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in iter(tar.next, None):
                    if member.offset_data + member.size > size:
                        return Members(places, False)
                    if member.isreg() and not member.issparse():
                        places[member.name] = (member.offset_data, member.size)
    except (tarfile.TarError, EOFError, ValueError):
        return Members(places, False)
    return Members(places, True)


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
    places = members(shard, state).places
    with _opened(shard) as file:
        for name in sorted(names, key=lambda name: places[name]):
            offset, size = places[name]
            file.seek(offset)
            yield name, file.read(size)


def _opened(shard: str) -> Any:  # what fsspec opens has no common type
    system, name = fsspec.core.url_to_fs(shard)
    return system.open(name, "rb")
