"""The frames of a video file, read as they are asked for, from any frame on.

    Probe ── decode ──> frames from any one on, each "H W 3" uint8, upright, with square pixels, opaque

Frames [a, b) are bit for bit those of a read from the start, wherever reading begins; see `seeking`.
"""

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import chain, islice, pairwise
from pathlib import Path

import numpy as np
from av.filter import Graph
from av.filter.context import FilterContext
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, VideoReformatter
from jaxtyping import UInt8

from mutoscope.core import seeking
from mutoscope.core.errors import MediaError
from mutoscope.core.media import Frame, Probe, best_video, has_alpha, reading
from mutoscope.core.seeking import Entry, Index
from mutoscope.core.whole import truncated

# swscale: bicubic, full_chroma_int, accurate_rnd. Without the last two its fast path darkens the picture by a level,
# and a round trip RGB -> YUV -> RGB stays at 40 dB instead of 52 dB.
SCALING = 0x4 | 0x2000 | 0x40000
GROUND = 255  # what is transparent is shown on white, as `read_image` does


@dataclass(frozen=True)
class Mending:
    """What is done to frames besides turning them upright, where they need it.

    Args:
        deinterlaces: make whole pictures of interlaced ones, one of each (bwdif).
        tone_maps: bring HDR (PQ, HLG, BT.2020) to BT.709, brightness and colours.
    """

    deinterlaces: bool = False
    tone_maps: bool = False

    def changes(self, found: Probe) -> bool:
        """Say whether anything is done to the frames of a file."""
        return bool(self.notices(found))

    def notices(self, found: Probe) -> tuple[str, ...]:
        """Say what is done to the frames of a file."""
        done = {
            "deinterlaced, one frame of each": self.deinterlaces and found.is_interlaced,
            "tone-mapped to BT.709": self.tone_maps and bool(found.hdr),
        }
        return tuple(notice for notice, is_done in done.items() if is_done)


def decode(path: Path, found: Probe, start: int, mending: Mending = Mending()) -> Iterator[Frame]:
    """Yield the frames from `start` on, beginning to decode as late as can be trusted.

    Args:
        path: the file.
        found: what `media.probe` says of it.
        start: number of the first frame wanted.
        mending: what to do to interlaced and HDR frames.

    Raises:
        MediaError: fewer frames than packets, a frame with holes, or a change of size.
    """
    if found.is_interlaced and mending.deinterlaces:
        ahead = min(start, 1)  # the lines before the first frame take part in it
        pictures = _deinterlaced(_pictures(path, found, start - ahead), skips=ahead)
    else:
        pictures = _pictures(path, found, start)
    convert = _Convert(found, mending)
    for picture in pictures:
        yield convert(picture)


def _pictures(path: Path, found: Probe, start: int) -> Iterator[VideoFrame]:
    """Yield decoded frames from `start` on; where decoding from an entry leads astray, go on from an earlier one."""
    index = start
    for entry in found.index.before(start + found.index.lost):
        for picture in _decoded(path, found, entry, index):
            if (picture.height, picture.width) != (found.coded_height, found.coded_width):
                raise MediaError(f"{path} turns {picture.width}x{picture.height} at frame {index}. Split it there.")
            yield picture
            index += 1
        if index == found.num_frames:
            return
    raise truncated(path, f"{index} of {found.num_frames} frames can be decoded")


def _decoded(path: Path, found: Probe, entry: Entry | None, start: int) -> Iterator[VideoFrame]:
    """Yield the frames from `start` on, those from an entry up to the first that is not the one expected."""
    index, wanted = found.index, start + found.index.lost
    if entry is None:
        with reading(path) as container:
            stream = best_video(container, path)
            packets = seeking.packets(container, stream, index, None)
            for number, picture in enumerate(islice(seeking.whole_frames(packets, stream), start, None), start):
                if picture.is_corrupt:
                    raise truncated(path, f"frame {number} has holes")
                yield picture
        return
    drops = index.is_timed and found.codec in seeking.DROPPABLE
    rank = wanted if index.is_timed else entry.rank
    for packet, context in _packets(path, index, entry):
        if drops and packet.size:  # what no other frame is predicted from need not be decoded to be thrown away
            context.skip_frame = "DEFAULT" if (packet.pts or 0) >= wanted else "NONREF"
        for picture in packet.decode():
            assert isinstance(picture, VideoFrame)  # of a video stream; for the type checker
            place = picture.pts or 0
            if index.is_timed and place < rank:  # also what is shown before the entry, and has holes
                continue
            if picture.is_corrupt or (index.is_timed and place > rank):
                return
            if rank >= wanted:
                yield picture
            rank += 1


def _packets(path: Path, index: Index, entry: Entry) -> Iterator[tuple[Packet, VideoCodecContext]]:
    """Yield the packets from an entry on: by a seek, or where that fails by reading all before it."""
    with reading(path) as container:
        stream = best_video(container, path)
        packets = seeking.packets_after_seek(container, stream, index, entry)
        if packets is not None:
            yield from ((packet, stream.codec_context) for packet in packets)
            return
    with reading(path) as container:
        stream = best_video(container, path)
        for packet in seeking.packets(container, stream, index, entry):
            yield packet, stream.codec_context


# ---- pixels ----------------------------------------------------------------------------------------------------------


class _Convert:
    """Makes pixels of decoded frames: upright, square, and with what is transparent on white."""

    def __init__(self, found: Probe, mending: Mending) -> None:
        self._found, self._convert = found, VideoReformatter()
        self._is_hdr = bool(found.hdr) and mending.tone_maps

    def __call__(self, frame: VideoFrame) -> Frame:
        found = self._found
        height, width = (found.height, found.width) if found.rotation % 180 == 0 else (found.width, found.height)
        if self._is_hdr:
            frame = self._mapped(frame)
        # untagged video of HD size is BT.709 by common practice; swscale would take it for BT.601
        is_hd = frame.colorspace == 2 and (frame.width >= 1280 or frame.height > 576)
        matrix = Colorspace.ITU709 if is_hd else None
        # planes, because swscale makes them twice as fast as interleaved pixels; to_ndarray interleaves
        form = "rgba" if has_alpha(frame) else "gbrp"
        shown = self._convert.reformat(
            frame, width, height, form, src_colorspace=matrix, interpolation=SCALING, threads=1
        )
        pixels = _opaque(shown.to_ndarray())
        if found.is_mirrored:
            pixels = pixels[:, ::-1]
        return np.ascontiguousarray(np.rot90(pixels, -(found.rotation // 90)))

    def _mapped(self, frame: VideoFrame) -> VideoFrame:
        """Map brightness and colours to those of BT.709, as swscale's perceptual intent does."""
        looks = frame.format.name, frame.width, frame.height, frame.color_trc, frame.color_primaries, frame.colorspace
        graph, source = _tone_map(*looks, threading.get_ident())
        frame.pts, frame.time_base = 0, Fraction(1)
        source.push(frame)
        mapped = graph.vpull()
        assert isinstance(mapped, VideoFrame)
        return mapped


@lru_cache(maxsize=2)
def _tone_map(form: str, width: int, height: int, *_: int) -> tuple[Graph, FilterContext]:
    """Build what maps frames of one look in one thread, once: swscale takes seconds to work its table out."""
    asked = f"out_transfer=bt709:out_primaries=bt709:out_range=full:intent=perceptual:flags={SCALING}"
    return _graph("scale", asked, "gbrp", VideoFormat(form), width, height)


def opaque(frame: VideoFrame) -> VideoFrame:
    """Lay a frame that is transparent somewhere on the ground; return any other as it is."""
    if not has_alpha(frame):
        return frame
    pixels = frame.to_ndarray(format="rgba")
    return frame if (pixels[..., 3] == 255).all() else VideoFrame.from_ndarray(_opaque(pixels), "rgb24")


def _opaque(pixels: UInt8[np.ndarray, "H W _"]) -> Frame:
    """Lay pixels with a fourth channel, of opacity, on the ground."""
    if pixels.shape[-1] == 3 or (pixels[..., 3] == 255).all():
        return pixels[..., :3]
    colours, share = pixels[..., :3].astype(np.uint16), pixels[..., 3:].astype(np.uint16)
    return ((colours * share + GROUND * (255 - share) + 127) // 255).astype(np.uint8)


def _deinterlaced(pictures: Iterable[VideoFrame], skips: int) -> Iterator[VideoFrame]:
    """Make whole pictures of interlaced ones, and leave out the first so many."""
    graph = source = None
    for number, picture in enumerate(chain(pictures, [None])):
        if graph is None or source is None:
            if picture is None:
                return
            form, asked = picture.format, "mode=send_frame:deint=interlaced"
            graph, source = _graph("bwdif", asked, form.name, form, picture.width, picture.height)
        if picture is not None:
            picture.pts, picture.time_base = number, Fraction(1)
        source.push(picture)
        while True:
            try:
                mended = graph.vpull()
            except (BlockingIOError, EOFError):  # it waits for the next one, or there is none
                break
            assert isinstance(mended, VideoFrame)
            if skips:
                skips -= 1
            else:
                yield mended


def _graph(name: str, options: str, to: str, form: VideoFormat, width: int, height: int) -> tuple[Graph, FilterContext]:
    """Build a graph of one filter from frames of one shape to the format `to`; pull from it, push into the source."""
    graph = Graph()
    source = graph.add_buffer(width=width, height=height, format=form, time_base=Fraction(1))
    chained = source, graph.add(name, options), graph.add("format", to), graph.add("buffersink")
    for one, other in pairwise(chained):
        one.link_to(other)
    graph.configure()
    return graph, source
