"""Cut a clip out of a video without encoding it again: copy its packets, where that gives exactly its frames.

    shown    I0 B1 B2 P3 | I4 B5 B6 P7 | I8 ...     a clip may begin where a decoder can, at I0, I4 or I8,
    stored   I0 P3 B1 B2 | I4 P7 B5 B6 | I8 ...     and end where no frame of it needs a later one: not after B5

A copy has the pixels of the source, not those of another round of compression, and costs next to nothing. It is as the
source is: a clip that is to be turned, stretched to square pixels, shrunk or cut at other frames must be encoded.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet

from mutoscope.core.errors import MediaError, MutoscopeError
from mutoscope.core.media import Probe, probe, reason

PICTURES = ("h264", "hevc", "av1", "vp9", "mpeg4")  # what MP4 may hold, and what reads it decodes
SOUNDS = ("aac", "mp3", "opus", "flac", "ac3", "eac3")
BESIDE_S = 1.0  # by how much sound and picture of one moment may lie apart in a file


def remux(path: Path, found: Probe, start: int, end: int, out: Path, *, keeps_audio: bool = True) -> str:
    """Copy frames [start, end) of a video into an MP4 file, or say why they cannot be copied.

    The sound is copied in whole packets and keeps its place in time; it may begin and end a packet (some 20 ms) late.

    Args:
        path: the video.
        found: what `media.probe` says of it.
        start: the first frame.
        end: the frame after the last.
        out: the file to write; nothing is left there where the frames cannot be copied.
        keeps_audio: copy the sound too, if there is any.

    Returns:
        Why the frames cannot be copied, "" if they were.

    Raises:
        MediaError: the source cannot be read.
        MutoscopeError: `out` cannot be written.
    """
    cut = _Cut.of(found, start, end, keeps_audio)
    why_not = cut.refusal()
    if why_not:
        return why_not
    with _reading(path) as container:
        packets, why_not = cut.packets(container)
        if not why_not:
            why_not = cut.write(container, packets, out)
    if not why_not:
        why_not = cut.difference(probe(out))
    if why_not:
        out.unlink(missing_ok=True)
    return why_not


@dataclass(frozen=True)
class _Cut:
    """Frames [start, end) of a video: stamps of the first frame, and of the one after the last, if there is one."""

    found: Probe
    start: int
    end: int
    first: int
    after: int | None
    sound: int | None  # index of the track

    @classmethod
    def of(cls, found: Probe, start: int, end: int, keeps_audio: bool) -> "_Cut":
        first, after = (round((found.times[at] + found.start_s) / found.time_base) for at in (start, end))
        sound = found.audio_streams[0].index if keeps_audio and found.audio_streams else None
        return cls(found, start, end, first, None if end == found.num_frames else after, sound)

    @property
    def start_s(self) -> Fraction:
        return self.first * self.found.time_base

    @property
    def end_s(self) -> Fraction:
        return self.found.times[self.end] + self.found.start_s

    @property
    def tick(self) -> Fraction:
        """The clock of the copy; of a coarse one, such as Matroska's, a steady rate would look unsteady."""
        return self.found.time_base if self.found.variable_frame_rate else Fraction(1, self.found.fps.numerator)

    def stamps(self, pictures: list[Packet]) -> Iterator[tuple[int, int, int]]:
        """Yield when each picture is shown and decoded, and how long it lasts, in ticks of the copy.

        Decoding times are made anew, since Matroska has none: one picture at each time at which one is shown, as much
        earlier as the order in which they are stored asks for.
        """
        found, count = self.found, self.end - self.start
        times = [found.times[at] - found.times[self.start] for at in range(self.start, self.end + 1)]
        if not found.variable_frame_rate:
            times = [at / found.fps for at in range(count + 1)]
        ticks = [round(time / self.tick) for time in times]
        place = {packet.pts: at for at, packet in enumerate(sorted(pictures, key=lambda packet: packet.pts or 0))}
        shown = [place[packet.pts] for packet in pictures]
        delay = max(at - each for at, each in enumerate(shown))
        early = [ticks[0] - (delay - at) * (ticks[1] - ticks[0]) for at in range(delay)]
        for at, decoded in zip(shown, [*early, *ticks][:count], strict=True):
            yield ticks[at], decoded, ticks[at + 1] - ticks[at]

    def refusal(self) -> str:
        """Say what the facts of the source tell against a copy."""
        found = self.found
        if found.rotation or found.is_mirrored or found.sample_aspect != 1:
            return "it is shown in another way than it is stored"
        if found.codec not in PICTURES:
            return f"its codec, {found.codec}, does not go into MP4"
        if self.sound is not None and found.audio_streams[0].codec not in SOUNDS:
            return f"the codec of its sound, {found.audio_streams[0].codec}, does not go into MP4"
        if not found.index.is_timed:
            return "its packets do not say when their frames are shown"
        if self.first not in found.keyframes:
            return "it does not begin with a key frame"
        return ""

    def packets(self, container: InputContainer) -> tuple[list[Packet], str]:
        """Return the packets of the clip, or say why they do not stand for themselves."""
        found, kept, count, is_begun = self.found, [], 0, False
        video = container.streams[found.stream]
        streams = [video] if self.sound is None else [video, container.streams[self.sound]]
        ahead = 0 if self.sound is None else round(BESIDE_S / found.time_base)
        container.seek(self.first - ahead, stream=video)
        for packet in container.demux(streams):
            if not packet.size:
                continue
            if packet.pts is None:
                return [], "its packets lack time stamps"
            moment_s = packet.pts * packet.time_base
            if packet.stream_index != found.stream:
                if self.start_s <= moment_s < self.end_s:
                    kept.append(packet)
                continue
            is_begun |= packet.pts == self.first and packet.is_keyframe
            if not is_begun:
                continue
            if packet.pts < self.first or packet.is_discard:
                return [], "a decoder cannot begin afresh at its key frame"
            if self.after is None or packet.pts < self.after:
                kept.append(packet)
                count += 1
            elif count < self.end - self.start:
                return [], "its last frames need frames after them"
            elif self.sound is None or moment_s > self.end_s + BESIDE_S:
                break
        return kept, "" if count == self.end - self.start else "its packets are not where its index says"

    def write(self, container: InputContainer, packets: list[Packet], out: Path) -> str:
        """Write the packets into a file."""
        options = {"fflags": "+bitexact", "movflags": "+faststart"}
        pictures = [packet for packet in packets if packet.stream_index == self.found.stream]
        stamps = self.stamps(pictures)
        try:
            with av.open(f"file:{out}", "w", format="mp4", options=options) as target:
                streams = {
                    # opaque: there may be no encoder for it, and none is needed
                    index: target.add_stream_from_template(container.streams[index], opaque=True)
                    for index in sorted({packet.stream_index for packet in packets})
                }
                streams[self.found.stream].time_base = self.tick
                for packet in packets:
                    if packet.stream_index == self.found.stream:
                        packet.pts, packet.dts, packet.duration = next(stamps)
                        packet.time_base = self.tick
                    else:
                        assert packet.pts is not None  # or it would not be here
                        packet.pts = packet.dts = packet.pts - round(self.start_s / packet.time_base)
                    packet.stream = streams[packet.stream_index]
                    target.mux(packet)
        except FFmpegError as error:
            if isinstance(error, OSError):
                raise MutoscopeError(f"cannot write {out}: {reason(error)}. Name another folder.") from error
            return f"MP4 does not take its packets: {reason(error)}"
        return ""

    def difference(self, copy: Probe) -> str:
        """Say in what a copy differs from the clip, "" where it does not."""
        found, count = self.found, self.end - self.start
        if (copy.num_frames, copy.width, copy.height) != (count, found.width, found.height):
            return f"its copy has {copy.num_frames} frames of {copy.width}x{copy.height}"
        strays = (
            abs(mine - (its - found.times[self.start]))
            for mine, its in zip(copy.times[:-1], found.times[self.start : self.end], strict=True)
        )
        is_in_time = max(strays) <= 2 * found.time_base
        return "" if is_in_time else "its copy has other time stamps"


@contextmanager
def _reading(path: Path) -> Iterator[InputContainer]:
    try:
        with av.open(f"file:{path}") as container:  # the prefix keeps a colon in the name from naming a protocol
            yield container
    except FFmpegError as error:
        raise MediaError(f"{path} cannot be read as a video: {reason(error)}. Give another file.") from error
