"""What a world clip is made of: attributes in words, geometry in numbers, and which of them pixels can tell.

A scene is drawn from a seed and holds everything the renderer needs. Its attributes are what a caption says and what
the oracle measures; its geometry (positions, angles, exact distances) is free and never said.

Coordinates: the frame is two units high with its origin in the middle, x to the right, y down. On a 64-pixel frame one
unit is 32 pixels. Time runs from 0 (first frame) to 1 (last frame), whatever the number of frames.

    world point  ->  minus camera position  ->  times zoom  ->  turned by roll  ->  frame point

Attribute combinations whose triple (colour, shape, motion) falls in the held-out set (`is_held_out`, by hash) are never
drawn for the split ``train``; the split ``held_out`` draws only from them.
"""

import hashlib
import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

SHAPES = ("circle", "square", "triangle", "star", "heart", "ring", "cross")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SIZES = ("small", "medium", "large")
TEXTURES = ("solid", "striped", "dotted")
MOTIONS = ("still", "left", "right", "up", "down", "bounce", "orbit", "spin", "grow", "shrink", "appear")
SPEEDS = ("slow", "fast")
BACKGROUNDS = ("plain", "gradient", "checkered", "textured")
TONES = ("white", "grey", "black", "beige", "slate")
CAMERAS = (
    "static",
    "pan left",
    "pan right",
    "tilt up",
    "tilt down",
    "zoom in",
    "zoom out",
    "roll clockwise",
    "roll counterclockwise",
)

DRIFTS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
WITH_SPEED = (*DRIFTS, "bounce", "orbit", "spin")

# Equal-area radius in units: every shape of one size covers the area of a disc of this radius.
RADIUS = {"small": 0.18, "medium": 0.26, "large": 0.38}
# How far, how often, how much over the whole clip.
DRIFT_DISTANCE = {"slow": 0.38, "fast": 0.80}  # units
BOUNCE_HOPS = {"slow": 1.5, "fast": 3.0}
BOUNCE_HEIGHT = 0.55  # units
ORBIT_TURNS = {"slow": 0.5, "fast": 1.0}
ORBIT_RADIUS = 0.30  # units
SPIN_ANGLE = {"slow": math.pi / 2, "fast": 3 * math.pi / 2}
GROW_FACTOR = 1.55
SHRINK_FACTOR = 0.60
APPEAR_START, APPEAR_END = 0.30, 0.55  # fades in between these times
PAN_DISTANCE = 0.55  # units
ZOOM_FACTOR = 1.45
ROLL_ANGLE = math.radians(35)

# Radius of the smallest circle around the outline, centred on its centroid, in equal-area radii (test_render proves
# it).
REACH = {
    "circle": 1.000,
    "square": 1.254,
    "triangle": 1.556,
    "star": 1.463,
    "heart": 1.233,
    "ring": 1.250,
    "cross": 1.209,
}
CLEARANCE = 0.10  # units kept free between the reaches of two things, so that outlines never touch
MARGIN = 0.01  # units between a thing and the edge of the frame

TRIES_PER_THING = 40
TIMES = np.linspace(0.0, 1.0, 9, dtype=np.float64)  # where placement is checked

Split = Literal["train", "held_out", "any"]


@dataclass(frozen=True)
class Thing:
    """One object: what is said of it, then where and how it is drawn."""

    shape: str
    colour: str
    size: str
    texture: str
    motion: str
    speed: str | None
    x: float
    y: float
    radius: float
    angle: float  # radians, at the first frame
    extent: float  # distance, hops, turns or angle over the clip: the exact number behind motion and speed
    phase: float  # where an orbit begins, radians
    turning: int  # +1 clockwise on the screen, -1 counterclockwise, for orbit and spin


@dataclass(frozen=True)
class Scene:
    """Everything that a clip shows. `seed` drew it; `phase` and `heading` place and turn the background's pattern."""

    things: tuple[Thing, ...]
    background: str
    tone: str
    camera: str
    camera_extent: float
    phase: tuple[float, float]
    heading: float  # radians, the direction of a gradient
    seed: int


def is_held_out(colour: str, shape: str, motion: str) -> bool:
    """Tell whether this combination is kept out of every training set: one in eight, by hash."""
    return hashlib.sha256(f"{colour} {shape} {motion}".encode()).digest()[0] % 8 == 0


def unscored(scene: Scene) -> frozenset[str]:
    """Name the attributes that pixels cannot tell in this scene.

    - A moving camera over a plain or gradient background: nothing fixed shows it, and a thing's own motion cannot be
    told
      from the camera's. (A static camera is the reading that needs no second cause, so it stays scored.)
    - A circle or ring that spins: its outline does not change.
    """
    names: set[str] = set()
    if scene.camera != "static" and scene.background in ("plain", "gradient"):
        names |= {"camera", "motion"}
    if any(thing.motion == "spin" and thing.shape in ("circle", "ring") for thing in scene.things):
        names.add("motion")
    return frozenset(names)


def offsets(thing: Thing, times: np.ndarray) -> Float[np.ndarray, "2 T"]:
    """Return where the thing is at each time, relative to (x, y), in world units."""
    dx, dy = np.zeros_like(times), np.zeros_like(times)
    if thing.motion in DRIFTS:
        ux, uy = DRIFTS[thing.motion]
        dx, dy = ux * thing.extent * (times - 0.5), uy * thing.extent * (times - 0.5)
    elif thing.motion == "bounce":
        dy = -BOUNCE_HEIGHT * np.abs(np.sin(np.pi * thing.extent * times))
    elif thing.motion == "orbit":
        turn = thing.phase + thing.turning * 2 * np.pi * thing.extent * times
        dx, dy = ORBIT_RADIUS * np.cos(turn), ORBIT_RADIUS * np.sin(turn)
    return np.stack([dx, dy])


def scales(thing: Thing, times: np.ndarray) -> Float[np.ndarray, " T"]:
    """Return the thing's size at each time as a multiple of its radius. Growth is geometric."""
    if thing.motion in ("grow", "shrink"):
        return thing.extent**times
    return np.ones_like(times)


def angles(thing: Thing, times: np.ndarray) -> Float[np.ndarray, " T"]:
    """Return the thing's own angle at each time, in radians, positive clockwise on the screen."""
    if thing.motion == "spin":
        return thing.angle + thing.turning * thing.extent * times
    return np.full_like(times, thing.angle)


def opacities(thing: Thing, times: np.ndarray) -> Float[np.ndarray, " T"]:
    """Return how much of the thing shows at each time, 0 to 1."""
    if thing.motion == "appear":
        return np.clip((times - APPEAR_START) / (APPEAR_END - APPEAR_START), 0.0, 1.0)
    return np.ones_like(times)


def camera_path(
    camera: str, extent: float, times: np.ndarray
) -> tuple[Float[np.ndarray, "2 T"], Float[np.ndarray, " T"], Float[np.ndarray, " T"]]:
    """Return the camera's position (units), zoom (factor) and the angle by which it turns the picture (radians)."""
    position, zoom, turn = np.zeros((2, len(times))), np.ones_like(times), np.zeros_like(times)
    if camera.startswith("pan"):
        position[0] = (-1 if camera.endswith("left") else 1) * extent * (times - 0.5)
    elif camera.startswith("tilt"):
        position[1] = (-1 if camera.endswith("up") else 1) * extent * (times - 0.5)
    elif camera.startswith("zoom"):
        zoom = extent ** (times if camera.endswith("in") else -times)
    elif camera.startswith("roll"):
        # A camera that rolls clockwise sees the world turn counterclockwise.
        turn = (1 if camera.endswith("counterclockwise") else -1) * extent * times
    return position, zoom, turn


def sample(seed: int, *, split: Split = "train", count: int | None = None) -> Scene:
    """Draw a scene from a seed.

    Args:
        seed: any non-negative integer; the same seed, split and count give the same scene.
        split: ``train`` (no held-out combination), ``held_out`` (only such combinations), ``any``.
        count: number of things, 1 to 3; drawn when not given.

    Returns:
        A scene in which every thing stays inside the frame and clear of the others at all times.
    """
    draw = np.random.default_rng([20261120, ("train", "held_out", "any").index(split), seed])
    number = int(draw.choice((1, 2, 3), p=(0.5, 0.3, 0.2))) if count is None else count
    while True:  # a camera move and several large things may leave no room; then everything is drawn again
        background, tone, camera, camera_extent = _draw_surroundings(draw)
        things: list[Thing] = []
        for _ in range(number):
            thing = _draw_thing(draw, split, things, camera, camera_extent, number)
            if thing is None:
                break
            things.append(thing)
        if len(things) == number:
            phase = (float(draw.uniform(0, 1)), float(draw.uniform(0, 1)))
            heading = float(draw.integers(8)) * math.pi / 4
            return Scene(tuple(things), background, tone, camera, camera_extent, phase, heading, seed)


def _draw_surroundings(draw: np.random.Generator) -> tuple[str, str, str, float]:
    background, tone = str(draw.choice(BACKGROUNDS)), str(draw.choice(TONES))
    # Over plain and gradient backgrounds a camera move cannot be scored, so few are drawn.
    moving = draw.random() < (0.06 if background in ("plain", "gradient") else 0.55)
    camera = str(draw.choice(CAMERAS[1:])) if moving else "static"
    jitter = draw.uniform(0.92, 1.08)
    if camera.startswith(("pan", "tilt")):
        extent = PAN_DISTANCE * jitter
    elif camera.startswith("zoom"):
        extent = ZOOM_FACTOR**jitter
    else:
        extent = ROLL_ANGLE * jitter
    return background, tone, camera, float(extent) if moving else 0.0


def _draw_thing(
    draw: np.random.Generator, split: Split, others: list[Thing], camera: str, camera_extent: float, number: int
) -> Thing | None:
    """Draw one thing that fits beside the others, or None when there is no room."""
    for _ in range(8):
        thing = _draw_attributes(draw, split, number)
        placed = _placed(thing, draw, others, camera, camera_extent)
        if placed is not None:
            return placed
    return None


def _draw_attributes(draw: np.random.Generator, split: Split, number: int) -> Thing:
    while True:
        shape, colour, motion = str(draw.choice(SHAPES)), str(draw.choice(COLOURS)), str(draw.choice(MOTIONS))
        if motion == "spin" and shape in ("circle", "ring") and draw.random() < 0.7:
            continue  # cannot be scored, so few are drawn
        if split == "any" or is_held_out(colour, shape, motion) == (split == "held_out"):
            break
    size = str(draw.choice(SIZES, p=(0.34, 0.33, 0.33) if number == 1 else (0.5, 0.35, 0.15)))
    texture = str(draw.choice(TEXTURES, p=(0.6, 0.2, 0.2)))
    speed = str(draw.choice(SPEEDS)) if motion in WITH_SPEED else None
    jitter = draw.uniform(0.94, 1.06)
    if motion in DRIFTS:
        extent = DRIFT_DISTANCE[speed or ""] * jitter
    elif motion == "bounce":
        extent = BOUNCE_HOPS[speed or ""]
    elif motion == "orbit":
        extent = ORBIT_TURNS[speed or ""] * jitter
    elif motion == "spin":
        extent = SPIN_ANGLE[speed or ""] * jitter
    elif motion in ("grow", "shrink"):
        extent = (GROW_FACTOR if motion == "grow" else SHRINK_FACTOR) ** jitter
    else:
        extent = 0.0
    return Thing(
        shape=shape,
        colour=colour,
        size=size,
        texture=texture,
        motion=motion,
        speed=speed,
        x=0.0,
        y=0.0,
        radius=RADIUS[size] * float(draw.uniform(0.95, 1.05)),
        angle=float(draw.uniform(-0.2, 0.2)),
        extent=float(extent),
        phase=float(draw.uniform(0, 2 * math.pi)),
        turning=int(draw.choice((-1, 1))),
    )


def _placed(
    thing: Thing, draw: np.random.Generator, others: list[Thing], camera: str, camera_extent: float
) -> Thing | None:
    """Try places for the thing; return it at the first that keeps it in the frame and clear of the others."""
    position, zoom, turn = camera_path(camera, camera_extent, TIMES)
    path = offsets(thing, TIMES) - position  # 2 T
    reach = scales(thing, TIMES) * thing.radius * REACH[thing.shape]
    tries = draw.uniform(-1.0, 1.0, (2, TRIES_PER_THING, 1)).astype(np.float64)
    seen = (tries + path[:, None, :]) * zoom  # 2 tries T, before the roll
    cos, sin = np.cos(turn), np.sin(turn)
    on_screen = np.maximum(np.abs(cos * seen[0] - sin * seen[1]), np.abs(sin * seen[0] + cos * seen[1]))
    fits = (on_screen + reach * zoom <= 1.0 - MARGIN).all(axis=1)
    for other in others:
        gap = tries + (offsets(thing, TIMES) - offsets(other, TIMES))[:, None, :]
        gap = np.hypot(gap[0] - other.x, gap[1] - other.y)
        fits &= (gap >= reach + scales(other, TIMES) * other.radius * REACH[other.shape] + CLEARANCE).all(axis=1)
    if not fits.any():
        return None
    first = int(np.argmax(fits))
    return replace(thing, x=float(tries[0, first, 0]), y=float(tries[1, first, 0]))
