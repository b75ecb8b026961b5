"""Read the background of a world clip and the camera that moves over it, from the pixels away from all things.

The first frame, where no camera has zoomed or turned yet, gives the kind and tone. A pattern shows the camera: the move
whose undoing best turns every frame into the first. Plain and gradient backgrounds show none, so there only stillness
is read.
Part of the oracle; its limits are explained in docs/concepts/oracle.md.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch.nn import functional

from mutoscope.worlds.render import CELL, TONE_RGB
from mutoscope.worlds.scene import PAN_DISTANCE, ROLL_ANGLE, ZOOM_FACTOR

# Background. A contrast is the difference between the two colours of a tone, 31 to 44 levels.
LEAST_SEEN = 0.15  # of the picture must show background in every frame
NOISE_LIMIT = 6.5  # levels, standard deviation of fine grain; strong noise begins at 15
TONE_LIMIT = 20.0  # levels between the mean colour and the tone's line; the nearest two lines are 24 apart
FLAT = 0.11  # contrasts, RMS off a plane: a gradient has 0.02, after mild damage 0.06, mottle 0.16
SLOPE_PLAIN = 0.10  # contrasts per unit: below, a picture looks plain; 0.04 after mild damage
SLOPE_GRADIENT = (0.22, 0.80)  # contrasts per unit: 0.45 as drawn, times or divided by 1.45 after zooming
PLAIN_OFF = 0.35  # contrasts between a plain background and its tone's first colour
CHECKER_FIT = 0.84  # correlation with the lattice: 0.96 as drawn, mottle 0.27
CHECKER_CONTRAST = (0.65, 1.35)  # of the nominal
CHECKER_ODD_SHARE = 0.06  # of pixels far off the lattice: none as drawn
TEXTURE_SPREAD = (0.09, 0.36)  # contrasts, standard deviation: 0.16 to 0.27 as drawn, two levels 0.46
TEXTURE_STEP = 0.42  # contrasts between neighbouring pixels of 64 x 64: 0.13 drawn, 0.23 damaged, 1 at an edge
QUARTER_SPREAD = 0.045  # contrasts in the calmest quarter of the picture: 0.09 or more as drawn
ODD, ODD_SHARE = 0.5, 0.015  # contrasts off a plane, and the share of pixels that may be
JUMP_LIMIT = 5.0  # levels of mean brightness from frame to frame: 1.5 as drawn
DRIFT_LIMIT = 16.0  # levels of mean brightness over the clip: 8 for a gradient under a moving camera
CHANGE_LIMIT = 7.0  # levels, mean absolute change of the background once the camera is undone

# Camera.
KINDS = {
    "pan": ("pan left", "pan right"),
    "tilt": ("tilt up", "tilt down"),
    "zoom": ("zoom out", "zoom in"),
    "roll": ("roll clockwise", "roll counterclockwise"),
}  # the names of a negative and of a positive extent
COARSE = np.linspace(-1.5, 1.5, 21)  # nominal moves over the clip
FINE = np.linspace(-0.2, 0.2, 9)  # nominal moves around the coarse answer, for every frame by itself
CAMERA_GAIN = 0.72  # a move must lower the change below this share of what standing still leaves
CAMERA_LEAST = 0.2  # nominal moves: less than this is a camera that stands still
CAMERA_RANGE = (0.70, 1.38)  # nominal moves: drawn 0.92 to 1.08, frozen midway 0.5
CAMERA_WOBBLE = 0.10  # nominal moves RMS off a steady one: 1.8 pixels of 64
OVERLAP = 0.125  # of the picture must be background in both frames to compare them


@dataclass(frozen=True)
class Camera:
    """Where the camera is at each frame, relative to the first: enough to undo it."""

    name: str | None
    position: Float[np.ndarray, "2 T"]
    zoom: Float[np.ndarray, " T"]
    turn: Float[np.ndarray, " T"]


# Background


def read_background(
    rgb: Float[np.ndarray, "T H W 3"],
    light: Float[np.ndarray, "T H W"],
    clear: Bool[np.ndarray, "T H W"],
    notes: list[str],
) -> tuple[str | None, str | None]:
    """Name the background's kind and tone, the same at the beginning, in the middle and at the end."""
    if clear.mean(axis=(1, 2)).min() < LEAST_SEEN:
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
    """Return the tone whose line of colours passes nearest to the mean, its first colour's light, and its contrast."""
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
        return "plain" if abs(float(values.mean())) < PLAIN_OFF else None
    return "gradient" if SLOPE_GRADIENT[0] <= slope <= SLOPE_GRADIENT[1] else None


def _kind(mix: Float[np.ndarray, "H W"], clear: Bool[np.ndarray, "H W"], notes: list[str]) -> str | None:
    """Name the kind of the first frame's background, where zoom is 1 and nothing is turned."""
    smooth = _smooth_kind(mix, clear)
    if smooth is not None:
        return smooth
    fit, contrast, off = _checker(mix, clear)
    if fit >= CHECKER_FIT and CHECKER_CONTRAST[0] <= contrast <= CHECKER_CONTRAST[1] and off <= CHECKER_ODD_SHARE:
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
    if TEXTURE_SPREAD[0] <= spread <= TEXTURE_SPREAD[1] and edge <= TEXTURE_STEP and least >= QUARTER_SPREAD:
        return "textured"
    notes.append(
        f"background: no kind fits (lattice {fit:.2f}, spread {spread:.2f}, edges {edge:.2f}, least {least:.2f})"
    )
    return None


def _checker(mix: Float[np.ndarray, "H W"], clear: Bool[np.ndarray, "H W"]) -> tuple[float, float, float]:
    """Fit a square lattice: return its correlation, its contrast and the share of pixels far off it."""
    height, width = mix.shape
    unit = height / 2
    mask = clear.astype(np.float32)
    signal = (2 * mix - 1) * mask
    best = (-1.0, 0.0, 1.0)
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
        if fit[row, column] > best[0]:
            model = down[row][:, None] * across[column][None, :]
            contrast = float((signal * model).sum() / (model**2 * mask).sum())
            off = np.abs(signal - contrast * model)[clear] / 2
            best = (float(fit[row, column]), contrast, float((off > ODD).mean()))
    return best


# Camera


def line(times: Float[np.ndarray, " N"], values: Float[np.ndarray, " N"]) -> tuple[float, float]:
    """Return the slope of the best line and the RMS off it."""
    centred = times - times.mean()
    slope = float((centred @ values) / max(float(centred @ centred), 1e-9))
    return slope, float(np.std(values - slope * times))


def unmoved(num_frames: int, name: str | None) -> Camera:
    """Return a camera that stands still, or one that could not be read."""
    return Camera(name, np.zeros((2, num_frames)), np.ones(num_frames), np.zeros(num_frames))


def _moved(kind: str, extents: Float[np.ndarray, " N"]) -> Camera:
    """Return the camera after these shares of the nominal move of one kind, negative for its first name."""
    camera = unmoved(len(extents), KINDS[kind][int(extents[-1] > 0)])
    if kind == "zoom":
        camera.zoom[:] = ZOOM_FACTOR**extents
    elif kind == "roll":
        camera.turn[:] = ROLL_ANGLE * extents
    else:
        camera.position[int(kind == "tilt")] = PAN_DISTANCE * extents
    return camera


def _changes(
    light: Float[np.ndarray, "T H W"], clear: Bool[np.ndarray, "T H W"], frames: Int[np.ndarray, " N"], camera: Camera
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
    enough = shared >= OVERLAP * rows.size * columns.size
    total = np.maximum(shared, 1)
    return np.where(enough, np.abs(off).sum(axis=1) / total, 1e3), off.sum(axis=1) / total


def read_camera(
    light: Float[np.ndarray, "T H W"], clear: Bool[np.ndarray, "T H W"], notes: list[str]
) -> tuple[Camera, bool]:
    """Name the move that best turns every frame into the first; tell also whether the background is then constant."""
    num_frames = len(light)
    every = np.arange(num_frames)
    still, shift = _changes(light, clear, every, unmoved(num_frames, "static"))
    some = np.unique(np.round(np.linspace(0.2, 1, 5) * (num_frames - 1)).astype(int))
    times = some / (num_frames - 1)
    best, kind, extent = math.inf, "", 0.0
    for name in KINDS:
        camera = _moved(name, np.outer(COARSE, times).reshape(-1))
        change = _changes(light, clear, np.tile(some, len(COARSE)), camera)[0].reshape(len(COARSE), -1).mean(axis=1)
        if change.min() < best:
            best, kind, extent = float(change.min()), name, float(COARSE[change.argmin()])
    if best > CAMERA_GAIN * still[some].mean() or abs(extent) < CAMERA_LEAST:
        if max(still.max(), 1.4 * np.abs(shift).max()) <= CHANGE_LIMIT:
            return unmoved(num_frames, "static"), True
        notes.append(f"camera: standing still leaves a change of {still.max():.1f} levels and no move removes it")
        return unmoved(num_frames, None), False
    return _follow(light, clear, kind, extent, notes)


def _follow(
    light: Float[np.ndarray, "T H W"], clear: Bool[np.ndarray, "T H W"], kind: str, extent: float, notes: list[str]
) -> tuple[Camera, bool]:
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
    slope, wobble = line(times, path)
    camera = _moved(kind, path)
    left, shift = _changes(light, clear, every, camera)
    if max(left.max(), 1.4 * np.abs(shift).max()) > CHANGE_LIMIT:
        notes.append(f"camera: {camera.name} leaves a change of {left.max():.1f} levels")
        return unmoved(num_frames, None), False
    if not CAMERA_RANGE[0] <= abs(slope) <= CAMERA_RANGE[1] or wobble > CAMERA_WOBBLE:
        notes.append(f"camera: {camera.name} by {abs(slope):.2f} of the usual, {wobble:.2f} unsteady")
        return Camera(None, camera.position, camera.zoom, camera.turn), True
    return camera, True


def read_stillness(
    light: Float[np.ndarray, "T H W"], clear: Bool[np.ndarray, "T H W"], background: str | None, notes: list[str]
) -> Camera:
    """Read a camera over a background that shows no move: static unless something changes."""
    change = _changes(light, clear, np.arange(len(light)), unmoved(len(light), "static"))[0]
    if background is not None and change.max() <= CHANGE_LIMIT:
        return unmoved(len(light), "static")
    notes.append(f"camera: the background changes by {change.max():.1f} levels and has nothing to follow")
    return unmoved(len(light), None)
