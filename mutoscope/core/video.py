"""Video: a lazily read stream of frames, what can be made of it, and how it is written.

    Video.open, from_array, from_tensor, from_frames ──> Video ── take, at_fps, resized ──> Video
                                                           ├── frames, array, tensor
                                                           └── save ──> .mp4 .webm .gif .png

A frame is "H W 3" uint8, upright, with square pixels. Nothing is decoded or made before it is asked for, and files are
read and written as the frames come, so memory does not grow with length.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from itertools import islice, pairwise, repeat
from pathlib import Path

import numpy as np
import torch
from av.error import FFmpegError
from einops import rearrange
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from torch import Tensor

from mutoscope.core.errors import MediaError, RequestError
from mutoscope.core.files import replacing
from mutoscope.core.frames import Mending, decode
from mutoscope.core.media import Frame, existing, probe, reason
from mutoscope.core.pictures import photo, read_image
from mutoscope.core.sound import Audio
from mutoscope.core.writing import Quality, mixing, writer

Rate = int | float | Fraction

__all__ = ["Audio", "Mending", "Quality", "Video", "exact_rate", "probe", "read_image"]


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
    def open(cls, path: str | Path, mending: Mending = Mending()) -> "Video":
        """Open a video, a GIF, or a photo, which is one frame that lasts a second.

        Args:
            path: the file.
            mending: what is done to interlaced and HDR frames; nothing unless asked for, and `notices` say which are.

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
            partial(decode, path, found, mending=mending),
            found.times,
            found.variable_frame_rate,
            Audio.open(path, found.start_s) if found.audio_streams else None,
            (*found.notices, *mending.notices(found), *mixing(found.audio_streams)),
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

    @classmethod
    def refuse_unwritable(cls, path: Path, height: int, width: int, fps: Rate, num_frames: int | None = None) -> None:
        """Raise what `save` would raise of an ending, a size or a rate, before such a video is made.

        Args:
            path: the file to write.
            height: pixels.
            width: pixels.
            fps: frames a second.
            num_frames: how many there will be, where known.

        Raises:
            RequestError: as for `save`.
        """
        writer(cls.from_frames((), height, width, fps, num_frames), path, None)

    def save(self, path: str | Path, *, quality: Quality | None = None) -> None:
        """Write the frames as they come: .mp4, .mov or .mkv (H.264, AAC), .webm (VP9, Opus), .gif, or .png.

        A .png of one frame is the picture itself, of several a contact sheet, row by row. GIF and PNG hold no sound.
        Of more than two channels of sound, a layout that the file's codec knows is kept; others are mixed to stereo, as
        `notices` say.
        The same frames give the same bytes. The file gets its name when it is complete; a failure leaves nothing.

        Args:
            path: the file to write; its ending says what. Missing folders are made.
            quality: of all but .gif and .png, which is "good" unless told.

        Raises:
            RequestError: an ending, size, rate or quality that cannot be served; before any frame is read.
            MutoscopeError: the file cannot be written, for example because the disk is full.
        """
        path = Path(path)
        write = writer(self, path, quality)
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
