"""Cuts: which of the jumps in a video lead to another shot, and which are flashes, light, motion or text.

    jumps ──┬── come back soon ──────────────> flashes, bridged ─┐
            ├── a few odd frames between two ──> before and after ├── score ──> cuts
            └── others ──────────────────────> before and after ─┘

The score weighs how much larger a jump is than the steps beside it, how much hash, histogram and edges changed, how
alike the pictures are whatever their light, and how much of a flat ground stays, as behind text. The weights are those
of a logistic regression on footage of fast cutting; `docs/concepts/cuts.md` says which, and what it came to.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float

from mutoscope.curate.track import LUMA_CELLS, Place, Series, Stretch, Track, distance, likeness

BLACK = 19  # level of a cell; black is 16
QUIET_LEVELS = 0.3  # change from frame to frame that noise alone makes
JUMP_SHARE, JUMP_USUAL = 0.4, 1.3  # of `cut_change`, and times the usual change: from there on a change is looked at
ODD_FRAMES = 4  # blank or foreign frames that one cut may go through
ODD_EDGE = 0.5  # change of edges through odd frames, which is not known
FLASH_LEVELS = 4.0  # by which a picture may differ after a flash, whatever it looks like
LIGHT_LEFT, LIGHT_TURNED, LIGHT_LIKE = 0.4, 0.25, 0.55  # of a change of light: what gain and offset leave, hash, cells
STAYS_LEVELS, STAYS_SHARE = 0.9, 0.2  # of cells behind text; their levels are whole numbers
FLAT_SHARE, FLAT_STEP = 0.2, 1.5  # of the pixels at one level in both pictures; logarithm of a jump that text makes
# log of the jump over the steps beside it; sum of hash, histogram and edges; likeness; ground that stays; flat ground
WEIGHTS, BIAS = np.array([3.35, 1.12, -4.47, -17.49, -11.14]), -3.82
SCALE = 5.0  # of the logit, to a score of which 1 is just enough


def find(
    track: Track, cut_change: float, cut_score: float, flash_s: float
) -> tuple[list[tuple[int, int, float]], list[Stretch]]:
    """Find cuts and flashes.

    Args:
        track: of a video.
        cut_change: `content` of a cut in a quiet video.
        cut_score: from which a jump is a cut.
        flash_s: seconds within which a flash or a glitch is over; light that fades may take twice as long.

    Returns:
        Cuts (start, end, score), where [start, end) are the odd frames within, for most none; and flashes [start, end),
        which may be bridged.
    """
    flashes, odd, single = candidates(track, cut_change, flash_s)
    calm = track.without(flashes)  # the jumps of a flash are not to hide a cut beside it
    between = [stretch for stretch in odd if score(calm, *stretch) < cut_score]
    calm = calm.without(between)
    scored = [(start, end, score(calm, start, end)) for start, end in sorted({*odd, *single} - set(between))]
    return [cut for cut in scored if cut[2] >= cut_score], sorted([*flashes, *between])


def candidates(track: Track, cut_change: float, flash_s: float) -> tuple[list[Stretch], list[Stretch], list[Stretch]]:
    """Return flashes; a few odd frames each that may lie in a cut; and jumps that stand alone, as [frame, frame).

    Arguments are those of `find`.
    """
    usual = _usual(track.content)
    jumps = np.flatnonzero(track.content >= JUMP_SHARE * cut_change + JUMP_USUAL * usual)
    jumps = [frame for frame in jumps.tolist() if frame]
    ends = ((start, _return(track, start, track.frames(flash_s))) for start in jumps)
    back = {(start, end) for start, end in ends if end is not None}
    known = set(jumps)
    pairs = ((start, start + length) for start in jumps for length in range(1, ODD_FRAMES + 1))
    odd = {pair for pair in pairs if pair[1] in known and pair not in back and _stands_alone(track, *pair)}

    def order(stretch: Stretch) -> tuple[bool, bool, int, int]:
        """Light before the dark between two lights, what comes back before what goes on, short before long."""
        start, end = stretch
        is_dark = bool(track.luma_mean[start:end].mean() <= track.luma_mean[start - 1])
        return is_dark, stretch in odd, end - start, start

    taken = np.zeros(track.length + 1, bool)
    chosen: list[Stretch] = []
    for start, end in sorted(back | odd, key=order):
        if not taken[start : end + 1].any():
            taken[start : end + 1] = True
            chosen.append((start, end))
    flashes, pulses = ([one for one in sorted(chosen) if one in kind] for kind in (back, odd))
    return flashes, pulses, [(frame, frame) for frame in jumps if not taken[frame]]


def score(track: Track, start: int, end: int) -> float:
    """Return how clearly frames start - 1 and end show two shots, what lies between left aside; 1 is just enough."""
    before, after = track.places[start - 1], track.places[end]
    if _is_light(before, after, track.turned(start - 1, end)):
        return 0.0
    return max(0.0, 1 + float(WEIGHTS @ terms(track, start, end) + BIAS) / SCALE)


def terms(track: Track, start: int, end: int) -> Float[np.ndarray, " terms"]:
    """Return what speaks for a cut or against it, in the order of `WEIGHTS`."""
    before, after = track.places[start - 1], track.places[end]
    step = float(np.abs(after - before).mean()) + QUIET_LEVELS
    near = _steps(track, (start - 1, end + 1))
    # a cut may be smeared over two frames, so of the steps next to it the smaller one counts
    beside = sorted([0.0, 0.0, *_steps(track, (start - 3, start - 2, end + 2, end + 3)), min(near, default=0.0)])
    peaks = [np.log(min(20.0, step / (each + QUIET_LEVELS))) for each in beside[-2:]]
    wide = max(start - 2, 0), min(end + 1, track.length - 1)
    likes = [likeness(track.places[a], track.places[b : b + 1])[0] for a, b in ((start - 1, end), wide)]
    one, other = track.shares[start - 1], track.shares[end]
    light, edge = float(track.histogram_distance[end]), min(float(track.edge[end]), 1.0)
    if start < end:  # those columns compare with an odd frame
        light, edge = float(np.sqrt(max(0.0, 1 - np.sqrt(one * other).sum()))), ODD_EDGE
    flat = float(np.minimum(one, other).max())
    return np.array(
        [
            np.mean(peaks),
            track.turned(start - 1, end) + light + edge,
            max(0.0, float(np.mean(likes))),
            max(0.0, _ground(before, after) - STAYS_SHARE),
            max(0.0, flat - FLAT_SHARE) * float(np.clip(np.log(step) - FLAT_STEP, 0, 2)),
        ]
    )


def inside(length: int, stretches: Iterable[Stretch]) -> Bool[np.ndarray, " n"]:
    """Say of each frame whether it is in one of some stretches, both ends included."""
    found = np.zeros(length, bool)
    for start, end in stretches:
        found[max(start, 0) : end + 1] = True
    return found


def _steps(track: Track, frames: Iterable[int]) -> list[float]:
    return [float(track.steps[frame]) for frame in frames if 0 < frame < track.length]


def _stands_alone(track: Track, start: int, end: int) -> bool:
    """Say whether a few frames lie between two jumps; where a camera is thrown round, each frame is a jump."""
    others = _steps(track, (start - 1, *range(start + 1, end), end + 1))
    return max(others, default=0.0) < min(_steps(track, (start, end)), default=0.0) / 2


def _is_light(before: Place, after: Place, turned: float) -> bool:
    """Say whether two places are one picture in two lights: the best gain and offset leave little of the change.

    Args:
        before: one place.
        after: the other one.
        turned: share of the bits of the hash that differ; where light is clipped, they may be many.
    """
    one, other = before[:LUMA_CELLS], after[:LUMA_CELLS]
    like = float(likeness(before, after[None])[0])
    if one.std() < 1e-3 or like < LIGHT_LIKE:
        return False
    gain, offset = np.polyfit(one, other, 1)
    left = float(np.abs(other - gain * one - offset).sum()) / max(float(np.abs(other - one).sum()), 1e-6)
    is_clipped = like >= 0.8 and left < 0.15 and gain >= 0.2
    return bool(left < LIGHT_LEFT and (turned <= LIGHT_TURNED or is_clipped))


def _ground(before: Place, after: Place) -> float:
    """Return the share of the picture that stays to the level, as behind text that jumps; black bars do not count."""
    stays = np.abs(after - before)[:LUMA_CELLS].reshape(8, 8) < STAYS_LEVELS
    is_bar = stays & (after[:LUMA_CELLS].reshape(8, 8) < BLACK)
    within = stays[~is_bar.all(axis=1)][:, ~is_bar.all(axis=0)]
    return float(within.mean()) if within.size else 0.0


def _usual(content: Series, reach: int = 8) -> Series:
    """Return the median change of the frames around each, without itself."""
    padded = np.pad(content[1:].astype(np.float64), (reach + 1, reach), constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    around = np.delete(windows, reach, axis=1)
    valid = ~np.isnan(around).all(axis=1)
    usual = np.zeros(len(content))
    usual[valid] = np.nanmedian(around[valid], axis=1)
    return usual


def _return(track: Track, start: int, reach: int) -> int | None:
    """Return the frame at which the picture is back after a jump at `start`, or None.

    Args:
        track: of the video.
        start: the first frame that is another.
        reach: frames after which a flash is over; light that fades, nearer with each frame, may take twice as many.
    """
    before = track.places[start - 1]
    after = track.places[start : start + 2 * reach + 1]
    if len(after) < 2:
        return None
    away = distance(after, before[None])
    # by how much the shot itself moves meanwhile is not known; a part of the furthest jump is generous
    furthest = np.maximum.accumulate(away)[:-1]
    share = away[1:] / np.maximum(furthest, 1e-6)
    turned = np.bitwise_count(track.phash[start + 1 : start + 2 * reach + 1] ^ track.phash[start - 1]) / 64
    like = likeness(before, after[1:])
    # beside a white frame any two pictures are near each other, so near alone is not back
    is_near = (share < 0.15) & ((like > 0.75) | (away[1:] < FLASH_LEVELS))
    is_alike = (share < 0.4) & ((turned < 0.3) | (like > 0.85))
    is_lit = (like > 0.93) & (turned < 0.3) & (away[0] > FLASH_LEVELS)  # another light came with the flash
    number = np.arange(len(share))
    is_brighter = track.luma_mean[start : start + len(share)] > track.luma_mean[start - 1] + 0.05
    fades = np.maximum.accumulate(np.diff(away)) <= -0.02 * away[0]
    is_brief = (number < ODD_FRAMES) | (is_brighter & (number < reach)) | fades  # other pictures that stay are shots
    earlier = float(np.median([0.0, 0.0, *track.steps[max(start - 3, 1) : start]][-3:]))
    is_clear = (away[0] >= 2 * earlier) | ((share < 0.2) & (like > 0.7))
    back = np.flatnonzero((is_near | is_alike | is_lit) & is_brief & is_clear & (away[0] >= 0.4 * furthest))
    if not len(back):
        return None
    end = int(back[0]) + 1
    if end > 3 and np.median(track.steps[start + 1 : start + end]) > 0.65 * furthest[end - 1]:
        return None  # a camera thrown round
    while end < len(share) and share[end - 1] > 0.1 and share[end] < 0.9 * share[end - 1]:  # still on the way back
        end += 1
    return start + end
