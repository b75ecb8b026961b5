"""Say what a world clip shows, from its pixels alone, and whether that is what was asked for.

The oracle knows the world's laws (colours, shapes, motions, tones, camera moves) but not the scene: it sees frames.
Every answer may be "none of these" (None), with a reason in `Reading.notes`. Nothing in it is learned.

    frames --chroma--> mask --connected pieces--> blobs --nearest, backwards in time--> tracks = count
       |                                            |-- colour, outline sharpness, area = size, templates = shape, angle
       |-- pixels away from things --> background and tone, constancy in time, camera (warp against the first frame)
    tracks - camera = paths in the world --> motion and speed

All lengths are in the world's units (the frame is two units high), so any size and frame count is measured alike; only
noise, outline sharpness and specks are counted in pixels. docs/concepts/oracle.md gives the reasons for the limits.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from mutoscope.core.errors import RequestError
from mutoscope.worlds.backdrop import Camera, line, read_background, read_camera, read_stillness
from mutoscope.worlds.blobs import (
    CLEAN_CHROMA,
    GAP,
    PERIOD,
    TEMPLATE_RADII,
    TEMPLATE_SIGMAS,
    THING_CHROMA,
    Blob,
    Match,
    chroma_of,
    find_blobs,
    grown,
    match_shapes,
    templates,
)
from mutoscope.worlds.render import COLOUR_RGB
from mutoscope.worlds.scene import (
    BOUNCE_HEIGHT,
    BOUNCE_HOPS,
    DRIFT_DISTANCE,
    DRIFTS,
    GROW_FACTOR,
    ORBIT_RADIUS,
    ORBIT_TURNS,
    RADIUS,
    SHRINK_FACTOR,
    SPIN_ANGLE,
    Scene,
    unscored,
)

MIN_FRAMES = 8  # fewer cannot tell a fast bounce from a slow one
MIN_SIDE = 32  # pixels; on fewer no small shape can be recognised
MAX_THINGS = 5  # more are a broken picture

# Colour, in levels of 255.
COLOUR_LIMIT = 42.0  # to the nearest palette colour: half of the way from orange to yellow, the closest two
SHADING = (0.75, 1.15)  # of a palette colour that light and shade may make of it
RECOLOUR_LIMIT = 38.0  # by which one frame may leave the track's median colour
STRAY_SHARE = 0.2  # of the frames may look nearer to another colour; a thing recoloured midway has half
FLICKER_LIMIT = 0.18  # log of the thing's chroma from frame to frame
SOLID = 0.85  # of its full opacity: from here on a thing that fades in shows its colour and shape

# Shape and size.
EDGE_SLOPE = 0.22  # cover per pixel across outlines: 0.35 to 0.6 as drawn, 0.32 after mild damage, 0.19 after sigma 2
CLEAR_RADIUS = 2.9  # pixels: below, a shape cannot be recognised in one frame
SHAPE_LIKENESS = 0.93  # soft Dice with the best template: 0.97 or more as drawn; circle and square share 0.955
SHAPE_MARGIN = 0.006  # to the second best: 0.014 or more as drawn, 0.002 where a blur merges two shapes
SIZE_LIMIT = 0.185  # log radius off the nominal: half way between two sizes

# Motion. Lengths in units, extents over the whole clip.
SPEED_LIMIT = 9.0  # the fastest bounce seen by a camera that zooms in has 8.1; what is farther off is another thing
WOBBLE = 0.05  # RMS off the ideal path: 1.6 pixels of 64
SCALE_WOBBLE = 0.07  # log radius RMS off steady growth: what growth that stops midway leaves
CONSTANT_SCALE = 0.16  # log radius that still counts as no growth: a third of what grows or shrinks
CONSTANT_TURN = math.radians(38)  # that still counts as no spin: four tenths of a slow one
AXIS_TOLERANCE = math.radians(20)  # between a drift and its direction; 45 would be another direction
RANGE = (0.70, 1.35)  # of the nominal extent, from the slowest to the fastest: drawn 0.94 to 1.06, frozen midway 0.5
HOPS_TOLERANCE = 0.12  # of the number of hops
HEIGHT_RANGE = (0.65, 1.35)  # of the nominal height of a hop
ORBIT_RANGE = (0.65, 1.4)  # of the nominal radius of an orbit
COHERENCE = 0.75  # of a spin's angles with a steady turn
APPEAR_WINDOW = (0.15, 0.53)  # when it is first seen: before half of the frames are over
APPEAR_DONE, APPEAR_FULL = 0.72, 0.85  # when it must be there, and how much of it


@dataclass(frozen=True)
class ThingReading:
    """What was measured of one thing, or what is asked of it; None is "none of these", or "not asked"."""

    colour: str | None
    shape: str | None
    size: str | None
    motion: str | None
    speed: str | None


@dataclass(frozen=True)
class Reading:
    """What a clip shows. The same record, with None for "not asked", says what it should show."""

    things: tuple[ThingReading, ...]
    count: int | None
    background: str | None
    tone: str | None
    camera: str | None
    notes: tuple[str, ...] = ()


Track = dict[int, Blob]  # by frame


@dataclass(frozen=True)
class _Path:
    """A track in the world, the camera undone: N frames in which the thing is seen."""

    times: Float[np.ndarray, " N"]  # 0 to 1 over the clip
    places: Float[np.ndarray, "2 N"]  # units
    log_radii: Float[np.ndarray, " N"]
    turns: Float[np.ndarray, " N"]  # radians, known up to the period
    period: int  # degrees after which the shape repeats, 0 when no turn shows
    shown: Float[np.ndarray, " N"]  # share of the full opacity


def measure(frames: UInt8[np.ndarray, "T H W 3"]) -> Reading:
    """Measure everything that a caption may say about the clip.

    Args:
        frames: RGB, at least 8 frames, at least 32 pixels high and wide.

    Returns:
        The reading; each None in it has its reason in `notes`.

    Raises:
        RequestError: the clip is too short or too small.
    """
    if frames.shape[0] < MIN_FRAMES or min(frames.shape[1:3]) < MIN_SIDE:
        raise RequestError(
            f"a clip of {frames.shape[0]} frames of {frames.shape[2]}x{frames.shape[1]} cannot be measured. "
            f"Give at least {MIN_FRAMES} frames of {MIN_SIDE}x{MIN_SIDE}."
        )
    notes: list[str] = []
    rgb = frames.astype(np.float32)
    chroma = chroma_of(rgb)
    if chroma is None:
        return Reading((), None, None, None, None, ("background: hardly a muted pixel",))
    vivid = chroma > THING_CHROMA
    clear = ~(grown(vivid, GAP) | (chroma > CLEAN_CHROMA))
    light = rgb.mean(axis=-1)
    tracks, stable = _tracks(find_blobs(rgb, chroma, vivid), len(frames), notes)
    background, tone = read_background(rgb, light, clear, notes)
    if background in ("checkered", "textured"):
        camera, constant = read_camera(light, clear, notes)
        if not constant:
            background, tone = None, None
    else:
        camera = read_stillness(light, clear, background, notes)
    things = tuple(_thing(track, camera, frames.shape, notes) for track in tracks)
    return Reading(things, len(tracks) if stable else None, background, tone, camera.name, tuple(notes))


def expected(scene: Scene) -> Reading:
    """Return what a clip of the scene should read; what pixels cannot tell is not asked."""
    skip = unscored(scene)
    things = tuple(
        ThingReading(
            colour=thing.colour,
            shape=thing.shape,
            size=thing.size,
            motion=None if "motion" in skip else thing.motion,
            speed=None if "motion" in skip else thing.speed,
        )
        for thing in scene.things
    )
    camera = None if "camera" in skip else scene.camera
    return Reading(things, len(things), scene.background, scene.tone, camera)


def verdict(reading: Reading, scene: Scene) -> dict[str, bool]:
    """Judge a reading against a scene; see `verdict_for`."""
    return verdict_for(reading, expected(scene))


def verdict_for(reading: Reading, asked: Reading) -> dict[str, bool]:
    """Judge a reading against what was asked.

    Args:
        reading: from `measure`.
        asked: None in a field means not asked. Motion and speed are one attribute, background and tone another.

    Returns:
        For each asked attribute whether it is right for every thing, under the best assignment of things, and ``all``.
    """
    right: dict[str, bool] = {}
    things = [*reading.things, *[None] * (len(asked.things) - len(reading.things))]
    orders = itertools.permutations(things, len(asked.things))
    pairs = max((list(zip(order, asked.things, strict=True)) for order in orders), key=_score)
    for name in ("colour", "shape", "size", "motion"):
        answers = [_agree(seen, wanted, name) for seen, wanted in pairs]
        scored = [answer for answer in answers if answer is not None]
        if scored:
            right[name] = all(scored)
    if asked.background is not None or asked.tone is not None:
        right["background"] = all(
            wanted is None or seen == wanted
            for seen, wanted in ((reading.background, asked.background), (reading.tone, asked.tone))
        )
    if asked.camera is not None:
        right["camera"] = reading.camera == asked.camera
    if asked.count is not None:
        right["count"] = reading.count == asked.count
    return right | {"all": all(right.values())}


def _agree(seen: ThingReading | None, wanted: ThingReading, name: str) -> bool | None:
    """Tell whether one attribute of one thing is right; None when it was not asked."""
    value, speed = getattr(wanted, name), wanted.speed if name == "motion" else None
    if value is None and speed is None:
        return None
    if seen is None:
        return False
    return (value is None or getattr(seen, name) == value) and (speed is None or seen.speed == speed)


def _score(pairs: Sequence[tuple[ThingReading | None, ThingReading]]) -> int:
    return sum(_agree(*pair, name) is True for pair in pairs for name in ("colour", "shape", "size", "motion"))


# Things


def _tracks(blobs: Sequence[Blob], num_frames: int, notes: list[str]) -> tuple[list[Track], bool]:
    """Follow every blob of the last frame back in time; tell also whether the number of things is beyond doubt."""
    by_frame = [[blob for blob in blobs if blob.frame == index] for index in range(num_frames)]
    tracks: list[Track] = [{num_frames - 1: blob} for blob in by_frame[-1]]
    stable = True
    if not 1 <= len(tracks) <= MAX_THINGS:
        notes.append(f"count: {len(tracks)} things in the last frame")
        return [], False
    for index in range(num_frames - 2, -1, -1):
        free = list(by_frame[index])
        links = sorted(
            (
                (math.hypot(blob.x - track[min(track)].x, blob.y - track[min(track)].y), number, place)
                for number, track in enumerate(tracks)
                for place, blob in enumerate(free)
                if min(track) == index + 1
            ),
        )
        used: set[int] = set()
        for length, number, place in links:
            if length <= SPEED_LIMIT / (num_frames - 1) and place not in used and index not in tracks[number]:
                tracks[number][index] = free[place]
                used.add(place)
        if len(used) < len(free) and stable:
            notes.append(f"count: frame {index} shows a thing that is gone later")
            stable = False
    for track in tracks:
        first = min(track) / (num_frames - 1)
        if first > 0 and not APPEAR_WINDOW[0] <= first <= APPEAR_WINDOW[1]:
            notes.append(f"count: a thing is seen only from {first:.2f} of the clip on")
            stable = False
    return tracks, stable


def _thing(track: Track, camera: Camera, shape: tuple[int, ...], notes: list[str]) -> ThingReading:
    """Read one track."""
    num_frames, height, width, _ = shape
    blobs = [track[index] for index in sorted(track)]
    full = float(np.median([blob.level for blob in blobs]))
    shown = np.array([blob.level / full for blob in blobs])
    # What is there from the beginning is read throughout; what fades in, once it is nearly there.
    solid = np.arange(len(blobs)) if 0 in track else np.arange(int(np.argmax(shown >= SOLID)), len(blobs))
    matches = match_shapes(blobs, height, width)
    name = _shape(blobs, matches, solid, height, notes)
    likely = name or max(matches, key=lambda shape: matches[shape].likeness.mean())
    path = _path(blobs, likely, matches[likely], camera, shown, (num_frames, height))
    colour = _colour([blobs[index] for index in solid], notes)
    motion, speed = _motion(path, notes)
    return ThingReading(colour, name, _size(path, notes), motion, speed)


def _path(
    blobs: Sequence[Blob],
    shape: str,
    match: Match,
    camera: Camera,
    shown: Float[np.ndarray, " N"],
    size: tuple[int, int],
) -> _Path:
    """Undo the camera and the softness of the picture."""
    num_frames, height = size
    unit = height / 2
    frames = np.array([blob.frame for blob in blobs])
    zoom, turn = camera.zoom[frames], camera.turn[frames]
    x, y = np.array([[blob.x, blob.y] for blob in blobs]).T
    cos, sin = np.cos(turn), np.sin(turn)
    sigma = TEMPLATE_SIGMAS[round(float(match.softness.mean()))]
    measured = [radius * templates(radius, sigma).swell[shape] for radius in TEMPLATE_RADII]
    true = np.interp(np.log([blob.radius * unit for blob in blobs]), np.log(measured), np.log(TEMPLATE_RADII))
    return _Path(
        times=frames / (num_frames - 1),
        places=np.stack([cos * x + sin * y, cos * y - sin * x]) / zoom + camera.position[:, frames],
        log_radii=true - np.log(unit * zoom),
        turns=match.turns - turn,
        period=PERIOD[shape],
        shown=shown,
    )


def _colour(blobs: Sequence[Blob], notes: list[str]) -> str | None:
    """Name the palette colour that every frame shows."""
    rgb = np.stack([blob.rgb for blob in blobs])
    names, palette = list(COLOUR_RGB), np.array(list(COLOUR_RGB.values()), np.float32)
    gain = (rgb @ palette.T / (palette * palette).sum(axis=1)).clip(*SHADING)[..., None]
    off = np.linalg.norm(rgb[:, None] - gain * palette, axis=-1)  # frame, colour
    typical = np.median(off, axis=0)
    nearest = int(typical.argmin())
    change = float(np.linalg.norm(rgb - np.median(rgb, axis=0), axis=1).max())
    flicker = float(np.abs(np.diff(np.log([blob.level for blob in blobs]))).max(initial=0))
    if typical[nearest] > COLOUR_LIMIT:
        notes.append(f"colour: {typical[nearest]:.0f} levels from {names[nearest]}, the nearest")
    elif change > RECOLOUR_LIMIT or (off.argmin(axis=1) != nearest).mean() > STRAY_SHARE:
        notes.append(f"colour: changes by {change:.0f} levels")
    elif flicker > FLICKER_LIMIT:
        notes.append(f"colour: flickers by {flicker:.2f}")
    else:
        return names[nearest]
    return None


def _size(path: _Path, notes: list[str]) -> str | None:
    """Name the size in the first frames that show the thing, before it grows or the camera zooms."""
    early = np.flatnonzero(path.shown >= 0.35)[:2]
    log_radius = float(path.log_radii[early].mean())
    off = {name: abs(log_radius - math.log(nominal)) for name, nominal in RADIUS.items()}
    nearest = min(off, key=off.__getitem__)
    if off[nearest] <= SIZE_LIMIT:
        return nearest
    notes.append(f"size: a radius of {math.exp(log_radius):.3f} units is none of the sizes")
    return None


# Shape


def _shape(
    blobs: Sequence[Blob], matches: dict[str, Match], solid: Int[np.ndarray, " N"], height: int, notes: list[str]
) -> str | None:
    """Name the shape that every third of the thing's time shows with clean outlines."""
    large = [index for index in solid if blobs[index].radius * height / 2 >= CLEAR_RADIUS]
    if len(large) < 3:
        notes.append("shape: too small to recognise")
        return None
    slope = float(np.median([blobs[index].slope for index in large]))
    if slope < EDGE_SLOPE:
        notes.append(f"shape: outlines are blurred ({slope:.2f} of the cover per pixel)")
        return None
    means = {shape: float(match.likeness[large].mean()) for shape, match in matches.items()}
    first, second = sorted(means, key=means.__getitem__, reverse=True)[:2]
    if means[first] < SHAPE_LIKENESS or means[first] - means[second] < SHAPE_MARGIN:
        notes.append(f"shape: like a {first} by {means[first]:.3f}, a {second} by {means[second]:.3f}")
        return None
    for part in np.array_split(large, 3):
        now = {shape: float(match.likeness[part].mean()) for shape, match in matches.items()}
        other = max(now, key=now.__getitem__)
        if now[first] < SHAPE_LIKENESS or now[other] - now[first] > SHAPE_MARGIN / 2:
            notes.append(f"shape: a {first}, but like a {other} for a third of the time")
            return None
    return first


# Motion


def _motion(path: _Path, notes: list[str]) -> tuple[str | None, str | None]:
    """Name the motion, and its speed, that explains the thing's path in the world."""
    good = path.shown >= 0.5  # a thing that fades in is measured once it shows
    times, places = path.times[good], path.places[:, good]
    growth, uneven = line(times, path.log_radii[good])
    spin, coherence = _spin(times, path.turns[good], path.period)
    rest = float(np.sqrt(places.var(axis=1).sum()))
    if path.times[0] > 0:
        late = path.shown[path.times >= APPEAR_DONE]
        if not APPEAR_WINDOW[0] <= path.times[0] <= APPEAR_WINDOW[1] or late.min() < APPEAR_FULL:
            reason = f"comes into view at {path.times[0]:.2f} of the clip"
        elif rest > WOBBLE or abs(growth) > 2 * CONSTANT_SCALE or abs(spin) > CONSTANT_TURN:
            reason = "appears but does not stand still"
        else:
            return "appear", None
    elif rest <= WOBBLE:
        return _motion_in_place(growth, uneven, spin, coherence, notes)
    elif abs(growth) > CONSTANT_SCALE or abs(spin) > CONSTANT_TURN:
        reason = f"moves while it changes by {math.exp(growth):.2f} and turns by {math.degrees(spin):.0f} degrees"
    else:
        fits = [*_drift(times, places), *_bounce(times, places), *_orbit(times, places)]
        error, motion, speed = min(fits, default=(math.inf, "", ""))
        if error <= WOBBLE:
            return motion, speed
        reason = f"the nearest is {motion} {speed}, {error:.3f} units off" if fits else "no motion explains the path"
    notes.append(f"motion: {reason}")
    return None, None


def _motion_in_place(
    growth: float, uneven: float, spin: float, coherence: float, notes: list[str]
) -> tuple[str | None, str | None]:
    """Tell still, grow, shrink and spin apart."""
    for name, factor in (("grow", GROW_FACTOR), ("shrink", SHRINK_FACTOR)):
        steady = uneven <= SCALE_WOBBLE and abs(spin) <= CONSTANT_TURN
        if steady and RANGE[0] <= growth / math.log(factor) <= RANGE[1]:
            return name, None
    if abs(growth) <= CONSTANT_SCALE and uneven <= SCALE_WOBBLE:
        if abs(spin) <= CONSTANT_TURN:
            return "still", None
        speed = _speed(abs(spin), SPIN_ANGLE)
        if speed is not None and coherence >= COHERENCE:
            return "spin", speed
    notes.append(
        f"motion: in place, size by {math.exp(growth):.2f} ({uneven:.2f} uneven), "
        f"turn by {math.degrees(spin):.0f} degrees ({coherence:.2f} steady)"
    )
    return None, None


def _speed(extent: float, nominal: dict[str, float]) -> str | None:
    """Return the speed whose nominal extent is nearest, None outside the range."""
    if not RANGE[0] * nominal["slow"] <= extent <= RANGE[1] * nominal["fast"]:
        return None
    return min(nominal, key=lambda speed: abs(nominal[speed] - extent))


def _spin(times: Float[np.ndarray, " N"], turns: Float[np.ndarray, " N"], period: int) -> tuple[float, float]:
    """Return the steady turn over the clip that best fits angles known up to `period` degrees, and how well it does."""
    if period == 0:
        return 0.0, 1.0
    order = 360 / period
    rates = np.radians(np.arange(-400, 401, 5))
    coherence = np.abs(np.exp(1j * order * (turns - rates[:, None] * times)).mean(axis=1))
    best = int(np.argmax(coherence))
    return float(rates[best]), float(coherence[best])


Fits = Iterator[tuple[float, str, str]]


def _drift(times: Float[np.ndarray, " N"], path: Float[np.ndarray, "2 N"]) -> Fits:
    (vx, _), (vy, _) = (line(times, values) for values in path)
    off = path - np.array([[vx], [vy]]) * times
    error = float(np.sqrt(off.var(axis=1).sum()))
    for motion, (ux, uy) in DRIFTS.items():
        along, across = vx * ux + vy * uy, abs(vx * uy - vy * ux)
        speed = _speed(along, DRIFT_DISTANCE)
        if speed is not None and across <= along * math.tan(AXIS_TOLERANCE):
            yield error, motion, speed


def _bounce(times: Float[np.ndarray, " N"], path: Float[np.ndarray, "2 N"]) -> Fits:
    for speed, hops in BOUNCE_HOPS.items():
        for count in hops * np.linspace(1 - HOPS_TOLERANCE, 1 + HOPS_TOLERANCE, 9):
            hop = np.abs(np.sin(np.pi * count * times))
            height, _ = line(hop, -path[1])
            error = math.sqrt(float(np.var(path[1] + height * hop) + np.var(path[0])))
            if HEIGHT_RANGE[0] <= height / BOUNCE_HEIGHT <= HEIGHT_RANGE[1]:
                yield error, "bounce", speed


def _orbit(times: Float[np.ndarray, " N"], path: Float[np.ndarray, "2 N"]) -> Fits:
    centred = (path[0] + 1j * path[1]) - (path[0] + 1j * path[1]).mean()
    for turns in np.linspace(RANGE[0] * ORBIT_TURNS["slow"], RANGE[1] * ORBIT_TURNS["fast"], 21):
        for sense in (1, -1):
            arm = np.exp(2j * np.pi * sense * turns * times)
            arm = arm - arm.mean()
            reach = (arm.conj() @ centred) / (arm.conj() @ arm)  # complex: radius and phase
            speed = _speed(turns, ORBIT_TURNS)
            if speed is not None and ORBIT_RANGE[0] <= abs(reach) / ORBIT_RADIUS <= ORBIT_RANGE[1]:
                yield float(np.sqrt((np.abs(centred - reach * arm) ** 2).mean())), "orbit", speed
