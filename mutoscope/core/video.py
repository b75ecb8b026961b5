"""Video: a lazily read stream of frames, what can be made of it, and how it is written.

    Video.open, from_array, from_tensor, from_frames ──> Video ── take, at_fps, resized ──> Video
                                                           ├── frames, array, tensor
                                                           └── save ──> .mp4 .webm .gif .png

A frame is "H W 3" uint8, upright, with square pixels. Nothing is decoded or made before it is asked for, and files are
read and written as the frames come, so memory does not grow with length.
"""

import heapq
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from itertools import chain, count, islice, pairwise, repeat
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal, cast

import av
import numpy as np
import torch
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream as AudioEncoder
from av.container import OutputContainer
from av.error import FFmpegError
from av.filter import Graph
from av.filter.context import FilterContext
from av.packet import Packet
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from einops import rearrange
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from torch import Tensor

from mutoscope.core.errors import MediaError, RequestError
from mutoscope.core.files import replacing
from mutoscope.core.media import (
    SCALING,
    Frame,
    Samples,
    decode,
    decode_sound,
    existing,
    probe,
    reason,
    sounds_of,
)
from mutoscope.core.pictures import photo, read_image

Rate = int | float | Fraction
Quality = Literal["small", "good", "best"]
Timed = Iterator[tuple[float | Fraction, list[Packet]]]

__all__ = ["Audio", "Video", "exact_rate", "probe", "read_image"]


@dataclass(frozen=True, eq=False)
class Audio:
    """A lazily read stream of samples, "channels n" float32 in [-1, 1]. Time zero is the video's first frame."""

    rate: int
    layout: str
    read: Callable[[], Iterator[Samples]] = field(repr=False)

    @classmethod
    def open(cls, path: str | Path, start_s: Rate = 0) -> "Audio":
        """Open the sound of a file, of which nothing is decoded yet, from `start_s` on the file's clock."""
        path = existing(path)
        tracks = sounds_of(path)
        if not tracks:
            raise MediaError(f"{path} holds no sound. Give a file with an audio stream.")
        best = tracks[0]
        return cls(best.rate, best.layout, partial(decode_sound, path, best, Fraction(start_s)))

    @classmethod
    def from_array(cls, samples: Samples, rate: int) -> "Audio":
        """Wrap one or two channels of samples that are in memory; `rate` in Hz."""
        if len(samples) > 2:
            raise RequestError(f"{len(samples)} channels of sound were given; one or two are needed. Mix or transpose.")
        seconds = range(0, samples.shape[1], rate)
        layout = "mono" if len(samples) == 1 else "stereo"
        return cls(rate, layout, lambda: (samples[:, at : at + rate] for at in seconds))

    def array(self) -> Samples:
        """Read all samples into memory."""
        return np.concatenate(list(self.read()), axis=1)

    def take(self, start_s: Rate, duration_s: Rate) -> "Audio":
        """Keep what sounds from `start_s` on for `duration_s` seconds."""
        first, last = round(start_s * self.rate), round((start_s + duration_s) * self.rate)

        def read() -> Iterator[Samples]:
            at = 0
            for samples in self.read():
                if at >= last:
                    return
                yield samples[:, max(first - at, 0) : last - at]
                at += samples.shape[1]

        return replace(self, read=read)

    def mono(self, rate: int) -> "Audio":
        """Mix the channels into one, their mean, of another rate in Hz."""

        def read() -> Iterator[Samples]:
            convert, position = AudioResampler(format="fltp", layout="mono", rate=rate), 0
            for samples in chain(self.read(), [None]):
                frame = None
                if samples is not None:
                    mixed = np.ascontiguousarray(samples.mean(axis=0, keepdims=True))
                    if not mixed.size:
                        continue
                    frame = AudioFrame.from_ndarray(mixed, "fltp", "mono")
                    frame.sample_rate, frame.pts, frame.time_base = self.rate, position, Fraction(1, self.rate)
                    position += mixed.shape[1]
                yield from (piece.to_ndarray() for piece in convert.resample(frame))

        return Audio(rate, "mono", read)


@dataclass(frozen=True, eq=False)
class Video:
    """A lazily read stream of frames with its exact rate and, where it has any, its sound.

    `num_frames` is None for an iterator of unknown length. `times` are exact seconds since the first frame, with one
    more for the end; None where frame i shows at i / fps. `notices` say in words what was done to the frames. `read`
    starts the stream at a given frame; `frames` is for users, because it checks what comes.
    """

    height: int
    width: int
    fps: Fraction
    num_frames: int | None
    read: Callable[[int], Iterator[Frame]] = field(repr=False)
    times: tuple[Fraction, ...] | None = field(default=None, repr=False)
    variable_frame_rate: bool = False
    audio: Audio | None = None
    notices: tuple[str, ...] = ()

    # ---- where it comes from

    @classmethod
    def open(cls, path: str | Path) -> "Video":
        """Open a video, a GIF, or a photo, which is one frame that lasts a second.

        Raises:
            MediaError: the file is missing, not a video or picture, cut short or damaged.
        """
        path = existing(path)
        still = photo(path)
        if still is not None:
            video = cls(still.height, still.width, Fraction(1), 1, lambda start: iter([read_image(path)][start:]))
            return replace(video, notices=still.notices)
        found = probe(path)
        return cls(
            found.height,
            found.width,
            found.fps,
            found.num_frames,
            partial(decode, path, found),
            found.times,
            found.variable_frame_rate,
            Audio.open(path, found.start_s) if found.audio_streams else None,
            found.notices,
        )

    @classmethod
    def from_array(cls, array: UInt8[np.ndarray, "T H W C"], fps: Rate) -> "Video":
        """Wrap frames that are in memory; `fps` in frames a second."""
        if array.ndim != 4 or array.shape[-1] != 3 or array.dtype != np.uint8 or not array.size:
            raise RequestError(f"frames {array.shape} of {array.dtype} were given; T H W 3 of uint8 is needed.")
        num_frames, height, width, _ = array.shape
        return cls(height, width, exact_rate(fps), num_frames, lambda start: iter(array[start:]))

    @classmethod
    def from_frames(
        cls,
        frames: Callable[[], Iterable[Frame]] | Iterable[Frame],
        height: int,
        width: int,
        fps: Rate,
        num_frames: int | None = None,
    ) -> "Video":
        """Wrap frames that are made as they are asked for.

        Args:
            frames: a function that starts the stream anew, a list, or an iterator, which can be read once.
            height: pixels.
            width: pixels.
            fps: frames a second.
            num_frames: how many will come, where known.
        """
        stock = [frames]

        def source() -> Iterable[Frame]:
            if not stock:
                raise RequestError("These frames came from an iterator, which is used up. Pass a function instead.")
            start = stock.pop() if isinstance(frames, Iterator) else frames
            return start() if callable(start) else start

        return cls(height, width, exact_rate(fps), num_frames, lambda start: islice(source(), start, None))

    @classmethod
    def from_tensor(cls, video: Float[Tensor, "*one C T H W"], fps: Rate) -> "Video":
        """Turn pixels in [-1, 1], "3 T H W" or "1 3 T H W", into frames; overshoot, as decoders have it, is clamped."""
        if video.ndim == 5 and len(video) == 1:
            video = video[0]
        if video.ndim != 4 or len(video) != 3:
            raise RequestError(f"a tensor {tuple(video.shape)} was given; 3 T H W or 1 3 T H W is needed.")
        if not torch.isfinite(video).all():
            raise RequestError("The tensor holds values that are not finite, so there is no picture to show.")
        pixels = (video.detach().float().clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)
        return cls.from_array(rearrange(pixels, "c t h w -> t h w c").cpu().numpy(), fps)

    # ---- what it holds

    def frames(self) -> Iterator[Frame]:
        """Read the frames from the first, each "H W 3" uint8; the whole stream is never held.

        Raises:
            MediaError: a frame of another size, or fewer or more frames than announced.
        """
        received = 0
        for frame in self.read(0):
            if frame.shape != (self.height, self.width, 3) or frame.dtype != np.uint8:
                needed = f"({self.height}, {self.width}, 3) of uint8"
                raise MediaError(f"frame {received} is {frame.shape} of {frame.dtype}; all must be {needed}.")
            if received == self.num_frames:
                raise MediaError(f"more frames came than the {self.num_frames} announced. Correct num_frames.")
            yield frame
            received += 1
        if received < (self.num_frames or 1):
            raise MediaError(f"{received} frames came of the {self.num_frames or 'one or more'} announced.")

    def array(self) -> UInt8[np.ndarray, "T H W 3"]:
        """Read all frames into memory."""
        dtype = np.dtype((np.uint8, (self.height, self.width, 3)))
        return np.fromiter(self.frames(), dtype, self.num_frames or -1)

    def tensor(self) -> Float32[Tensor, "1 3 T H W"]:
        """Read all frames into memory, in [-1, 1]: the layout that networks take."""
        return rearrange(torch.from_numpy(self.array()).float() / 127.5 - 1, "t h w c -> 1 c t h w").contiguous()

    @property
    def timestamps(self) -> tuple[float, ...]:
        """Seconds from the first frame, of each frame."""
        return tuple(float(time) for time in self._edges()[:-1])

    @property
    def duration_s(self) -> float:
        """Seconds from the start of the first frame to the end of the last."""
        return float(self._edges()[-1])

    def _edges(self) -> tuple[Fraction, ...]:
        if self.times is not None:
            return self.times
        if self.num_frames is None:
            raise RequestError("The number of frames is not known before they are read. Pass num_frames.")
        return tuple(i / self.fps for i in range(self.num_frames + 1))

    # ---- what can be made of it, each a new lazy Video

    def take(self, start: int, num_frames: int) -> "Video":
        """Keep `num_frames` frames from frame `start` on, and their sound."""
        if start < 0 or num_frames < 1 or start + num_frames > (self.num_frames or math.inf):
            given = f"{num_frames} frames from frame {start} on were asked for"
            raise RequestError(f"{given}; the video has {self.num_frames}. Ask for fewer.")
        edges = self.times or [i / self.fps for i in range(start + num_frames + 1)]
        kept = edges[start : start + num_frames + 1]
        return replace(
            self,
            num_frames=num_frames,
            read=lambda first: islice(self.read(start + first), num_frames - first),
            times=self.times and tuple(time - kept[0] for time in kept),
            audio=self.audio and self.audio.take(kept[0], kept[-1] - kept[0]),
        )

    def at_fps(self, fps: Rate) -> "Video":
        """Show the same seconds at another, constant rate: each frame is the one nearest in time, none is blended."""
        fps, edges = exact_rate(fps), self._edges()
        total = max(1, round(edges[-1] * fps))
        middles = [(a + b) / 2 for a, b in pairwise(edges[:-1])]
        picks = [bisect_left(middles, i / fps) for i in range(total)]
        notice = f"resampled from {float(self.fps):.5g} to {float(fps):.5g} fps, {total} frames"
        return replace(
            self,
            fps=fps,
            num_frames=total,
            read=partial(_pick, self.read, picks),
            times=None,
            variable_frame_rate=False,
            notices=(*self.notices, notice),
        )

    def resized(self, height: int, width: int, *, crop: bool = False) -> "Video":
        """Resize every frame (antialiased bicubic); with `crop`, cut at the edges what the new shape has no room for.

        Raises:
            RequestError: the new shape differs by a pixel or more, and `crop` was not asked for.
        """
        if min(height, width) < 1:
            raise RequestError(f"size {width}x{height} was given; both must be at least 1.")
        if (height, width) == (self.height, self.width):
            return self
        scale = max(height / self.height, width / self.width)
        lost_y, lost_x = (  # in pixels of the old size; rounding may take one below nothing
            max(0.0, old - new / scale) for old, new in ((self.height, height), (self.width, width))
        )
        has_shape = max(lost_y, lost_x) * scale < 1
        notice = f"resized from {self.width}x{self.height} to {width}x{height}"
        if has_shape:
            lost_y = lost_x = 0.0
        elif not crop:
            fitting = f"{width}x{max(1, round(self.height * width / self.width))}"
            given = f"{self.width}x{self.height} does not have the shape of {width}x{height}"
            raise RequestError(f"{given}. Use {fitting}, or ask for a crop.")
        else:
            sides, lost = ("left and right", lost_x) if lost_x > lost_y else ("top and bottom", lost_y)
            notice += f", cutting {lost / 2:.3g} pixels each at the {sides}"
        box = (lost_x / 2, lost_y / 2, self.width - lost_x / 2, self.height - lost_y / 2)

        def fit(frame: Frame) -> UInt8[np.ndarray, "h w 3"]:
            return np.array(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC, box))

        def read(start: int) -> Iterator[Frame]:
            return map(fit, self.read(start))

        return replace(self, height=height, width=width, read=read, notices=(*self.notices, notice))

    def with_audio(self, audio: Audio | None) -> "Video":
        """Set the sound, or remove it."""
        return replace(self, audio=audio)

    # ---- where it goes

    def save(self, path: str | Path, *, quality: Quality | None = None) -> None:
        """Write the frames as they come: .mp4 (H.264, AAC), .webm (VP9, Opus), .gif, or .png.

        A .png of one frame is the picture itself, of several a contact sheet, row by row. GIF and PNG hold no sound.
        The same frames give the same bytes. The file gets its name when it is complete; a failure leaves nothing.

        Args:
            path: the file to write; its ending says what. Missing folders are made.
            quality: of .mp4 and .webm, which is "good" unless told.

        Raises:
            RequestError: an ending, size, rate or quality that cannot be served; before any frame is read.
            MutoscopeError: the file cannot be written, for example because the disk is full.
        """
        path = Path(path)
        write = _writer(self, path, quality)
        with replacing(path) as temporary:
            try:
                write(temporary)
            except (FFmpegError, OSError) as error:
                hint = "Free some space there, or name another folder."
                raise MediaError(f"cannot write {path}: {reason(error)}. {hint}") from error


def exact_rate(fps: Rate) -> Fraction:
    """Return a rate as a fraction; a float is taken for the simplest one near it, so 29.97 is 2997/100."""
    is_rate = math.isfinite(fps) and fps > 0
    rate = Fraction(fps) if is_rate else Fraction(0)
    rate = rate.limit_denominator(1001) if isinstance(fps, float) else rate
    if not rate:
        raise RequestError(f"fps={fps} was given; it must be above 0, and at least 1/1001.")
    return rate


def _pick(read: Callable[[int], Iterator[Frame]], picks: list[int], first: int) -> Iterator[Frame]:
    """Read once through the frames that `picks` (rising) names from its entry `first` on, repeating where it does."""
    start, shown = picks[first], Counter(picks[first:])
    for index, frame in enumerate(islice(read(start), picks[-1] + 1 - start), start):
        yield from repeat(frame, shown[index])


# ---- writers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Format:
    """How a streamed file is encoded.

    `crf` is the codec's own scale of quality, on which lower is better. `colour_x` is where a reader looks for the
    colour sample of two pixels, in 1/256 of a pixel from the first one's centre: H.264 says there (its table E-5 has
    no other default), for VP9 without a tag FFmpeg takes the middle.
    """

    muxer: str
    video: str
    audio: str
    crf: dict[str, int]
    encoding: dict[str, str]
    muxing: dict[str, str]
    needs_even_size: bool
    colour_x: int


FORMATS = {
    # the index first, so that a player can begin before it has the whole file; colour is stored for pairs of pixels
    ".mp4": Format(
        muxer="mp4",
        video="libx264",
        audio="aac",
        crf={"small": 28, "good": 17, "best": 10},
        # x264's macroblock tree reads past small frames: on one machine, the same 64x64 clip gave five different files
        encoding={"preset": "medium", "x264-params": "mbtree=0"},
        muxing={"movflags": "+faststart"},
        needs_even_size=True,
        colour_x=0,
    ),
    ".webm": Format(
        muxer="webm",
        video="libvpx-vp9",
        audio="libopus",
        crf={"small": 40, "good": 24, "best": 12},
        encoding={"cpu-used": "2", "row-mt": "0"},  # with row threads its output is not always the same
        muxing={},
        needs_even_size=False,
        colour_x=128,
    ),
}
ENCODER_THREADS = 4  # a fixed number, because x264's output depends on it
GIF_DITHER = "dither=sierra2_4a:diff_mode=rectangle"
SHEET_PIXELS = 64_000_000  # a contact sheet is held in memory
SHEET_GROUND = 255


def _writer(video: Video, path: Path, quality: Quality | None) -> Callable[[Path], None]:
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
        raise RequestError(f"{path} ends in {suffix or 'nothing'}. Use .mp4, .webm, .gif or .png.")
    if quality is not None:
        raise RequestError(f"quality={quality!r} was given, but {suffix} has only one. Leave it out.")
    if suffix == ".gif" and video.fps > 50:
        raise RequestError(f"GIF players show at most 50 fps, not {float(video.fps):.5g}. Use at_fps(25) first.")
    if suffix == ".png":
        _refuse_big_sheet(video, video.num_frames or 1)
    return partial(_write_gif if suffix == ".gif" else _write_png, video)


def _write_stream(video: Video, form: Format, quality: Quality, path: Path) -> None:
    tick = Fraction(1, 90_000) if video.variable_frame_rate else 1 / video.fps
    with av.open(f"file:{path}", "w", format=form.muxer, options={"fflags": "+bitexact", **form.muxing}) as out:
        options = {**form.encoding, "crf": str(form.crf[quality])}
        stream = _add_stream(out, form.video, video, "yuv420p", tick, options)
        tags = stream.codec_context  # in each of these tables of ITU-T H.273, 1 is BT.709, and limited range
        tags.colorspace = tags.color_primaries = tags.color_trc = tags.color_range = 1
        packets = [_encode(stream, _yuv420p(video, form.colour_x), video, tick)]
        if video.audio:
            allowed = av.Codec(form.audio, "w").audio_rates or [video.audio.rate]
            rate = video.audio.rate if video.audio.rate in allowed else 48_000
            track = cast(AudioEncoder, out.add_stream(form.audio, rate=rate, layout=video.audio.layout))
            packets.append(_encode_sound(track, video.audio))
        for _, group in heapq.merge(*packets, key=itemgetter(0)):  # in the order of time
            out.mux(group)


def _add_stream(
    out: OutputContainer, codec: str, video: Video, pixels: str, tick: Fraction, options: dict[str, str]
) -> VideoStream:
    stream = cast(VideoStream, out.add_stream(codec, rate=video.fps, options=options))
    stream.height, stream.width, stream.pix_fmt = video.height, video.width, pixels
    stream.codec_context.time_base = tick
    stream.codec_context.thread_count = ENCODER_THREADS
    return stream


def _yuv420p(video: Video, colour_x: int) -> Iterator[VideoFrame]:
    """Convert to limited-range BT.709 with the flags of the reader, so that a round trip has no bias."""
    options = f"out_color_matrix=bt709:out_range=limited:out_h_chr_pos={colour_x}:out_v_chr_pos=128:flags={SCALING}"
    graph, (source,) = _filter("scale", options, "yuv420p", (video.height, video.width, "rgb24"))
    for i, frame in enumerate(video.frames()):
        source.push(_stamped(frame, i))
        yield graph.vpull()


def _encode(stream: VideoStream, pictures: Iterable[VideoFrame], video: Video, tick: Fraction) -> Timed:
    """Yield the time of each picture and the packets that it sets free."""
    moments = video.times if video.times and video.variable_frame_rate else (i / video.fps for i in count())
    edges = pairwise(round(moment / tick) for moment in moments)
    for picture, (start, end) in zip(pictures, edges, strict=False):
        if start == end:
            raise MediaError(f"two frames lie within {float(tick):.2g} s of each other. Use at_fps() first.")
        picture.pts, picture.duration, picture.time_base = start, end - start, tick
        yield start * tick, stream.encode(picture)
    yield math.inf, stream.encode(None)


def _encode_sound(track: AudioEncoder, audio: Audio) -> Timed:
    position = 0
    for samples in audio.read():
        if samples.size:
            piece = AudioFrame.from_ndarray(np.ascontiguousarray(samples), "fltp", audio.layout)
            piece.sample_rate, piece.pts, piece.time_base = audio.rate, position, Fraction(1, audio.rate)
            yield Fraction(position, audio.rate), track.encode(piece)
            position += samples.shape[1]
    yield math.inf, track.encode(None)


def _write_gif(video: Video, path: Path) -> None:
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
        with av.open(f"file:{path}", "w", format="gif", options={"fflags": "+bitexact"}) as out:
            stream = _add_stream(out, "gif", video, "pal8", tick, {})
            for _, group in _encode(stream, _indexed(frames, palette, video), video, tick):
                out.mux(group)


def _indexed(frames: Iterable[Frame], palette: VideoFrame, video: Video) -> Iterator[VideoFrame]:
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


def _refuse_big_sheet(video: Video, num_frames: int) -> None:
    fitting = max(1, SHEET_PIXELS // (video.height * video.width))
    if num_frames > fitting:
        given = f"a contact sheet holds {fitting} frames of {video.width}x{video.height}, not {num_frames}"
        raise RequestError(f"{given}. Use at_fps() or take() first.")


def _write_png(video: Video, path: Path) -> None:
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
