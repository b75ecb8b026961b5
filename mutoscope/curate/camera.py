"""What the camera does in a clip, told from the flow of its picture: one of the 14 labels of HunyuanVideo, or unknown.

    flow_x, flow_y, flow_zoom, flow_roll, flow_residual ── label ──> "pan left", "zoom in", "static", ... or "unknown"

Flow is flat: it tells how the picture moves, not where the camera is. A camera that turns to the left and one that
goes to the left move a distant picture alike, and one that goes around a thing differs from both by depth alone. So of
the 14 labels (`LABELS`) only those in `TOLD` are ever given, in their usual sense: pan for left and right, tilt for up
and down. "pan up", "pan down", "tilt left", "tilt right", "around left" and "around right" need depth; a clip with such
a motion is given the flat label that looks the same, or "unknown". A roll has no label of its own: "unknown".

What moves in front of an empty background looks like a camera, too. Where more is left over than the camera explains
well, the answer is "unknown": a label goes into captions, so it had better be right than given.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

Label = Literal[
    "zoom in", "zoom out", "pan up", "pan down", "pan left", "pan right", "tilt up", "tilt down", "tilt left",
    "tilt right", "around left", "around right", "static", "handheld", "unknown",
]  # fmt: skip
Series = Float[np.ndarray, " T"]

LABELS: tuple[Label, ...] = (
    *("zoom in", "zoom out", "pan up", "pan down", "pan left", "pan right", "tilt up", "tilt down"),
    *("tilt left", "tilt right", "around left", "around right", "static", "handheld"),
)
TOLD: tuple[Label, ...] = (
    *("static", "handheld", "pan left", "pan right", "tilt up", "tilt down", "zoom in", "zoom out"),
)
# For each motion of the picture (right, down, larger, clockwise), what the camera does when it goes on, and when back.
WAYS: tuple[tuple[Label, Label], ...] = (
    ("pan left", "pan right"),
    ("tilt up", "tilt down"),
    ("zoom in", "zoom out"),
    ("unknown", "unknown"),
)
REACH = 0.3  # frame widths from the centre to a point of the picture, on average: how far zoom and roll move it


@dataclass(frozen=True)
class CameraSettings:
    """When a camera is said to do something. Speeds are those of the picture, in frame widths a second.

    Args:
        static_speed: slower is static.
        moving_speed: slower is neither static nor a motion.
        clear: how often the motion that the camera explains must contain what it does not.
        straight: share of its way that a pan, tilt or zoom must get ahead.
        pure: share of one kind of motion in what it gets ahead, in squares.
        shaky: share of its way that a handheld camera gets ahead at most.
        turns: how often a second a handheld camera turns back at least.
    """

    static_speed: float = 0.006
    moving_speed: float = 0.012
    clear: float = 2.0
    straight: float = 0.6
    pure: float = 0.7
    shaky: float = 0.5
    turns: float = 1.5


@dataclass(frozen=True)
class Motion:
    """How the camera moves the picture of a clip.

    Args:
        steps: for every frame by how much it moves right, down, larger and clockwise, all in frame widths.
        residual: of every frame, what the camera does not explain, in frame widths.
        duration_s: seconds that all of them last.
    """

    steps: Float[np.ndarray, "T 4"]
    residual: Series
    duration_s: float

    @classmethod
    def of(cls, x: Series, y: Series, zoom: Series, roll: Series, residual: Series, duration_s: float) -> "Motion":
        """Take the columns of the table of frames: x, y and residual in frame widths, log factors, radians."""
        steps = np.stack([x, y, REACH * zoom, REACH * roll], axis=-1).astype(np.float64)
        return cls(np.nan_to_num(steps), np.nan_to_num(residual.astype(np.float64)), max(duration_s, 1e-6))

    @property
    def camera_speed(self) -> float:
        """How fast the camera moves the picture, in frame widths a second."""
        return float(np.linalg.norm(self.steps, axis=1).sum()) / self.duration_s

    @property
    def own_speed(self) -> float:
        """How fast things move beyond that, a mean over the picture, in frame widths a second."""
        return float(self.residual.sum()) / self.duration_s

    @property
    def turns(self) -> float:
        """How often a second the picture turns back, of its ways right and down the one that does more often."""
        counts = []
        for series in self.steps[:, :2].T:
            signs = np.sign(series[np.abs(series) > 1e-4])
            counts.append(int((signs[1:] != signs[:-1]).sum()))
        return max(counts) / self.duration_s


def label(motion: Motion, settings: CameraSettings = CameraSettings()) -> Label:
    """Say what the camera does.

    Args:
        motion: of the clip.
        settings: thresholds.

    Returns:
        One of `TOLD`, or "unknown".
    """
    speed = motion.camera_speed
    if speed < settings.static_speed:
        return "static"
    if speed < max(settings.moving_speed, settings.clear * motion.own_speed):
        return "unknown"
    ahead = motion.steps.sum(axis=0)
    progress = float(np.linalg.norm(ahead)) / (speed * motion.duration_s)
    if progress < settings.straight:
        is_handheld = progress <= settings.shaky and motion.turns >= settings.turns
        return "handheld" if is_handheld else "unknown"
    way = int(np.abs(ahead).argmax())
    if ahead[way] ** 2 < settings.pure * float((ahead**2).sum()):
        return "unknown"
    return WAYS[way][0 if ahead[way] > 0 else 1]
