"""A clip as a language model is shown it: a few small pictures, evenly spread over its time."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from mutoscope.core.chat import jpeg
from mutoscope.core.errors import RequestError


@dataclass(frozen=True)
class View:
    """A clip as a model is shown it.

    Args:
        id: of the clip.
        duration_s: its length, 0 for a photo.
        pictures: reads so many of its frames, evenly spread, as small picture files; of one, that in the middle.
    """

    id: str
    duration_s: float
    pictures: Callable[[int], tuple[bytes, ...]]


def spread(count: int, num_frames: int) -> list[int]:
    """Choose frames evenly spread, each in the middle of its share; all of them where there are not more."""
    if count < 1:
        raise RequestError(f"{count} frames were asked for; at least 1 is needed.")
    count = min(count, num_frames)
    return [(2 * index + 1) * num_frames // (2 * count) for index in range(count)]


def view(
    path: str | Path, start: int = 0, num_frames: int | None = None, *, id: str | None = None, longest_px: int = 512
) -> View:
    """Make a view of frames [start, start + num_frames) of a video, or of a photo.

    Args:
        path: the file, which is read only when frames are asked for, but for its length.
        start: first frame.
        num_frames: how many; None for all that follow.
        id: of the clip; by default made of the file's name and the frames.
        longest_px: longer side of the pictures, at most.

    Raises:
        MediaError: the file cannot be read.
        RequestError: it has no such frames.
    """
    from mutoscope.core.video import Video  # which imports torch; this module is imported where that would be dear

    video = Video.open(path)
    whole = video.num_frames or 1
    clip = video.take(start, whole - start if num_frames is None else num_frames)
    length = clip.num_frames or 1

    def pictures(count: int) -> tuple[bytes, ...]:
        picks = spread(count, length)
        frames = islice(clip.frames(), picks[-1] + 1)
        return tuple(jpeg(frame, longest_px) for index, frame in enumerate(frames) if index in picks)

    name = id or f"{Path(path).stem}-{start}-{start + length}"
    return View(name, 0.0 if whole == 1 else clip.duration_s, pictures)


def introduce(view: View, count: int) -> tuple[str, tuple[bytes, ...]]:
    """Return a sentence that introduces a clip to a model, and so many of its pictures, or all there are."""
    pictures = view.pictures(count)
    if len(pictures) == 1:
        return "This is one picture" + ("." if view.duration_s == 0 else " of a video."), pictures
    return f"These are {len(pictures)} frames, evenly spread, of a video of {view.duration_s:.1f} seconds.", pictures
