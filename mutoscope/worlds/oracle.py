"""Say what a world clip shows, from its pixels alone, and whether that is what was asked for.

The oracle knows the world's laws (its colours, shapes, motions, tones and camera moves) but not the scene: it gets frames.
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
from functools import cache

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, UInt8
from torch.nn import functional

from mutoscope.core.errors import RequestError
from mutoscope.worlds.render import CELL, COLOUR_RGB, TONE_RGB, distance
from mutoscope.worlds.scene import (
    BOUNCE_HEIGHT,
    BOUNCE_HOPS,
    CAMERAS,
    DRIFT_DISTANCE,
    DRIFTS,
    GROW_FACTOR,
    ORBIT_RADIUS,
    ORBIT_TURNS,
    PAN_DISTANCE,
    RADIUS,
    ROLL_ANGLE,
    SHAPES,
    SHRINK_FACTOR,
    SPIN_ANGLE,
    ZOOM_FACTOR,
    Scene,
    camera_path,
    unscored,
)

ATTRIBUTES = ("colour", "shape", "size", "motion", "background", "camera", "count")
MIN_FRAMES = 8  # fewer cannot tell a fast bounce from a slow one

# Things: chroma is what is left of a colour without its grey, in levels of 255.
MUTED_SPREAD = 58  # backgrounds reach 46, things on dark stripes begin at 83
MUTED_SHARE = 0.25  # of all pixels that must be muted before there is a background to speak of
THING_CHROMA = 26.0  # away from the background's: a third of the least vivid thing, five times the strongest tolerated noise
CLEAN_CHROMA = 13.0  # below this a pixel shows background only
SPECK_AREA = 0.009  # square units (9 pixels of 64 x 64): half of the smallest thing, small, shrunk and zoomed out
SOFT_LEVEL = 0.70  # of a thing's chroma counts as full cover, since stripes, dots and shading darken to about this
GAP = 2  # pixels around a thing that belong neither to its core nor to the background
COLOUR_LIMIT = 42.0  # levels from the nearest palette colour; half of orange to yellow
RECOLOUR_LIMIT = 38.0  # levels by which one frame may leave the track's median colour
FLICKER_LIMIT = 0.17  # log of the thing's chroma from frame to frame
EDGE_SLOPE = 0.24  # cover per pixel across outlines: 0.45 drawn, 0.38 after sigma 0.5, 0.15 after sigma 2
STEP_LIMIT = 0.45  # units between two frames: one and a half times the fastest thing
CLEAR_RADIUS = 2.9  # pixels: below, a shape cannot be recognised in one frame

# Shape.
PATCH = 32  # grid points a side, over 1.75 radii each way
PATCH_REACH = 1.75
TURN_STEP = math.radians(5)
PERIOD = {"circle": 0, "ring": 0, "square": 90, "cross": 90, "star": 72, "triangle": 120, "heart": 360}  # degrees
TEMPLATE_RADII = (2.5, 3.3, 4.3, 5.6, 7.5, 10.0, 14.0, 20.0, 40.0)  # pixels
SHAPE_LIKENESS = 0.90  # soft Dice with the best template
SHAPE_MARGIN = 0.008  # to the second best shape

# Size and paths.
SIZE_LIMIT = 0.17  # log radius off the nominal; the halves between sizes are at 0.18 and 0.19
WOBBLE = 0.05  # units RMS off the ideal path: 1.6 pixels of 64
SCALE_WOBBLE = 0.07  # log radius RMS off steady growth
CONSTANT_SCALE = 0.16  # log factor over the clip that still counts as no growth
AXIS_TOLERANCE = math.radians(20)
RANGE = (0.70, 1.35)  # of the nominal extent, below the slowest and above the fastest
HOPS_TOLERANCE = 0.12
HEIGHT_RANGE = (0.65, 1.35)
ORBIT_RANGE = (0.65, 1.4)
CONSTANT_TURN = math.radians(38)  # turns less than this over the clip are no spin
COHERENCE = 0.75  # of a spin's angles with a steady turn
APPEAR_WINDOW = (0.15, 0.52)  # when it is first seen
APPEAR_DONE = 0.72  # when it must be fully there

# Background and camera.
NOISE_LIMIT = 6.5  # levels, standard deviation of fine grain; strong noise begins at 15
TONE_LIMIT = 20.0  # levels between the mean colour and the tone
FLAT = 0.14  # RMS of the residual in units of the tone's contrast
SLOPE_PLAIN = 0.10  # contrast per unit
SLOPE_GRADIENT = (0.22, 0.80)  # contrast per unit, 0.45 drawn; zooming changes it by up to 1.45
CHECKER_FIT = 0.84  # correlation with the lattice
CHECKER_CONTRAST = (0.65, 1.35)
TEXTURE_SPREAD = (0.09, 0.36)  # standard deviation in contrasts
TEXTURE_STEP = 0.42  # contrast between neighbouring pixels of 64 x 64: above lies an edge, which mottle lacks
QUADRANT_SPREAD = 0.045
ODD_SHARE = 0.015  # of background pixels may be far off the model
ODD = 0.5  # contrasts
JUMP_LIMIT = 5.0  # levels of mean brightness from frame to frame
DRIFT_LIMIT = 16.0  # levels over the clip
CHANGE_LIMIT = 7.0  # levels, mean absolute change of the background once the camera is undone
CAMERA_GAIN = 0.72  # a move must lower the change below this share of what standing still leaves
CAMERA_RANGE = (0.70, 1.38)  # of the nominal move
CAMERA_WOBBLE = 0.10  # of the nominal move, RMS


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


@dataclass(frozen=True)
class _Blob:
    """One connected piece of vivid colour in one frame."""

    frame: int
    x: float  # units
    y: float
    radius: float  # equal-area, units
    level: float  # chroma where fully covered
    rgb: np.ndarray
    slope: float  # of the cover across the outline, per pixel
    pixels: np.ndarray  # flat indices into H W
    cover: np.ndarray  # 0 to 1 at those pixels


Track = dict[int, _Blob]  # by frame


@dataclass(frozen=True)
class _Camera:
    """Where the camera is at each frame, relative to the first: enough to undo it."""

    name: str | None
    position: Float[np.ndarray, "2 T"]
    zoom: Float[np.ndarray, " T"]
    turn: Float[np.ndarray, " T"]


def measure(frames: UInt8[np.ndarray, "T H W 3"]) -> Reading:
    """Measure everything that a caption may say about the clip.

    Args:
        frames: RGB, at least 8 frames, at least 32 pixels high and wide.

    Returns:
        The reading; each None in it has its reason in `notes`.

    Raises:
        RequestError: the clip is too short or too small.
    """
    if frames.shape[0] < MIN_FRAMES or min(frames.shape[1:3]) < 32:
        raise RequestError(
            f"a clip of {frames.shape[0]} frames of {frames.shape[2]}x{frames.shape[1]} cannot be measured. "
            f"Give at least {MIN_FRAMES} frames of 32x32."
        )
    notes: list[str] = []
    rgb = frames.astype(np.float32)
    chroma = _chroma(rgb)
    if chroma is None:
        return Reading((), None, None, None, None, ("background: hardly a muted pixel",))
    vivid = chroma > THING_CHROMA
    clear = ~(_grow(vivid, GAP) | (chroma > CLEAN_CHROMA))
    light = rgb.mean(axis=-1)
    tracks, stable = _tracks(_blobs(rgb, chroma, vivid), len(frames), notes)
    background, tone = _background(rgb, light, clear, notes)
    if background in ("checkered", "textured"):
        camera, constant = _camera(light, clear, notes)
        if not constant:
            background, tone = None, None
    else:
        camera = _camera_unseen(light, clear, background, notes)
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


def _chroma(rgb: Float[np.ndarray, "T H W 3"]) -> Float[np.ndarray, "T H W"] | None:
    """Return how far each pixel's chroma is from the background's: proportional to the cover of a thing."""
    # Where a thing covers a share a of a pixel, chroma is (1 - a) background + a thing, and one tone has one chroma.
    muted = rgb.max(axis=-1) - rgb.min(axis=-1) < MUTED_SPREAD
    if muted.mean() < MUTED_SHARE:
        return None
    plain = rgb[:, ::2, ::2][muted[:, ::2, ::2]]
    own = np.median(plain - plain.mean(axis=-1, keepdims=True), axis=0)
    offset = rgb - rgb.mean(axis=-1, keepdims=True) - own
    return np.sqrt(np.einsum("thwc,thwc->thw", offset, offset))


def _grow(mask: Bool[np.ndarray, "T H W"], by: int) -> Bool[np.ndarray, "T H W"]:
    grown = functional.max_pool2d(torch.from_numpy(mask).float()[:, None], 2 * by + 1, 1, by)
    return grown[:, 0].numpy() > 0


def _pieces(mask: Bool[np.ndarray, "T H W"]) -> Int[np.ndarray, "T H W"]:
    """Number the 8-connected pieces of every frame from 1, 0 elsewhere, by repeated hooking and pointer jumping."""
    number = np.full(mask.shape, -1)
    number[mask] = np.arange(mask.sum())
    links = []
    for one, other in (
        (number[:, :, :-1], number[:, :, 1:]),
        (number[:, :-1], number[:, 1:]),
        (number[:, :-1, :-1], number[:, 1:, 1:]),
        (number[:, :-1, 1:], number[:, 1:, :-1]),
    ):
        both = (one >= 0) & (other >= 0)
        links.append(np.stack([one[both], other[both]]))
    a, b = np.concatenate(links, axis=1)
    root = np.arange(mask.sum())
    while True:
        low = np.minimum(root[a], root[b])
        fresh = root.copy()
        np.minimum.at(fresh, root[a], low)
        np.minimum.at(fresh, root[b], low)
        while not np.array_equal(fresh, fresh[fresh]):
            fresh = fresh[fresh]
        if np.array_equal(fresh, root):
            break
        root = fresh
    pieces = np.zeros(mask.shape, np.int64)
    pieces[mask] = np.unique(root, return_inverse=True)[1] + 1
    return pieces


def _blobs(
    rgb: Float[np.ndarray, "T H W 3"], chroma: Float[np.ndarray, "T H W"], vivid: Bool[np.ndarray, "T H W"]
) -> list[_Blob]:
    """Measure every piece of vivid colour that is no speck."""
    num_frames, height, width = vivid.shape
    unit = height / 2
    pieces = _pieces(vivid)
    halo = functional.max_pool2d(torch.from_numpy(pieces).float()[:, None], 2 * GAP + 1, 1, GAP)[:, 0].numpy()
    halo = np.where(vivid, pieces, halo.astype(np.int64)).reshape(-1)
    steep = np.hypot(np.gradient(chroma, axis=1), np.gradient(chroma, axis=2)).reshape(-1)
    flat_chroma, flat_rgb, core = chroma.reshape(-1), rgb.reshape(-1, 3), vivid.reshape(-1)
    where = np.flatnonzero(halo)
    where = where[np.argsort(halo[where], kind="stable")]
    starts = np.flatnonzero(np.diff(halo[where])) + 1
    blobs = []
    for pixels in np.split(where, starts) if len(where) else ():
        values = flat_chroma[pixels]
        inside = values[core[pixels]]
        if len(inside) < SPECK_AREA * unit**2:
            continue
        level = float(np.partition(inside, int(0.85 * len(inside)))[int(0.85 * len(inside))])
        cover = np.clip(values / (SOFT_LEVEL * level), 0, 1)
        rows, columns = np.divmod(pixels % (height * width), width)
        area = float(cover.sum())
        edge = (values > 0.1 * level) & (values < 0.6 * level)
        blobs.append(
            _Blob(
                frame=int(pixels[0] // (height * width)),
                x=float((cover @ columns) / area + 0.5 - width / 2) / unit,
                y=float((cover @ rows) / area + 0.5 - height / 2) / unit,
                radius=math.sqrt(area / math.pi) / unit,
                level=level,
                rgb=flat_rgb[pixels[values >= 0.85 * level]].mean(axis=0),
                slope=float(steep[pixels[edge]].mean() / level) if edge.any() else 0.0,
                pixels=pixels % (height * width),
                cover=cover,
            )
        )
    return blobs


def _tracks(blobs: Sequence[_Blob], num_frames: int, notes: list[str]) -> tuple[list[Track], bool]:
    """Follow every blob of the last frame back in time; tell also whether the number of things is beyond doubt."""
    by_frame = [[blob for blob in blobs if blob.frame == index] for index in range(num_frames)]
    tracks: list[Track] = [{num_frames - 1: blob} for blob in by_frame[-1]]
    stable = True
    if not 1 <= len(tracks) <= 5:
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
            if length <= STEP_LIMIT and place not in used and index not in tracks[number]:
                tracks[number][index] = free[place]
                used.add(place)
        if len(used) < len(free):
            notes.append(f"count: frame {index} shows a thing that is gone later")
            return tracks, False
    return tracks, stable


def _thing(track: Track, camera: _Camera, shape: tuple[int, ...], notes: list[str]) -> ThingReading:
    """Read one track."""
    num_frames, height, width, _ = shape
    blobs = [track[index] for index in sorted(track)]
    full = float(np.median([blob.level for blob in blobs]))
    solid = [blob for blob in blobs if blob.level >= 0.75 * full] or blobs
    slope = float(np.median([blob.slope for blob in solid]))
    likeness, turns = _likeness(blobs, height, width)
    name = _shape(blobs, likeness, [blob in solid for blob in blobs], height, notes)
    if slope < EDGE_SLOPE:
        notes.append(f"shape: outlines are blurred ({slope:.2f} of the cover per pixel)")
        name = None
    times = np.array([blob.frame for blob in blobs]) / (num_frames - 1)
    colour = _colour(solid, notes)
    motion, speed = _motion(blobs, times, camera, turns.get(name) if name else None, name, full, notes)
    return ThingReading(colour, name, _size(blobs, camera, full, notes), motion, speed)


def _colour(blobs: Sequence[_Blob], notes: list[str]) -> str | None:
    """Name the palette colour that all frames share."""
    rgb = np.stack([blob.rgb for blob in blobs])
    middle = np.median(rgb, axis=0)
    palette = np.array([COLOUR_RGB[name] for name in COLOUR_RGB], np.float32)
    gain = np.clip((palette @ middle) / (palette * palette).sum(axis=1), 0.75, 1.15)  # shading may darken all of it
    off = np.linalg.norm(middle - gain[:, None] * palette, axis=1)
    nearest = int(np.argmin(off))
    change = float(np.linalg.norm(rgb - middle, axis=1).max())
    levels = np.log([blob.level for blob in blobs if blob.level > 0])
    flicker = float(np.abs(np.diff(levels)).max()) if len(levels) > 1 else 0.0
    if off[nearest] > COLOUR_LIMIT:
        notes.append(f"colour: {off[nearest]:.0f} levels from {list(COLOUR_RGB)[nearest]}, the nearest")
    elif change > RECOLOUR_LIMIT:
        notes.append(f"colour: changes by {change:.0f} levels")
    elif flicker > FLICKER_LIMIT:
        notes.append(f"colour: flickers by {flicker:.2f}")
    else:
        return list(COLOUR_RGB)[nearest]
    return None


def _size(blobs: Sequence[_Blob], camera: _Camera, full: float, notes: list[str]) -> str | None:
    """Name the size at the first frame that shows the thing well, as the first camera position sees it."""
    early = [blob for blob in blobs if blob.level >= 0.35 * full][:3]
    radius = math.exp(float(np.median([math.log(blob.radius / camera.zoom[blob.frame]) for blob in early])))
    off = {name: abs(math.log(radius / nominal)) for name, nominal in RADIUS.items()}
    nearest = min(off, key=off.__getitem__)
    if off[nearest] <= SIZE_LIMIT:
        return nearest
    notes.append(f"size: a radius of {radius:.3f} units lies between the sizes")
    return None


# Shape


@cache
def _templates(radius_px: float) -> tuple[Float[np.ndarray, "N P"], dict[str, tuple[int, int]], np.ndarray]:
    """Return covers of all shapes at all angles as an outline of this radius would show them, where each shape's rows
    begin and end, and the angle of each row."""
    points = (np.arange(PATCH) + 0.5) / PATCH * 2 * PATCH_REACH - PATCH_REACH
    y, x = np.meshgrid(points, points, indexing="ij")
    rows, spans, turns = [], {}, []
    for shape in SHAPES:
        begin, period = len(rows), math.radians(PERIOD[shape])
        for turn in np.arange(0, period, period / round(period / TURN_STEP)) if period else (0.0,):
            cos, sin = math.cos(turn), math.sin(turn)
            edge = distance(shape, cos * x + sin * y, cos * y - sin * x) * radius_px / 1.3  # bilinear reading widens it
            rows.append(np.clip(np.clip(0.5 - edge, 0, 1) / SOFT_LEVEL, 0, 1).reshape(-1))
            turns.append(turn)
        spans[shape] = (begin, len(rows))
    return np.stack(rows).astype(np.float32), spans, np.array(turns)


def _likeness(blobs: Sequence[_Blob], height: int, width: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return for every shape the soft Dice of each blob with its best template, and that template's angle."""
    unit = height / 2
    covers = np.zeros((len(blobs), height * width), np.float32)
    for row, blob in zip(covers, blobs, strict=True):
        row[blob.pixels] = blob.cover
    points = (torch.arange(PATCH) + 0.5) / PATCH * 2 * PATCH_REACH - PATCH_REACH
    radius, x, y = (torch.tensor([getattr(blob, name) for blob in blobs])[:, None] for name in ("radius", "x", "y"))
    across, down = (x + radius * points) * height / width, y + radius * points
    grid = torch.stack([across[:, None, :].expand(-1, PATCH, -1), down[:, :, None].expand(-1, -1, PATCH)], dim=-1)
    images = torch.from_numpy(covers).reshape(-1, 1, height, width)
    seen = rearrange(functional.grid_sample(images, grid.float(), align_corners=False), "n 1 h w -> n (h w)").numpy()
    banks = [min(TEMPLATE_RADII, key=lambda r, b=b: abs(math.log(r / (b.radius * unit)))) for b in blobs]
    likeness = {shape: np.zeros(len(blobs)) for shape in SHAPES}
    turns = {shape: np.zeros(len(blobs)) for shape in SHAPES}
    for bank in set(banks):
        which = [index for index, other in enumerate(banks) if other == bank]
        rows, spans, angles = _templates(bank)
        energy = (seen[which] ** 2).sum(axis=1)[:, None] + (rows**2).sum(axis=1)[None, :]
        dice = 2 * (seen[which] @ rows.T) / energy
        for shape, (begin, end) in spans.items():
            likeness[shape][which] = dice[:, begin:end].max(axis=1)
            turns[shape][which] = angles[begin + dice[:, begin:end].argmax(axis=1)]
    return likeness, turns


def _shape(
    blobs: Sequence[_Blob], likeness: dict[str, np.ndarray], solid: Sequence[bool], height: int, notes: list[str]
) -> str | None:
    """Name the shape that every third of the thing's time shows."""
    large = [i for i, blob in enumerate(blobs) if solid[i] and blob.radius * height / 2 >= CLEAR_RADIUS]
    if len(large) < 3:
        notes.append("shape: too small to recognise")
        return None
    best: set[str] = set()
    for part in (large, *np.array_split(large, 3)):
        means = {shape: float(values[part].mean()) for shape, values in likeness.items()}
        first, second = sorted(means, key=means.__getitem__, reverse=True)[:2]
        best.add(first)
        if means[first] < SHAPE_LIKENESS or means[first] - means[second] < SHAPE_MARGIN:
            notes.append(f"shape: like a {first} by {means[first]:.3f}, a {second} by {means[second]:.3f}")
            return None
    if len(best) > 1:
        notes.append(f"shape: changes between {' and '.join(sorted(best))}")
        return None
    return best.pop()


# Motion


def _motion(
    blobs: Sequence[_Blob],
    times: Float[np.ndarray, " N"],
    camera: _Camera,
    turns: Float[np.ndarray, " N"] | None,
    shape: str | None,
    full: float,
    notes: list[str],
) -> tuple[str | None, str | None]:
    """Name the motion, and its speed, that explains the thing's path in the world."""
    frames = [blob.frame for blob in blobs]
    zoom, turn = camera.zoom[frames], camera.turn[frames]
    x, y = np.array([blob.x for blob in blobs]), np.array([blob.y for blob in blobs])
    cos, sin = np.cos(turn), np.sin(turn)
    path = np.stack([cos * x + sin * y, cos * y - sin * x]) / zoom + camera.position[:, frames]
    scale = np.log(np.array([blob.radius for blob in blobs]) / zoom)
    growth, uneven = _line(times, scale)
    spin, coherence = _spin(times, turns - turn, PERIOD[shape]) if shape and turns is not None else (0.0, 1.0)
    rest = float(np.sqrt(path.var(axis=1).sum()))
    if frames[-1] - frames[0] + 1 != len(frames):
        reason = "the thing blinks"
    elif times[0] > 0:
        late = [blob.level for blob, time in zip(blobs, times, strict=True) if time >= APPEAR_DONE]
        if not APPEAR_WINDOW[0] <= times[0] <= APPEAR_WINDOW[1] or min(late) < 0.85 * full:
            reason = f"comes into view at {times[0]:.2f} of the clip"
        elif rest > WOBBLE or abs(growth) > 2 * CONSTANT_SCALE or abs(spin) > CONSTANT_TURN:
            reason = "appears but does not stand still"
        else:
            return "appear", None
    elif rest <= WOBBLE:
        return _motion_in_place(growth, uneven, spin, coherence, notes)
    elif abs(growth) > CONSTANT_SCALE or abs(spin) > CONSTANT_TURN:
        reason = f"moves while it changes by {math.exp(growth):.2f} and turns by {math.degrees(spin):.0f} degrees"
    else:
        fits = [*_drift(times, path), *_bounce(times, path), *_orbit(times, path)]
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
        if RANGE[0] <= growth / math.log(factor) <= RANGE[1]:
            if uneven <= SCALE_WOBBLE and abs(spin) <= CONSTANT_TURN:
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


def _line(times: Float[np.ndarray, " N"], values: Float[np.ndarray, " N"]) -> tuple[float, float]:
    """Return the slope of the best line and the RMS off it."""
    centred = times - times.mean()
    slope = float((centred @ values) / max(float(centred @ centred), 1e-9))
    return slope, float(np.std(values - slope * times))


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
    (vx, _), (vy, _) = (_line(times, values) for values in path)
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
            height, _ = _line(hop, -path[1])
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


# Background


def _background(
    rgb: Float[np.ndarray, "T H W 3"],
    light: Float[np.ndarray, "T H W"],
    clear: Bool[np.ndarray, "T H W"],
    notes: list[str],
) -> tuple[str | None, str | None]:
    """Name the background's kind and tone, the same at the beginning, in the middle and at the end."""
    if clear.mean(axis=(1, 2)).min() < 0.15:
        notes.append("background: hardly any of it is seen")
        return None, None
    level = np.array([frame[seen].mean() for frame, seen in zip(light, clear, strict=True)])
    grain = _grain(rgb[..., 1], clear)
    if grain > NOISE_LIMIT:
        notes.append(f"background: noise of {grain:.1f} levels")
        return None, None
    answers = []
    for index in (0, len(rgb) // 2, len(rgb) - 1):
        tone, first, contrast = _tone(rgb[index][clear[index]])
        if tone is None:
            notes.append(f"background: no tone within {TONE_LIMIT:.0f} levels")
            return None, None
        mix = (light[index] - first) / contrast  # 0 at the tone's first colour, 1 at its second
        if index == 0:
            kind = _kind(mix, clear[index], notes)
            answers.append((kind, tone))
        elif answers[0][0] in ("plain", "gradient"):
            answers.append((_smooth_kind(mix, clear[index]), tone))
        else:
            answers.append((answers[0][0], tone))
    if None in answers[0]:
        return None, None
    if len(set(answers)) > 1:
        notes.append(f"background: changes from {answers[0]} to {answers[-1]}")
        return None, None
    smooth = answers[0][0] in ("plain", "gradient")
    if smooth and (np.abs(np.diff(level)).max() > JUMP_LIMIT or np.ptp(level) > DRIFT_LIMIT):
        notes.append("background: brightness flickers")
        return None, None
    return answers[0]


def _grain(channel: Float[np.ndarray, "T H W"], clear: Bool[np.ndarray, "T H W"]) -> float:
    """Estimate the noise of the background, robust to edges: each pixel against the mean of its neighbours."""
    inner = channel[:, 1:-1, 1:-1]
    around = channel[:, :-2, 1:-1] + channel[:, 2:, 1:-1] + channel[:, 1:-1, :-2] + channel[:, 1:-1, 2:]
    off = np.abs(inner - around / 4)[clear[:, 1:-1, 1:-1]]
    return float(np.median(off[::3])) / 0.6745 / math.sqrt(1.25) if len(off) else 0.0


def _tone(pixels: Float[np.ndarray, "N 3"]) -> tuple[str | None, float, float]:
    """Return the tone whose line of colours passes nearest to the mean, the light of its first colour and its contrast."""
    mean = pixels.mean(axis=0)
    best, least = None, TONE_LIMIT
    for tone, pair in TONE_RGB.items():
        first, second = (np.array(rgb, np.float32) for rgb in pair)
        along = second - first
        share = float(np.clip((mean - first) @ along / (along @ along), 0, 1))
        off = float(np.linalg.norm(mean - first - share * along))
        if off < least:
            best, least = tone, off
    if best is None:
        return None, 0.0, 1.0
    first, second = (float(np.mean(rgb)) for rgb in TONE_RGB[best])
    return best, first, second - first


def _smooth_kind(mix: Float[np.ndarray, "H W"], clear: Bool[np.ndarray, "H W"]) -> str | None:
    """Tell plain and gradient from everything else by the best plane."""
    height, width = mix.shape
    rows, columns = np.nonzero(clear)
    plane = np.stack([np.ones(len(rows)), rows / (height / 2) - 1, (columns - width / 2) / (height / 2)], axis=1)
    values = mix[clear]
    fit = np.linalg.lstsq(plane, values, rcond=None)[0]
    off = np.abs(values - plane @ fit)
    slope = math.hypot(fit[1], fit[2])
    if np.sqrt((off**2).mean()) > FLAT or (off > ODD).mean() > ODD_SHARE:
        return None
    if slope <= SLOPE_PLAIN:
        return "plain" if abs(float(values.mean())) < 0.35 else None
    return "gradient" if SLOPE_GRADIENT[0] <= slope <= SLOPE_GRADIENT[1] else None


def _kind(mix: Float[np.ndarray, "H W"], clear: Bool[np.ndarray, "H W"], notes: list[str]) -> str | None:
    """Name the kind of the first frame's background, where zoom is 1 and nothing is turned."""
    smooth = _smooth_kind(mix, clear)
    if smooth is not None:
        return smooth
    fit, contrast, off = _checker(mix, clear)
    if fit >= CHECKER_FIT and CHECKER_CONTRAST[0] <= contrast <= CHECKER_CONTRAST[1] and off <= ODD_SHARE * 4:
        return "checkered"
    height, width = mix.shape
    spread = float(mix[clear].std())
    steps = [np.abs(np.diff(mix, axis=axis)) for axis in (0, 1)]
    sides = [clear[1:] & clear[:-1], clear[:, 1:] & clear[:, :-1]]
    edge = max(float(np.quantile(step[side], 0.995)) for step, side in zip(steps, sides, strict=True)) * height / 64
    quarters = [
        mix[rows, columns][clear[rows, columns]]
        for rows in (slice(0, height // 2), slice(height // 2, height))
        for columns in (slice(0, width // 2), slice(width // 2, width))
    ]
    least = min((float(part.std()) for part in quarters if len(part) > height * width / 16), default=0.0)
    if TEXTURE_SPREAD[0] <= spread <= TEXTURE_SPREAD[1] and edge <= TEXTURE_STEP and least >= QUADRANT_SPREAD:
        return "textured"
    notes.append(f"background: no kind fits (lattice {fit:.2f}, spread {spread:.2f}, edges {edge:.2f}, least {least:.2f})")
    return None


def _checker(mix: Float[np.ndarray, "H W"], clear: Bool[np.ndarray, "H W"]) -> tuple[float, float, float]:
    """Fit a square lattice: return its correlation, its contrast and the share of pixels far off it."""
    height, width = mix.shape
    unit = height / 2
    mask = clear.astype(np.float32)
    signal = (2 * mix - 1) * mask
    best = (0.0, 0.0, 1.0)
    least = -1.0
    for cell in (0.95 * CELL, CELL, 1.05 * CELL):
        phases = np.arange(0, 2, 1 / (cell * unit))
        bars = []
        for side in (height, width):
            cells = ((np.arange(side) + 0.5 - side / 2) / unit) / cell + phases[:, None]
            bars.append(np.clip(2 * (np.abs(cells % 2 - 1) - 0.5) * cell * unit, -1, 1).astype(np.float32))
        down, across = bars
        dot = down @ signal @ across.T
        norm = np.sqrt((down**2) @ mask @ (across**2).T * float((signal**2).sum()))
        fit = dot / np.maximum(norm, 1e-6)
        row, column = np.unravel_index(int(np.argmax(fit)), fit.shape)
        if fit[row, column] > least:
            least = float(fit[row, column])
            model = down[row][:, None] * across[column][None, :]
            contrast = float((signal * model).sum() / (model**2 * mask).sum())
            off = np.abs(signal - contrast * model)[clear] / 2
            best = (least, contrast, float((off > ODD).mean()))
    return best


# Camera

KINDS = {
    "pan": ("pan left", "pan right"),
    "tilt": ("tilt up", "tilt down"),
    "zoom": ("zoom out", "zoom in"),
    "roll": ("roll clockwise", "roll counterclockwise"),
}  # the names of a negative and of a positive extent
COARSE = np.linspace(-1.5, 1.5, 21)  # nominal moves over the clip
FINE = np.linspace(-0.2, 0.2, 9)  # nominal moves around the coarse answer, for every frame by itself


def _unmoved(num_frames: int, name: str | None) -> _Camera:
    return _Camera(name, np.zeros((2, num_frames)), np.ones(num_frames), np.zeros(num_frames))


def _moved(kind: str, extents: Float[np.ndarray, " N"]) -> _Camera:
    """Return the camera after these shares of the nominal move of one kind, negative for its first name."""
    camera = _unmoved(len(extents), KINDS[kind][int(extents[-1] > 0)])
    if kind == "zoom":
        camera.zoom[:] = ZOOM_FACTOR**extents
    elif kind == "roll":
        camera.turn[:] = ROLL_ANGLE * extents
    else:
        camera.position[int(kind == "tilt")] = PAN_DISTANCE * extents
    return camera


def _changes(
    light: Float[np.ndarray, "T H W"], clear: Bool[np.ndarray, "T H W"], frames: Int[np.ndarray, " N"], camera: _Camera
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """Undo N camera states, one for each of `frames`, and compare with the first frame.

    Returns:
        The mean absolute and the mean signed change of brightness over background that both frames show, in levels.
    """
    _, height, width = light.shape
    stride, unit = max(1, height // 32), height / 2
    rows, columns = np.arange(stride // 2, height, stride), np.arange(stride // 2, width, stride)
    y = ((rows + 0.5) / unit - 1)[None, :, None]
    x = ((columns + 0.5 - width / 2) / unit)[None, None, :]
    cos, sin = ((f(camera.turn) / camera.zoom)[:, None, None] for f in (np.cos, np.sin))
    there_x = (cos * x + sin * y + camera.position[0][:, None, None]) * (height / width)
    there_y = cos * y - sin * x + camera.position[1][:, None, None]
    grid = torch.from_numpy(np.stack([there_x, there_y], axis=-1).astype(np.float32))
    source = torch.from_numpy(np.stack([light[0] * clear[0], clear[0]]).astype(np.float32))[None]
    grid = rearrange(grid, "n h w two -> 1 n (h w) two")
    there, seen = functional.grid_sample(source, grid, align_corners=False)[0].numpy()
    here = light[frames][:, rows[:, None], columns].reshape(len(frames), -1)
    visible = clear[frames][:, rows[:, None], columns].reshape(len(frames), -1)
    both = (visible & (seen > 0.99)).astype(np.float32)
    off = (here - there) * both
    shared = both.sum(axis=1)
    enough = shared >= 0.25 * rows.size * columns.size * 0.5
    total = np.maximum(shared, 1)
    return np.where(enough, np.abs(off).sum(axis=1) / total, 1e3), off.sum(axis=1) / total


def _camera(
    light: Float[np.ndarray, "T H W"], clear: Bool[np.ndarray, "T H W"], notes: list[str]
) -> tuple[_Camera, bool]:
    """Name the move that best turns every frame into the first; tell also whether the background then stays the same."""
    num_frames = len(light)
    every = np.arange(num_frames)
    still, shift = _changes(light, clear, every, _unmoved(num_frames, "static"))
    some = np.unique(np.round(np.linspace(0.2, 1, 5) * (num_frames - 1)).astype(int))
    times = some / (num_frames - 1)
    best, kind, extent = math.inf, "", 0.0
    for name in KINDS:
        camera = _moved(name, np.outer(COARSE, times).reshape(-1))
        change = _changes(light, clear, np.tile(some, len(COARSE)), camera)[0].reshape(len(COARSE), -1).mean(axis=1)
        if change.min() < best:
            best, kind, extent = float(change.min()), name, float(COARSE[change.argmin()])
    if best > CAMERA_GAIN * still[some].mean() or abs(extent) < 0.2:
        if max(still.max(), 1.4 * np.abs(shift).max()) <= CHANGE_LIMIT:
            return _unmoved(num_frames, "static"), True
        notes.append(f"camera: standing still leaves a change of {still.max():.1f} levels and no move removes it")
        return _unmoved(num_frames, None), False
    return _follow(light, clear, kind, extent, notes)


def _follow(
    light: Float[np.ndarray, "T H W"], clear: Bool[np.ndarray, "T H W"], kind: str, extent: float, notes: list[str]
) -> tuple[_Camera, bool]:
    """Refine a move frame by frame, then check that it is steady and leaves the background as it was."""
    num_frames = len(light)
    every, times = np.arange(num_frames), np.linspace(0, 1, num_frames)
    tries = extent * times[:, None] + FINE
    change = _changes(light, clear, np.repeat(every, len(FINE)), _moved(kind, tries.reshape(-1)))[0]
    change = change.reshape(tries.shape)
    low = change.argmin(axis=1)
    inner = np.clip(low, 1, len(FINE) - 2)
    before, here, after = (change[every, inner + step] for step in (-1, 0, 1))
    bend = before - 2 * here + after
    lean = np.where((bend > 1e-6) & (low == inner), (before - after) / np.maximum(2 * bend, 1e-6), 0.0)
    path = tries[every, low] + lean.clip(-0.5, 0.5) * (FINE[1] - FINE[0])
    path[0] = 0.0
    slope, wobble = _line(times, path)
    camera = _moved(kind, path)
    left, shift = _changes(light, clear, every, camera)
    if max(left.max(), 1.4 * np.abs(shift).max()) > CHANGE_LIMIT:
        notes.append(f"camera: {camera.name} leaves a change of {left.max():.1f} levels")
        return _unmoved(num_frames, None), False
    if not CAMERA_RANGE[0] <= abs(slope) <= CAMERA_RANGE[1] or wobble > CAMERA_WOBBLE:
        notes.append(f"camera: {camera.name} by {abs(slope):.2f} of the usual, {wobble:.2f} unsteady")
        return _Camera(None, camera.position, camera.zoom, camera.turn), True
    return camera, True


def _camera_unseen(
    light: Float[np.ndarray, "T H W"], clear: Bool[np.ndarray, "T H W"], background: str | None, notes: list[str]
) -> _Camera:
    """Read a camera over a background that shows no move: static unless something changes."""
    change = _changes(light, clear, np.arange(len(light)), _unmoved(len(light), "static"))[0]
    if background is not None and change.max() <= CHANGE_LIMIT:
        return _unmoved(len(light), "static")
    notes.append(f"camera: the background changes by {change.max():.1f} levels and has nothing to follow")
    return _unmoved(len(light), None)
