"""Nested training sets: each level holds the clips of the level before it that are large and good enough for it.

    all that is kept ── 256p: limits ──> 256p ── 360p: limits ──> 360p ── ... ──> fine-tune
                          └─> dropped             └─> stays at 256p

A low level takes much and a high one only the best: HunyuanVideo trains on 256, 360, 540 and 720 lines and then
fine-tunes, and each set keeps between a half and a fifth of the one before it; Step-Video-T2V tightens its limits over
six sets. Both left their limits unpublished, so a limit may also be found here: the best so many of what is there.

    folder/levels.json    each limit as it was laid on, also where it was found, and how many clips it stopped

A limit of `Thresholds` drops what it can show to be bad; a level takes only what it can show to be good. So a clip that
has no such number goes no higher, with that reason.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from mutoscope.core.errors import MediaError, RecipeError
from mutoscope.core.files import replacing
from mutoscope.curate.filter import FACTS, Threshold, fact
from mutoscope.curate.stage import CLIPS, SetView, noted, replace_columns

LEVEL = pa.field("level", pa.string())  # the highest that a clip reaches
LEVELS = pa.field("levels", pa.list_(pa.string()))  # all that it belongs to, lowest first
TOLD = "levels.json"


@dataclass(frozen=True)
class Best:
    """A limit that is found: the best so many of the clips that have come as far as it.

    The limit is the number of the last clip that belongs to them, and clips with the same number pass too, so that it
    depends on no order. Where many are alike, more than `share` pass.

    Args:
        column: of the table of clips, or one of the facts that `Threshold` names.
        share: of those that have the number, above 0, up to 1.
        better: which direction is better.
        unit: of the number, for people.
        images: whether pictures are judged too, and count; if not, they pass.
    """

    column: str
    share: float
    better: Literal["higher", "lower"]
    unit: str = ""
    images: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise RecipeError(f"Best({self.column!r}) has share={self.share:g}. Give a part of 1, such as 0.5.")

    def found(self, values: Sequence[float]) -> Threshold:
        """Return the limit for these numbers; of none it is no limit."""
        limit = Threshold(self.column, unit=self.unit, better=self.better, images=self.images, name=self.column)
        if not values:
            return limit
        count = math.ceil(round(self.share * len(values), 6))  # rounded, as 0.55 of 100 is 55, not 55.00000000000001
        if self.better == "higher":
            return replace(limit, at_least=sorted(values, reverse=True)[count - 1])
        return replace(limit, at_most=sorted(values)[count - 1])


@dataclass(frozen=True)
class Level:
    """One of the nested sets.

    Args:
        name: what training asks for it by, such as ``540p``.
        short_side_px: what it is trained at; sources whose short side is shorter stay out. 0 for no such limit.
        limits: looked at in turn, each among the clips that all before it let pass.
    """

    name: str
    short_side_px: int = 0
    limits: tuple[Threshold | Best, ...] = ()

    def limits_above(self, short_side_px: int) -> tuple[Threshold | Best, ...]:
        """Return the limits, with that on size first where the level below is smaller."""
        size = Threshold("short_side_px", at_least=self.short_side_px, unit="pixels", better="higher")
        return (size, *self.limits) if self.short_side_px > short_side_px else self.limits


@dataclass(frozen=True)
class Nested:
    """A stage over the set that says which levels each clip belongs to; what reaches none is dropped.

    Two columns come to the table of clips: `level`, the highest that a clip reaches, and `levels`, all it belongs to.
    What keeps it from the next one is in `notes`. Limits are on numbers in the table of clips: what an earlier stage
    scored, `Thresholds` without limits for instance, and the facts of a clip. A `Threshold` takes the column that the
    same `Threshold` would make in `Thresholds`.

    Args:
        levels: the lowest first.
        name: of the stage.
    """

    levels: tuple[Level, ...]
    name: str = "nested"
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        names = [level.name for level in self.levels]
        if not names or not all(name.strip() for name in names) or len(set(names)) < len(names):
            raise RecipeError(f"Stage {self.name} has levels named {names}. Give at least one, each a name of its own.")
        sizes = [level.short_side_px for level in self.levels]
        if sizes != sorted(sizes):
            raise RecipeError(f"Stage {self.name} has levels of {sizes} pixels. Put them in order, the smallest first.")

    def run(self, clips: pa.Table, view: SetView) -> pa.Table:
        """Say how high each clip comes.

        Raises:
            RecipeError: there is no such number, or another stage has made levels.
        """
        if LEVEL.name in clips.column_names:
            raise RecipeError(f"Stage {self.name}: there are levels already. Keep one such stage in the recipe.")
        numbers = _Numbers(clips, view)
        dropped_by, reasons, notes = (clips[name].to_pylist() for name in ("dropped_by", "reason", "notes"))
        climbing = [row for row, by in enumerate(dropped_by) if not by]
        levels: list[list[str]] = [[] for _ in dropped_by]
        told, below_px = [], 0
        for level in self.levels:
            laid = []
            for limit in level.limits_above(below_px):
                answer = _lay(limit, climbing, numbers)
                laid.append(answer.told)
                for row, reason in answer.stopped.items():
                    if levels[row]:
                        notes[row] = _and(notes[row], f"not in {level.name}: {reason}")
                    else:
                        dropped_by[row], reasons[row] = self.name, reason
                for row in answer.not_judged:
                    notes[row] = _and(notes[row], f"{answer.told['number']}: not judged in a picture")
                climbing = [row for row in climbing if row not in answer.stopped]
            for row in climbing:
                levels[row].append(level.name)
            below_px = level.short_side_px
            told.append({"name": level.name, "short_side_px": level.short_side_px, "limits": laid})
        with replacing(view.folder / TOLD) as temporary:
            temporary.write_text(json.dumps({"levels": told}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        made = {"dropped_by": dropped_by, "reason": reasons, "notes": notes}
        columns = {name: pa.array(values, CLIPS.field(name).type) for name, values in made.items()}
        columns[LEVEL.name] = pa.array([names[-1] if names else None for names in levels], LEVEL.type)
        columns[LEVELS.name] = pa.array([names or None for names in levels], LEVELS.type)
        return replace_columns(clips, columns)


@dataclass(frozen=True)
class Step:
    """What one limit of a level did, in the order of the limits.

    Args:
        limit: in words, with the number that was found.
        came: clips that it was laid on.
        stopped: those of them that go no higher, with those that have no such number.
        unknown: those that have no such number.
    """

    limit: str
    came: int
    stopped: int
    unknown: int


@dataclass(frozen=True)
class Rung:
    """What became of one level.

    Args:
        name: of it.
        steps: its limits.
        clips: those that are in the set now; a stage after it may have dropped some.
        duration_s: their seconds in all.
    """

    name: str
    steps: tuple[Step, ...]
    clips: int
    duration_s: float


def funnel(clips: pa.Table, folder: Path) -> list[Rung]:
    """Return what became of each level, the lowest first.

    Args:
        clips: of the data set.
        folder: that the stage kept `levels.json` in, ``work/nested`` of a data set.

    Raises:
        MediaError: there is none, or it is damaged.
    """
    path = folder / TOLD
    try:
        told = json.loads(path.read_text(encoding="utf-8"))["levels"]
        steps = {level["name"]: tuple(_step(limit) for limit in level["limits"]) for level in told}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MediaError(f"{path} is missing or damaged. Run the same mutoscope curate again.") from error
    columns = (clips[name].to_pylist() for name in ("dropped_by", LEVELS.name, "start_s", "end_s"))
    rows = [(levels or (), end - start) for by, levels, start, end in zip(*columns, strict=True) if not by]
    found = []
    for name, of_level in steps.items():
        inside = [seconds for levels, seconds in rows if name in levels]
        found.append(Rung(name, of_level, len(inside), sum(inside)))
    return found


def table(rungs: Sequence[Rung]) -> list[list[str]]:
    """Return the funnel for people: level, limit, clips that came to it, clips it stopped, clips in the level, seconds.

    The last two stand in the first line of a level.
    """
    rows = []
    for rung in rungs:
        left = [str(rung.clips), f"{rung.duration_s:.1f}"]
        for number, step in enumerate(rung.steps or (Step("no limit", rung.clips, 0, 0),)):
            stopped = f"{step.stopped}{f' ({step.unknown} without the number)' if step.unknown else ''}"
            start = number == 0
            rows.append(
                [rung.name if start else "", step.limit, str(step.came), stopped, *(left if start else ["", ""])]
            )
    return rows


def _step(told: dict[str, Any]) -> Step:
    unit = f" {told['unit']}" if told["unit"] else ""
    parts = [f"best {100 * told['best']:.3g} % by {told['number']}" if told["best"] else told["number"]]
    for side, words in (("at_least", "at least"), ("at_most", "at most")):
        if told[side] is not None:
            parts.append(f"{words} {told[side]:.5g}{unit}")
    return Step(", ".join(parts), told["came"], told["stopped"], told["unknown"])


# ---- one limit -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Answer:
    """What a limit did: reasons by the rows that it stopped, rows that it does not speak of, and a line of the file."""

    stopped: dict[int, str]
    not_judged: list[int]
    told: dict[str, Any]


def _lay(limit: Threshold | Best, rows: Sequence[int], numbers: "_Numbers") -> _Answer:
    """Lay a limit on some clips."""
    name = numbers.name(limit)
    not_judged = [row for row in rows if not limit.images and numbers.is_picture(row)]
    left_out = set(not_judged)
    values = {row: numbers.value(name, row) for row in rows if row not in left_out}
    known = {row: value for row, value in values.items() if value is not None}
    laid = limit.found(list(known.values())) if isinstance(limit, Best) else replace(limit, name=name)
    stopped = {row: f"{name} is not known" if row not in known else laid.refusal(known[row]) for row in values}
    stopped = {row: reason for row, reason in stopped.items() if reason}
    told = {
        "number": name,
        "unit": limit.unit,
        "best": limit.share if isinstance(limit, Best) else None,
        "at_least": laid.at_least,
        "at_most": laid.at_most,
        "came": len(rows),
        "stopped": len(stopped),
        "unknown": len(values) - len(known),
    }
    return _Answer(stopped, not_judged, told)


class _Numbers:
    """The numbers of clips, by their row: columns of the table, and facts."""

    def __init__(self, clips: pa.Table, view: SetView) -> None:
        self._clips, self._view = clips, view
        self._ids = clips["id"].to_pylist()
        self._places = clips.select(["start", "end", "start_s", "end_s"]).to_pylist()
        self._columns: dict[str, list[Any]] = {}

    def name(self, limit: Threshold | Best) -> str:
        """Return what the number of a limit is called in the table."""
        kinds = {field.name: field.type for field in self._clips.schema if field.name not in CLIPS.names}
        usable = [name for name, kind in kinds.items() if pa.types.is_floating(kind) or pa.types.is_integer(kind)]
        names = [limit.column] if isinstance(limit, Best) else [limit.score, limit.column]
        for name in names:
            if name in usable or name in FACTS:
                return name
        raise RecipeError(
            f"No clip has a number {names[0]!r} to put a level's limit on. Let a stage measure it, such as "
            f"Thresholds((Threshold({limit.column!r}),)), or choose from {', '.join(dict.fromkeys([*FACTS, *usable]))}."
        )

    def value(self, name: str, row: int) -> float | None:
        """Return a number of a clip, None where it is not known."""
        if name in FACTS:
            return fact(name, self._places[row], self._view.source(self._ids[row]))
        if name not in self._columns:
            self._columns[name] = self._clips[name].to_pylist()
        value = self._columns[name][row]
        return None if value is None or not math.isfinite(value) else float(value)

    def is_picture(self, row: int) -> bool:
        """Say whether a clip is a picture."""
        return self._view.source(self._ids[row]).kind == "image"


def _and(notes: str, more: str) -> str:
    """Add to notes what they do not say yet."""
    return notes if more in notes.split("; ") else noted(notes, more)
