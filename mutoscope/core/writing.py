"""How videos are written: .mp4, .mov, .mkv, .webm and .gif as the frames come, .png as an image or a contact sheet.

Footage ── writer ──> a function that writes it to a path, or a refusal before any frame is made
"""

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import count, pairwise
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal, Protocol, cast, runtime_checkable

import av
import numpy as np
from av.audio.stream import AudioStream as AudioEncoder
from av.container import OutputContainer
from av.filter import Graph
from av.filter.context import FilterContext
from av.packet import Packet
from av.video.format import VideoFormat
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from mutoscope.core.errors import MediaError, RequestError
from mutoscope.core.frames import SCALING
from mutoscope.core.media import AudioStream, Frame
from mutoscope.core.sound import Audio, frame_of, mixed_layout

Quality = Literal["small", "good", "best"]
Timed = Iterator[tuple[float | Fraction, list[Packet]]]


@runtime_checkable
class Footage(Protocol):
    """What is written: a `Video`, see there."""

    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def fps(self) -> Fraction: ...
    @property
    def num_frames(self) -> int | None: ...
    @property
    def times(self) -> tuple[Fraction, ...] | None: ...
    @property
    def variable_frame_rate(self) -> bool: ...
    @property
    def audio(self) -> Audio | None: ...
    def frames(self) -> Iterator[Frame]: ...


@dataclass(frozen=True)
class Format:
    """How a streamed file is encoded.

    `crf` is the codec's own scale of quality, on which lower is better. `colour_x` is where a reader looks for the
    colour sample of two pixels, in 1/256 of a pixel from the first one's centre: H.264 says there (its table E-5 has
    no other default), for VP9 without a tag FFmpeg takes the middle. `layouts` of sound are those that any player
    knows.
    """

    muxer: str
    video: str
    audio: str
    crf: dict[str, int]
    encoding: dict[str, str]
    muxing: dict[str, str]
    needs_even_size: bool
    colour_x: int
    layouts: tuple[str, ...]


MP4 = Format(
    muxer="mp4",
    video="libx264",
    audio="aac",
    crf={"small": 28, "good": 17, "best": 10},
    # x264's macroblock tree reads past small frames: on one machine, the same 64x64 clip gave five different files
    encoding={"preset": "medium", "x264-params": "mbtree=0"},
    muxing={"movflags": "+faststart"},  # the index first, so that a player can begin before it has the whole file
    needs_even_size=True,  # colour is stored for pairs of pixels
    colour_x=0,
    layouts=("mono", "stereo", "3.0", "4.0", "5.0", "5.1"),  # ISO/IEC 14496-3, table 1.19,
)
FORMATS = {
    ".mp4": MP4,
    ".mov": replace(MP4, muxer="mov"),
    ".mkv": replace(MP4, muxer="matroska", muxing={}),
    ".webm": Format(
        muxer="webm",
        video="libvpx-vp9",
        audio="libopus",
        crf={"small": 40, "good": 24, "best": 12},
        encoding={"cpu-used": "2", "row-mt": "0"},  # with row threads its output is not always the same
        muxing={},
        needs_even_size=False,
        colour_x=128,
        layouts=("mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1"),  # RFC 7845, section 5.1.1.2,
    ),
}
ENCODER_THREADS = 4  # a fixed number, because x264's output depends on it
GIF_DITHER = "dither=sierra2_4a:diff_mode=rectangle"
SHEET_PIXELS = 64_000_000  # a contact sheet is held in memory
SHEET_GROUND = 255


def mixing(tracks: Sequence[AudioStream]) -> tuple[str, ...]:
    """Say how the sound that is read of a file is mixed when it is written; nothing where all of it is kept."""
    if not tracks:
        return ()
    layout = tracks[0].layout
    mixed = {suffix: mixed_layout(layout, form.layouts) for suffix, form in FORMATS.items()}
    files = ", ".join(suffix for suffix, name in mixed.items() if name == "stereo" != layout)
    return (f"sound of the layout {layout}, which is mixed down to stereo in {files}",) if files else ()


def writer(video: Footage, path: Path, quality: Quality | None) -> Callable[[Path], None]:
    """Choose how to write `path`, or refuse, before any frame is made."""
    suffix = path.suffix.lower()
    if suffix in FORMATS:
        form = FORMATS[suffix]
        if quality not in (None, *form.crf):
            raise RequestError(f"quality={quality!r} was given. Use {', '.join(form.crf)}.")
        if form.needs_even_size and (video.height % 2 or video.width % 2):
            nearest = f"{video.width + video.width % 2}x{video.height + video.height % 2}"
            given = f"{suffix} needs an even width and height, not {video.width}x{video.height}"
            raise RequestError(f"{given}. Use {nearest}, or save as .webm, .gif or .png.")
        return partial(_write_stream, video, form, quality or "good")
    if suffix not in (".gif", ".png"):
        raise RequestError(f"{path} ends in {suffix or 'nothing'}. Use .mp4, .mov, .mkv, .webm, .gif or .png.")
    if quality is not None:
        raise RequestError(f"quality={quality!r} was given, but {suffix} has only one. Leave it out.")
    if suffix == ".gif" and video.fps > 50:
        raise RequestError(f"GIF players show at most 50 fps, not {float(video.fps):.5g}. Use at_fps(25) first.")
    if suffix == ".png":
        _refuse_big_sheet(video, video.num_frames or 1)
    return partial(_write_gif if suffix == ".gif" else _write_png, video)


def _write_stream(video: Footage, form: Format, quality: Quality, path: Path) -> None:
    tick = Fraction(1, 90_000) if video.variable_frame_rate else 1 / video.fps
    with av.open(f"file:{path}", "w", format=form.muxer, options={"fflags": "+bitexact", **form.muxing}) as out:
        options = {**form.encoding, "crf": str(form.crf[quality])}
        stream = _add_stream(out, form.video, video, "yuv420p", tick, options)
        tags = stream.codec_context  # in each of these tables of ITU-T H.273, 1 is BT.709, and limited range
        tags.colorspace = tags.color_primaries = tags.color_trc = tags.color_range = 1
        packets = [_encode(stream, _yuv420p(video, form.colour_x), video, tick)]
        if video.audio:
            audio = video.audio.mixed(form.layouts)
            allowed = av.Codec(form.audio, "w").audio_rates or [audio.rate]
            rate = audio.rate if audio.rate in allowed else 48_000
            track = cast(AudioEncoder, out.add_stream(form.audio, rate=rate, layout=audio.layout))
            packets.append(_encode_sound(track, audio))
        for _, group in heapq.merge(*packets, key=itemgetter(0)):  # in the order of time
            out.mux(group)


def _add_stream(
    out: OutputContainer, codec: str, video: Footage, pixels: str, tick: Fraction, options: dict[str, str]
) -> VideoStream:
    stream = cast(VideoStream, out.add_stream(codec, rate=video.fps, options=options))
    stream.height, stream.width, stream.pix_fmt = video.height, video.width, pixels
    stream.codec_context.time_base = tick
    # not slices, PyAV's default: each frame cut into as many as there are threads costs 3 to 22 % more bytes
    stream.codec_context.thread_type, stream.codec_context.thread_count = "FRAME", ENCODER_THREADS
    return stream


def _yuv420p(video: Footage, colour_x: int) -> Iterator[VideoFrame]:
    """Convert to limited-range BT.709 with the flags of the reader, so that a round trip has no bias."""
    options = f"out_color_matrix=bt709:out_range=limited:out_h_chr_pos={colour_x}:out_v_chr_pos=128:flags={SCALING}"
    graph, (source,) = _filter("scale", options, "yuv420p", (video.height, video.width, "rgb24"))
    for i, frame in enumerate(video.frames()):
        source.push(_stamped(frame, i))
        yield graph.vpull()


def _encode(stream: VideoStream, pictures: Iterable[VideoFrame], video: Footage, tick: Fraction) -> Timed:
    """Yield the time of each picture and the packets that it sets free, each of which lasts as long as its picture."""
    is_timed = video.times is not None and video.variable_frame_rate
    moments = video.times if video.times and is_timed else (i / video.fps for i in count())
    edges = pairwise(round(moment / tick) for moment in moments)
    num_frames = len(video.times) - 1 if video.times and is_timed else None
    lasts: dict[int, int] = {}

    def timed(packets: list[Packet]) -> list[Packet]:
        for packet in packets:
            packet.duration = lasts.pop(packet.pts or 0)
        return packets

    for index, (picture, (start, end)) in enumerate(zip(pictures, edges, strict=False)):
        if start == end:
            raise MediaError(f"two frames lie within {float(tick):.2g} s of each other. Use at_fps() first.")
        picture.pts, picture.duration, picture.time_base = start, end - start, tick
        lasts[start] = end - start
        if num_frames and index >= num_frames - 2:
            # MP4 states how long what is stored last lasts; with no B frame after it, it is what is shown last
            picture.pict_type = PictureType.P if index else PictureType.I
        yield start * tick, timed(stream.encode(picture))
    yield math.inf, timed(stream.encode(None))


def _encode_sound(track: AudioEncoder, audio: Audio) -> Timed:
    position = 0
    for samples in audio.read():
        if samples.size:
            piece = frame_of(samples, audio.layout, audio.rate, position)
            yield Fraction(position, audio.rate), track.encode(piece)
            position += samples.shape[1]
    yield math.inf, track.encode(None)


def _write_gif(video: Footage, path: Path) -> None:
    """Find one palette for the whole clip, so that colours do not flicker; the frames wait on disk meanwhile."""
    shape, tick = (video.height, video.width, 3), Fraction(1, 100)
    with TemporaryFile(dir=path.parent) as spool:
        graph, (source,) = _filter("palettegen", "", "rgb32", (video.height, video.width, "rgb24"))
        for i, frame in enumerate(video.frames()):
            spool.write(frame.tobytes())
            source.push(_stamped(frame, i))
        source.push(None)
        palette = graph.vpull()
        spool.seek(0)
        frames = (
            np.frombuffer(data, np.uint8).reshape(shape) for data in iter(lambda: spool.read(math.prod(shape)), b"")
        )
        options = {"fflags": "+bitexact"}
        if video.times and video.variable_frame_rate:
            options["final_delay"] = str(round(video.times[-1] / tick) - round(video.times[-2] / tick))
        with av.open(f"file:{path}", "w", format="gif", options=options) as out:
            stream = _add_stream(out, "gif", video, "pal8", tick, {})
            for _, group in _encode(stream, _indexed(frames, palette, video), video, tick):
                out.mux(group)


def _indexed(frames: Iterable[Frame], palette: VideoFrame, video: Footage) -> Iterator[VideoFrame]:
    """Replace each colour by the nearest of the palette, with the error diffused to the neighbours."""
    inputs = (video.height, video.width, "rgb24"), (palette.height, palette.width, palette.format.name)
    graph, (pictures, palettes) = _filter("paletteuse", GIF_DITHER, "pal8", *inputs)
    palettes.push(palette)
    palettes.push(None)
    for i, frame in enumerate(frames):
        pictures.push(_stamped(frame, i))
        try:
            yield graph.vpull()
        except BlockingIOError:  # the filter keeps this one until it has seen the next
            continue
    pictures.push(None)
    while True:
        try:
            yield graph.vpull()
        except EOFError:
            return


def _stamped(frame: Frame, index: int) -> VideoFrame:
    picture = VideoFrame.from_ndarray(np.ascontiguousarray(frame))
    picture.pts, picture.time_base = index, Fraction(1)
    return picture


def _filter(name: str, options: str, to: str, *inputs: tuple[int, int, str]) -> tuple[Graph, list[FilterContext]]:
    """Build a graph of one filter from inputs of (height, width, pixel format) to the format `to`.

    Returns:
        the graph, to pull from and to keep alive, and its inputs, to push into.
    """
    graph = Graph()
    node, kind, sink = graph.add(name, options), graph.add("format", to), graph.add("buffersink")
    sources = []
    for i, (height, width, pixels) in enumerate(inputs):
        source = graph.add_buffer(width=width, height=height, format=VideoFormat(pixels), time_base=Fraction(1))
        source.link_to(node, 0, i)
        sources.append(source)
    node.link_to(kind)
    kind.link_to(sink)
    graph.configure()
    return graph, sources


def _refuse_big_sheet(video: Footage, num_frames: int) -> None:
    fitting = max(1, SHEET_PIXELS // (video.height * video.width))
    if num_frames > fitting:
        given = f"a contact sheet holds {fitting} frames of {video.width}x{video.height}, not {num_frames}"
        raise RequestError(f"{given}. Use at_fps() or take() first.")


def _write_png(video: Footage, path: Path) -> None:
    """Lay the frames on a sheet about as wide as high, row by row; a single frame is the picture itself."""
    frames = []
    for frame in video.frames():
        frames.append(frame)
        _refuse_big_sheet(video, len(frames))
    sheet, gap = frames[0], max(2, min(video.height, video.width) // 32)
    if len(frames) > 1:
        columns = min(len(frames), math.ceil(math.sqrt(len(frames) * video.height / video.width)))
        rows, high, wide = math.ceil(len(frames) / columns), video.height + gap, video.width + gap
        sheet = np.full((rows * high + gap, columns * wide + gap, 3), SHEET_GROUND, np.uint8)
        for i, frame in enumerate(frames):
            top, left = gap + i // columns * high, gap + i % columns * wide
            sheet[top : top + video.height, left : left + video.width] = frame
    Image.fromarray(sheet).save(path, "PNG")
