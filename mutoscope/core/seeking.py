"""Where decoding may begin inside a video, so that what comes is bit for bit what a read from the start gives.

    packets as stored   I0 P3 B1 B2 | I6 B4 B5 P9 ...     an entry is a packet at which a decoder can begin afresh:
    shown as            0  3  1  2    6  4  5  9          of I6 on, frames 6, 7, ... are right, frames 4 and 5 are not

What containers and demuxers call a key frame is not always one: an intra refresh has points at which a picture begins
to heal, some index tables are wrong, and a seek in MPEG-TS lands where it likes. So an entry is believed only where its
own bytes say what it is, and after a seek only packets are used that are those of a read from the start. Where a seek
does not lead to the entry, the packets before it are read and thrown away, which costs a fraction of decoding them.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice, pairwise
from operator import attrgetter
from typing import Literal

import numpy as np
from av.codec.codec import Properties
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from jaxtyping import Int32

REORDERED = ("mpeg1video", "mpeg2video", "mpeg4", "av1")  # frames stored after a key frame may be shown before it
# B frames of these are never predicted from, or say so; of HEVC they say so within their own temporal layer only
DROPPABLE = ("h264", "mpeg1video", "mpeg2video", "mpeg4")


@dataclass(frozen=True)
class Entry:
    """A packet at which a decoder can begin: its number as stored, its place in the file, the place of its frame.

    `rank` is the number of its frame in the order in which frames are shown, from which on all are right. `stamp` is
    what to seek to.
    """

    number: int
    rank: int
    pos: int | None
    stamp: int


@dataclass(frozen=True)
class Index:
    """The packets of a video as a read from the start gives them.

    Args:
        sizes: bytes of each packet.
        ranks: the number of the frame of each packet, in the order in which frames are shown; -1 for one that only
            serves prediction.
        is_timed: these numbers come from time stamps; otherwise, as in AVI, they are those of storage, and where frames
            are reordered only those of entries are right.
        entries: where decoding may begin, besides the start.
        lost: frames at the start that cannot be decoded, since the key frame before them is not there.
    """

    sizes: Int32[np.ndarray, " packets"]
    ranks: Int32[np.ndarray, " packets"]
    is_timed: bool
    entries: tuple[Entry, ...]
    lost: int = 0

    def before(self, rank: int) -> Iterator[Entry | None]:
        """Yield where to begin to reach a frame: the last two entries before it, then None, the start."""
        at = bisect_right(self.entries, rank, key=attrgetter("rank"))
        if rank > self.lost:
            yield from (entry for entry in self.entries[max(0, at - 2) : at][::-1] if entry.rank >= self.lost)
        yield None


@dataclass
class Scan:
    """Takes in the packets of a video, and makes its index.

    Args:
        container: that is read.
        stream: of the video.
    """

    container: InputContainer
    stream: VideoStream
    sizes: list[int] = field(default_factory=list)
    stamps: list[int | None] = field(default_factory=list)  # None for packets that are not shown
    entries: list[tuple[int, int | None, int, bool]] = field(default_factory=list)
    lacks_stamps: bool = False

    def add(self, packet: Packet, stamp: int, is_shown: bool) -> None:
        """Take in the next packet."""
        if packet.is_keyframe and is_shown:
            kind = kind_of(packet, self.stream.codec_context)
            if kind != "none":
                at = stamp if packet.dts is None else packet.dts
                self.entries.append((len(self.sizes), packet.pos, at, kind == "closed"))
        self.lacks_stamps |= packet.pts is None
        self.sizes.append(packet.size)
        self.stamps.append(stamp if is_shown else None)

    def index(self) -> Index:
        """Return the index of all packets."""
        shown = [stamp for stamp in self.stamps if stamp is not None]
        # AVI, and often ASF and MXF, do not store when a frame is shown: the stamps count packets
        reorders = self.stream.codec_context.has_b_frames
        follows_storage = all(one < other for one, other in pairwise(shown))
        is_unique = not self.lacks_stamps and len(set(shown)) == len(shown)
        is_timed = is_unique and not (reorders and follows_storage)
        order = {stamp: rank for rank, stamp in enumerate(sorted(shown))} if is_timed else {}
        ranks, count = np.full(len(self.sizes), -1, np.int32), 0
        for number, stamp in enumerate(self.stamps):
            if stamp is not None:
                ranks[number] = order[stamp] if is_timed else count
                count += 1
        places = Counter((pos, self.sizes[number]) for number, pos, _, _ in self.entries)
        entries = tuple(
            Entry(number, int(ranks[number]), pos, at)
            for number, pos, at, is_closed in self.entries
            if (is_timed or is_closed or not reorders) and (places[pos, self.sizes[number]] == 1 or pos is None)
        )
        return Index(np.array(self.sizes, np.int32), ranks, is_timed, entries)


# ---- packets ---------------------------------------------------------------------------------------------------------


def packets(container: InputContainer, stream: VideoStream, index: Index, entry: Entry | None) -> Iterator[Packet]:
    """Yield the packets of a video from the start, or those from an entry on after all before it.

    What a decoder takes for the time at which a frame is shown is its rank.
    """
    skipped = 0 if entry is None else entry.number
    yield from _ranked(islice(container.demux(stream), skipped, None), index, skipped)


def packets_after_seek(
    container: InputContainer, stream: VideoStream, index: Index, entry: Entry
) -> Iterator[Packet] | None:
    """Return what `packets` does, found by a seek; None where seeks do not lead to the entry."""
    if not entry.number:
        return packets(container, stream, index, entry)
    at = index.entries.index(entry)
    for stamp in (entry.stamp, index.entries[max(0, at - 1)].stamp):
        try:
            container.seek(stamp, stream=stream)
        except FFmpegError:  # formats that cannot seek say so in many ways
            return None
        rest = container.demux(stream)
        for packet in rest:
            if _is_at(packet, entry, index):
                return _ranked(chain([packet], rest), index, entry.number)
            if not packet.size or (packet.dts is not None and packet.dts > entry.stamp):
                break  # it landed behind
    return None


def _is_at(packet: Packet, entry: Entry, index: Index) -> bool:
    if not packet.is_keyframe or packet.size != index.sizes[entry.number]:
        return False
    # by its place, as MPEG-PS has stamps for some packets only and guesses others
    return packet.pos == entry.pos if entry.pos is not None else entry.stamp in (packet.dts, packet.pts)


def _ranked(found: Iterable[Packet], index: Index, number: int) -> Iterator[Packet]:
    """Stop where a packet is not the one that a read from the start gives, as a parser that began amid a frame may."""
    for packet in found:
        if packet.size:
            if number >= len(index.sizes) or packet.size != index.sizes[number]:
                return
            packet.pts = int(index.ranks[number])
            number += 1
        yield packet


def whole_frames(packets: Iterable[Packet], stream: VideoStream) -> Iterator[VideoFrame]:
    """Decode packets from the start, without the frames that a stream begins with that lack the key frame before them.

    Some decoders make up what such frames are predicted from, others leave them out.
    """
    is_late = is_whole = None
    recovers = stream.codec_context.codec.canonical_name in ("h264", "hevc")  # say of each frame whether it has holes
    for packet in packets:
        is_late = not packet.is_keyframe if is_late is None else is_late
        for frame in packet.decode():
            assert isinstance(frame, VideoFrame)  # of a video stream; for the type checker
            is_whole = is_whole or not is_late or (not frame.is_corrupt and (recovers or frame.key_frame))
            if is_whole:
                yield frame


# ---- key frames ------------------------------------------------------------------------------------------------------


def kind_of(packet: Packet, context: VideoCodecContext) -> Literal["closed", "open", "none"]:
    """Say what begins at a packet that its container calls a key frame, from the bytes of the packet.

    Returns:
        "closed": all frames that are stored from here on are right. "open": those that are shown from here on are.
        "none": nothing of the kind can be believed, as of gif, apng, cinepak and whatever is rare.
    """
    name, data = context.codec.canonical_name, bytes(packet)
    if name == "h264":
        return _h264(units(data, context))
    if name == "hevc":
        kinds = {unit[0] >> 1 & 0x3F for unit in units(data, context)}  # ITU-T H.265, table 7-1
        return "closed" if {19, 20} & kinds else "open" if {16, 17, 18, 21} & kinds else "none"
    if context.codec.properties & Properties.INTRA_ONLY.value:
        return "closed"
    if name == "av1":
        return "open"
    if name in IS_INTRA and IS_INTRA[name](data.ljust(16, b"\0")):
        return "open" if name in REORDERED else "closed"
    return "none"


def _after(data: bytes, start_code: bytes) -> bytes:
    return data[at + 4 :].ljust(2, b"\xff") if (at := data.find(start_code)) >= 0 else b"\xff\xff"


def _is_intra_flv1(data: bytes) -> bool:
    """Find the kind of a picture of Sorenson's H.263 behind its size, which takes 16, 32 or no bits more."""
    bits = int.from_bytes(data[:16], "big")
    size = bits >> 128 - 33 & 7
    return bits >> 128 - 35 - {0: 16, 1: 32}.get(size, 0) & 3 == 0


# Where a codec says in the first bits of a packet that it rests on no other. Indices of old files may call all so.
IS_INTRA: dict[str, Callable[[bytes], bool]] = {
    "vp8": lambda data: not data[0] & 1,  # RFC 6386, section 9.1
    "vp9": lambda data: data[0] & 0b11001100 == 0b10000000 and data[0] & 0b110000 != 0b110000,  # no profile 3
    "theora": lambda data: not data[0] & 0xC0,
    "ffv1": lambda data: int.from_bytes(data[:2], "big") >= 0x7F80,  # RFC 9043, 3.8.1: a range coder's first bit
    "mpeg1video": lambda data: _after(data, b"\0\0\1\0")[1] >> 3 & 7 == 1,  # ISO/IEC 11172-2, 2.4.2.5
    "mpeg2video": lambda data: _after(data, b"\0\0\1\0")[1] >> 3 & 7 == 1,
    "mpeg4": lambda data: _after(data, b"\0\0\1\xb6")[0] >> 6 == 0,  # ISO/IEC 14496-2, 6.2.5
    "msmpeg4v2": lambda data: data[0] >> 6 == 0,
    "msmpeg4v3": lambda data: data[0] >> 6 == 0,
    "wmv1": lambda data: data[0] >> 6 == 0,
    "wmv2": lambda data: data[0] >> 7 == 0,
    "flv1": _is_intra_flv1,
    "png": lambda data: True,  # FFmpeg does not say so, because of apng
}


def units(data: bytes, context: VideoCodecContext) -> Iterator[bytes]:
    """Yield the units of H.264 or HEVC in a packet: behind start codes, or behind their lengths, as in MP4."""
    header = context.extradata or b""
    # ISO/IEC 14496-15, sections 5.3.3.1 (avcC) and 8.3.3.1 (hvcC): where it says how long a length is
    place = 4 if context.codec.canonical_name == "h264" else 21
    if len(header) <= place or header[0] != 1:
        yield from (unit for unit in re.split(b"\0\0\1", data)[1:] if unit)
        return
    length = header[place] % 4 + 1
    at = 0
    while at + length < len(data):
        size = int.from_bytes(data[at : at + length], "big")
        yield data[at + length : at + length + min(size, 256)]
        at += length + size


def _h264(found: Iterable[bytes]) -> Literal["closed", "open", "none"]:
    """Believe an IDR picture, and a recovery point at which the picture is exact at once (ITU-T H.264, D.2.8)."""
    for unit in found:
        kind = unit[0] & 0x1F
        if kind == 5:
            return "closed"
        if kind == 1:
            return "none"
        if kind == 6 and _heals_at_once(unit[1:]):
            return "open"
    return "none"


def _heals_at_once(message: bytes) -> bool:
    """Find a recovery point in supplemental information that takes no frames, is exact, and is no broken link."""
    at = 0
    while at + 2 < len(message):
        numbers = []
        for _ in range(2):  # kind and size, each 255 as often as it needs
            value = 0
            while at < len(message) - 1 and message[at] == 255:
                value, at = value + 255, at + 1
            numbers.append(value + message[at])
            at += 1
        kind, size = numbers
        if kind == 6 and at < len(message):
            return message[at] >> 5 == 0b110  # recovery_frame_cnt 0 is one bit; exact_match_flag; broken_link_flag
        at += size
    return False
