"""Pictures that clips begin and end with, brought to the size of the clip."""

from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mutoscope.core.errors import RequestError
from mutoscope.core.video import Video
from mutoscope.data import buckets
from mutoscope.pipeline import Settings

Fit = Literal["exact", "crop", "pad"]
PAD_GREY = 127


def read(
    path: Path, settings: Settings, fit: Fit, notes: list[str], side: int | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """Read a picture, or the first frame of a clip, at the size of the clip to come; arguments as for `fitted`.

    Raises:
        MediaError: it cannot be read.
        RequestError: it has another size, and `fit` is ``exact``.
    """
    video = Video.open(path)
    notes += [f"{path}: {notice}" for notice in video.notices]
    return fitted(next(iter(video.frames())), settings, fit, str(path), notes, side)


def fitted(
    frame: UInt8[np.ndarray, "h w 3"],
    settings: Settings,
    fit: Fit,
    source: str,
    notes: list[str],
    side: int | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """Bring a picture to the clip's size in the way that was asked for.

    Args:
        frame: the picture.
        settings: of the clip to come.
        fit: ``exact`` changes nothing, ``crop`` scales and cuts the edges, ``pad`` scales and adds grey edges.
        source: its name in messages.
        notes: gets a line on what was done.
        side: of the square, in pixels, of whose area the model's own sizes are: a clip that has the shape of its
            picture among these is cropped to as the model's own code does it.

    Raises:
        RequestError: it has another size, and `fit` is ``exact``.
    """
    height, width = frame.shape[:2]
    if (height, width) == (settings.height, settings.width):
        return frame
    bucket = None if side is None else buckets.choose(buckets.buckets(side), height, width)
    is_of_its_shape = bucket == (settings.height, settings.width)
    wanted = f"{settings.width}x{settings.height}"
    if fit == "exact":
        why = ", of this model's sizes the nearest in shape" if is_of_its_shape else ""
        raise RequestError(
            f"{source} is {width}x{height}, the clip is {wanted}{why}. Add --fit crop to scale it and cut the edges, "
            "or --fit pad to scale it and add grey edges."
        )
    if fit == "crop" and bucket is not None and is_of_its_shape:
        scaled_height, scaled_width, _, _ = buckets.plan(height, width, bucket)
        notes.append(
            f"{source}: {width}x{height} scaled to {scaled_width}x{scaled_height}, "
            f"{scaled_width - bucket.width} columns and {scaled_height - bucket.height} rows cut"
        )
        return buckets.fit(frame, bucket)
    choose = max if fit == "crop" else min
    scale = choose(settings.height / height, settings.width / width)
    scaled = max(1, round(width * scale)), max(1, round(height * scale))
    picture = np.asarray(Image.fromarray(frame).resize(scaled, Image.Resampling.LANCZOS))
    result = np.full((settings.height, settings.width, 3), PAD_GREY, np.uint8)
    # Where the two overlap: the middle of the picture for crop, the middle of the clip for pad.
    rows, columns = min(scaled[1], settings.height), min(scaled[0], settings.width)
    top, left = (scaled[1] - rows) // 2, (scaled[0] - columns) // 2
    to_top, to_left = (settings.height - rows) // 2, (settings.width - columns) // 2
    result[to_top : to_top + rows, to_left : to_left + columns] = picture[top : top + rows, left : left + columns]
    cut = f"{scaled[0] - columns} columns and {scaled[1] - rows} rows cut"
    added = f"{settings.width - columns} columns and {settings.height - rows} rows of grey added"
    notes.append(f"{source}: {width}x{height} scaled to {scaled[0]}x{scaled[1]}, {cut if fit == 'crop' else added}")
    return result
