"""Video: a lazily read stream of frames, and how it comes from and goes to files.

    file ── probe ──> Probe            what the file holds, found from its packets
      └──── Video.open ──> Video ── take, at_fps, resized ──> Video ── save ──> file
    array, tensor, iterator ─┘  └── frames, array, tensor

A frame is "H W 3" uint8, upright, with square pixels. Nothing is decoded before it is asked for; files are read and
written as the frames come, so memory does not grow with length. A saved file gets its name when it is complete.
"""

import heapq
import math
import os
import secrets
import struct
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from itertools import chain, count, islice, pairwise, repeat
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Literal

import av
import numpy as np
import torch
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream as SoundStream
from av.container import InputContainer
from av.filter import Graph
from av.packet import Packet
from av.stream import Disposition
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream
from einops import rearrange
from jaxtyping import Float, Float32, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from mutoscope.core.errors import MediaError, RequestError

Frame = UInt8[np.ndarray, "H W 3"]
Samples = Float32[np.ndarray, "channels n"]
Rate = int | float | Fraction
Quality = Literal["small", "good", "best"]

# ---- what a file holds -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AudioStream:
    """One sound track of a file; `rate` in Hz."""

    index: int
    codec: str
    rate: int
    layout: str


@dataclass(frozen=True)
class Probe:
    """What a video file holds. `height` and `width` are those of the frames as shown: upright, with square pixels.

    `fps` is the rate on whose grid the time stamps lie or, where there is none (`variable_frame_rate`), frames over
    duration; `header_fps` is what the file claims. `times` are exact seconds since the first frame, one for each frame
    and one for the end; `start_s` is the first frame's own time stamp. `rotation` is clockwise, in degrees.
    """

    container: str
    codec: str
    pixel_format: str
    height: int
    width: int
    coded_height: int
    coded_width: int
    sample_aspect: Fraction
    rotation: int
    is_mirrored: bool
    fps: Fraction
    header_fps: Fraction | None
    variable_frame_rate: bool
    num_frames: int
    times: tuple[Fraction, ...]
    start_s: Fraction
    time_base: Fraction
    keyframes: tuple[int, ...]
    stream: int
    video_streams: tuple[int, ...]
    audio_streams: tuple[AudioStream, ...]

    @property
    def duration_s(self) -> float:
        """Seconds from the start of the first frame to the end of the last."""
        return float(self.times[-1])

    @property
    def notices(self) -> tuple[str, ...]:
        """What a reader should be told: choices made, and how the frames differ from what is stored."""
        notes = []
        if len(self.video_streams) > 1:
            streams = ", ".join(map(str, self.video_streams))
            notes.append(f"holds video streams {streams}; stream {self.stream}, {self.width}x{self.height}, is read")
        if self.rotation or self.is_mirrored:
            turned = f"turned by {self.rotation} degrees{' and mirrored' * self.is_mirrored}"
            notes.append(f"{turned}, as its header asks")
        if self.sample_aspect != 1:
            notes.append(f"stored as {self.coded_width}x{self.coded_height} with oblong pixels, shown with square ones")
        if self.variable_frame_rate:
            notes.append(f"variable frame rate, {float(self.fps):.2f} fps on average")
        return tuple(notes)


def probe(path: str | Path, *, decode: bool = False) -> Probe:
    """Say what a video file holds: exact size, rate, frame count and time stamps.

    Reads every packet and decodes one frame, which tells the orientation.

    Args:
        path: a video or GIF; for photos see `read_image`.
        decode: decode every frame as well, and so find damage that the packets do not show.

    Raises:
        MediaError: the file is missing, not a video, cut short or damaged.
    """
    path = _existing(path)
    _refuse_truncated(path)
    with _reading(path) as container:
        stream = _best(container, path)
        stamps, end, keys = _scan(container, stream, path)
    with _reading(path) as container:
        stream = _best(container, path)
        first = next(container.decode(stream), None)
        if first is None:
            raise MediaError(f"{path} holds no frame that can be decoded. Give another file.")
        found = _describe(path, container, stream, first, stamps, end, keys)
    if decode:
        for _ in _decode(path, found, 0):
            pass
    return found


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise MediaError(f"{path} {problem}. Give the path of a video or picture.")
    return path


@contextmanager
def _reading(path: Path) -> Iterator[InputContainer]:
    try:
        with av.open(f"file:{path}") as container:  # the prefix keeps a colon in the name from naming a protocol
            yield container
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"{path} cannot be read as a video: {_reason(error)}. Give another file.") from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _best(container: InputContainer, path: Path) -> VideoStream:
    """Choose the stream FFmpeg holds for best (marked default, then most pixels); a song's cover does not count."""
    stream = container.streams.best("video")
    is_video = isinstance(stream, VideoStream) and not stream.disposition & Disposition.attached_pic
    if not is_video or container.format.name == "tty":  # FFmpeg takes any text file for terminal art
        raise MediaError(f"{path} holds no video. Give a video, a GIF or a picture.")
    stream.thread_type = "AUTO"
    return stream


def _scan(container: InputContainer, stream: VideoStream, path: Path) -> tuple[list[int], int, tuple[int, ...]]:
    """Read the packets: the sorted stamps of the shown frames, the end of the last, the stamps of key frames."""
    stamps, keys, last, end_s = [], [], (0, 0), Fraction(0)
    for packet in container.demux():
        stamp = packet.dts if packet.pts is None else packet.pts  # AVI has decoding times only
        if stamp is None or not packet.size:
            continue
        end_s = max(end_s, (stamp + (packet.duration or 0)) * packet.time_base)
        # VP8 has packets that serve prediction only (RFC 6386, section 9.1: show_frame)
        is_hidden = packet.is_discard or (stream.codec_context.name == "vp8" and not memoryview(packet)[0] & 0x10)
        if packet.stream_index == stream.index and not is_hidden:
            stamps.append(stamp)
            last = max(last, (stamp, packet.duration or 0))
            if packet.is_keyframe:
                keys.append(stamp)
    if not stamps:
        raise MediaError(f"{path} holds no frames with time stamps. Type: ffmpeg -i {path} -c copy new.mkv")
    claimed_s = Fraction(container.duration or 0, av.time_base)
    if claimed_s - end_s > Fraction(1, 2):
        raise _truncated(path, f"announces {float(claimed_s):.2f} s, holds {float(end_s):.2f} s")
    return sorted(stamps), sum(last), tuple(sorted(keys))


def _describe(
    path: Path,
    container: InputContainer,
    stream: VideoStream,
    first: VideoFrame,
    stamps: list[int],
    end: int,
    keys: tuple[int, ...],
) -> Probe:
    tick = stream.time_base or Fraction(1, av.time_base)
    times = [(stamp - stamps[0]) * tick for stamp in stamps]
    fps, is_variable = _rate_of(times, (end - stamps[0]) * tick, stream, tick)
    duration = max((end - stamps[0]) * tick, times[-1] + (1 / fps if end == stamps[-1] else 0))
    rotation, is_mirrored = _orientation(first, path)
    aspect = Fraction(stream.sample_aspect_ratio or 1)
    shown = (round(first.height / min(aspect, 1)), round(first.width * max(aspect, 1)))
    height, width = shown if rotation % 180 == 0 else shown[::-1]
    return Probe(
        container=container.format.name,
        codec=stream.codec_context.codec.canonical_name,
        pixel_format=first.format.name,
        height=height,
        width=width,
        coded_height=first.height,
        coded_width=first.width,
        sample_aspect=aspect,
        rotation=rotation,
        is_mirrored=is_mirrored,
        fps=fps,
        header_fps=stream.average_rate,
        variable_frame_rate=is_variable,
        num_frames=len(stamps),
        times=(*times, duration),
        start_s=stamps[0] * tick,
        time_base=tick,
        keyframes=keys,
        stream=stream.index,
        video_streams=tuple(s.index for s in container.streams.video if not s.disposition & Disposition.attached_pic),
        audio_streams=_sounds(container),
    )


def _sounds(container: InputContainer) -> tuple[AudioStream, ...]:
    """List the sound tracks, the one that FFmpeg holds for best first."""
    best = container.streams.best("audio")
    tracks = sorted(container.streams.audio, key=lambda stream: stream is not best)
    return tuple(
        AudioStream(track.index, track.codec_context.name, track.codec_context.sample_rate, track.layout.name)
        for track in tracks
    )


def _rate_of(times: list[Fraction], duration: Fraction, stream: VideoStream, tick: Fraction) -> tuple[Fraction, bool]:
    """Find the rate whose grid holds every time stamp to within the file's clock, else the average and True."""
    measured = Fraction(len(times) - 1) / times[-1] if times[-1] else None
    for rate in (stream.average_rate, stream.guessed_rate, measured and measured.limit_denominator(1001)):
        if rate and all(abs(time - i / rate) <= tick for i, time in enumerate(times)):
            return rate, False
    return (len(times) / duration).limit_denominator(1001), True


def _orientation(frame: VideoFrame, path: Path) -> tuple[int, bool]:
    """Read the clockwise turn, and whether a left-right flip comes before it, from the display matrix."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 0, False
    a, b, _, c, d = struct.unpack("=5i", bytes(data)[:20])  # x' = a x + c y, y' = b x + d y
    is_mirrored = a * d - b * c < 0
    turns = {(1, 0): 0, (0, 1): 90, (-1, 0): 180, (0, -1): 270}
    sign = -1 if is_mirrored else 1
    turn = turns.get((sign * np.sign(a), sign * np.sign(b)))
    if turn is None:
        raise MediaError(f"{path} is to be shown at a slant. Turn it by a multiple of 90 degrees first.")
    return turn, is_mirrored


def _truncated(path: Path, detail: str) -> MediaError:
    return MediaError(f"{path} is cut short or damaged: {detail}. Fetch the file again.")


def _refuse_truncated(path: Path) -> None:
    """Compare the length that a container announces with the file's; a decoder would only show fewer frames."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        file.seek(0)
        if head[:6] in (b"GIF87a", b"GIF89a"):
            end = _end_of_gif(file.read())
        elif head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            end = _end_of_boxes(file, size)
        elif head[:4] == b"RIFF":
            end = 8 + struct.unpack("<I", head[4:8])[0]
        elif head[:4] == b"\x1aE\xdf\xa3":
            end = _end_of_matroska(file.read(64))
        else:
            end = 0
    if end is None or end > size:
        raise _truncated(
            path, f"announces {end} bytes, has {size}" if end else f"ends or breaks within its {size} bytes"
        )


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
    """Walk the top-level boxes of MP4 and MOV (ISO/IEC 14496-12, section 4.2)."""
    at = 0
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16).ljust(16, b"\0")
        length = struct.unpack(">Q", head[8:])[0] if head[:4] == b"\0\0\0\1" else struct.unpack(">I", head[:4])[0]
        if length < 8:  # 0: the last box goes to the end of the file
            return size
        at += length
    return at


def _end_of_matroska(head: bytes) -> int:
    """Read where the segment ends (RFC 8794, section 4: sizes are prefixed by their own length)."""

    def number(at: int) -> tuple[int, int]:
        length = 9 - head[at].bit_length()
        value = int.from_bytes(head[at : at + length]) & (1 << 7 * length) - 1
        return (0 if value == (1 << 7 * length) - 1 else value), at + length  # all ones: a live stream, unknown

    header, at = number(4)
    segment, at = number(at + header + 4)
    return at + segment


# ---- from files to frames and samples --------------------------------------------------------------------------------

# Without these flags swscale's fast path darkens by a level and holds a round trip to 40 dB instead of 52 dB.
FLAGS = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
PHOTOS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "TIFF")  # by Pillow; everything else by FFmpeg


def _decode(path: Path, found: Probe, start: int) -> Iterator[Frame]:
    """Yield the frames from `start` on, beginning at the last key frame before it."""
    target = round((found.times[start] + found.start_s) / found.time_base)
    key = max((key for key in found.keyframes if key <= target), default=0)
    jumps = key > min(found.keyframes, default=0)
    convert, index = VideoReformatter(), start
    with _reading(path) as container:
        stream = _best(container, path)
        if jumps:
            container.seek(key, stream=stream)
        for number, frame in enumerate(container.decode(stream)):
            if index == start and (frame.pts < target if jumps else number < start):
                continue
            if index == start and jumps and frame.pts != target:  # the file's own index is wrong: read it all
                return (yield from _decode(path, replace(found, keyframes=()), start))
            if frame.is_corrupt:
                raise _truncated(path, f"frame {index} is incomplete")
            if (frame.height, frame.width) != (found.coded_height, found.coded_width):
                raise MediaError(
                    f"{path} changes size to {frame.width}x{frame.height} at frame {index}. Split it there."
                )
            yield _upright(convert, frame, found)
            index += 1
    if index != found.num_frames:
        raise _truncated(path, f"{index} of {found.num_frames} frames can be decoded")


def _upright(convert: VideoReformatter, frame: VideoFrame, found: Probe) -> Frame:
    height, width = (found.height, found.width) if found.rotation % 180 == 0 else (found.width, found.height)
    # untagged video of HD size is BT.709 by common practice (mpv does the same); swscale would take BT.601
    is_hd = frame.colorspace == 2 and (frame.width >= 1280 or frame.height > 576)
    matrix = Colorspace.ITU709 if is_hd else None
    rgb = convert.reformat(frame, width, height, "rgb24", src_colorspace=matrix, interpolation=FLAGS, threads=1)
    pixels = rgb.to_ndarray()
    if found.is_mirrored:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(np.rot90(pixels, -found.rotation // 90))


def _decode_sound(path: Path, audio: AudioStream, start_s: Fraction) -> Iterator[Samples]:
    """Yield the samples from `start_s` on; what is missing before the first one or inside is silence."""
    convert = av.AudioResampler(format="fltp", layout=audio.layout, rate=audio.rate)
    position = 0
    with _reading(path) as container:
        for frame in chain(container.decode(container.streams[audio.index]), [None]):
            for piece in convert.resample(frame):
                samples = piece.to_ndarray()
                stamp = position if piece.pts is None else round((piece.pts * piece.time_base - start_s) * audio.rate)
                gap = stamp - position
                if gap > 0 and (position == 0 or gap > audio.rate // 50):  # less is rounding of the stamps
                    yield np.zeros((len(samples), gap), np.float32)
                    position += gap
                elif position == 0:
                    samples = samples[:, -gap:]
                yield samples
                position += samples.shape[1]


def _photo_size(path: Path) -> tuple[int, int] | None:
    """Return height and width of a photo, upright; None for what is not one."""
    try:
        with Image.open(path, formats=PHOTOS) as image:
            if getattr(image, "is_animated", False) and image.format != "MPO":
                return None
            is_on_its_side = image.getexif().get(0x0112, 1) >= 5  # EXIF orientation
            return (image.width, image.height) if is_on_its_side else (image.height, image.width)
    except UnidentifiedImageError:
        return None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise MediaError(f"{path} cannot be read as a picture: {_reason(error)}. Give another file.") from error


def read_image(path: str | Path) -> Frame:
    """Read a photo (PNG, JPEG, WebP, BMP, TIFF), turned upright by its EXIF tag; what is transparent becomes white.

    Returns:
        "H W 3" uint8.

    Raises:
        MediaError: the file is missing, not a picture, or damaged.
    """
    path = _existing(path)
    if _photo_size(path) is None:
        raise MediaError(f"{path} is not a picture. Give a PNG, JPEG, WebP, BMP or TIFF file.")
    try:
        with Image.open(path, formats=PHOTOS) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip at 255
                image = Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise MediaError(f"{path} cannot be read as a picture: {_reason(error)}. Give another file.") from error


# ---- the two streams -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Audio:
    """A lazily read stream of samples: float32 in [-1, 1], "channels n". Time zero is the video's first frame."""

    rate: int
    layout: str
    read: Callable[[], Iterator[Samples]] = field(repr=False)

    @classmethod
    def open(cls, path: str | Path) -> "Audio":
        """Open the sound of a file; nothing is decoded yet."""
        path = _existing(path)
        with _reading(path) as container:
            streams = _sounds(container)
        if not streams:
            raise MediaError(f"{path} holds no sound. Give a file with an audio stream.")
        return cls(streams[0].rate, streams[0].layout, partial(_decode_sound, path, streams[0], Fraction(0)))

    @classmethod
    def from_array(cls, samples: Samples, rate: int) -> "Audio":
        """Wrap one or two channels of samples; `rate` in Hz."""
        if len(samples) > 2:
            raise RequestError(
                f"{len(samples)} channels of sound were given; one or two are needed. Transpose or mix them."
            )
        pieces = range(0, samples.shape[1], rate)
        layout = "mono" if len(samples) == 1 else "stereo"
        return cls(rate, layout, lambda: (samples[:, at : at + rate] for at in pieces))

    def array(self) -> Samples:
        """Read all samples."""
        return np.concatenate(list(self.read()), axis=1)

    def take(self, start_s: Rate, duration_s: Rate) -> "Audio":
        """Keep what sounds from `start_s` for `duration_s` seconds."""
        first, last = round(start_s * self.rate), round((start_s + duration_s) * self.rate)

        def read() -> Iterator[Samples]:
            at = 0
            for samples in self.read():
                if at >= last:
                    return
                yield samples[:, max(first - at, 0) : last - at]
                at += samples.shape[1]

        return replace(self, read=read)


@dataclass(frozen=True, eq=False)
class Video:
    """A lazily read stream of frames with its exact rate and, where it has any, its sound.

    `times` are exact seconds since the first frame, with one more entry for the end; None where frame i shows at i / fps.
    `num_frames` is None for an iterator of unknown length. `notices` say in words what was done to the frames.
    `read` starts the stream at a frame; use `frames`, which checks what comes.
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

    # -- where it comes from

    @classmethod
    def open(cls, path: str | Path) -> "Video":
        """Open a video, a GIF, or a photo, which is one frame of one second.

        Raises:
            MediaError: the file is missing, not a video or picture, cut short or damaged.
        """
        path = _existing(path)
        size = _photo_size(path)
        if size is not None:
            return cls(*size, Fraction(1), 1, lambda start: iter([read_image(path)][start:]))
        found = probe(path)
        sound = found.audio_streams[0] if found.audio_streams else None
        return cls(
            found.height,
            found.width,
            found.fps,
            found.num_frames,
            partial(_decode, path, found),
            found.times,
            found.variable_frame_rate,
            sound and Audio(sound.rate, sound.layout, partial(_decode_sound, path, sound, found.start_s)),
            found.notices,
        )

    @classmethod
    def from_array(cls, array: UInt8[np.ndarray, "T H W 3"], fps: Rate) -> "Video":
        """Wrap frames that are in memory; `fps` in frames a second."""
        if array.ndim != 4 or array.shape[-1] != 3 or array.dtype != np.uint8 or not array.size:
            raise RequestError(f"frames {array.shape} of {array.dtype} were given; T H W 3 of uint8 is needed.")
        return cls(*array.shape[1:3], exact_rate(fps), len(array), lambda start: iter(array[start:]))

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
        if isinstance(frames, Iterator):
            stock: list[Iterator[Frame]] = [frames]

            def source() -> Iterable[Frame]:
                if not stock:
                    raise RequestError("These frames come from an iterator, which is used up. Pass a function instead.")
                return stock.pop()
        else:
            source = frames if callable(frames) else lambda: frames
        return cls(height, width, exact_rate(fps), num_frames, lambda start: islice(source(), start, None))

    @classmethod
    def from_tensor(cls, video: Float[Tensor, "1 C=3 T H W"] | Float[Tensor, "C=3 T H W"], fps: Rate) -> "Video":
        """Turn pixels in [-1, 1] into frames; what lies outside, as decoders overshoot, is clamped."""
        if video.ndim == 5 and len(video) == 1:
            video = video[0]
        if video.ndim != 4 or len(video) != 3:
            raise RequestError(f"a tensor {tuple(video.shape)} was given; 3 T H W or 1 3 T H W is needed.")
        if not torch.isfinite(video).all():
            raise RequestError("The tensor holds values that are not finite, so there is no picture to show.")
        pixels = (video.detach().float().clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)
        return cls.from_array(rearrange(pixels, "c t h w -> t h w c").cpu().numpy(), fps)

    # -- what it holds

    def frames(self) -> Iterator[Frame]:
        """Read the frames, each "H W 3" uint8, from the first; the whole stream is never held.

        Raises:
            MediaError: a frame of another size, or fewer or more of them than announced.
        """
        received = 0
        for frame in self.read(0):
            if frame.shape != (self.height, self.width, 3) or frame.dtype != np.uint8:
                needed = f"({self.height}, {self.width}, 3) of uint8"
                raise MediaError(f"frame {received} is {frame.shape} of {frame.dtype}; all must be {needed}.")
            if received == self.num_frames:
                raise MediaError(f"more than the {self.num_frames} announced frames came. Correct num_frames.")
            yield frame
            received += 1
        if received != (self.num_frames or received) or not received:
            raise MediaError(f"{received} frames came where {self.num_frames or 'some'} were announced.")

    def array(self) -> UInt8[np.ndarray, "T H W 3"]:
        """Read all frames into memory."""
        dtype = np.dtype((np.uint8, (self.height, self.width, 3)))
        return np.fromiter(self.frames(), dtype, -1 if self.num_frames is None else self.num_frames)

    def tensor(self) -> Float32[Tensor, "1 C=3 T H W"]:
        """Read all frames into memory, in [-1, 1]: the layout of every network here."""
        pixels = rearrange(torch.from_numpy(self.array()), "t h w c -> 1 c t h w")
        return pixels.float() / 127.5 - 1

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

    # -- what can be made of it: each a new lazy Video

    def take(self, start: int, count: int) -> "Video":
        """Keep `count` frames from frame `start` on, and their sound."""
        if start < 0 or count < 1 or start + count > (self.num_frames or math.inf):
            raise RequestError(
                f"take({start}, {count}) was asked of a video of {self.num_frames} frames. Ask for fewer."
            )
        times = self.times and tuple(time - self.times[start] for time in self.times[start : start + count + 1])
        begin, length = (self.times[start], times[-1]) if self.times and times else (start / self.fps, count / self.fps)
        return replace(
            self,
            num_frames=count,
            read=lambda first: islice(self.read(start + first), count - first),
            times=times,
            audio=self.audio and self.audio.take(begin, length),
        )

    def at_fps(self, fps: Rate) -> "Video":
        """Show the same seconds at another constant rate: each frame is the one nearest in time, none is blended."""
        fps, edges = exact_rate(fps), self._edges()
        total = max(1, round(edges[-1] * fps))
        middles = [(a + b) / 2 for a, b in pairwise(edges[:-1])]
        picks = [bisect_left(middles, i / fps) for i in range(total)]
        read = partial(_pick, self.read, picks)
        notice = f"resampled from {float(self.fps):.5g} to {float(fps):.5g} fps, {total} frames"
        notices = (*self.notices, notice) if fps != self.fps or self.variable_frame_rate else self.notices
        return replace(
            self, fps=fps, num_frames=total, read=read, times=None, variable_frame_rate=False, notices=notices
        )

    def resized(self, height: int, width: int, *, crop: bool = False) -> "Video":
        """Resize every frame (antialiased bicubic); with `crop`, cut what the new shape has no room for, at the edges.

        Raises:
            RequestError: the new shape differs by a pixel or more and `crop` was not asked for.
        """
        if (height, width) == (self.height, self.width):
            return self
        if min(height, width) < 1:
            raise RequestError(f"size {width}x{height} was given; both must be at least 1.")
        scale = max(height / self.height, width / self.width)
        spare = (self.height * scale - height, self.width * scale - width)
        has_shape = max(spare) < 1
        if not has_shape and not crop:
            fitting = f"{width}x{max(1, round(self.height * width / self.width))}"
            size = f"{self.width}x{self.height} does not have the shape of {width}x{height}"
            raise RequestError(f"{size}. Use {fitting}, or crop=True to cut the edges.")
        top, left = (0.0, 0.0) if has_shape else (spare[0] / 2 / scale, spare[1] / 2 / scale)
        box = (left, top, self.width - left, self.height - top)
        notice = f"resized from {self.width}x{self.height} to {width}x{height}"
        if not has_shape:
            sides, cut = ("left and right", left) if left > top else ("top and bottom", top)
            notice += f", cutting {cut:.3g} pixels at the {sides}"

        def fit(frame: Frame) -> Frame:
            return np.array(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC, box))

        return replace(
            self, height=height, width=width, read=lambda first: map(fit, self.read(first)),
            notices=(*self.notices, notice),
        )  # fmt: skip

    def with_audio(self, audio: Audio | None) -> "Video":
        """Set the sound, or remove it."""
        return replace(self, audio=audio)

    # -- where it goes

    def save(self, path: str | Path, *, quality: Quality | None = None) -> None:
        """Write the frames as they come: .mp4 (H.264, AAC), .webm (VP9, Opus), .gif, or .png.

        A .png of one frame is the picture, of several a contact sheet, row by row. GIF and PNG hold no sound. The same
        frames give the same bytes. Until the file is complete it has another name, and a failure leaves nothing.

        Args:
            path: the file to write; its ending says what.
            quality: of .mp4 and .webm; "good" unless told.

        Raises:
            RequestError: an ending, size, rate or quality that cannot be served; before any frame is read.
            MediaError: the file cannot be written, for example because the disk is full.
        """
        path = Path(path)
        write = _writer(self, path, quality)
        with _replacing(path) as partial_path:
            write(partial_path)


def exact_rate(fps: Rate) -> Fraction:
    """Return the rate as a fraction; a float is taken as the simplest one near it, so 29.97 is 2997/100."""
    rate = Fraction(fps).limit_denominator(1001) if isinstance(fps, float) and math.isfinite(fps) else fps
    if not isinstance(rate, int | Fraction) or rate <= 0:
        raise RequestError(f"fps={fps} was given; it must be a number above 0.")
    return Fraction(rate)


def _pick(read: Callable[[int], Iterator[Frame]], picks: list[int], first: int) -> Iterator[Frame]:
    times_shown = Counter(picks[first:])
    start, stop = picks[first], picks[-1] + 1
    for index, frame in enumerate(islice(read(start), stop - start), start):
        yield from repeat(frame, times_shown[index])


# ---- from frames to files --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Format:
    """How a streamed file is encoded. `crf` is the codec's own scale of quality, lower is better."""

    muxer: str
    video: str
    audio: str
    crf: dict[str, int]
    options: dict[str, str]
    muxing: dict[str, str]
    multiple: int  # which sizes it can hold: yuv420p H.264 stores colour for pairs of pixels


FORMATS = {
    ".mp4": Format(
        "mp4",
        "libx264",
        "aac",
        {"small": 28, "good": 17, "best": 10},
        {"preset": "medium"},
        {"movflags": "+faststart"},
        2,
    ),
    ".webm": Format(
        "webm", "libvpx-vp9", "libopus", {"small": 40, "good": 24, "best": 12}, {"cpu-used": "2", "row-mt": "0"}, {}, 1
    ),
}
SHEET_PIXELS = 64_000_000  # a contact sheet is held in memory
SHEET_GROUND = 255  # grey level between its pictures
GIF_DITHER = "dither=sierra2_4a:diff_mode=rectangle"
ENCODER_THREADS = 4  # fixed, because x264's output depends on their number


def _writer(video: Video, path: Path, quality: Quality | None) -> Callable[[Path], None]:
    """Choose how to write `path`, or refuse, before any frame is made."""
    suffix, size = path.suffix.lower(), f"{video.width}x{video.height}"
    if suffix not in (*FORMATS, ".gif", ".png"):
        raise RequestError(f"{path} ends in {suffix or 'nothing'}; a video is saved as .mp4, .webm, .gif or .png.")
    if not path.parent.is_dir():
        raise RequestError(f"{path} cannot be written: there is no folder {path.parent}. Make it first.")
    if suffix in FORMATS:
        form = FORMATS[suffix]
        if quality not in (None, *form.crf):
            raise RequestError(f"quality={quality!r} was given. Use one of {', '.join(form.crf)}.")
        if video.height % form.multiple or video.width % form.multiple:
            nearest = f"{video.width + video.width % 2}x{video.height + video.height % 2}"
            raise RequestError(f"{suffix} needs an even width and height, not {size}. Use {nearest}, or save as .webm.")
        return partial(_write_stream, video, form, quality or "good")
    if quality is not None:
        raise RequestError(f"quality={quality!r} was given, but {suffix} has only one. Leave it out.")
    if suffix == ".gif":
        if video.fps > 50:
            raise RequestError(f"GIF players show at most 50 fps, not {float(video.fps):.5g}. Use .at_fps(25) first.")
        return partial(_write_gif, video)
    _refuse_big_sheet(video, video.num_frames or 0)
    return partial(_write_png, video)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a name in the same folder to write under; move it to `path` at the end, or remove it."""
    hidden = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield hidden
        os.replace(hidden, path)
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"{path} cannot be written: {_reason(error)}. Free space or choose another place.") from error
    finally:
        hidden.unlink(missing_ok=True)


def _write_stream(video: Video, form: Format, quality: Quality, path: Path) -> None:
    tick = Fraction(1, 90_000) if video.variable_frame_rate else 1 / video.fps
    options = {**form.options, "crf": str(form.crf[quality])}
    with av.open(f"file:{path}", "w", format=form.muxer, options={"fflags": "+bitexact", **form.muxing}) as out:
        stream = out.add_stream(form.video, rate=video.fps, options=options)
        _shape(stream, video, "yuv420p", tick)
        stream.codec_context.thread_count = ENCODER_THREADS
        context = stream.codec_context  # 1 is BT.709 in each of these tables of ITU-T H.273, and limited range
        context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1
        convert = VideoReformatter()
        pictures = (
            convert.reformat(
                VideoFrame.from_ndarray(np.ascontiguousarray(frame)),
                format="yuv420p",
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
                interpolation=FLAGS,
                threads=1,
            )
            for frame in video.frames()
        )
        packets = [_encode(stream, pictures, video, tick)]
        if video.audio:
            rates = av.Codec(form.audio, "w").audio_rates or [video.audio.rate]
            rate = video.audio.rate if video.audio.rate in rates else 48_000
            sound = out.add_stream(form.audio, rate=rate, layout=video.audio.layout)
            packets.append(_encode_sound(sound, video.audio))
        for _, group in heapq.merge(*packets, key=lambda item: item[0]):  # in the order of time
            out.mux(group)


def _shape(stream: VideoStream, video: Video, pixel_format: str, tick: Fraction) -> None:
    stream.height, stream.width, stream.pix_fmt = video.height, video.width, pixel_format
    stream.codec_context.time_base = tick


def _encode(
    stream: VideoStream, pictures: Iterable[VideoFrame], video: Video, tick: Fraction
) -> Iterator[tuple[float | Fraction, list[Packet]]]:
    """Yield the time of each picture and the packets that it sets free."""
    moments = video.times if video.times and video.variable_frame_rate else (i / video.fps for i in count())
    edges = pairwise(round(moment / tick) for moment in moments)
    for picture, (start, end) in zip(pictures, edges, strict=False):
        if start == end:
            raise MediaError(f"two frames lie within {float(tick):.2g} s of each other. Use .at_fps() first.")
        picture.pts, picture.duration, picture.time_base = start, end - start, tick
        yield start * tick, stream.encode(picture)
    yield math.inf, stream.encode(None)


def _encode_sound(stream: SoundStream, audio: Audio) -> Iterator[tuple[float | Fraction, list[Packet]]]:
    position = 0
    for samples in audio.read():
        if samples.shape[1]:
            piece = AudioFrame.from_ndarray(np.ascontiguousarray(samples), "fltp", audio.layout)
            piece.sample_rate, piece.pts, piece.time_base = audio.rate, position, Fraction(1, audio.rate)
            yield Fraction(position, audio.rate), stream.encode(piece)
            position += samples.shape[1]
    yield math.inf, stream.encode(None)


def _write_gif(video: Video, path: Path) -> None:
    """Find one palette for the whole clip, so that colours do not flicker, with the frames kept on disk meanwhile."""
    tick, size = Fraction(1, 100), (video.height, video.width, 3)
    with TemporaryFile(dir=path.parent) as spool:
        find = _filter("palettegen", "stats_mode=full", [(video.height, video.width, "rgb24")])
        for i, frame in enumerate(video.frames()):
            spool.write(frame.tobytes())
            find.vpush(_stamped(frame, i))
        find.vpush(None)
        palette = find.vpull()
        spool.seek(0)
        stored = iter(lambda: spool.read(math.prod(size)), b"")
        frames = (np.frombuffer(data, np.uint8).reshape(size) for data in stored)
        with av.open(f"file:{path}", "w", format="gif", options={"fflags": "+bitexact"}) as out:
            stream = out.add_stream("gif", rate=video.fps)
            _shape(stream, video, "pal8", tick)
            for _, group in _encode(stream, _indexed(frames, palette, video), video, tick):
                out.mux(group)


def _indexed(frames: Iterable[Frame], palette: VideoFrame, video: Video) -> Iterator[VideoFrame]:
    inputs = [(video.height, video.width, "rgb24"), (palette.height, palette.width, palette.format.name)]
    apply = _filter("paletteuse", GIF_DITHER, inputs)
    apply.vpush(palette, at=1)
    apply.vpush(None, at=1)
    for i, frame in enumerate(frames):
        apply.vpush(_stamped(frame, i), at=0)
        try:
            yield apply.vpull()
        except BlockingIOError:  # the filter has not let go of its first frame yet
            continue
    apply.vpush(None, at=0)
    while True:
        try:
            yield apply.vpull()
        except EOFError:
            return


def _stamped(frame: Frame, index: int) -> VideoFrame:
    picture = VideoFrame.from_ndarray(np.ascontiguousarray(frame))
    picture.pts, picture.time_base = index, Fraction(1)
    return picture


def _filter(name: str, options: str, inputs: list[tuple[int, int, str]]) -> Graph:
    graph = Graph()
    node = graph.add(name, options)
    for i, (height, width, pixels) in enumerate(inputs):
        source = graph.add_buffer(width=width, height=height, format=VideoFormat(pixels), time_base=Fraction(1))
        source.link_to(node, 0, i)
    node.link_to(graph.add("buffersink"))
    graph.configure()
    return graph


def _refuse_big_sheet(video: Video, num_frames: int) -> None:
    if num_frames > 1 and num_frames * video.height * video.width > SHEET_PIXELS:
        fitting = SHEET_PIXELS // (video.height * video.width)
        size = f"{num_frames} frames of {video.width}x{video.height}"
        raise RequestError(f"{size} are too many for a contact sheet, which holds {fitting}. Use .at_fps() or .take().")


def _write_png(video: Video, path: Path) -> None:
    """Lay the frames on a sheet that is about as wide as high, row by row; a single frame is the picture itself."""
    frames = []
    for frame in video.frames():
        frames.append(frame)
        _refuse_big_sheet(video, len(frames))
    sheet, gap = frames[0], max(2, min(video.height, video.width) // 32)
    if len(frames) > 1:
        columns = min(len(frames), math.ceil(math.sqrt(len(frames) * video.height / video.width)))
        rows = math.ceil(len(frames) / columns)
        cell = (video.height + gap, video.width + gap)
        sheet = np.full((rows * cell[0] + gap, columns * cell[1] + gap, 3), SHEET_GROUND, np.uint8)
        for i, frame in enumerate(frames):
            top, left = gap + i // columns * cell[0], gap + i % columns * cell[1]
            sheet[top : top + video.height, left : left + video.width] = frame
    Image.fromarray(sheet).save(path, "PNG")
