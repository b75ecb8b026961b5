"""Is a file whole? What its container says of its own length, as far as that can be believed.

Only what announces pictures or sound beyond the end of the file tells that it was cut short. Many files are longer than
their container, since cameras and taggers append to them; and one that was written into a pipe announces no length, or
the largest there is. Whether the frames are all there is then a question to the decoder.
"""

import struct
from pathlib import Path
from typing import IO

from mutoscope.core.errors import MediaError

UNKNOWN = 0xFFFFFFFF  # what a writer that could not go back left as a length
HEAD_BYTES = 4096
CHUNKS = (b"LIST", b"JUNK", b"idx1", b"RIFF", b"fmt ", b"fact", b"data", b"strh", b"strf", b"avih", b"indx")


def truncated(path: Path, detail: str) -> MediaError:
    """Return the error that says that a file is not whole."""
    return MediaError(f"{path} is cut short or damaged: {detail}. Fetch the file again.")


def refuse_truncated(path: Path) -> None:
    """Compare the length that the container announces with the file's.

    Raises:
        MediaError: the file is shorter.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        end: int | None = 0
        if head[:6] in (b"GIF87a", b"GIF89a"):
            end = _end_of_gif(head + file.read())
        elif head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            end = _end_of_boxes(file, size)
        elif head[:4] == b"RIFF":
            end = _end_of_riff(file, size)
        elif head[:4] == b"\x1aE\xdf\xa3":
            end = _end_of_matroska(head)
    if end is None or end > size:
        raise truncated(path, f"it announces {end} bytes and has {size}" if end else f"it breaks off at {size} bytes")


def _end_of_gif(data: bytes) -> int | None:
    """Walk the blocks of a GIF to its trailer (GIF89a specification, appendix B)."""

    def table(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    try:
        at = 13 + table(data[10])
        while data[at] != 0x3B:
            if data[at] not in (0x21, 0x2C):
                return None
            at += 2 if data[at] == 0x21 else 11 + table(data[at + 9])
            while data[at]:
                at += data[at] + 1
            at += 1
    except IndexError:
        return None
    return at + 1


def _end_of_boxes(file: IO[bytes], size: int) -> int:
    """Walk the top-level boxes of MP4 and MOV (ISO/IEC 14496-12, section 4.2) as far as they hold media."""
    at = end = 0
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16).ljust(16, b"\0")
        length, kind = struct.unpack(">I", head[:4])[0], head[4:8]
        if length == 1:
            length = struct.unpack(">Q", head[8:])[0]
        if length < 8 or length == UNKNOWN:  # 0: the last box goes to the end of the file
            break
        at += length
        if kind in (b"ftyp", b"moov", b"moof", b"mdat", b"imda"):
            end = at
    return end


def _end_of_riff(file: IO[bytes], size: int) -> int:
    """Walk the chunks of a RIFF form, such as AVI, where the form itself does not tell how long it is."""
    file.seek(4)
    length = struct.unpack("<I", file.read(4))[0]
    if length not in (0, UNKNOWN) and 8 + length <= size:
        return 8 + length
    at = end = 12
    kinds = set[bytes]()
    while at + 12 <= size:
        file.seek(at)
        kind, chunk, form = struct.unpack("<4sI4s", file.read(12))
        if kind not in CHUNKS or chunk in (0, UNKNOWN):
            break  # the rest may be anything
        at = end = at + 8 + chunk + chunk % 2
        kinds.add(form if kind == b"LIST" else kind)
    is_whole = length in (0, UNKNOWN) or {b"movi", b"idx1"} <= kinds  # some writers count a header twice
    return end - (end == size + 1) if is_whole else 8 + length  # a byte of padding at the very end may be missing


def _end_of_matroska(head: bytes) -> int:
    """Read where the segment ends (RFC 8794, section 4: a size begins with its own length)."""

    def number(at: int) -> tuple[int, int]:
        length = 9 - head[at].bit_length()
        ones = (1 << 7 * length) - 1
        value = int.from_bytes(head[at : at + length], "big") & ones
        return (0 if value in (ones, UNKNOWN) else value), at + length  # all ones: not known when it was written

    try:
        header, at = number(4)
        segment, at = number(at + header + 4)
    except IndexError:  # a header of that length is damage, or only the header is there
        return 0
    return at + segment
