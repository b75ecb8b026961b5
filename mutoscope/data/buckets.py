"""Buckets: the few sizes of about one area that pictures and clips of any shape are fitted to.

    (1080, 1920), buckets(480) -> bucket (352, 608) -> resized to (352, 625) -> the middle of it, (352, 608)

The rule is HunyuanVideo-I2V's. A bucket is never more extreme than the picture, so a picture resized to its short side
covers its long one, and what is cut off lies along the picture's long side. Training has another one, `nearest`: what
is made small can be enlarged later, but what was enlarged teaches blur.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mutoscope.core.errors import RequestError

STEP = 32  # pixels, of which the sides of a bucket are multiples
MAX_RATIO = 4.0  # of the long side of a bucket to its short one


class Bucket(NamedTuple):
    """Pixels down and across."""

    height: int
    width: int


class Fit(NamedTuple):
    """How a picture comes to the size of a bucket: resized to `height` and `width`, then cut."""

    height: int
    width: int
    crop_top: int
    crop_left: int


def buckets(base: int, step: int = STEP, max_ratio: float = MAX_RATIO) -> list[Bucket]:
    """List the buckets of one area, the tallest first.

    For each number of rows of `step` pixels these are the widths from the last that leaves room for one row more, to
    the last that fits the area.

    Args:
        base: side of the square whose area they have at most, in pixels; 480, 720 or 960 for 360p, 540p or 720p.
        step: pixels, of which sides are multiples.
        max_ratio: of the long side to the short one, at least 1.

    Raises:
        RequestError: no multiple of `step` is so small.
    """
    area = round((base / step) ** 2)
    if area < 1:
        raise RequestError(f"a base of {base} pixels has no room for sides of {step}. Use at least {step}.")
    found = []
    for rows in range(area, 0, -1):
        for columns in range(max(1, area // (rows + 1)), area // rows + 1):
            if max(rows, columns) <= max_ratio * min(rows, columns):
                found.append(Bucket(rows * step, columns * step))
    return found


def choose(among: list[Bucket], height: int, width: int) -> Bucket:
    """Return the bucket whose shape is nearest to a picture's, and not more extreme.

    A picture more extreme than all of them gets the most extreme one on its side.

    Args:
        among: buckets, as `buckets` lists them.
        height: of the picture.
        width: of the picture.
    """
    shape = height / width
    ratios = [(round(bucket.height / bucket.width, 5), bucket) for bucket in among]
    if shape >= 1:
        fitting = [entry for entry in ratios if entry[0] <= shape]
        return max(fitting, key=lambda entry: entry[0])[1]
    fitting = [entry for entry in ratios if entry[0] > shape]
    return min(fitting, key=lambda entry: entry[0])[1]


def nearest(among: Iterable[Bucket], height: int, width: int, most_cropped: float) -> Bucket | None:
    """Return the bucket of the nearest shape that a picture fills without being enlarged.

    Args:
        among: buckets, in any order; of equal shapes the larger is taken.
        height: of the picture.
        width: of the picture.
        most_cropped: share of the picture's area that may be cut off.

    Returns:
        None where each bucket is larger than the picture, or the nearest cuts off too much.
    """
    fitting = [bucket for bucket in among if bucket.height <= height and bucket.width <= width]
    if not fitting:
        return None

    def distance(bucket: Bucket) -> tuple[float, int]:
        return abs(math.log(bucket.height * width / (bucket.width * height))), -bucket.height * bucket.width

    found = min(fitting, key=distance)
    return found if cropped(found, height, width) <= most_cropped else None


def cropped(bucket: Bucket, height: int, width: int) -> float:
    """Return the share of a picture's area that is cut off when it is resized to cover a bucket."""
    tall, wide = bucket.height * width, bucket.width * height
    return 1 - min(tall, wide) / max(tall, wide)


def plan(height: int, width: int, bucket: Bucket) -> Fit:
    """Return how a picture comes to the size of a bucket: both sides are covered, and the middle is cut out.

    Where rounding down would leave a line uncovered, it is stretched over it; the published code paints it black.
    """
    short = min(bucket)
    resized_height = short if height <= width else short * height // width
    resized_width = short if width <= height else short * width // height
    resized_height, resized_width = max(resized_height, bucket.height), max(resized_width, bucket.width)
    top, left = round((resized_height - bucket.height) / 2), round((resized_width - bucket.width) / 2)
    return Fit(resized_height, resized_width, top, left)


def fit(picture: UInt8[np.ndarray, "H W 3"], bucket: Bucket) -> UInt8[np.ndarray, "h w 3"]:
    """Resize a picture and cut its middle out, so that it has the size of a bucket."""
    height, width, top, left = plan(picture.shape[0], picture.shape[1], bucket)
    resized = Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR)
    return np.array(resized)[top : top + bucket.height, left : left + bucket.width]
