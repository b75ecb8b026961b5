"""What the suite `world` asks, and how a clip is judged by it.

The prompts are fixed in `world_prompts.jsonl`, which scripts/make_world_prompts.py wrote before any model was trained.
All scenes are of held-out combinations, and every attribute of theirs can be told from pixels.

    set                       prompts  frames given      asked
    one, two, three               256  none              1, 2, 3 objects, in English; every fourth text is dense
    one_zh, two_zh, three_zh      256  none              the very same scenes, in Chinese
    image                         128  the first         what the picture cannot tell: motion, speed, camera
    first_last                    128  first and last    the same
    first_four                    128  the first four    the same
    every_second                  128  0, 2, 4, ...      the same

Where frames are given there is one object, seen from the first frame on (so none that appears), and the text leaves out
its colour and size and the background: they must come from the pictures. With first and last given nothing orbits,
because no text says which way round.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from mutoscope.core.errors import RequestError
from mutoscope.evaluate.statistics import psnr
from mutoscope.worlds import oracle, render, scene
from mutoscope.worlds.scene import Scene

Frames = UInt8[np.ndarray, "T H W 3"]

FILE = "world_prompts.jsonl"
CARRIED = ("colour", "shape", "size", "background")  # what a given picture shows and the clip must keep
PATH_LIMIT = 0.06  # of the frame's width, between the thing and where it truly is, at the worst frame
MISSING_LIMIT = 30.0  # dB
SAME = 100.0  # dB, said of pictures that do not differ, as JSON has no infinity
JUMP_SCENES = 1000  # over which the greatest usual change of the second frame is found
JUMP_SEED = 9_000_000
JUMP_QUANTILE = 0.99
NOT_THE_JUDGE = ("__init__.py", "language.py", "footage.py", "spoil.py", "takes.py")  # they neither draw nor judge
MUTED_SPREAD = 58  # between a pixel's channels: backgrounds stay below, things lie above


@dataclass(frozen=True)
class WorldSet:
    """One part of the suite: its name in tables, how many objects, and the measures that sum it up."""

    title: str
    depth: int
    headlines: tuple[str, ...]


SETS: Mapping[str, WorldSet] = {
    "one": WorldSet("one object, English", 1, ("all",)),
    "one_zh": WorldSet("one object, Chinese", 1, ("all",)),
    "two": WorldSet("two objects, English", 2, ("all",)),
    "two_zh": WorldSet("two objects, Chinese", 2, ("all",)),
    "three": WorldSet("three objects, English", 3, ("all",)),
    "three_zh": WorldSet("three objects, Chinese", 3, ("all",)),
    "image": WorldSet("first frame given", 1, ("carried", "motion", "no_jump")),
    "first_last": WorldSet("first and last frame given", 1, ("path",)),
    "first_four": WorldSet("first four frames given", 1, ("motion",)),
    "every_second": WorldSet("every second frame given", 1, ("missing_psnr",)),
}
MAIN = ("one", "one_zh", "two", "three")


@dataclass(frozen=True)
class Prompt:
    """One line of the suite.

    Args:
        id: the set and a number, such as ``one-017``.
        set: a name of `SETS`.
        language: ``en`` or ``zh``.
        length: ``brief``, ``short`` or ``dense``.
        text: what the model is asked for.
        scene_seed: draws the true scene, from the held-out combinations.
        phrasing: the seed that chose the text.
        told: what the text tells, in words.
    """

    id: str
    set: str
    language: str
    length: str
    text: str
    scene_seed: int
    phrasing: int
    told: Mapping[str, Any]

    @property
    def depth(self) -> int:
        """How many objects there are."""
        return SETS[self.set].depth

    @property
    def scene(self) -> Scene:
        """What the clip should show."""
        return scene.sample(self.scene_seed, split="held_out", count=self.depth)

    @property
    def pair(self) -> str:
        """The same for the two prompts, English and Chinese, of one scene."""
        return self.id.replace("_zh", "")

    def given(self, num_frames: int) -> tuple[int, ...]:
        """Return which frames are given, of so many."""
        match self.set:
            case "image":
                return (0,)
            case "first_last":
                return (0, num_frames - 1)
            case "first_four":
                return (0, 1, 2, 3)
            case "every_second":
                return tuple(range(0, num_frames, 2))
        return ()


def load(sets: Sequence[str] = tuple(SETS), limit: int | None = None) -> list[Prompt]:
    """Read the prompts of some sets, the first `limit` of each.

    Raises:
        RequestError: there is no such set, or the limit leaves nothing.
    """
    unknown = [name for name in sets if name not in SETS]
    if unknown:
        raise RequestError(f"The suite world has no set {unknown[0]!r}. Use some of: {', '.join(SETS)}.")
    if limit is not None and limit < 1:
        raise RequestError(f"limit={limit} leaves nothing to measure. Give at least 1.")
    every = [Prompt(**json.loads(line)) for line in _text().split("\n") if line]
    by_set = {name: list(prompts) for name, prompts in groupby(every, key=lambda prompt: prompt.set)}
    return [prompt for name in dict.fromkeys(sets) for prompt in by_set[name][:limit]]


def fingerprints() -> dict[str, str]:
    """Return hashes of the prompts and of the code that draws and judges: a figure holds only for these."""
    sources = {file.name: file for file in resources.files("mutoscope.worlds").iterdir() if file.name.endswith(".py")}
    code = [sources[name].read_text(encoding="utf-8") for name in sorted(sources) if name not in NOT_THE_JUDGE]
    texts = {"prompts": _text(), "judge": "".join(code)}
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}


def _text() -> str:
    return (resources.files("mutoscope.evaluate") / FILE).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Judgement:
    """What is right about a clip, what was measured on it, and the oracle's reading."""

    right: dict[str, bool]
    values: dict[str, float]
    reading: oracle.Reading


def judge(prompt: Prompt, frames: Frames, truth: Frames, jump_limits: Mapping[str, float]) -> Judgement:
    """Judge a clip against its prompt.

    Args:
        prompt: what was asked.
        frames: the clip.
        truth: the true clip, of the same shape, from which the given frames came.
        jump_limits: from `jump_limits`; looked at where the first frame is given.

    Returns:
        `right`: the oracle's verdict and, by set, ``carried`` (the attributes `CARRIED` right over the whole clip),
        ``no_jump``, ``path``, ``missing_30_db``. `values`: ``given_psnr`` and ``missing_psnr`` in dB, ``jump`` in
        levels, ``path_error`` as a share of the frame's width.
    """
    reading = oracle.measure(frames)
    right = oracle.verdict(reading, prompt.scene)
    values: dict[str, float] = {}
    given = list(prompt.given(len(frames)))
    if given:
        values["given_psnr"] = min(psnr(frames[given], truth[given]), SAME)
    if prompt.set == "image":
        values["jump"] = jump(frames)
        right["carried"] = all(right[name] for name in CARRIED)
        right["no_jump"] = values["jump"] <= jump_limits[_camera_kind(prompt.scene)]
    elif prompt.set == "first_last":
        values["path_error"] = path_error(frames, truth)
        right["path"] = values["path_error"] <= PATH_LIMIT
    elif prompt.set == "every_second":
        missing = [index for index in range(len(frames)) if index not in given]
        values["missing_psnr"] = min(psnr(frames[missing], truth[missing]), SAME)
        right["missing_30_db"] = values["missing_psnr"] >= MISSING_LIMIT
    return Judgement(right, values, reading)


def jump(frames: Frames) -> float:
    """Return the mean absolute change from the first frame to the second, in levels of 255."""
    return float(np.abs(frames[1].astype(np.int16) - frames[0]).mean())


def jump_limits(num_frames: int, height: int, width: int) -> dict[str, float]:
    """Return the 99th percentile of `jump` over true clips, for a static and for a moving camera, in levels."""
    jumps: dict[str, list[float]] = {"static": [], "moving": []}
    for seed in range(JUMP_SEED, JUMP_SEED + JUMP_SCENES):
        drawn = scene.sample(seed, split="held_out", count=1)
        if is_seen_from_the_start(drawn) and not scene.unscored(drawn):
            jumps[_camera_kind(drawn)].append(jump(render.render(drawn, num_frames, height, width)))
    return {kind: float(np.quantile(values, JUMP_QUANTILE)) for kind, values in jumps.items()}


def is_seen_from_the_start(drawn: Scene) -> bool:
    """Tell whether the first frame shows every thing."""
    return all(thing.motion != "appear" for thing in drawn.things)


def _camera_kind(drawn: Scene) -> str:
    return "static" if drawn.camera == "static" else "moving"


def path_error(frames: Frames, truth: Frames) -> float:
    """Return how far the thing is from where it truly is, at the worst frame, as a share of the frame's width."""
    distances = np.linalg.norm(centroids(frames) - centroids(truth), axis=1)
    return 1.0 if np.isnan(distances).any() else float(distances.max())


def centroids(frames: Frames) -> Float[np.ndarray, "T 2"]:
    """Return the centre of the vivid pixels of each frame, x and y from the upper left, as shares of the frame's width.

    In a clip of one thing this is its centroid; nan where nothing is vivid.
    """
    spread = frames.max(axis=-1).astype(np.float64) - frames.min(axis=-1) - MUTED_SPREAD
    weight = spread.clip(min=0)
    _, height, width = weight.shape
    total = weight.sum(axis=(1, 2))
    with np.errstate(invalid="ignore"):
        x = weight.sum(axis=1) @ (np.arange(width) + 0.5) / total
        y = weight.sum(axis=2) @ (np.arange(height) + 0.5) / total
    return np.stack([x, y], axis=1) / width
