"""Draw a scene: anti-aliased vivid shapes over a muted background, seen by a moving camera.

Shapes are signed distances in a frame where every shape covers the area of the unit disc, with its centroid at the
origin and y pointing down. Coverage of a pixel is the distance to the outline in pixels, clipped, so that edges stay
one pixel wide at any size. Things are drawn on small patches around them, all frames at once; a static background is
drawn once.
"""

import math

import numpy as np
from jaxtyping import Float, UInt8

from mutoscope.worlds.scene import REACH, Scene, Thing, angles, camera_path, offsets, opacities, scales

# Vivid: the widest spread between two channels is at least 130 of 255.
COLOUR_RGB = {
    "red": (222, 38, 44),
    "orange": (248, 138, 16),
    "yellow": (248, 216, 40),
    "green": (28, 168, 62),
    "cyan": (36, 200, 216),
    "blue": (38, 84, 226),
    "purple": (136, 56, 204),
    "pink": (246, 108, 182),
}
# Muted: at most 48 of 255. Plain uses the first; the others run or alternate between the two.
TONE_RGB = {
    "white": ((242, 242, 240), (206, 208, 212)),
    "grey": ((156, 157, 160), (112, 113, 116)),
    "black": ((26, 27, 30), (64, 65, 70)),
    "beige": ((232, 217, 192), (204, 186, 158)),
    "slate": ((100, 115, 138), (62, 76, 100)),
}
SHADE = 0.74  # of the colour, on stripes and dots
LIGHT = 0.08  # lighter towards the upper left, darker towards the lower right
CELL = 0.36  # units: the side of a checker square and the spacing of the textured background's lattice
LATTICE = 16  # lattice points a side; the textured background repeats after 16 cells

SQUARE_HALF = math.sqrt(math.pi) / 2
TRIANGLE_OUTER = math.sqrt(4 * math.pi / (3 * math.sqrt(3)))
STAR_OUTER = math.sqrt(math.pi / (2.5 * math.sin(math.pi / 5)))  # inner corners at half the outer radius
HEART_SIDE = math.sqrt(math.pi / (1 + math.pi / 4))  # a square on its corner with a half disc on each upper side
HEART_CENTROID = (0.5 + math.pi / 8 * (0.5 + 1 + 2 / (3 * math.pi))) / (1 + math.pi / 4)  # of the side, from the tip
RING_OUTER, RING_INNER = 1.25, 0.75
CROSS_LENGTH = math.sqrt(math.pi / (8 * 0.38 - 4 * 0.38**2))  # half the length of a bar
CROSS_WIDTH = 0.38 * CROSS_LENGTH  # half its width


def distance(shape: str, x: Float[np.ndarray, "*S"], y: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
    """Return the signed distance to the outline of a shape of the unit disc's area, negative inside, y down.

    Exact near edges; beyond corners it may fall short of the true distance, which only rounds them by a part of a
    pixel.
    """
    if shape == "circle":
        return np.hypot(x, y) - 1
    if shape == "ring":
        return np.abs(np.hypot(x, y) - (RING_OUTER + RING_INNER) / 2) - (RING_OUTER - RING_INNER) / 2
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - SQUARE_HALF
    if shape == "triangle":
        side = np.float32(math.sqrt(3) / 2) * np.abs(x) - y / 2
        return np.maximum(side, y) - TRIANGLE_OUTER / 2
    if shape == "star":
        # Fold into the half sector between a tip (angle 0) and the next inner corner (angle 36 degrees).
        sector = np.arctan2(x, -y)
        folded = np.abs((sector + math.pi / 5) % (2 * math.pi / 5) - math.pi / 5)
        radius = np.hypot(x, y)
        px, py = radius * np.cos(folded), radius * np.sin(folded)
        inner_x, inner_y = STAR_OUTER / 2 * math.cos(math.pi / 5), STAR_OUTER / 2 * math.sin(math.pi / 5)
        length = math.hypot(inner_x - STAR_OUTER, inner_y)
        normal_x, normal_y = inner_y / length, (STAR_OUTER - inner_x) / length
        return (px - STAR_OUTER) * normal_x + py * normal_y
    if shape == "heart":
        # u and v run from the tip along the two lower sides.
        root = math.sqrt(0.5)
        u = (x * root - y * root) / HEART_SIDE + HEART_CENTROID
        v = (-x * root - y * root) / HEART_SIDE + HEART_CENTROID
        square = np.maximum(np.abs(u - 0.5), np.abs(v - 0.5)) - 0.5
        lobes = np.minimum(np.hypot(u - 1, v - 0.5), np.hypot(u - 0.5, v - 1)) - 0.5
        return np.minimum(square, lobes) * HEART_SIDE
    if shape == "cross":
        x, y = np.abs(x), np.abs(y)
        bars = np.minimum(np.maximum(x - CROSS_LENGTH, y - CROSS_WIDTH), np.maximum(x - CROSS_WIDTH, y - CROSS_LENGTH))
        return bars
    raise ValueError(f"no shape is called {shape!r}")


def render(scene: Scene, num_frames: int = 16, height: int = 64, width: int = 64) -> UInt8[np.ndarray, "T H W 3"]:
    """Draw every frame of the scene.

    Args:
        scene: what to draw.
        num_frames: how many frames share the clip's time from 0 to 1; one frame shows its beginning.
        height: pixels; two units of the world.
        width: pixels; a wider frame shows more world at the sides.

    Returns:
        The frames, RGB.
    """
    times = np.linspace(0.0, 1.0, num_frames) if num_frames > 1 else np.zeros(1)
    frames = np.empty((num_frames, height, width, 3), np.float32)
    frames[:] = _background(scene, times, height, width)
    for thing in scene.things:
        _draw(thing, scene, times, frames)
    return (frames + np.float32(0.5)).clip(0, 255).astype(np.uint8)


def screen_path(thing: Thing, scene: Scene, times: np.ndarray) -> Float[np.ndarray, "4 T"]:
    """Return the thing's x, y (units), scale (of its radius) and angle (radians) as the camera sees them."""
    position, zoom, turn = camera_path(scene.camera, scene.camera_extent, times)
    x, y = (offsets(thing, times) + np.array([[thing.x], [thing.y]]) - position) * zoom
    cos, sin = np.cos(turn), np.sin(turn)
    return np.stack([cos * x - sin * y, sin * x + cos * y, scales(thing, times) * zoom, angles(thing, times) + turn])


def _draw(thing: Thing, scene: Scene, times: np.ndarray, frames: Float[np.ndarray, "T H W 3"]) -> None:
    """Blend the thing into the frames, in place."""
    num_frames, height, width, _ = frames.shape
    unit = height / 2  # pixels
    x, y, scale, angle = screen_path(thing, scene, times)
    radius = thing.radius * scale * unit  # pixels, per frame
    reach = REACH[thing.shape] * float(radius.max())
    rows, columns = (min(math.ceil(2 * reach) + 4, side) for side in (height, width))
    top = np.clip(np.floor(y * unit + height / 2 - rows / 2), 0, height - rows).astype(int)
    left = np.clip(np.floor(x * unit + width / 2 - columns / 2), 0, width - columns).astype(int)
    # Pixel centres relative to the thing, in its radii.
    dy = ((top[:, None] + np.arange(rows) + 0.5 - height / 2 - (y * unit)[:, None]) / radius[:, None])[:, :, None]
    dx = ((left[:, None] + np.arange(columns) + 0.5 - width / 2 - (x * unit)[:, None]) / radius[:, None])[:, None, :]
    dx, dy = dx.astype(np.float32), dy.astype(np.float32)
    cos, sin = (f(angle).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
    local_x, local_y = cos * dx + sin * dy, cos * dy - sin * dx
    pixels = radius.astype(np.float32)[:, None, None]
    cover = np.clip(0.5 - distance(thing.shape, local_x, local_y) * pixels, 0, 1)
    cover *= opacities(thing, times).astype(np.float32)[:, None, None]
    light = (1 - LIGHT * (dx + dy)) * _texture(thing.texture, local_x, local_y, pixels)
    paint = light[..., None] * np.array(COLOUR_RGB[thing.colour], np.float32)
    for index in range(num_frames):
        patch = frames[index, top[index] : top[index] + rows, left[index] : left[index] + columns]
        patch += cover[index, ..., None] * (paint[index] - patch)


def _texture(
    texture: str, x: Float[np.ndarray, "T h w"], y: Float[np.ndarray, "T h w"], pixels: Float[np.ndarray, "T 1 1"]
) -> Float[np.ndarray, "T h w"] | float:
    """Return the brightness of the thing's own pattern; `pixels` is its radius in pixels."""
    if texture == "solid":
        return 1.0
    if texture == "striped":
        outside = np.abs(y % 0.8 - 0.4) - 0.2  # stripes of 0.4 radii
    else:
        outside = 0.27 - np.hypot((x + 0.4) % 0.8 - 0.4, (y + 0.4) % 0.8 - 0.4)  # dots of 0.27 radii, 0.8 apart
    return 1 - (1 - SHADE) * np.clip(0.5 + outside * pixels, 0, 1)


def _background(scene: Scene, times: np.ndarray, height: int, width: int) -> Float[np.ndarray, "..."]:
    """Draw the background, "T H W 3", or what broadcasts to it when nothing moves."""
    first, second = (np.array(rgb, np.float32) for rgb in TONE_RGB[scene.tone])
    if scene.background == "plain":
        return first
    return first + background_mix(scene, times, height, width)[..., None] * (second - first)


def background_mix(scene: Scene, times: Float[np.ndarray, " T"], height: int, width: int) -> Float[np.ndarray, "..."]:
    """Return how far each pixel of the background is from the first to the second colour of its tone, 0 to 1.

    Args:
        scene: what is drawn.
        times: of the frames, 0 to 1.
        height: pixels down.
        width: pixels across.

    Returns:
        The mix, "T H W", or "1 H W" where the camera stands still.
    """
    unit = height / 2
    moving = scene.camera != "static"
    position, zoom, turn = camera_path(scene.camera, scene.camera_extent, times if moving else times[:1])
    screen_y = ((np.arange(height) + 0.5) / unit - 1)[None, :, None]
    screen_x = ((np.arange(width) + 0.5 - width / 2) / unit)[None, None, :]
    cos, sin = np.cos(turn)[:, None, None], np.sin(turn)[:, None, None]
    if scene.camera.startswith("roll"):
        x, y = cos * screen_x + sin * screen_y, cos * screen_y - sin * screen_x
    else:
        x, y = screen_x, screen_y  # kept apart: the pattern is then computed along rows and columns
    x = (x / zoom[:, None, None] + position[0][:, None, None]).astype(np.float32)
    y = (y / zoom[:, None, None] + position[1][:, None, None]).astype(np.float32)
    pixels = (zoom * unit).astype(np.float32)[:, None, None]
    if scene.background == "plain":
        return np.zeros((len(zoom), height, width), np.float32)
    if scene.background == "gradient":
        return np.clip(0.5 + 0.45 * (x * math.cos(scene.heading) + y * math.sin(scene.heading)), 0, 1)
    if scene.background == "checkered":
        return 0.5 + 0.5 * _stripes(x / CELL + scene.phase[0], pixels) * _stripes(y / CELL + scene.phase[1], pixels)
    return _mottle(scene, x / CELL + LATTICE / 2 + scene.phase[0], y / CELL + LATTICE / 2 + scene.phase[1])


def _stripes(cells: Float[np.ndarray, "..."], pixels: Float[np.ndarray, "T 1 1"]) -> Float[np.ndarray, "..."]:
    """Alternate between +1 and -1 from cell to cell, with edges one pixel wide."""
    edge = np.abs(cells % 2 - 1) - 0.5  # distance to the nearest edge, in cells, signed
    return np.clip(2 * edge * CELL * pixels, -1, 1)


def _mottle(scene: Scene, x: Float[np.ndarray, "..."], y: Float[np.ndarray, "..."]) -> Float[np.ndarray, "T H W"]:
    """Blend random lattice values smoothly (value noise), 0 to 1."""
    draw = np.random.default_rng([20261121, scene.seed])
    lattice = draw.permutation(np.linspace(0, 1, LATTICE * LATTICE, dtype=np.float32)).reshape(LATTICE, LATTICE)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    fx, fy = x - left, y - top
    fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
    right, bottom = (left + 1) % LATTICE, (top + 1) % LATTICE
    left, top = left % LATTICE, top % LATTICE
    upper = lattice[top, left] + fx * (lattice[top, right] - lattice[top, left])
    lower = lattice[bottom, left] + fx * (lattice[bottom, right] - lattice[bottom, left])
    return upper + fy * (lower - upper)
