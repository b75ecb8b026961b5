"""Write the world to files: captioned clips, and raw footage of many shots with the exact truth of every cut.

Footage is what a curation pipeline is fed: one long video in which shots follow each other by hard cuts, dissolves and
fades through black, and some shots stand still. Its truth tiles the frames without gap or overlap:

    shot 0 alone   dissolve   shot 1 alone   cut   shot 2 alone    fade (out, black, in)    shot 3 alone
    [0 ------- 61)[61 --- 73)[73 ------ 140)|[140 ------- 201)[201 -- 213 == 219 -- 231)[231 ------ 300)

A shot is seen, partly covered, during the transitions beside it as well; its scene's time runs over all frames in which
it is seen. Everything follows from the seed.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from mutoscope.core.errors import MediaError, RequestError
from mutoscope.core.files import replacing
from mutoscope.core.video import Video
from mutoscope.worlds import scene as scenes
from mutoscope.worlds.language import caption, structured
from mutoscope.worlds.render import render
from mutoscope.worlds.scene import Scene, Split

Kind = Literal["cut", "dissolve", "fade"]
KINDS: tuple[Kind, ...] = ("cut", "dissolve", "fade")
KIND_SHARES = (0.6, 0.25, 0.15)  # of the transitions beyond the first three, of which there is one each

CLIP_FPS = 8
FOOTAGE_FPS = 24
SHOTS = (5, 9)  # in one footage, both ends included
SHOT_S = (1.5, 4.0)  # seconds in which a shot is seen alone
BLEND_S = (0.4, 0.9)  # seconds of a dissolve, or of one half of a fade
BLACK_S = (0.1, 0.4)  # seconds of black within a fade
STILL_SHARE = 0.1  # of the shots beyond the one that always is

Frames = UInt8[np.ndarray, "T H W 3"]


@dataclass(frozen=True)
class Shot:
    """One shot: frames [start, end) show it alone, [seen_start, seen_end) also the transitions in which it takes part.

    Where `is_still`, neither the camera nor any thing moves: all frames are one picture.
    """

    start: int
    end: int
    seen_start: int
    seen_end: int
    seed: int
    split: Split
    is_still: bool

    @property
    def scene(self) -> Scene:
        """What the shot shows."""
        return scenes.sample(self.seed, split=self.split)


@dataclass(frozen=True)
class Transition:
    """Frames [start, end) between two shots, none for a cut; of a fade, [black_start, black_end) are black."""

    kind: Kind
    start: int
    end: int
    black_start: int | None = None
    black_end: int | None = None


@dataclass(frozen=True)
class Footage:
    """A long video and its exact truth."""

    seed: int
    height: int
    width: int
    fps: Fraction
    shots: tuple[Shot, ...]
    transitions: tuple[Transition, ...]

    @property
    def num_frames(self) -> int:
        """Frames in all."""
        return self.shots[-1].end

    def frames(self) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Draw the frames in order; no more than two shots are in memory."""
        this = self._drawn(self.shots[0])
        for index, shot in enumerate(self.shots):
            for frame in range(shot.start, shot.end):
                yield _frame(this, frame - shot.seen_start)
            if index == len(self.transitions):
                return
            following = self.shots[index + 1]
            upcoming = self._drawn(following)
            transition = self.transitions[index]
            for frame in range(transition.start, transition.end):
                first, second = _weights(transition, frame)
                mix = np.zeros((self.height, self.width, 3), np.float32)
                if first:
                    mix += first * _frame(this, frame - shot.seen_start)
                if second:
                    mix += second * _frame(upcoming, frame - following.seen_start)
                yield np.rint(mix).astype(np.uint8)
            this = upcoming

    def video(self) -> Video:
        """Return the footage as a lazily drawn video."""
        return Video.from_frames(self.frames, self.height, self.width, self.fps, self.num_frames)

    def truth(self) -> dict[str, Any]:
        """Return all there is to know, ready for JSON."""
        return {
            "seed": self.seed,
            "num_frames": self.num_frames,
            "height": self.height,
            "width": self.width,
            "fps": str(self.fps),
            "shots": [asdict(shot) | facts(shot.scene) for shot in self.shots],
            "transitions": [asdict(transition) for transition in self.transitions],
        }

    def _drawn(self, shot: Shot) -> Frames:
        if shot.is_still:  # once is enough
            return render(shot.scene, 1, self.height, self.width)
        return render(shot.scene, shot.seen_end - shot.seen_start, self.height, self.width)


def _frame(drawn: Frames, index: int) -> UInt8[np.ndarray, "H W 3"]:
    """Return a frame of a shot; a still one was drawn once."""
    return drawn[index if len(drawn) > 1 else 0]


def _weights(transition: Transition, frame: int) -> tuple[float, float]:
    """Return how strongly a frame of a transition shows the shot before and the shot after it."""
    if transition.black_start is None or transition.black_end is None:
        later = (frame - transition.start + 1) / (transition.end - transition.start + 1)
        return 1 - later, later
    if frame < transition.black_start:
        return 1 - (frame - transition.start + 1) / (transition.black_start - transition.start + 1), 0.0
    if frame < transition.black_end:
        return 0.0, 0.0
    return 0.0, (frame - transition.black_end + 1) / (transition.end - transition.black_end + 1)


def sample(
    seed: int,
    *,
    size: tuple[int, int] = (240, 320),
    fps: int | Fraction = FOOTAGE_FPS,
    shots: int | None = None,
    split: Split = "train",
) -> Footage:
    """Draw footage from a seed: which shots, how long, and what joins them.

    Args:
        seed: at least 0; the same arguments give the same frames.
        size: height and width in pixels.
        fps: frames a second.
        shots: how many, at least 1; drawn when not given. With four or more, every kind of transition occurs.
        split: attribute combinations to draw from; see `scene.sample`.

    Raises:
        RequestError: a negative seed, a size or rate of nothing, or no shots.
    """
    if seed < 0 or min(size) < 1:
        raise RequestError(f"seed={seed} and size {size[1]}x{size[0]} make no footage. Give a seed of 0 or more.")
    if fps <= 0 or (shots is not None and shots < 1):
        raise RequestError(f"fps={fps} and shots={shots} make no footage. Give fps above 0 and at least one shot.")
    draw = np.random.default_rng([20261125, seed])
    number = int(draw.integers(SHOTS[0], SHOTS[1] + 1)) if shots is None else shots
    kinds = _draw_kinds(draw, number - 1)
    still = draw.random(number) < STILL_SHARE
    still[draw.integers(number)] = True
    drawn: list[Shot] = []
    transitions: list[Transition] = []
    seen_start = start = 0
    for index in range(number):
        shot_seed = _draw_scene(draw, drawn[-1].scene if drawn else None, split, bool(still[index]))
        end = start + _frames_in(draw, SHOT_S, fps)
        transition, next_seen_start = None, end
        if index < number - 1:
            transition, next_seen_start = _draw_transition(draw, kinds[index], end, fps)
            transitions.append(transition)
        seen_end = end
        if transition is not None:
            seen_end = transition.end if transition.black_start is None else transition.black_start
        drawn.append(Shot(start, end, seen_start, seen_end, shot_seed, split, bool(still[index])))
        start, seen_start = transition.end if transition is not None else end, next_seen_start
    return Footage(seed, *size, Fraction(fps), tuple(drawn), tuple(transitions))


def _draw_kinds(draw: np.random.Generator, number: int) -> list[Kind]:
    """Choose how the shots are joined: each kind once, the rest by `KIND_SHARES`, in any order."""
    rest = draw.choice(len(KINDS), size=max(0, number - len(KINDS)), p=KIND_SHARES)
    every = np.concatenate([draw.permutation(len(KINDS))[:number], rest]).astype(int)
    return [KINDS[int(index)] for index in draw.permutation(every)]


def _draw_scene(draw: np.random.Generator, before: Scene | None, split: Split, is_still: bool) -> int:
    """Draw the seed of a scene whose tone differs from the shot before, so that no cut goes unseen."""
    while True:
        seed = int(draw.integers(2**31))
        scene = scenes.sample(seed, split=split)
        if _is_still(scene) == is_still and (before is None or scene.tone != before.tone):
            return seed


def _is_still(scene: Scene) -> bool:
    return scene.camera == "static" and all(thing.motion == "still" for thing in scene.things)


def _draw_transition(draw: np.random.Generator, kind: Kind, start: int, fps: int | Fraction) -> tuple[Transition, int]:
    """Return the transition that begins at this frame, and the first frame that shows the shot after it."""
    if kind == "cut":
        return Transition(kind, start, start), start
    if kind == "dissolve":
        return Transition(kind, start, start + _frames_in(draw, BLEND_S, fps)), start
    black_start = start + _frames_in(draw, BLEND_S, fps)
    black_end = black_start + _frames_in(draw, BLACK_S, fps)
    end = black_end + _frames_in(draw, BLEND_S, fps)
    return Transition(kind, start, end, black_start, black_end), black_end


def _frames_in(draw: np.random.Generator, seconds: tuple[float, float], fps: int | Fraction) -> int:
    return max(1, round(draw.uniform(*seconds) * float(fps)))


def facts(scene: Scene) -> dict[str, Any]:
    """Return what a scene shows and how it is told, ready for JSON."""
    return {
        "captions": {
            language: {length: caption(scene, 0, language, length) for length in ("short", "dense")}
            for language in ("en", "zh")
        },
        "structured": {language: structured(scene, 0, language) for language in ("en", "zh")},
        "attributes": attributes(scene),
        "unscored": sorted(scenes.unscored(scene)),
    }


def attributes(scene: Scene) -> dict[str, Any]:
    """Return the attributes in words, ready for JSON."""
    return {
        "things": [
            {name: getattr(thing, name) for name in ("shape", "colour", "size", "texture", "motion", "speed")}
            for thing in scene.things
        ],
        "background": scene.background,
        "tone": scene.tone,
        "camera": scene.camera,
    }


def write_clips(
    out: Path,
    count: int,
    seed: int = 0,
    size: tuple[int, int] = (64, 64),
    num_frames: int = 16,
    split: Split = "train",
) -> list[Path]:
    """Write clips of one scene each, as MP4, and `captions.jsonl` with a line of what each shows.

    Args:
        out: a folder that is new or empty.
        count: how many clips, at least 1.
        seed: of the first; the others count up from it.
        size: height and width in pixels, both even.
        num_frames: frames of each, at least 1.
        split: attribute combinations to draw from; see `scene.sample`.

    Returns:
        The clips. `captions.jsonl` is written last, so where it is, all of them are.

    Raises:
        RequestError: the folder holds files, or there is nothing to write.
        MediaError: a file cannot be written.
    """
    if num_frames < 1:
        raise RequestError(f"num_frames={num_frames} shows nothing. Give at least 1.")
    _prepare(out, count, seed, size)
    paths, lines = [], []
    for scene_seed in range(seed, seed + count):
        scene = scenes.sample(scene_seed, split=split)
        path = out / f"clip-{scene_seed:06d}.mp4"
        Video.from_array(render(scene, num_frames, *size), CLIP_FPS).save(path)
        line = {
            "file": path.name,
            "seed": scene_seed,
            "split": split,
            "num_frames": num_frames,
            "height": size[0],
            "width": size[1],
            "fps": str(CLIP_FPS),
        }
        paths.append(path)
        lines.append(json.dumps(line | facts(scene), ensure_ascii=False))
    _write_text(out / "captions.jsonl", "\n".join(lines) + "\n")
    return paths


def write_footage(
    out: Path,
    count: int,
    seed: int = 0,
    size: tuple[int, int] = (240, 320),
    split: Split = "train",
) -> list[Path]:
    """Write long raw videos of many shots, as MP4, each with its truth in a JSON file of the same name.

    Args:
        out: a folder that is new or empty.
        count: how many videos, at least 1.
        seed: of the first; the others count up from it.
        size: height and width in pixels, both even.
        split: attribute combinations to draw from; see `scene.sample`.

    Returns:
        The videos.

    Raises:
        RequestError: the folder holds files, or there is nothing to write.
        MediaError: a file cannot be written.
    """
    _prepare(out, count, seed, size)
    paths = []
    for footage_seed in range(seed, seed + count):
        footage = sample(footage_seed, size=size, split=split)
        path = out / f"footage-{footage_seed:06d}.mp4"
        footage.video().save(path)
        truth = {"file": path.name} | footage.truth()
        _write_text(path.with_suffix(".json"), json.dumps(truth, ensure_ascii=False, indent=2) + "\n")
        paths.append(path)
    return paths


def _prepare(out: Path, count: int, seed: int, size: tuple[int, int]) -> None:
    """Make the folder, or refuse one in which somebody's files lie; find out before that whether all can be written."""
    if count < 1:
        raise RequestError(f"count={count} makes nothing. Give at least 1.")
    if seed < 0:
        raise RequestError(f"seed={seed} is negative. Give 0 or more.")
    if min(size) < 2 or size[0] % 2 or size[1] % 2:
        raise RequestError(f"{size[1]}x{size[0]} does not fit MP4, which needs an even width and height. Use 320x240.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        is_taken = any(out.iterdir())
    except OSError as error:
        raise MediaError(f"{out} cannot be used as a folder: {error.strerror}. Name another with --out.") from error
    if is_taken:
        raise RequestError(f"{out} is not empty, and nothing in it was touched. Empty it, or name another with --out.")


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
