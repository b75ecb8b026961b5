"""What is where in the frames of a scene: exact maps on a coarse grid, to supervise latents and networks.

A cell is a square of pixels, such as the 8 x 8 that become one latent. For each cell of each frame the maps state
whether an object reaches it, which one, and how the background looks there. All of it follows from the scene; no pixel
is read. An object reaches a cell whose centre lies within 1.25 of its radii, plus half a cell, of its own centre.
"""

from types import MappingProxyType

import numpy as np
from einops import rearrange
from jaxtyping import Float16

from mutoscope.worlds.render import background_mix, screen_path
from mutoscope.worlds.scene import (
    BACKGROUNDS,
    CAMERAS,
    COLOURS,
    MOTIONS,
    SHAPES,
    TEXTURES,
    TONES,
    Scene,
    opacities,
)

REACH = 1.25  # radii
SEEN = 0.5  # least opacity of an object that counts
NOWHERE = -1  # the class of a cell that no object reaches
SYMMETRY = MappingProxyType({"circle": 0, "square": 4, "triangle": 3, "star": 5, "heart": 1, "ring": 0, "cross": 4})

OF_OBJECT = MappingProxyType({"shape": SHAPES, "colour": COLOURS, "texture": TEXTURES, "motion": MOTIONS})
OF_SCENE = MappingProxyType({"background": BACKGROUNDS, "tone": TONES, "camera": CAMERAS})
NUMBERS = MappingProxyType(
    {
        "offset": 2,  # x and y from the cell's centre to the centre of the object that reaches it, in cells
        "log_radius": 1,  # of that object, in cells
        "turn": 2,  # cosine and sine of its angle times its order of symmetry; zero for a circle or a ring
        "velocity": 2,  # of its centre on the screen, in frame heights over the whole clip
        "growth": 1,  # of the logarithm of its radius, over the whole clip
        "spin": 1,  # of its angle, in turns over the whole clip
        "mix": 4,  # of the background's two colours, at four points of the cell, row by row
    }
)


def _channels() -> MappingProxyType[str, slice]:
    sizes = {**dict.fromkeys((*OF_OBJECT, *OF_SCENE), 1), **NUMBERS}
    ends = np.cumsum(list(sizes.values())).tolist()
    return MappingProxyType({name: slice(end - sizes[name], end) for name, end in zip(sizes, ends, strict=True)})


CHANNELS = _channels()  # where each map stands
COUNT = max(place.stop for place in CHANNELS.values())


def truth_maps(
    scene: Scene, num_frames: int = 16, height: int = 64, width: int = 64, cell: int = 8
) -> Float16[np.ndarray, "T n h w"]:
    """State what is where in every frame of a clip.

    Args:
        scene: what the clip shows.
        num_frames: frames of the clip.
        height: pixels down, a multiple of `cell`.
        width: pixels across, a multiple of `cell`.
        cell: pixels along each side of a cell.

    Returns:
        The maps of `CHANNELS`. A class is its index, and NOWHERE where no object reaches the cell; the numbers of an
        object are zero there.
    """
    times = np.linspace(0.0, 1.0, num_frames) if num_frames > 1 else np.zeros(1)
    h, w = height // cell, width // cell
    unit = height / 2 / cell  # cells
    maps = np.zeros((num_frames, COUNT, h, w), np.float32)
    for name in OF_OBJECT:
        maps[:, CHANNELS[name]] = NOWHERE
    for name, values in OF_SCENE.items():
        maps[:, CHANNELS[name]] = values.index(getattr(scene, name))
    mix = np.broadcast_to(background_mix(scene, times, 2 * h, 2 * w), (num_frames, 2 * h, 2 * w))
    maps[:, CHANNELS["mix"]] = rearrange(mix, "T (h p) (w q) -> T (p q) h w", p=2, q=2)
    rows, columns = (np.arange(side) + 0.5 - side / 2 for side in (h, w))
    nearest = np.full((num_frames, h, w), np.inf)  # distance to an object's centre, in its radii
    for thing in scene.things:
        x, y, scale, angle = screen_path(thing, scene, times)
        radius = thing.radius * scale * unit
        dx, dy = (x * unit)[:, None, None] - columns, (y * unit)[:, None, None] - rows[:, None]
        away = np.hypot(dx, dy)
        reached = (away <= (REACH * radius + 0.5)[:, None, None]) & (opacities(thing, times) >= SEEN)[:, None, None]
        taken = reached & (away / radius[:, None, None] < nearest)
        nearest = np.where(taken, away / radius[:, None, None], nearest)
        order = SYMMETRY[thing.shape]
        speed = [np.gradient(one, times) if num_frames > 1 else np.zeros(1) for one in (x, y, np.log(scale), angle)]
        numbers = {
            "offset": (dx, dy),
            "log_radius": (np.log(radius),),
            "turn": (np.cos(order * angle), np.sin(order * angle)) if order else (0.0, 0.0),
            "velocity": (speed[0] / 2, speed[1] / 2),
            "growth": (speed[2],),
            "spin": (speed[3] / (2 * np.pi),),
            **{name: (values.index(getattr(thing, name)),) for name, values in OF_OBJECT.items()},
        }
        for name, values in numbers.items():
            for channel, value in enumerate(values, start=CHANNELS[name].start):
                value = np.asarray(value, np.float32)
                maps[:, channel] = np.where(taken, value[:, None, None] if value.ndim == 1 else value, maps[:, channel])
    return maps.astype(np.float16)
