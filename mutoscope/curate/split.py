"""Split: find the cuts, fades, dissolves and wipes of a video in its table of signals, and the shots between them.

    table ── transitions ──> [Transition] ── spans ──> [Span]: shots with trimmed ends, not too short nor too long

No pixels are read. A frame is a *place* (see `track`). A shot wanders about, and a transition is a way from one shot's
place to another's:

* a cut jumps, and does not come back (see `cuts`);
* a dissolve goes straight and steadily, all cells together, and its sharpness sags in the middle;
* a fade does the same, to a flat frame and from it;
* a wipe goes cell by cell: each one jumps, at its own moment.

Slow ways are invisible from frame to frame, so distances are taken at several frame rates (the cascade of Stable Video
Diffusion, Blattmann et al. 2023, appendix C), from 4 frames a second down to one in 2 seconds.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float

from mutoscope.core.errors import RequestError
from mutoscope.curate import cuts
from mutoscope.curate.cuts import BLACK, QUIET_LEVELS
from mutoscope.curate.track import LUMA_CELLS, Places, Series, Stretch, Track, distance

Kind = Literal["cut", "fade", "dissolve", "wipe"]

VERSION = 3
NEARLY_BLACK, WHITE, NEARLY_WHITE = 28, 231, 222  # levels of cells; black is 16, white 235
SHORTEST_WIPE_S = 0.25
WIPE_S = 2.5  # the longest wipe to either side of its middle, in seconds
SLOPE_S = 4.0  # the longest half of a fade, in seconds
RAMP_FRAMES = 512  # of a way whose ends are looked for, as all pairs of them are tried; of a longer one every so many


@dataclass(frozen=True)
class Transition:
    """Frames [start, end) that belong to no shot.

    A cut has none, and `start` is the first frame of the new shot; but where it goes through one to four blank,
    foreign or blended frames, it covers them.

    `score` is how clearly the transition stands out: 1 is just enough.
    """

    kind: Kind
    start: int
    end: int
    score: float


@dataclass(frozen=True)
class Span:
    """Frames [start, end) of one shot; `reason_for_drop` says why it is of no use, and is empty where it is."""

    start: int
    end: int
    reason_for_drop: str = ""


@dataclass(frozen=True)
class SplitSettings:
    """What counts as a transition, and what as a shot.

    Args:
        cut_change: `content` of a cut in a quiet video; what changes less than 0.4 of it is not looked at.
        cut_score: how clearly a jump must lead to another shot; see `cuts`.
        flash_s: seconds within which a flash or a glitch is over.
        rates: frames a second of the cascade for slow transitions.
        gradual_change: levels by which the places of two shots differ, mean over cells.
        straightness: of the way of a slow transition: distance over length.
        min_shot_s: shorter shots are dropped.
        max_shot_s: longer shots are cut into equal parts.
        trim_s: seconds cut off a shot at either end that is a transition, where blends and encoders leave traces.
    """

    cut_change: float = 0.03
    cut_score: float = 1.0
    flash_s: float = 0.35
    rates: tuple[float, ...] = (4.0, 2.4, 1.5, 1.0, 0.67, 0.45)
    gradual_change: float = 7.0
    straightness: float = 0.5
    min_shot_s: float = 1.0
    max_shot_s: float = 20.0
    trim_s: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.min_shot_s <= self.max_shot_s or self.max_shot_s == 0:
            raise RequestError(
                f"min_shot_s={self.min_shot_s:g} and max_shot_s={self.max_shot_s:g} leave no shot. "
                "Give a minimum that is not above the maximum."
            )


def transitions(table: pa.Table, settings: SplitSettings = SplitSettings()) -> list[Transition]:
    """Find all transitions in a video.

    Args:
        table: of `signals.measure`, every frame of one video.
        settings: thresholds.

    Returns:
        Transitions in order, none overlapping; a fade may begin at the first frame or end with the last.
    """
    if table.num_rows < 3:
        return []
    track = Track.of(table)
    jumps, flashes = cuts.find(track, settings.cut_change, settings.cut_score, settings.flash_s)
    track = track.without(flashes)
    marks = sorted({at for jump in jumps for at in jump[:2]})
    found = _fades(track, marks, settings)
    taken = sorted([*(jump[:2] for jump in jumps), *((fade.start, fade.end) for fade in found)])
    for (_, start), (end, _) in pairwise([(0, 0), *taken, (track.length, track.length)]):
        found += [_named(way, settings) for way in _ways(track, start, end, settings) if not _is_bridge(way, flashes)]
    # an effect may begin or end with a jump, which then is a part of it
    effects = cuts.inside(track.length, [(each.start - 1, each.end + 1) for each in found])
    found += [Transition("cut", *jump) for jump in jumps if not effects[jump[0] : jump[1] + 1].any()]
    return sorted(found, key=lambda each: each.start)


def spans(table: pa.Table, settings: SplitSettings = SplitSettings()) -> list[Span]:
    """Return the shots of a video with trimmed ends; those that are too short carry a reason, too long ones are cut up.

    Args:
        table: of `signals.measure`.
        settings: see `SplitSettings`.
    """
    time = table["time_s"].to_numpy()
    if len(time) == 1:
        return [Span(0, 1)]
    return spans_between(transitions(table, settings), time, settings)


def spans_between(
    found: list[Transition], time_s: Float[np.ndarray, " n"], settings: SplitSettings = SplitSettings()
) -> list[Span]:
    """Return the shots that given transitions leave; see `spans`.

    Args:
        found: transitions in order.
        time_s: of each frame, in seconds.
        settings: see `SplitSettings`.
    """
    count = len(time_s)
    frame_s = float(np.median(np.diff(time_s))) if count > 1 else 1.0
    stamps = np.append(time_s, time_s[-1] + frame_s)
    starts = [0, *(each.end for each in found)]
    ends = [*(each.start for each in found), count]
    result: list[Span] = []
    for start, end in zip(starts, ends, strict=True):
        if end <= start:
            continue
        first = start if start == 0 else int(np.searchsorted(stamps, stamps[start] + settings.trim_s - 1e-6))
        last = end if end == count else int(np.searchsorted(stamps, stamps[end] - settings.trim_s + 1e-6, "right")) - 1
        length_s = float(stamps[last] - stamps[first]) if last > first else 0.0
        if length_s < settings.min_shot_s - 1e-6:
            reason = f"shorter than {settings.min_shot_s:g} s: {length_s:.2f} s"
            result.append(Span(start, end, reason))
            continue
        # no more parts than frames: a stamp may be days after the one before, and a part without a frame is none
        parts = min(int(np.ceil(length_s / settings.max_shot_s - 1e-6)), last - first)
        inner = np.searchsorted(stamps, stamps[first] + length_s * np.arange(1, parts) / parts - 1e-6)
        result += [Span(a, b) for a, b in pairwise(np.unique([first, *inner, last]).tolist())]
    return result


# ---- slow ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Way:
    """A way from the place of frame `start` to that of frame `end`, neither of which is blended.

    change: levels between the two places. straightness: distance over length of the way. outside: change per frame
    beside it over that within. bend: mean distance from a straight and steady way, over the change: of a dissolve next
    to nothing. burst: share of a cell's change that falls in one third of the time: of a wipe nearly all. turned:
    share of the bits of phash that differ. sag: sharpness in the middle over that of the ends.
    """

    start: int
    end: int
    change: float
    straightness: float
    outside: float
    bend: float
    burst: float
    turned: float
    sag: float


def _ways(track: Track, start: int, end: int, settings: SplitSettings) -> list[_Way]:
    """Find dissolves and wipes between frames [start, end), which hold no cut or fade."""
    places = track.places[start:end]
    if len(places) < 4:
        return []
    steps = np.concatenate([[0.0], distance(places[1:], places[:-1])])
    lengths = np.cumsum(steps)
    taken = np.zeros(len(places), bool)  # the steps from frame to frame that belong to a way found
    found: list[_Way] = []
    for change, at, lag in _candidates(track, places, settings):
        if change < settings.straightness / 2 * (lengths[at + lag] - lengths[at]):
            continue
        if taken[at : at + lag].any():
            continue
        a, b = _fitted(places, at, at + lag)
        way = _way(track, places, steps, start, a, b)
        if not _is_dissolve(way, settings):
            way = _way(track, places, steps, start, *_settled(steps, a, b, track.frames(WIPE_S)))
        own = slice(way.start - start, way.end - start)
        if not taken[own].any() and (_is_dissolve(way, settings) or _is_wipe(way, settings, track.fps)):
            found.append(way)
            taken[own] = True
    return sorted(found, key=lambda each: each.start)


def _is_bridge(way: _Way, flashes: list[Stretch]) -> bool:
    """Say whether a way goes mostly over frames that were bridged, which is straight and steady by itself."""
    return 2 * sum(max(0, min(end, way.end) - max(start, way.start)) for start, end in flashes) >= way.end - way.start


def _named(way: _Way, settings: SplitSettings) -> Transition:
    kind = "dissolve" if _is_dissolve(way, settings) else "wipe"
    return Transition(kind, way.start + 1, way.end, way.change / settings.gradual_change)


def _is_dissolve(way: _Way, settings: SplitSettings) -> bool:
    """Say whether all cells go together, and to another picture: light that changes leaves the hash as it is."""
    is_steady = way.bend < (0.2 if way.sag < 0.75 else 0.14) and way.outside < (1.5 if way.sag < 0.65 else 0.6)
    is_other = way.turned >= 0.25 and (way.change >= 2 * settings.gradual_change or way.sag < 0.75)
    return _is_clear(way, settings) and is_steady and is_other


def _is_wipe(way: _Way, settings: SplitSettings, fps: float) -> bool:
    """Say whether each cell jumps at its own moment, from one picture to another."""
    is_jumping = way.burst >= 0.75 and way.bend >= 0.2 and way.end - way.start >= SHORTEST_WIPE_S * fps
    is_other = way.turned >= 0.25 and way.change >= 1.5 * settings.gradual_change
    # where the pictures differ much, more may move beside and within the wipe
    outside, straightness = (0.75, 0.4) if way.change >= 3.5 * settings.gradual_change else (0.45, 0.6)
    return is_jumping and is_other and way.outside < outside and way.straightness >= straightness


def _is_clear(way: _Way, settings: SplitSettings) -> bool:
    is_long = way.end - way.start >= 4
    return is_long and way.change >= settings.gradual_change and way.straightness >= settings.straightness


def _candidates(track: Track, places: Places, settings: SplitSettings) -> list[tuple[float, int, int]]:
    """Return where the change over some lag is above that just before and after: change, frame, lag; best first."""
    count, result = len(places), []
    for rate in settings.rates:
        lag = min(track.frames(1 / rate), count - 1)
        change = distance(places[lag:], places[:-lag])  # from frame t to frame t + lag
        before = distance(places[: len(change)], places[np.maximum(np.arange(len(change)) - lag, 0)])
        after = distance(places[lag:], places[np.minimum(np.arange(len(change)) + 2 * lag, count - 1)])
        excess = change - np.maximum(before, after)
        reach = max(1, lag // 3)
        padded = np.pad(excess, reach, constant_values=-np.inf)
        peak = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1).max(axis=1)
        for at in np.flatnonzero((excess == peak) & (excess > settings.gradual_change / 2)):
            result.append((float(excess[at]) / (1 + 0.02 * lag), float(change[at]), int(at), lag))
        if lag == count - 1:
            break
    return [(change, at, lag) for _, change, at, lag in sorted(result, reverse=True)]


def _fitted(places: Places, a: int, b: int, low: int = 0, high: int | None = None) -> tuple[int, int]:
    """Return the frames between which the way goes steadily, found from a guess of them.

    Args:
        places: of the frames.
        a: guess of the first.
        b: guess of the last.
        low: the first frame that may be looked at.
        high: one past the last, the end when not given.
    """
    high = len(places) if high is None else high
    for _ in range(6):
        margin = max(6, b - a)
        begin, stop = max(low, a - margin), min(high, b + margin + 1)
        progress = places[begin:stop] @ (places[b] - places[a])
        first, last = _ramp(progress.astype(np.float64))
        if (begin + first, begin + last) == (a, b):
            break
        a, b = begin + first, begin + last
    return a, b


def _ramp(progress: Series) -> tuple[int, int]:
    """Return where the ramp between two levels that fits best begins and ends, by least squares over all pairs."""
    every = -(-len(progress) // RAMP_FRAMES)
    progress = progress[::every] - progress[::every].mean()
    count = len(progress)
    a, b = np.triu_indices(count, k=1)
    length = b - a
    sums = np.concatenate([[0.0], np.cumsum(progress)])
    moments = np.concatenate([[0.0], np.cumsum(progress * np.arange(count))])
    # the ramp is 0 up to a, (t - a) / length up to b, and 1 from b on; progress has mean 0
    covariance = (moments[b] - moments[a] - a * (sums[b] - sums[a])) / length + sums[count] - sums[b]
    total = (length - 1) / 2 + count - b
    squares = (length - 1) * (2 * length - 1) / (6 * length) + count - b
    explained = np.where(covariance > 0, covariance**2 / np.maximum(squares - total**2 / count, 1e-9), 0)
    best = int(explained.argmax())
    return int(a[best]) * every, int(b[best]) * every


def _settled(steps: Series, a: int, b: int, reach: int) -> tuple[int, int]:
    """Return the frames between which the picture is busier than around them; for wipes, which are not steady.

    Args:
        steps: changes from frame to frame.
        a: guess of the first frame.
        b: guess of the last.
        reach: how many frames to either side of the busiest may be taken.
    """
    for share in (0.25, 0.5):  # the first guess may lie within the wipe, or far beyond it
        busiest = a + 1 + int(np.argmax(steps[a + 1 : b + 1]))
        margin = max(12, b - a)
        ends = []
        for side, around in ((-1, steps[max(1, a - margin) : a + 1]), (1, steps[b + 1 : b + 1 + margin])):
            quiet = float(np.quantile(around, share)) if len(around) else 0.0
            limit = quiet + max(QUIET_LEVELS, quiet / 2, 0.06 * (float(steps[busiest]) - quiet))
            line = steps[busiest : busiest + reach] if side > 0 else steps[max(1, busiest - reach) : busiest + 1][::-1]
            calm = np.flatnonzero(line <= limit)
            ends.append(side * (max(0, int(calm[0]) - 1) if len(calm) else len(line) - 1))
        a, b = busiest + ends[0] - 1, busiest + ends[1]
    return a, b


def _way(track: Track, places: Places, steps: Series, offset: int, a: int, b: int) -> _Way:
    """Describe the way between two frames of `places`, which begin at frame `offset`."""
    whole, span = places[b] - places[a], b - a
    change = float(np.abs(whole).mean())
    beside = np.concatenate([steps[max(1, a - span) : a + 1], steps[b + 1 : b + 1 + span]])
    outside = float(beside.mean()) / max(change / span, 1e-6) if len(beside) else 0.0
    ideal = np.arange(1, span)[:, None] / span
    strays = np.abs(places[a + 1 : b] - places[a] - ideal * whole)
    bend = float(strays.mean()) / max(change, 1e-6) if span > 1 else 0.0
    large = np.abs(whole) >= max(4.0, float(np.abs(whole).max()) / 4)
    moves = np.abs(np.diff(places[a : b + 1][:, large], axis=0))
    sums = np.concatenate([np.zeros((1, moves.shape[1])), np.cumsum(moves, axis=0)])
    third = -(-span // 3)
    burst = (
        float(((sums[third:] - sums[:-third]).max(axis=0) / np.maximum(sums[-1], 1e-6)).mean()) if large.any() else 0
    )
    sharp = track.sharpness[offset + a : offset + b + 1]
    middle = float(sharp[span // 3 : span - span // 3 + 1].mean())
    sag = middle / max(float(sharp[0] + sharp[-1]) / 2, 1e-6)
    turned = int(track.phash[offset + a] ^ track.phash[offset + b]).bit_count() / 64
    straightness = change / max(float(steps[a + 1 : b + 1].sum()), 1e-6)
    return _Way(offset + a, offset + b, change, straightness, outside, bend, burst, turned, sag)


# ---- through black or white ------------------------------------------------------------------------------------------


def _fades(track: Track, marks: list[int], settings: SplitSettings) -> list[Transition]:
    """Find fades: stretches of blank frames with a steady way to them, from them, or both."""
    blank = np.concatenate([[False], _is_blank(track.places), [False]])
    starts, ends = np.flatnonzero(blank[1:] & ~blank[:-1]), np.flatnonzero(~blank[1:] & blank[:-1])
    found: list[Transition] = []
    for begin, stop in zip(starts.tolist(), ends.tolist(), strict=True):
        if found and begin < found[-1].end:
            continue
        below, above = bisect_right(marks, begin), bisect_left(marks, stop)
        low = max([found[-1].end if found else 0, *marks[max(below - 1, 0) : below]])
        high = min([track.length, *marks[above : above + 1]])
        light = track.luma_mean[begin:stop]
        depth = begin + int(np.argmin(np.minimum(np.abs(light), np.abs(1 - light))))
        first = _slope(track, depth, low, settings) if depth > low else None
        last = _slope(track, depth, high, settings) if depth < high - 1 else None
        if first is None and last is None:
            continue
        # without a way on one side, the blank frames begin or end with a jump or with the file
        start = begin if first is None else first + 1
        end = stop if last is None else last
        found.append(Transition("fade", start, end, 1.0 + (first is not None) + (last is not None)))
    return found


def _is_blank(places: Places) -> Bool[np.ndarray, " n"]:
    """Say which frames are black or white but for a logo, a line of text or a border."""
    luma = places[:, :LUMA_CELLS]
    is_black = ((luma < NEARLY_BLACK).mean(axis=1) >= 0.8) & ((luma < BLACK).mean(axis=1) >= 0.5)
    is_white = ((luma > NEARLY_WHITE).mean(axis=1) >= 0.8) & ((luma > WHITE).mean(axis=1) >= 0.5)
    return is_black | is_white


def _slope(track: Track, depth: int, limit: int, settings: SplitSettings) -> int | None:
    """Return the frame at which the steady way between a blank frame and a picture, up to `limit`, meets the picture.

    Args:
        track: the video.
        depth: the blank frame.
        limit: the first frame that may be looked at, if before `depth`, else one past the last.
        settings: thresholds.
    """
    reach = track.frames(SLOPE_S)
    if limit <= depth:  # the same in a mirror
        places = track.places[max(limit, depth - reach) : depth + 1][::-1]
    else:
        places = track.places[depth : min(limit, depth + reach)]
    if len(places) < 4:
        return None
    away = np.abs(places[:, :LUMA_CELLS] - places[0, :LUMA_CELLS]).mean(axis=1)
    seen = np.flatnonzero(away > settings.gradual_change)
    if not len(seen):
        return None
    a, b = _fitted(places, max(0, int(seen[0]) - 1), min(len(places) - 1, int(seen[0]) + 4))
    whole = places[b] - places[a]
    ideal = np.arange(b - a + 1)[:, None] / (b - a)
    bend = float(np.abs(places[a : b + 1] - places[a] - ideal * whole).mean()) / max(float(np.abs(whole).mean()), 1e-6)
    is_steady = b - a >= 3 and bend < 0.15 and float(np.abs(whole).mean()) >= settings.gradual_change
    if not is_steady:
        return None
    return depth - b if limit <= depth else depth + b
