"""What a media file holds, found from its packets and its first frame.

    file ── probe ──> Probe, for `frames.decode`

FFmpeg conceals much: a file cut short just ends early. Here such a file is an error, found from the length that its
container announces, from the duration in its header, or from the number of frames that can be decoded. A stream that
begins between key frames is no error: it is read from its first whole frame, and says how many frames that costs.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from av.audio.layout import AudioLayout
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from jaxtyping import UInt8

from mutoscope.core import seeking
from mutoscope.core.errors import MediaError
from mutoscope.core.whole import refuse_truncated, truncated

Frame = UInt8[np.ndarray, "H W 3"]
TRANSFERS = {16: "PQ", 18: "HLG"}  # ITU-T H.273, table 3
USUAL_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
UNCOUNTED = 1 << 30  # frames that FFmpeg writes into the header of an AVI where it cannot go back
BT2020_PRIMARIES = 9  # ITU-T H.273, table 2


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
    `audio_streams`, those that can be decoded, begins with the one that is read. `keyframes` are the stamps of those at
    which decoding may begin; see `seeking`. `hdr` says in which way the first frame has more brightness or colour than
    BT.709, "" if in none; like `is_interlaced` and `is_transparent` it is what the file says of that frame.
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
    hdr: str
    is_interlaced: bool
    is_transparent: bool
    index: seeking.Index = field(repr=False, compare=False)

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
        if self.index.lost:
            notes.append(f"begins between key frames: {self.index.lost} frames before the first whole one are left out")
        if self.is_interlaced:
            notes.append("interlaced: the lines of a frame are of two moments")
        if self.hdr:
            notes.append(f"HDR ({self.hdr}), whose brightness or colours are not those of BT.709")
        if self.is_transparent:
            notes.append("what is transparent is shown on white")
        if self.variable_frame_rate:
            longest_s = float(max(end - start for start, end in pairwise(self.times)))
            notes.append(
                f"variable frame rate, {float(self.fps):.2f} fps on average, a frame lasts up to {longest_s:.3g} s"
            )
        return tuple(notes)


def probe(path: str | Path) -> Probe:
    """Say what a video file holds: exact size, rate, frame count and time stamps.

    Reads every packet, and decodes until there is one whole frame, which tells the orientation.

    Args:
        path: a video or GIF; for photos see `pictures.read_image`.

    Raises:
        MediaError: the file is missing, not a video, cut short or damaged.
    """
    path = existing(path)
    refuse_truncated(path)
    with reading(path) as container:
        stamps, last, index = _scan(container, best_video(container, path), path)
    with reading(path) as container:
        stream = best_video(container, path)
        first = next(seeking.whole_frames(seeking.packets(container, stream, index, None), stream), None)
        if first is None:
            raise MediaError(f"{path} holds no frame that can be decoded. Give another file.")
        index = replace(index, lost=max(0, first.pts or 0))
        return _describe(path, container, stream, first, stamps[index.lost :], sum(last), index)


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
def reading(path: Path) -> Iterator[InputContainer]:
    """Open a file for FFmpeg.

    Raises:
        MediaError: it is no video, or becomes unreadable.
    """
    try:
        with av.open(f"file:{path}") as container:  # the prefix keeps a colon in the name from naming a protocol
            yield container
    except (FFmpegError, OSError) as error:
        raise MediaError(f"{path} cannot be read as a video: {reason(error)}. Give another file.") from error


def best_video(container: InputContainer, path: Path) -> VideoStream:
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


def _scan(
    container: InputContainer, stream: VideoStream, path: Path
) -> tuple[list[int], tuple[int, int], seeking.Index]:
    """Return the sorted stamps of the shown frames, stamp and duration of the last one, and the index of packets."""
    scan, last, end_s = seeking.Scan(container, stream), (0, 0), Fraction(0)
    for packet in container.demux():
        stamp = packet.dts if packet.pts is None else packet.pts  # AVI has decoding times only
        is_mine = packet.stream_index == stream.index
        if not packet.size or (stamp is None and not (is_mine and scan.stamps)):
            continue
        if stamp is None:
            stamp = sum(last)  # MPEG-PS has none for some packets
        end_s = max(end_s, (stamp + (packet.duration or 0)) * packet.time_base)
        if is_mine:
            # VP8 has packets that only serve prediction (RFC 6386, section 9.1: show_frame)
            is_hidden = packet.is_discard or (stream.codec_context.name == "vp8" and not bytes(packet)[0] & 0x10)
            scan.add(packet, stamp, not is_hidden)
            if not is_hidden:
                last = max(last, (stamp, packet.duration or 0))
            if packet.is_corrupt and container.format.name != "mpegts":  # there it means a gap, which decoders conceal
                raise truncated(path, f"it breaks off in frame {len(scan.sizes) - 1}")
    stamps = sorted(stamp for stamp in scan.stamps if stamp is not None)
    if not stamps:
        raise MediaError(f"{path} holds no frames with time stamps. Type: ffmpeg -i {path} -c copy new.mkv")
    claimed_s = claimed_duration_s(container, stream)
    if claimed_s - end_s > Fraction(1, 2):
        raise truncated(path, f"it announces {float(claimed_s):.2f} s and holds {float(end_s):.2f} s")
    return stamps, last, scan.index()


def claimed_duration_s(container: InputContainer, stream: VideoStream) -> Fraction:
    """Return the seconds that a file announces, 0 where it does not."""
    # where an AVI does not count its frames, or a pipe left the greatest count, FFmpeg guesses them from its bytes
    is_guess = container.format.name == "avi" and not 0 < stream.frames < UNCOUNTED
    return Fraction(0 if is_guess else container.duration or 0, av.time_base)


def packet_sizes(path: Path) -> tuple[list[int], int]:
    """Return the bytes of each packet of a video that is no key frame, and the pixels of a frame as stored.

    Raises:
        MediaError: the file is not a video, or damaged.
    """
    with reading(path) as container:
        stream = best_video(container, path)
        sizes = [packet.size for packet in container.demux(stream) if packet.size and not packet.is_keyframe]
        return sizes, stream.codec_context.width * stream.codec_context.height


def _describe(
    path: Path,
    container: InputContainer,
    stream: VideoStream,
    first: VideoFrame,
    stamps: list[int],
    end: int,
    index: seeking.Index,
) -> Probe:
    tick = stream.time_base or Fraction(1, av.time_base)
    times = [(stamp - stamps[0]) * tick for stamp in stamps]
    fps, is_variable = _rate_of(times, (end - stamps[0]) * tick, stream, tick)
    duration = (end - stamps[0]) * tick if end > stamps[-1] else times[-1] + 1 / fps
    rotation, is_mirrored = _orientation(first, path)
    aspect = Fraction(stream.sample_aspect_ratio or 1)
    shown = (round(first.height / min(aspect, 1)), round(first.width * max(aspect, 1)))  # stretch, never shrink
    height, width = shown if rotation % 180 == 0 else shown[::-1]
    is_wide = first.color_primaries == BT2020_PRIMARIES
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
        keyframes=tuple(stamps[entry.rank - index.lost] for entry in index.entries if entry.rank >= index.lost),
        stream=stream.index,
        video_streams=tuple(s.index for s in container.streams.video if not s.disposition & Disposition.attached_pic),
        audio_streams=sounds_in(container),
        hdr=" ".join([TRANSFERS.get(first.color_trc, ""), "BT.2020" * is_wide]).strip(),
        is_interlaced=first.interlaced_frame,
        is_transparent=has_alpha(first) and bool((first.to_ndarray(format="rgba")[..., 3] < 255).any()),
        index=index,
    )


def has_alpha(frame: VideoFrame) -> bool:
    """Say whether a frame's format can be transparent."""
    return any(component.is_alpha for component in frame.format.components)


def sounds_in(container: InputContainer) -> tuple[AudioStream, ...]:
    """List the sound tracks that can be decoded, the one that FFmpeg holds for best first."""
    best = container.streams.best("audio")
    tracks = sorted(container.streams.audio, key=lambda track: track is not best)
    known = (track for track in tracks if track.codec_context is not None)
    return tuple(
        AudioStream(track.index, track.codec_context.name, track.codec_context.sample_rate, _layout(track.layout))
        for track in known
    )


def _layout(layout: AudioLayout) -> str:
    """Return the name of a layout; where there is only a number of channels, as in WAV, the usual one of that many."""
    is_plain = layout.nb_channels <= 2 or layout.name.endswith(" channels")
    return USUAL_LAYOUTS.get(layout.nb_channels, layout.name) if is_plain else layout.name


def _rate_of(times: list[Fraction], duration: Fraction, stream: VideoStream, tick: Fraction) -> tuple[Fraction, bool]:
    """Find the rate whose grid holds every time stamp to within the file's clock, else the average and True.

    A last frame that is held longer than others, as in slide shows, lies on no grid.
    """
    measured = (len(times) - 1) / times[-1] if times[-1] else None
    for rate in (stream.average_rate, stream.guessed_rate, measured and measured.limit_denominator(1001)):
        if rate and all(abs(time - i / rate) <= tick for i, time in enumerate(times)):
            is_held = duration - times[-1] > max(Fraction(3, 2) / rate, 1 / rate + tick)
            if not is_held:
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


def sounds_of(path: Path) -> tuple[AudioStream, ...]:
    """List the sound tracks of a file, the one that FFmpeg holds for best first."""
    with reading(path) as container:
        return sounds_in(container)
