"""What a media file holds, and its frames and samples, read as they are asked for.

    file ── probe ──> Probe ── decode ──> frames, each "H W 3" uint8, upright, with square pixels
                        └── decode_sound ──> samples, "channels n" float32 in [-1, 1]

FFmpeg conceals much: a file cut short just ends early. Here such a file is an error, found from the length that its
container announces, from the duration in its header, or from the number of frames that can be decoded.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from typing import IO

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import Float32, UInt8

from mutoscope.core.errors import MediaError

Frame = UInt8[np.ndarray, "H W 3"]
Samples = Float32[np.ndarray, "channels n"]

# swscale: bicubic, full_chroma_int, accurate_rnd. Without the last two its fast path darkens the picture by a level,
# and a round trip RGB -> YUV -> RGB stays at 40 dB instead of 52 dB.
SCALING = 0x4 | 0x2000 | 0x40000


@dataclass(frozen=True)
class AudioStream:
    """One sound track of a file; `rate` in Hz, `layout` such as "mono" or "stereo"."""

    index: int
    codec: str
    rate: int
    layout: str


@dataclass(frozen=True)
class Probe:
    """What a video file holds.

    `height` and `width` are those of the frames as shown: upright (`rotation` is clockwise, in degrees; a left-right
    flip comes before it) and with square pixels. `fps` is the rate on whose grid the time stamps lie or, where there is
    none (`variable_frame_rate`), frames over duration; `header_fps` is what the file claims. `times` are exact seconds
    since the first frame, one for each frame and one for the end; `start_s` is the first frame's own time stamp.
    `audio_streams`, those that can be decoded, begins with the one that is read.
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
    times: tuple[Fraction, ...] = field(repr=False)
    start_s: Fraction
    time_base: Fraction
    keyframes: tuple[int, ...] = field(repr=False)
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
            notes.append(f"turned by {self.rotation} degrees{' and mirrored' * self.is_mirrored}, as its header asks")
        if self.sample_aspect != 1:
            notes.append(f"stored as {self.coded_width}x{self.coded_height} with oblong pixels, shown with square ones")
        if self.variable_frame_rate:
            longest_s = float(max(end - start for start, end in pairwise(self.times)))
            notes.append(
                f"variable frame rate, {float(self.fps):.2f} fps on average, a frame lasts up to {longest_s:.3g} s"
            )
        return tuple(notes)


def probe(path: str | Path, *, decode_all: bool = False) -> Probe:
    """Say what a video file holds: exact size, rate, frame count and time stamps.

    Reads every packet, and decodes one frame, which tells the orientation.

    Args:
        path: a video or GIF; for photos see `pictures.read_image`.
        decode_all: decode every frame as well, and so find damage that the packets do not show.

    Raises:
        MediaError: the file is missing, not a video, cut short or damaged.
    """
    path = existing(path)
    _refuse_truncated(path)
    with _reading(path) as container:
        stamps, end, keys = _scan(container, _best(container, path), path)
    with _reading(path) as container:
        stream = _best(container, path)
        first = next(container.decode(stream), None)
        if first is None:
            raise MediaError(f"{path} holds no frame that can be decoded. Give another file.")
        found = _describe(path, container, stream, first, stamps, end, keys)
    if decode_all:
        for _ in decode(path, found, 0):
            pass
    return found


def existing(path: str | Path) -> Path:
    """Return the path of a file that exists, or say that it does not."""
    path = Path(path)
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise MediaError(f"{path} {problem}. Give the path of a video or picture.")
    return path


def reason(error: Exception) -> str:
    """Say in a few words what FFmpeg, Pillow or the system complained of."""
    return getattr(error, "strerror", None) or str(error).splitlines()[0]


@contextmanager
def _reading(path: Path) -> Iterator[InputContainer]:
    try:
        with av.open(f"file:{path}") as container:  # the prefix keeps a colon in the name from naming a protocol
            yield container
    except (FFmpegError, OSError) as error:
        raise MediaError(f"{path} cannot be read as a video: {reason(error)}. Give another file.") from error


def _best(container: InputContainer, path: Path) -> VideoStream:
    """Choose the stream that FFmpeg holds for best: marked default, then most pixels. A song's cover does not count."""
    stream = container.streams.best("video")
    is_text = container.format.name == "tty"  # FFmpeg takes any text file for terminal art
    if is_text or not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
        raise MediaError(f"{path} holds no video. Give a video, a GIF or a picture.")
    if stream.codec_context is None:  # no decoder for it, or none at all; the stubs do not know
        raise MediaError(f"{path} is coded in a way that cannot be decoded. Give another file.")
    stream.thread_type = "AUTO"
    return stream


# ---- facts, from packets ---------------------------------------------------------------------------------------------


def _scan(container: InputContainer, stream: VideoStream, path: Path) -> tuple[list[int], int, tuple[int, ...]]:
    """Return the sorted stamps of the shown frames, the end of the last one, and the stamps of key frames."""
    stamps, keys, last, end_s = [], [], (0, 0), Fraction(0)
    for packet in container.demux():
        stamp = packet.dts if packet.pts is None else packet.pts  # AVI has decoding times only
        if stamp is None or not packet.size:
            continue
        end_s = max(end_s, (stamp + (packet.duration or 0)) * packet.time_base)
        # VP8 has packets that only serve prediction (RFC 6386, section 9.1: show_frame)
        is_hidden = packet.is_discard or (stream.codec_context.name == "vp8" and not bytes(packet)[0] & 0x10)
        if packet.stream_index == stream.index and not is_hidden:
            stamps.append(stamp)
            last = max(last, (stamp, packet.duration or 0))
            if packet.is_keyframe:
                keys.append(stamp)
    if not stamps:
        raise MediaError(f"{path} holds no frames with time stamps. Type: ffmpeg -i {path} -c copy new.mkv")
    claimed_s = Fraction(container.duration or 0, av.time_base)
    if claimed_s - end_s > Fraction(1, 2):
        raise _truncated(path, f"it announces {float(claimed_s):.2f} s and holds {float(end_s):.2f} s")
    return sorted(stamps), sum(last), tuple(sorted(keys))


def packet_sizes(path: Path) -> tuple[list[int], int]:
    """Return the bytes of each packet of a video that is no key frame, and the pixels of a frame as stored.

    Raises:
        MediaError: the file is not a video, or damaged.
    """
    with _reading(path) as container:
        stream = _best(container, path)
        sizes = [packet.size for packet in container.demux(stream) if packet.size and not packet.is_keyframe]
        return sizes, stream.codec_context.width * stream.codec_context.height


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
    duration = (end - stamps[0]) * tick if end > stamps[-1] else times[-1] + 1 / fps
    rotation, is_mirrored = _orientation(first, path)
    aspect = Fraction(stream.sample_aspect_ratio or 1)
    shown = (round(first.height / min(aspect, 1)), round(first.width * max(aspect, 1)))  # stretch, never shrink
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
    best = container.streams.best("audio")
    tracks = sorted(container.streams.audio, key=lambda track: track is not best)
    plain = {1: "mono", 2: "stereo"}  # WAV may give the number of channels only
    return tuple(
        AudioStream(
            track.index,
            track.codec_context.name,
            track.codec_context.sample_rate,
            plain.get(track.layout.nb_channels, track.layout.name),
        )
        for track in tracks
        if track.codec_context is not None
    )


def _rate_of(times: list[Fraction], duration: Fraction, stream: VideoStream, tick: Fraction) -> tuple[Fraction, bool]:
    """Find the rate whose grid holds every time stamp to within the file's clock, else the average and True."""
    measured = (len(times) - 1) / times[-1] if times[-1] else None
    for rate in (stream.average_rate, stream.guessed_rate, measured and measured.limit_denominator(1001)):
        if rate and all(abs(time - i / rate) <= tick for i, time in enumerate(times)):
            return rate, False
    return (len(times) / (duration or Fraction(1))).limit_denominator(1001), True


def _orientation(frame: VideoFrame, path: Path) -> tuple[int, bool]:
    """Read the clockwise turn, and whether a left-right flip comes before it, from the display matrix."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 0, False
    a, b, _, c, d = struct.unpack("=5i", bytes(data)[:20])  # x' = a x + c y, y' = b x + d y
    is_mirrored = a * d < b * c
    along_x = (-a, -b) if is_mirrored else (a, b)
    turns = {(1, 0): 0, (0, 1): 90, (-1, 0): 180, (0, -1): 270}
    turn = turns.get((np.sign(along_x[0]), np.sign(along_x[1])))
    if turn is None:
        raise MediaError(f"{path} is to be shown at a slant. Turn it by a multiple of 90 degrees first.")
    return turn, is_mirrored


# ---- is it whole? ----------------------------------------------------------------------------------------------------


def _truncated(path: Path, detail: str) -> MediaError:
    return MediaError(f"{path} is cut short or damaged: {detail}. Fetch the file again.")


def _refuse_truncated(path: Path) -> None:
    """Compare the length that the container announces with the file's."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(64).ljust(64, b"\0")
        end: int | None = 0
        if head[:6] in (b"GIF87a", b"GIF89a"):
            end = _end_of_gif(head + file.read())
        elif head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            end = _end_of_boxes(file, size)
        elif head[:4] == b"RIFF":
            end = 8 + struct.unpack("<I", head[4:8])[0]
        elif head[:4] == b"\x1aE\xdf\xa3":
            end = _end_of_matroska(head)
    if end is None or end > size:
        raise _truncated(path, f"it announces {end} bytes and has {size}" if end else f"it breaks off at {size} bytes")


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
    """Read where the segment ends (RFC 8794, section 4: a size begins with its own length)."""

    def number(at: int) -> tuple[int, int]:
        length = 9 - head[at].bit_length()
        ones = (1 << 7 * length) - 1
        value = int.from_bytes(head[at : at + length], "big") & ones
        return (0 if value == ones else value), at + length  # all ones: not known when it was written

    header, at = number(4)
    segment, at = number(at + header + 4)
    return at + segment


# ---- frames and samples ----------------------------------------------------------------------------------------------


def decode(path: Path, found: Probe, start: int) -> Iterator[Frame]:
    """Yield the frames from `start` on, beginning at the last key frame before it.

    Raises:
        MediaError: fewer frames than packets, a frame with holes, or a change of size.
    """
    target = round((found.times[start] + found.start_s) / found.time_base)
    key = max((key for key in found.keyframes if key <= target), default=0)
    jumps = key > min(found.keyframes, default=0)
    convert, index = VideoReformatter(), start
    with _reading(path) as container:
        stream = _best(container, path)
        if jumps:
            container.seek(key, stream=stream)
        for number, frame in enumerate(container.decode(stream)):
            if index == start and ((frame.pts or 0) < target if jumps else number < start):
                continue
            if index == start and jumps and frame.pts != target:  # the file's own index is wrong: read it all
                yield from decode(path, replace(found, keyframes=()), start)
                return
            if frame.is_corrupt:
                raise _truncated(path, f"frame {index} has holes")
            if (frame.height, frame.width) != (found.coded_height, found.coded_width):
                raise MediaError(f"{path} turns {frame.width}x{frame.height} at frame {index}. Split it there.")
            yield _upright(convert, frame, found)
            index += 1
    if index != found.num_frames:
        raise _truncated(path, f"{index} of {found.num_frames} frames can be decoded")


def _upright(convert: VideoReformatter, frame: VideoFrame, found: Probe) -> Frame:
    height, width = (found.height, found.width) if found.rotation % 180 == 0 else (found.width, found.height)
    # untagged video of HD size is BT.709 by common practice; swscale would take it for BT.601
    is_hd = frame.colorspace == 2 and (frame.width >= 1280 or frame.height > 576)
    matrix = Colorspace.ITU709 if is_hd else None
    # planes, because swscale makes them twice as fast as interleaved pixels; to_ndarray interleaves
    planes = convert.reformat(frame, width, height, "gbrp", src_colorspace=matrix, interpolation=SCALING, threads=1)
    pixels = planes.to_ndarray()
    if found.is_mirrored:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(np.rot90(pixels, -(found.rotation // 90)))


def sounds_of(path: Path) -> tuple[AudioStream, ...]:
    """List the sound tracks, the one that FFmpeg holds for best first."""
    with _reading(path) as container:
        return _sounds(container)


def decode_sound(path: Path, audio: AudioStream, start_s: Fraction) -> Iterator[Samples]:
    """Yield the samples from `start_s` on; what is missing before the first one, or inside, is silence."""
    convert = av.AudioResampler(format="fltp", layout=audio.layout, rate=audio.rate)
    position = 0
    with _reading(path) as container:
        track = next(track for track in container.streams.audio if track.index == audio.index)
        for frame in chain(container.decode(track), [None]):
            for piece in convert.resample(frame):
                samples = piece.to_ndarray()
                moment = None if piece.pts is None or piece.time_base is None else piece.pts * piece.time_base
                gap = 0 if moment is None else round((moment - start_s) * audio.rate) - position
                if gap > 0 and (position == 0 or gap > audio.rate // 50):  # below 20 ms it is rounding of the stamps
                    yield np.zeros((len(samples), gap), np.float32)
                    position += gap
                elif position == 0:
                    samples = samples[:, -gap:]
                yield samples
                position += samples.shape[1]
