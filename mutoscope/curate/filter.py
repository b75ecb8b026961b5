"""Drop clips by limits on what was measured: from the tables alone, so that a new limit decodes nothing.

luma_mean of frames 120 ... 240  --reduce="median"-->  41.3  --at_least=50-->  "luma_mean, median: 41.3 is below 50"
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Float64

from mutoscope.core.errors import RecipeError
from mutoscope.curate.ingest import Source
from mutoscope.curate.stage import Reads, Work, noted, save

Reduce = Literal["mean", "median", "min", "max", "std", "p05", "p95", "mean_abs", "share_nonzero"]
FACTS = ("duration_s", "num_frames", "width", "height", "short_side_px", "aspect", "fps")  # of a clip, not of frames
REDUCE = {
    "mean": np.mean,
    "median": np.median,
    "min": np.min,
    "max": np.max,
    "std": np.std,
    "p05": lambda values: np.quantile(values, 0.05),
    "p95": lambda values: np.quantile(values, 0.95),
    "mean_abs": lambda values: np.abs(values).mean(),
    "share_nonzero": lambda values: (values != 0).mean(),
}

REDUCE_MEANS = {
    "mean": "mean over the frames",
    "median": "median of the frames",
    "min": "smallest of the frames",
    "max": "largest of the frames",
    "std": "deviation over the frames",
    "p05": "what 5 % of the frames are below",
    "p95": "what 5 % of the frames are above",
    "mean_abs": "mean size over the frames, whatever the sign",
    "share_nonzero": "share of frames where it is not 0",
}
COLUMN_MEANS = {  # of the table of frames, for people
    "luma_mean": "mean light, 1 is white",
    "luma_std": "contrast, the deviation of light",
    "luma_low": "light of the dark parts",
    "luma_high": "light of the bright parts",
    "saturation": "distance of colours from grey",
    "content": "change from the frame before",
    "edge": "share of edges that came or went",
    "hash_distance": "share of the perceptual hash that changed",
    "histogram_distance": "change of the histogram of light",
    "still": "share of the picture that does not change from the frame before",
    "sharpness": "sharpness at one small size",
    "detail": "sharpness at the frame's own size",
    "flow_x": "pan to the side, in widths a frame",
    "flow_y": "tilt, in widths a frame",
    "flow_zoom": "zoom, a logarithm, per frame",
    "flow_roll": "roll, in radians a frame",
    "flow_residual": "motion that the camera does not explain",
    "border_top": "share of the height that a border at the top takes",
    "border_bottom": "share of the height that a border at the bottom takes",
    "border_left": "share of the width that a border on the left takes",
    "border_right": "share of the width that a border on the right takes",
}


@dataclass(frozen=True)
class Threshold:
    """A limit on one number of a clip.

    Args:
        column: of the table of frames, or of the clips as an earlier stage scored them, or one of duration_s,
            num_frames, width, height, short_side_px, aspect (width over height) and fps.
        reduce: how the frames of a clip become one number.
        at_least: smaller numbers are dropped; None for no such limit.
        at_most: greater numbers are dropped; None for no such limit.
        unit: of the number, for people.
        better: which direction is better, for people and for choosing the best of several.
        images: whether pictures are judged too; what speaks of motion or length does not apply to them.
        name: of the number in the table of clips; column and reduce if not given.
    """

    column: str
    reduce: Reduce = "mean"
    at_least: float | None = None
    at_most: float | None = None
    unit: str = ""
    better: Literal["higher", "lower", "neither"] = "neither"
    images: bool = True
    name: str = ""

    @property
    def score(self) -> str:
        """Return the name of the number in the table of clips."""
        is_plain = self.column in FACTS
        return self.name or (self.column if is_plain else f"{self.column}_{self.reduce}")

    @property
    def meaning(self) -> str:
        """Say in words what the number is, "" where its name is all that is known."""
        column = COLUMN_MEANS.get(self.column)
        return f"{column}: {REDUCE_MEANS[self.reduce]}" if column else ""

    def refusal(self, value: float) -> str:
        """Say why a value is refused, "" when it is not."""
        unit = f" {self.unit}" if self.unit else ""
        if self.at_least is not None and value < self.at_least:
            return f"{self.score} {value:.4g}{unit} is below {self.at_least:g}"
        if self.at_most is not None and value > self.at_most:
            return f"{self.score} {value:.4g}{unit} is above {self.at_most:g}"
        return ""


@dataclass(frozen=True)
class Thresholds:
    """A stage that drops clips by limits; each number that it looks at becomes a column of the table of clips.

    Args:
        limits: all are looked at; the first that refuses a clip gives the reason.
        name: of the stage.
    """

    limits: tuple[Threshold, ...]
    name: str = "thresholds"
    version: int = field(default=1, init=False)
    makes: Literal["clips"] = field(default="clips", init=False)

    def __post_init__(self) -> None:
        scores = [limit.score for limit in self.limits]
        twice = sorted({score for score in scores if scores.count(score) > 1})
        if twice:
            raise RecipeError(f"Stage {self.name} has two limits named {twice[0]}. Give one of them another name.")

    @property
    def reads(self) -> tuple[Reads, ...]:
        """Return what the limits need: frames only if one of them is on a column of frames."""
        return ("clips",) if all(limit.column in FACTS for limit in self.limits) else ("signals", "clips")

    def run(self, work: Work, out: Path) -> None:
        """Mark the clips that a limit refuses.

        Raises:
            RecipeError: there is no such column.
        """
        scored = set(work.clips.column_names)
        wanted = sorted({limit.column for limit in self.limits} - set(FACTS) - scored)
        frames = _Frames(work, wanted)
        rows = work.clips.to_pylist()
        for row in rows:
            if not row["dropped_by"]:
                self._judge(row, work.source, frames)
        schema = work.clips.schema
        for limit in self.limits:
            if limit.score not in schema.names:
                schema = schema.append(pa.field(limit.score, pa.float64()))
        save(pa.Table.from_pylist(rows, schema), out)

    def _judge(self, row: dict[str, Any], source: Source, frames: "_Frames") -> None:
        for limit in self.limits:
            value, why_not = None, f"{limit.score}: not judged in a picture"
            if limit.images or source.kind == "video":
                value, why_not = _value(limit, row, source, frames)
            if value is None:
                row["notes"] = noted(row["notes"], why_not)
                continue
            row[limit.score] = value
            reason = limit.refusal(value)
            if reason and not row["dropped_by"]:
                row["dropped_by"], row["reason"] = self.name, reason


@dataclass
class _Frames:
    """The columns of the table of frames that the limits need, as numbers."""

    work: Work
    wanted: list[str]
    _columns: dict[str, Float64[np.ndarray, " T"]] = field(default_factory=dict)

    def column(self, name: str) -> Float64[np.ndarray, " T"]:
        if self.work.signals_path is None:  # of a picture
            return np.empty(0)
        if not self._columns:
            table = self.work.signals()
            for wanted in self.wanted:
                if wanted not in table.column_names:
                    known = ", ".join([*FACTS, *table.column_names])
                    raise RecipeError(f"There is no number {wanted!r} to put a limit on. Choose from {known}.")
                values = table.column(wanted).to_numpy(zero_copy_only=False)
                self._columns[wanted] = np.asarray(values, np.float64)  # what is missing becomes nan
        return self._columns[name]


def _value(limit: Threshold, row: dict[str, Any], source: Source, frames: _Frames) -> tuple[float | None, str]:
    """Return the number of a clip or, where it has none, why."""
    if limit.column in FACTS:
        return fact(limit.column, row, source), f"{limit.score}: not known"
    if limit.column in row:
        value = row[limit.column]
        return (None if value is None else float(value)), f"{limit.score}: not scored"
    values = frames.column(limit.column)[row["start"] : row["end"]]
    values = values[np.isfinite(values)]
    if not len(values):
        return None, f"{limit.score}: no frame of the clip has a value"
    return float(REDUCE[limit.reduce](values)), ""


def fact(name: str, row: Mapping[str, Any], source: Source) -> float | None:
    """Return one of `FACTS` of a clip, None where it is not known."""
    facts = {
        "duration_s": row["end_s"] - row["start_s"],
        "num_frames": row["end"] - row["start"],
        "width": source.width,
        "height": source.height,
        "short_side_px": min(source.width, source.height),
        "aspect": source.width / max(1, source.height),
        "fps": float(Fraction(source.fps)) if source.fps else math.nan,
    }
    value = float(facts[name])
    return value if math.isfinite(value) else None
