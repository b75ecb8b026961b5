"""Scores: numbers about each clip that a person can put limits on, from the table of its frames alone.

    table of frames ─┬─ numbers ──> motion, camera, freezes, light, flicker, sharpness     over the frames of the clip
                     └─ pictures ─> bars, captions ─> what is laid over ─> softness        over its sampled frames

Nothing is decoded but the small pictures that the table holds (see `looks`), so a new score costs seconds. What is laid
over the picture shows only where the picture changes beneath it, so logos are looked for in a source as a whole and
then in each clip. What a score means, its unit and which direction is better is said once, in `SCORES`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float

from mutoscope.curate import camera, looks, signals
from mutoscope.curate.camera import CameraSettings
from mutoscope.curate.filter import Threshold, Thresholds
from mutoscope.curate.looks import Mark, Overlay, Sides
from mutoscope.curate.stage import Reads, Work, noted, save, with_columns

Better = Literal["higher", "lower", "neither"]
Series = Float[np.ndarray, " T"]
Row = dict[str, Any]

REPEATED_STILL = 0.9999  # share of pixels of a repeated frame that stay as they are
REPEATED_CONTENT = 3e-4  # change of a repeated frame, which compression makes
RECODED_STILL, RECODED_KEY = 0.999, 0.97  # the same share where the picture is coded anew, and in a key frame


@dataclass(frozen=True)
class Score:
    """A column of the table of clips.

    Args:
        name: of the column.
        unit: of the number, for people.
        better: which direction is better for training, where there is one.
        meaning: what it says, in a line.
        moves: whether it speaks of motion, which a picture has none of.
        kind: of the column.
    """

    name: str
    unit: str
    better: Better
    meaning: str
    moves: bool = False
    kind: pa.DataType = field(default_factory=pa.float64)


def _rows_and_columns(name: str, what: str) -> tuple[Score, ...]:
    sides = {"top": "first row", "left": "first column", "bottom": "row after", "right": "column after"}
    return tuple(
        Score(f"{name}_{side}", "pixels", "neither", f"{where} of {what}", kind=pa.int32())
        for side, where in sides.items()
    )


SCORES: tuple[Score, ...] = (
    Score("motion_speed", "widths/s", "higher", "how fast things move beyond what the camera explains", True),
    Score("camera_speed", "widths/s", "neither", "how fast the camera moves the picture", True),
    Score("camera", "", "neither", "what the camera does, or unknown; see curate/camera.py", True, pa.string()),
    Score("freeze_share", "of the frames", "lower", "frames within freezes", True),
    Score("freeze_longest_s", "s", "lower", "the longest time that one picture stands", True),
    Score("duplicate_share", "of the frames", "lower", "frames that repeat the frame before them", True),
    Score("flicker", "of white", "lower", "how far mean light strays from that of the frames beside it", True),
    Score("brightness", "of white", "neither", "mean light"),
    Score("saturation", "", "neither", "mean distance of colours from grey, 0 to about 0.6"),
    Score(
        "sharpness", "levels squared", "higher", "variance of the Laplacian at one small size, whatever the source's"
    ),
    Score("softness", "of the height", "lower", "width of the sharper edges, text and bars left out: blur"),
    Score("bars_share", "of the frame", "lower", "what dark bars cover"),
    *_rows_and_columns("crop", "the frame without bars"),
    Score("logo", "of the mark", "lower", "how much of a mark that stands over the source is seen in the clip"),
    *_rows_and_columns("logo", "that mark"),
    Score("caption_share", "of the pictures", "lower", "sampled pictures with text burnt in where captions stand"),
)
"""What is scored. Rows and columns are those of the frame as shown: upright, with square pixels."""


@dataclass(frozen=True)
class ScoreSettings:
    """What counts as a freeze, and as a motion of the camera.

    Args:
        freeze_s: seconds that one picture must stand to be a freeze; shorter repeats are duplicates only.
        camera: when a camera is said to do something.
    """

    freeze_s: float = 0.2
    camera: CameraSettings = CameraSettings()


@dataclass(frozen=True)
class Scores:
    """The stage that adds the columns `SCORES` to the table of clips; clips that were dropped before get none.

    Args:
        settings: what counts as what.
    """

    settings: ScoreSettings = ScoreSettings()
    name: str = field(default="scores", init=False)
    version: int = field(default=1, init=False)
    reads: tuple[Reads, ...] = field(default=("signals", "clips"), init=False)
    makes: Literal["signals", "clips"] = field(default="clips", init=False)

    def run(self, work: Work, out: Path) -> None:
        """Score the clips of one source."""
        rows = work.clips.to_pylist()
        kept = [row for row in rows if not row["dropped_by"]]
        if work.signals_path is not None and kept:
            frames = _Frames.of(work)
            is_video = work.source.kind == "video"
            shown = _look(work.signals_path, frames, kept)
            for row, seen in zip(kept, shown, strict=True):
                row |= _light(frames, row) | (_motion(frames, row, self.settings) if is_video else {}) | seen.scores
                why = [*seen.notes, *([] if is_video else ["motion: not scored in a picture"])]
                row["notes"] = noted(row["notes"], *why)
        schema = with_columns(work.clips.schema, {score.name: score.kind for score in SCORES})
        save(pa.Table.from_pylist(rows, schema), out)


# ---- from numbers ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Frames:
    """The columns of the table of frames as arrays, and the size of the frame as shown."""

    width: int
    height: int
    columns: dict[str, Series]
    repeated: Bool[np.ndarray, " T"]

    @classmethod
    def of(cls, work: Work) -> "_Frames":
        names = ["time_s", "is_key", "still", "content", "luma_mean", "saturation", "sharpness"]
        names += ["flow_x", "flow_y", "flow_zoom", "flow_roll", "flow_residual"]
        names += ["border_top", "border_bottom", "border_left", "border_right"]
        table = work.signals(names)
        facts = signals.facts(table)
        columns = {name: np.asarray(table[name].to_numpy(zero_copy_only=False), np.float64) for name in names}
        repeated = repeats(columns["still"], columns["content"], columns["is_key"] > 0)
        return cls(facts.width, facts.height, columns, repeated)

    def of_clip(self, name: str, row: Row) -> Series:
        return self.columns[name][row["start"] : row["end"]]

    def flat(self, index: int) -> Sides:
        """Return the share of the frame that is of one colour, from each side."""
        top, bottom, left, right = (
            float(np.nan_to_num(self.columns[f"border_{side}"][index])) for side in ("top", "bottom", "left", "right")
        )
        return top, bottom, left, right

    def box(self, name: str, box: looks.Box) -> Row:
        """Return a box in pixels."""
        top, left, bottom, right = box
        high, wide = (top * self.height, bottom * self.height), (left * self.width, right * self.width)
        names = [f"{name}_{side}" for side in ("top", "bottom", "left", "right")]
        return dict(zip(names, (round(each) for each in (*high, *wide)), strict=True))


def repeats(still: Series, content: Series, is_key: Bool[np.ndarray, " T"]) -> Bool[np.ndarray, " T"]:
    """Say which frames repeat the frame before them.

    Args:
        still: share of pixels that do not change, from the frame before.
        content: mean change.
        is_key: whether the frame is coded by itself, which changes a picture a little where nothing else does.
    """
    same = (still >= REPEATED_STILL) & (content <= REPEATED_CONTENT)
    before, after = np.concatenate([[False], same[:-1]]), np.concatenate([same[1:], [False]])
    same |= (before | after) & is_key & (still >= RECODED_KEY)  # it may also begin or end a freeze
    same |= before & after & (still >= RECODED_STILL)  # a better picture of the same between repeats
    same[:1] = False  # the first frame of all is compared with itself
    return same


def freezes(repeated: Bool[np.ndarray, " T"], times: Float[np.ndarray, " T_1"]) -> list[tuple[int, int, float]]:
    """Return stretches that show one picture: first frame, frame after the last, seconds.

    Args:
        repeated: for every frame of a clip, whether it is as the one before; of the first it does not matter.
        times: when each begins, and when the last ends, in seconds.
    """
    inside = repeated.copy()
    inside[:1] = False
    edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).astype(np.int8)))
    pairs = zip(edges[::2] - 1, edges[1::2], strict=True)  # the picture that is repeated stands from one frame before
    return [(int(start), int(end), float(times[end] - times[start])) for start, end in pairs]


def _motion(frames: _Frames, row: Row, settings: ScoreSettings) -> Row:
    x, y, zoom, roll, residual = (
        frames.of_clip(f"flow_{name}", row) for name in ("x", "y", "zoom", "roll", "residual")
    )
    motion = camera.Motion.of(x, y, zoom, roll, residual, row["end_s"] - row["start_s"])
    repeated = frames.repeated[row["start"] : row["end"]].copy()
    repeated[:1] = False
    found = freezes(repeated, np.append(frames.of_clip("time_s", row), row["end_s"]))
    stops = [stop for stop in found if stop[2] >= settings.freeze_s]
    light = frames.of_clip("luma_mean", row)
    return {
        "motion_speed": motion.own_speed,
        "camera_speed": motion.camera_speed,
        "camera": camera.label(motion, settings.camera),
        "freeze_share": sum(end - start for start, end, _ in stops) / len(repeated),
        "freeze_longest_s": max((length_s for _, _, length_s in stops), default=0.0),
        "duplicate_share": float(repeated.mean()),
        "flicker": float(np.abs(light[1:-1] - (light[:-2] + light[2:]) / 2).mean()) if len(light) > 2 else 0.0,
    }


def _light(frames: _Frames, row: Row) -> Row:
    names = {"brightness": "luma_mean", "saturation": "saturation", "sharpness": "sharpness"}
    return {name: float(frames.of_clip(column, row).mean()) for name, column in names.items()}


# ---- from pictures ---------------------------------------------------------------------------------------------------


@dataclass
class _Seen:
    """What the pictures of one clip show."""

    count: int = 0
    depths: list[Sides] = field(default_factory=list)
    edges: list[Sides] = field(default_factory=list)
    bars: Sides = (0.0, 0.0, 0.0, 0.0)
    captioned: int = 0
    widths: list[float] = field(default_factory=list)
    presence: list[list[float]] = field(default_factory=list)
    scores: Row = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def _pictures(path: Path) -> Iterator[tuple[int, looks.Picture]]:
    """Yield the sampled frames and their pictures in grey."""
    return ((index, looks.opened(data)) for index, data in signals.pictures(path))


def _look(path: Path, frames: _Frames, rows: list[Row]) -> list[_Seen]:
    """Look at all pictures twice: for bars, captions and what stays, then for how soft and how marked each clip is."""
    seen = [_Seen() for _ in rows]
    clip_of = np.full(len(frames.repeated), -1)
    for number, row in enumerate(rows):
        clip_of[row["start"] : row["end"]] = number
    overlay, texts = Overlay(), {}
    for index, picture in _pictures(path):
        text = looks.captions(picture)
        depths, edges = looks.bars(picture, frames.flat(index))
        if clip_of[index] >= 0:
            clip = seen[clip_of[index]]
            clip.count, clip.captioned = clip.count + 1, clip.captioned + bool(text)
            if max(frames.flat(index)) < looks.BLANK:
                clip.depths.append(depths)
                clip.edges.append(edges)
        texts[index] = text + looks.around(looks.certain(depths, edges))
        overlay.add(picture, looks.directions(picture, looks.covered(picture.shape, texts[index])))
    marks = overlay.marks()
    _settle_bars(seen)
    for index, picture in _pictures(path):
        if clip_of[index] < 0:
            continue
        clip = seen[clip_of[index]]
        left_out = looks.covered(picture.shape, texts[index] + looks.around(clip.bars))
        if marks:
            edges = looks.directions(picture, left_out)
            clip.presence.append([mark.presence(edges) for mark in marks])
            left_out |= looks.covered(picture.shape, [mark.box for mark in marks])
        clip.widths.append(looks.softness(picture, left_out))
    for clip in seen:
        _sum_up(clip, frames, marks)
    return seen


def _settle_bars(seen: list[_Seen]) -> None:
    """Decide which bars there are, side by side; where a dark clip hides the edge of a bar, the other clips tell."""
    found = np.zeros((len(seen), 4))
    hidden = np.zeros((len(seen), 4))
    for number, clip in enumerate(seen):
        if clip.depths:
            depth, edge = np.min(clip.depths, axis=0), np.max(clip.edges, axis=0)
            found[number] = np.where(edge >= looks.SEEN, depth, 0)
            hidden[number] = np.where(edge < looks.SEEN, depth, 0)
    for side in range(4):
        known = found[:, side][found[:, side] > 0]
        if len(known):
            usual = float(np.median(known))
            found[:, side] = np.where(hidden[:, side] >= usual - 0.005, usual, found[:, side])
    for clip, (top, bottom, left, right) in zip(seen, found.tolist(), strict=True):
        clip.bars = (top, bottom, left, right)


def _sum_up(clip: _Seen, frames: _Frames, marks: list[Mark] | None) -> None:
    """Turn what was seen in a clip's pictures into scores."""
    if not clip.count:
        clip.notes.append("bars, logo, caption_share, softness: no frame of the clip was sampled")
        return
    top, bottom, left, right = clip.bars
    box = (top, left, 1 - bottom, 1 - right)
    clip.scores = {"bars_share": 1 - (box[2] - box[0]) * (box[3] - box[1]), **frames.box("crop", box)}
    clip.scores["caption_share"] = clip.captioned / clip.count
    widths = [width for width in clip.widths if np.isfinite(width)]
    if widths:
        clip.scores["softness"] = float(np.median(widths))
    else:
        clip.notes.append("softness: no edges to tell it by")
    if marks is None:
        clip.notes.append("logo: the source changes too little to tell what is laid over it")
        return
    clip.scores["logo"] = 0.0
    if marks:
        shares = np.mean(clip.presence, axis=0)
        best = int(shares.argmax())
        clip.scores["logo"] = float(np.clip(shares[best], 0, 1))
        if shares[best] >= LOGO:
            clip.scores |= frames.box("logo", marks[best].box)


# ---- limits ----------------------------------------------------------------------------------------------------------

# Chosen on footage that nothing is judged by; see docs/concepts/scores.md.
LOGO = 0.4  # of a mark's edges, from which it is in a clip
SOFT = 0.0052  # of the height: the sharper edges of pictures in focus stay below, those of blurred ones above
FREEZE_S = 0.3
LIMITS = (
    # A picture that stands teaches a model to stop; shorter stops are a low frame rate or a slow moment.
    Threshold("freeze_longest_s", at_most=FREEZE_S, images=False),
    # Every second frame may repeat: film at half the rate, which a loader that skips frames can mend; more cannot.
    Threshold("duplicate_share", at_most=0.55, images=False),
    # One flash of white in a second is about 0.02; film grain and lamps stay below 0.004.
    Threshold("flicker", at_most=0.02, images=False),
    Threshold("softness", at_most=SOFT),
    # A line or two at the edge is what encoders leave; more is a bar. `crop_*` says what to cut off instead.
    Threshold("bars_share", at_most=0.01),
    Threshold("logo", at_most=LOGO),
    # One picture in a second is looked at, so that a single one with text is a second of text.
    Threshold("caption_share", at_most=0.0),
)


def thresholds(*left_out: str, name: str = "quality") -> Thresholds:
    """Return the usual limits on scores, each with the unit and direction of its score.

    Args:
        left_out: names of scores that are not to be limited, such as "bars_share" where clips are cropped.
        name: of the stage.
    """
    known = {score.name: score for score in SCORES}
    told = [replace(limit, unit=known[limit.column].unit, better=known[limit.column].better) for limit in LIMITS]
    return Thresholds(tuple(replace(limit, name=limit.column) for limit in told if limit.column not in left_out), name)
