"""What `mutoscope demo` makes: a few videos with the bundled model, from words and from a picture."""

import shutil
import sys
from pathlib import Path

import numpy as np

from mutoscope.apps.jobs import GenerateJob, generate
from mutoscope.core.video import Video
from mutoscope.loading import load
from mutoscope.pipeline import DEFAULT_MODEL, Request
from mutoscope.worlds.render import render
from mutoscope.worlds.scene import Scene, Thing

# What the demo generates: file name and prompt. The last begins from a picture that the world draws.
DEMO = (
    ("circle", "a small red circle drifts slowly to the left over a checkered grey floor, static camera"),
    ("star", "a large yellow star spins slowly in front of a slate gradient, static camera"),
    ("heart", "a medium pink heart bounces quickly in front of a plain black wall, static camera"),
    ("pair", "a small blue square moves slowly right and a medium orange ring grows over a plain white background"),
    ("chinese", "一个中等大小的绿色三角形快速地向上移动，背景是米色渐变背景，镜头静止"),
    ("camera", "a small cyan cross stays still over a grey checkerboard, the camera zooms in"),
    ("from-picture", "a medium purple heart drifts slowly to the right over a plain beige background, static camera"),
)
DEMO_SCENE = Scene(
    (
        Thing(
            shape="heart",
            colour="purple",
            size="medium",
            texture="solid",
            motion="right",
            speed="slow",
            x=-0.1,
            y=0.1,
            radius=0.26,
            angle=0.0,
            extent=0.38,
            phase=0.0,
            turning=1,
        ),
    ),
    background="plain",
    tone="beige",
    camera="static",
    camera_extent=0.0,
    phase=(0.0, 0.0),
    heading=0.0,
    seed=0,
)


def demo(out: Path, device: str | None = None) -> tuple[list[Path], Path]:
    """Generate a few videos from text and one from a picture with the bundled model.

    Args:
        out: folder to write to.
        device: where to run; the fastest there is, if not given.

    Returns:
        The videos, and a GIF that plays them side by side.
    """
    system = load(DEFAULT_MODEL, device)
    videos = []
    for name, prompt in DEMO:
        picture = None
        if name == "from-picture":
            picture = out / "picture.png"
            size = system.size
            Video.from_array(render(DEMO_SCENE, 1, size.height, size.width), size.fps).save(picture)
        job = GenerateJob(Request(prompt), image=picture, out=out / f"{name}.mp4", overwrite=True)
        videos += generate(job, system)
        print(f"{videos[-1]}: {prompt}")
    sheet = out / "all.gif"
    side_by_side = np.concatenate([Video.open(path).array() for path in videos], axis=2)
    height, width = side_by_side.shape[1:3]
    Video.from_array(side_by_side, system.size.fps).resized(2 * height, 2 * width).save(sheet)
    return videos, sheet


def next_command() -> str:
    """Return a command to type next that works in the shell at hand."""
    command = 'mutoscope generate "a small red star spins"'
    if shutil.which("mutoscope"):
        return command
    return f"{Path(sys.executable).with_name('mutoscope')} {command.removeprefix('mutoscope ')}"
