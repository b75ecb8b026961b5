"""Audio: a lazily read stream of samples, from a file or from memory.

Audio.open, from_array ──> Audio ── take, mono ──> Audio
└── read, array
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.layout import AudioLayout
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream as AudioTrack
from av.container import InputContainer
from jaxtyping import Float32

from mutoscope.core.errors import MediaError, RequestError
from mutoscope.core.media import AudioStream, existing, reading, sounds_of

Samples = Float32[np.ndarray, "channels n"]
Seconds = int | float | Fraction
RENAMED = {"5.1(side)": "5.1", "5.0(side)": "5.0", "quad(side)": "quad"}  # only where the surround speakers stand


def frame_of(samples: Samples, layout: str, rate: int, position: int = 0) -> AudioFrame:
    """Wrap samples for FFmpeg; `position` is that of the first one."""
    # interleaved, because PyAV loses count of the planes of eight channels and more
    frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples.T).reshape(1, -1), "flt", layout)
    frame.sample_rate, frame.pts, frame.time_base = rate, position, Fraction(1, rate)
    return frame


def samples_of(frame: AudioFrame) -> Samples:
    """Return the samples of an interleaved frame of FFmpeg's."""
    return np.ascontiguousarray(frame.to_ndarray().reshape(-1, frame.layout.nb_channels).T)


def mixed_layout(layout: str, layouts: Sequence[str]) -> str:
    """Return in which of some layouts the channels of one can be kept or, if in none, mixed."""
    return layout if layout in layouts else RENAMED[layout] if RENAMED.get(layout) in layouts else "stereo"


@dataclass(frozen=True, eq=False)
class Audio:
    """A lazily read stream of samples, "channels n" float32 in [-1, 1]. Time zero is the video's first frame."""

    rate: int
    layout: str
    read: Callable[[], Iterator[Samples]] = field(repr=False)

    @classmethod
    def open(cls, path: str | Path, start_s: Seconds = 0) -> "Audio":
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

    def take(self, start_s: Seconds, duration_s: Seconds) -> "Audio":
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

    def mixed(self, layouts: Sequence[str]) -> "Audio":
        """Mix the channels into one of some layouts, into stereo unless one has the same channels by another name.

        Raises:
            RequestError: nobody said what the channels are.
        """
        layout = mixed_layout(self.layout, layouts)
        if layout == self.layout:
            return self
        if self.layout.endswith(" channels"):
            given = f"The sound has {self.layout}, and does not say which is which"
            raise RequestError(f"{given}. Leave it out, with with_audio(None), or mix it with mono().")

        def convert(samples: Samples, gain: float) -> Float32[np.ndarray, "fewer n"]:
            mixer = AudioResampler(format="flt", layout=layout, rate=self.rate)
            pieces = mixer.resample(frame_of(samples, self.layout, self.rate))
            return np.concatenate([samples_of(piece) for piece in pieces], axis=1) * np.float32(gain)

        def read() -> Iterator[Samples]:
            # all channels at their loudest must not be louder than that
            full = np.ones((AudioLayout(self.layout).nb_channels, 1), np.float32)
            gain = 1 / max(1.0, float(convert(full, 1).max()))
            yield from (convert(samples, gain) for samples in self.read() if samples.size)

        return replace(self, layout=layout, read=read)

    def mono(self, rate: int) -> "Audio":
        """Mix the channels into one, their mean, of another rate in Hz."""

        def read() -> Iterator[Samples]:
            convert, position = AudioResampler(format="flt", layout="mono", rate=rate), 0
            for samples in chain(self.read(), [None]):
                frame = None
                if samples is not None:
                    mixed = samples.mean(axis=0, keepdims=True)
                    if not mixed.size:
                        continue
                    frame = frame_of(mixed, "mono", self.rate, position)
                    position += mixed.shape[1]
                yield from map(samples_of, convert.resample(frame))

        return Audio(rate, "mono", read)


def decode_sound(path: Path, audio: AudioStream, start_s: Fraction) -> Iterator[Samples]:
    """Yield the samples from `start_s` on; what is missing before the first one, or inside, is silence.

    The last packet of a coded track is filled up with silence, which is cut off at the end that the track has.
    """
    convert = AudioResampler(format="flt", layout=audio.layout, rate=audio.rate)
    position, held = 0, None
    with reading(path) as container:
        track = next(track for track in container.streams.audio if track.index == audio.index)
        ending = _Ending(track)
        for frame in chain(ending.frames(container), [None]):
            for piece in convert.resample(frame):
                samples = samples_of(piece)
                moment = None if piece.pts is None or piece.time_base is None else piece.pts * piece.time_base
                gap = 0 if moment is None else round((moment - start_s) * audio.rate) - position
                if gap > 0 and (position == 0 or gap > audio.rate // 50):  # below 20 ms it is rounding of the stamps
                    silence = np.zeros((len(samples), gap), np.float32)
                    samples, position = np.concatenate([silence, samples], axis=1), position
                elif position == 0:
                    samples = samples[:, -gap:]
                if held is not None:
                    yield held
                held = samples
                position += samples.shape[1]
        if held is not None:
            end = ending.end_s and round((ending.end_s - start_s) * audio.rate)
            yield held if end is None else held[:, : max(0, held.shape[1] - max(0, position - end))]


class _Ending:
    """Decodes a track, and finds the second at which it ends: that of its last packet, or of the track if sooner."""

    def __init__(self, track: AudioTrack) -> None:
        self._track = track
        self.end_s: Fraction | None = None

    def frames(self, container: InputContainer) -> Iterator[AudioFrame]:
        """Yield its frames."""
        track = self._track
        for packet in container.demux(track):
            if packet.size and packet.pts is not None and packet.duration:
                end = packet.pts + packet.duration
                if track.duration is not None and track.start_time is not None:
                    ends = track.start_time + track.duration
                    end = ends if 0 < end - ends < packet.duration else end
                self.end_s = max(self.end_s or Fraction(0), end * packet.time_base)
            yield from packet.decode()
