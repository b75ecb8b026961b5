"""What tells shots apart in a table of signals: each frame is a place, and a video a way through places.

A frame is its `cells`, a picture of 8 x 8 (and colour, 4 x 4): a *place* in a space of 96 dimensions, in levels.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Float32

Places = Float32[np.ndarray, "n cells"]
Place = Float32[np.ndarray, " cells"]
Series = Float[np.ndarray, " n"]
Stretch = tuple[int, int]  # frames [start, end)

NEEDED = ["time_s", "content", "edge", "histogram_distance", "luma_mean", "luma_std", "sharpness"]
LUMA_CELLS = 64
CHROMA_WEIGHT = 2.0  # differences of colour are small in number and large to the eye
GREY = 128 * CHROMA_WEIGHT


@dataclass(frozen=True)
class Track:
    """The columns that tell transitions, of one video; `fps` is the usual number of frames a second.

    `shares` are those of the pixels in each of 32 steps of luma.
    """

    fps: float
    places: Places
    content: Series
    edge: Series
    histogram_distance: Series
    luma_mean: Series
    luma_std: Series
    sharpness: Series
    phash: np.ndarray
    shares: Float32[np.ndarray, "n bins"]

    @classmethod
    def of(cls, table: pa.Table) -> "Track":
        """Take the columns out of a table of `signals.measure`."""
        columns = {name: table[name].to_numpy() for name in NEEDED}
        places, roots = (
            table[name].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1).astype(np.float32)
            for name in ("cells", "histogram")
        )
        places[:, LUMA_CELLS:] *= CHROMA_WEIGHT
        step_s = float(np.median(np.diff(columns.pop("time_s"))))
        return cls(1 / max(step_s, 1e-3), places, phash=table["phash"].to_numpy(), shares=(roots / 255) ** 2, **columns)

    @property
    def length(self) -> int:
        """Return the number of frames."""
        return len(self.content)

    @cached_property
    def steps(self) -> Float32[np.ndarray, " n"]:
        """Return the distance of each frame from the one before, 0 for the first."""
        return np.concatenate([[np.float32(0)], distance(self.places[1:], self.places[:-1])])

    def frames(self, seconds: float) -> int:
        """Return seconds as a number of frames, at least one."""
        return max(1, round(seconds * self.fps))

    def turned(self, one: int, other: int) -> float:
        """Return the share of the bits of the perceptual hash in which two frames differ."""
        return int(self.phash[one] ^ self.phash[other]).bit_count() / 64

    def without(self, flashes: list[Stretch]) -> "Track":
        """Bridge flashes by what lies before and after them."""
        places, series = self.places.copy(), [self.luma_mean.copy(), self.luma_std.copy(), self.sharpness.copy()]
        for start, end in flashes:
            share = np.arange(1, end - start + 1, dtype=np.float32) / (end - start + 1)
            for each in (places, *series):
                weight = share[:, None] if each.ndim == 2 else share
                each[start:end] = each[start - 1] + weight * (each[end] - each[start - 1])
        return replace(self, places=places, luma_mean=series[0], luma_std=series[1], sharpness=series[2])


def distance(a: Float32[np.ndarray, "_ cells"], b: Float32[np.ndarray, "_ cells"]) -> Float32[np.ndarray, " _"]:
    """Return levels between places, one by one or all from one."""
    return np.abs(a - b).mean(axis=-1)


def likeness(before: Place, after: Places) -> Float32[np.ndarray, " n"]:
    """Return how much alike pictures are in structure and colour whatever the light, -1 to 1; 0 where one is flat.

    It is the cosine of luma about its mean, which no gain and no offset changes, and of colour about grey.
    """
    one, other = _relief(before[None])[0], _relief(after)
    lengths = np.sqrt(np.square(one).sum() * np.square(other).sum(axis=1))
    return (other @ one) / np.maximum(lengths, np.float32(1e-3))


def _relief(places: Places) -> Places:
    luma = places[:, :LUMA_CELLS]
    return np.concatenate([luma - luma.mean(axis=1, keepdims=True), places[:, LUMA_CELLS:] - GREY], axis=1)
