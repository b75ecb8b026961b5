"""Write the world to files: captioned clips, and raw footage of many shots with the exact truth of every cut.

Footage is what a curation pipeline is fed: one long video in which shots follow each other by hard cuts, dissolves,
wipes and fades through black, and some shots stand still. Its truth tiles the frames without gap or overlap:

    shot 0 alone   dissolve   shot 1 alone   cut   shot 2 alone    fade (out, black, in)    shot 3 alone
    [0 ------- 61)[61 --- 73)[73 ------ 140)|[140 ------- 201)[201 -- 213 == 219 -- 231)[231 ------ 300)

A shot is seen, partly covered, during the transitions beside it as well; its action runs over all frames in which it
is seen. Shots are scenes of the world and, where a folder of clips is given, stretches of those (`takes`). Defects of
known strength (`spoil`) are laid over it, and copies of files at other sizes and qualities are written beside them.
Everything follows from the seed.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from itertools import islice, repeat
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, UInt8

from mutoscope.core.errors import MediaError, RequestError
from mutoscope.core.files import replacing
from mutoscope.core.video import Quality, Video
from mutoscope.worlds import scene as scenes
from mutoscope.worlds import spoil
from mutoscope.worlds.language import caption, structured
from mutoscope.worlds.render import render
from mutoscope.worlds.scene import Scene, Split
from mutoscope.worlds.spoil import CLEAN, Defect, Strengths
from mutoscope.worlds.takes import Clips, Take

Kind = Literal["cut", "dissolve", "fade", "wipe"]
Direction = Literal["left", "right", "up", "down", "down right", "up left", "open"]
KINDS: tuple[Kind, ...] = ("cut", "dissolve", "fade", "wipe")
KIND_SHARES = (0.55, 0.2, 0.12, 0.13)  # of the transitions beyond the first four, of which there is one each
DIRECTIONS: tuple[Direction, ...] = ("left", "right", "up", "down", "down right", "up left", "open")

CLIP_FPS = 8
FOOTAGE_FPS = 24
SHOTS = (5, 9)  # in one footage, both ends included
SHOT_S = (1.5, 4.0)  # seconds in which a shot is seen alone
BLEND_S = (0.4, 0.9)  # seconds of a dissolve or wipe, or of one half of a fade
BLACK_S = (0.1, 0.4)  # seconds of black within a fade
SOFTNESS = (0.0, 0.15)  # of the picture, over which the edge of a wipe is blended
STILL_SHARE = 0.1  # of the shots beyond the one that always is
REAL_SHARE = 0.7  # of the shots, where clips are given
COPY_SCALES = (0.5, 0.75, 1.0, 1.5)
COPY_FORMATS: tuple[tuple[str, Quality], ...] = (
    (".mp4", "small"),
    (".mp4", "good"),
    (".mp4", "best"),
    (".webm", "small"),
)
COPY_TRIM_S = 0.5  # seconds that a copy may lack at each end

Frame = UInt8[np.ndarray, "H W 3"]


@dataclass(frozen=True)
class Shot:
    """One shot: frames [start, end) show it alone, [seen_start, seen_end) also the transitions in which it takes part.

    Where `is_still`, neither the camera nor any thing moves: all frames are one picture. The shot is the scene of
    `seed` or, where `clip` names a file, that clip from its frame `clip_start` on, one frame for one whatever its rate.
    """

    start: int
    end: int
    seen_start: int
    seen_end: int
    seed: int
    split: Split
    is_still: bool
    clip: str = ""
    clip_start: int = 0

    @property
    def scene(self) -> Scene:
        """What the shot shows, if it is one of the world.

        Raises:
            RequestError: it is a clip.
        """
        if self.clip:
            raise RequestError(f"this shot is from {self.clip}, not of the world. Ask shots without a clip.")
        return scenes.sample(self.seed, split=self.split)


@dataclass(frozen=True)
class Transition:
    """Frames [start, end) between two shots, none for a cut; of a fade, [black_start, black_end) are black.

    A wipe's edge moves in its `direction` (of "open", a circle grows); `softness` is how wide it is, in widths of the
    picture along that direction.
    """

    kind: Kind
    start: int
    end: int
    black_start: int | None = None
    black_end: int | None = None
    direction: Direction | None = None
    softness: float = 0.0


@dataclass(frozen=True)
class Footage:
    """A long video and its exact truth. `ticks` are where each frame begins and the last ends, if the rate varies."""

    seed: int
    height: int
    width: int
    fps: Fraction
    shots: tuple[Shot, ...]
    transitions: tuple[Transition, ...]
    defects: tuple[Defect, ...] = ()
    ticks: tuple[int, ...] | None = None
    clips: Clips | None = None

    @property
    def num_frames(self) -> int:
        """Frames in all."""
        return self.shots[-1].end

    def frames(self) -> Iterator[Frame]:
        """Draw the frames in order; no more than two shots of the world, and no clip as a whole, are in memory."""
        return spoil.spoiled(self._joined(), self.defects)

    def video(self) -> Video:
        """Return the footage as a lazily drawn video."""
        video = Video.from_frames(self.frames, self.height, self.width, self.fps, self.num_frames)
        if self.ticks is None:
            return video
        times = tuple(Fraction(tick, spoil.TICKS) for tick in self.ticks)
        return replace(video, times=times, variable_frame_rate=True)

    def truth(self) -> dict[str, Any]:
        """Return all there is to know, ready for JSON."""
        known = {
            "seed": self.seed,
            "num_frames": self.num_frames,
            "height": self.height,
            "width": self.width,
            "fps": str(self.fps),
            "shots": [asdict(shot) | self._about(shot) for shot in self.shots],
            "transitions": [asdict(transition) for transition in self.transitions],
            "defects": [asdict(defect) for defect in self.defects],
        }
        return known if self.ticks is None else known | {"ticks": list(self.ticks), "ticks_a_second": spoil.TICKS}

    def _about(self, shot: Shot) -> dict[str, Any]:
        if not shot.clip:
            return facts(shot.scene)
        takes = self.clips.takes if self.clips else ()
        take = next((take for take in takes if take.file == shot.clip), Take(shot.clip, 0, 0))
        return {"clip_caption": take.caption, "clip_licence": take.licence}

    def _joined(self) -> Iterator[Frame]:
        """Draw the shots and what joins them."""
        this = self._drawn(self.shots[0])
        for index, shot in enumerate(self.shots):
            yield from islice(this, shot.end - shot.start)
            if index == len(self.transitions):
                return
            following = self.shots[index + 1]
            upcoming = self._drawn(following)
            transition = self.transitions[index]
            for frame in range(transition.start, transition.end):
                mix = np.zeros((self.height, self.width, 3), np.float32)
                first, second = _weights(transition, frame, self.height, self.width)
                if frame < shot.seen_end:
                    mix += first * next(this)
                if frame >= following.seen_start:
                    mix += second * next(upcoming)
                yield np.rint(mix).astype(np.uint8)
            this = upcoming

    def _drawn(self, shot: Shot) -> Iterator[Frame]:
        """Draw a shot with what is done to it alone, from the first frame in which it is seen."""
        freezes = [stop for stop in spoil.of(self.defects, spoil.Freeze) if shot.start <= stop.start < shot.end]
        number = shot.seen_end - shot.seen_start - sum(stop.end - stop.start - 1 for stop in freezes)
        size = self.height, self.width
        if shot.clip:
            if self.clips is None:
                raise RequestError(f"this footage shows {shot.clip}. Sample it with the clips, or give none.")
            frames = self.clips.frames(shot.clip, shot.clip_start, 1 if shot.is_still else number, size)
        else:
            frames = iter(render(shot.scene, 1 if shot.is_still else number, *size))
        for blur in spoil.of(self.defects, spoil.Blur):
            if blur.start == shot.start:
                frames = (spoil.blurred(frame, blur.sigma_px) for frame in frames)
        if shot.is_still:  # once is enough
            return repeat(next(frames), shot.seen_end - shot.seen_start)
        return spoil.held(frames, freezes, shot.seen_start)


def _weights(
    transition: Transition, frame: int, height: int, width: int
) -> tuple[float | Float32[np.ndarray, "H W 1"], float | Float32[np.ndarray, "H W 1"]]:
    """Return how strongly a frame of a transition shows the shot before and the shot after it."""
    if transition.black_start is None or transition.black_end is None:
        later = (frame - transition.start + 1) / (transition.end - transition.start + 1)
        if transition.direction is not None:
            mask = _wiped(transition.direction, transition.softness, later, height, width)
            return 1 - mask, mask
        return 1 - later, later
    if frame < transition.black_start:
        return 1 - (frame - transition.start + 1) / (transition.black_start - transition.start + 1), 0.0
    if frame < transition.black_end:
        return 0.0, 0.0
    return 0.0, (frame - transition.black_end + 1) / (transition.end - transition.black_end + 1)


def _wiped(
    direction: Direction, softness: float, later: float, height: int, width: int
) -> Float32[np.ndarray, "H W 1"]:
    """Return where a wipe shows the shot after it: 1 where its edge has been, 0 where not, between within the edge."""
    y = ((np.arange(height, dtype=np.float32) + 0.5) / height)[:, None]
    x = ((np.arange(width, dtype=np.float32) + 0.5) / width)[None]
    if direction == "open":
        when = np.hypot(x - 0.5, y - 0.5) * np.float32(2**0.5)
    else:
        ways = {"right": (x, 1), "left": (x, -1), "down": (y, 1), "up": (y, -1)}
        ways |= {"down right": ((x + y) / 2, 1), "up left": ((x + y) / 2, -1)}
        along, sign = ways[direction]
        when = along if sign > 0 else 1 - along
    when = np.broadcast_to(when, (height, width))[..., None]
    passed = np.float32(later * (1 + softness)) - when  # how far the front of the edge is ahead
    return (passed >= 0).astype(np.float32) if softness == 0 else np.clip(passed / np.float32(softness), 0, 1)


def sample(
    seed: int,
    *,
    size: tuple[int, int] = (240, 320),
    fps: int | Fraction = FOOTAGE_FPS,
    shots: int | None = None,
    split: Split = "train",
    strengths: Strengths = CLEAN,
    clips: Clips | None = None,
) -> Footage:
    """Draw footage from a seed: which shots, how long, what joins them, and what spoils it.

    Args:
        seed: at least 0; the same arguments give the same frames, and other strengths the same shots.
        size: height and width in pixels.
        fps: frames a second.
        shots: how many, at least 1; drawn when not given. With five or more, every kind of transition occurs.
        split: attribute combinations to draw from; see `scene.sample`.
        strengths: of the defects; none when not given.
        clips: real clips, of which most shots are then taken.

    Raises:
        RequestError: a negative seed, a size or rate of nothing, no shots, or too small a picture for its defects.
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
        end = start + _frames_in(draw, SHOT_S, fps)
        transition, next_seen_start = None, end
        if index < number - 1:
            transition, next_seen_start = _draw_transition(draw, kinds[index], end, fps)
            transitions.append(transition)
        seen_end = end
        if transition is not None:
            seen_end = transition.end if transition.black_start is None else transition.black_start
        frames = Shot(start, end, seen_start, seen_end, 0, split, bool(still[index]))
        drawn.append(_draw_content(draw, frames, drawn, clips))
        start, seen_start = transition.end if transition is not None else end, next_seen_start
    footage = Footage(seed, *size, Fraction(fps), tuple(drawn), tuple(transitions), clips=clips)
    return _spoiled(footage, strengths)


def _spoiled(footage: Footage, strengths: Strengths) -> Footage:
    """Draw the defects and, where the rate is to vary, the times."""
    stretches = tuple(
        spoil.Stretch(
            *(shot.start, shot.end, shot.seen_start, shot.seen_end, shot.is_still),
            is_bright=not shot.clip and shot.scene.tone in ("white", "beige"),
        )
        for shot in footage.shots
    )
    cuts = tuple(transition.start for transition in footage.transitions if transition.kind == "cut")
    canvas = spoil.Canvas(footage.height, footage.width, footage.fps, stretches, cuts)
    footage = replace(footage, defects=spoil.draw(footage.seed, strengths, canvas))
    for record in spoil.of(footage.defects, spoil.VariableRate):
        ticks = spoil.edges(footage.seed, record, footage.fps)
        footage = replace(footage, ticks=ticks, fps=_mean_rate(ticks))
    return footage


def _mean_rate(ticks: tuple[int, ...]) -> Fraction:
    return (Fraction(len(ticks) - 1) * spoil.TICKS / (ticks[-1] - ticks[0])).limit_denominator(1001)


def _draw_kinds(draw: np.random.Generator, number: int) -> list[Kind]:
    """Choose how the shots are joined: each kind once, the rest by `KIND_SHARES`, in any order."""
    rest = draw.choice(len(KINDS), size=max(0, number - len(KINDS)), p=KIND_SHARES)
    every = np.concatenate([draw.permutation(len(KINDS))[:number], rest]).astype(int)
    return [KINDS[int(index)] for index in draw.permutation(every)]


def _draw_content(draw: np.random.Generator, shot: Shot, before: list[Shot], clips: Clips | None) -> Shot:
    """Choose what a shot shows, unlike the shot before it, so that no cut goes unseen."""
    if clips is not None and draw.random() < REAL_SHARE:
        used = {earlier.clip for earlier in before}
        needed = 1 if shot.is_still else shot.seen_end - shot.seen_start
        fitting = [
            take
            for take in clips.takes
            if take.is_photo == shot.is_still and take.end - take.start >= needed and take.file not in used
        ]
        if fitting:
            take = fitting[int(draw.integers(len(fitting)))]
            first = int(draw.integers(take.start, take.end - needed + 1))
            return replace(shot, clip=take.file, clip_start=first)
    last = before[-1].scene.tone if before and not before[-1].clip else None
    while True:
        seed = int(draw.integers(2**31))
        scene = scenes.sample(seed, split=shot.split)
        if _is_still(scene) == shot.is_still and scene.tone != last:
            return replace(shot, seed=seed)


def _is_still(scene: Scene) -> bool:
    return scene.camera == "static" and all(thing.motion == "still" for thing in scene.things)


def _draw_transition(draw: np.random.Generator, kind: Kind, start: int, fps: int | Fraction) -> tuple[Transition, int]:
    """Return the transition that begins at this frame, and the first frame that shows the shot after it."""
    if kind == "cut":
        return Transition(kind, start, start), start
    end = start + _frames_in(draw, BLEND_S, fps)
    if kind == "dissolve":
        return Transition(kind, start, end), start
    if kind == "wipe":
        direction = DIRECTIONS[int(draw.integers(len(DIRECTIONS)))]
        softness = round(draw.uniform(*SOFTNESS), 3) if draw.random() < 0.5 else 0.0
        return Transition(kind, start, end, direction=direction, softness=softness), start
    black_end = end + _frames_in(draw, BLACK_S, fps)
    return Transition(kind, start, black_end + _frames_in(draw, BLEND_S, fps), end, black_end), black_end


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
    *,
    strengths: Strengths = CLEAN,
    clips: Path | None = None,
    duplicates: int = 0,
) -> list[Path]:
    """Write long raw videos of many shots, as MP4, each with its truth in a JSON file of the same name.

    Args:
        out: a folder that is new or empty.
        count: how many videos, at least 1.
        seed: of the first; the others count up from it.
        size: height and width in pixels, both even.
        split: attribute combinations to draw from; see `scene.sample`.
        strengths: of the defects; none when not given.
        clips: a folder of real clips, of which most shots are then taken; see `takes`.
        duplicates: how many copies of these videos to write as well, at other sizes and qualities, perhaps trimmed.

    Returns:
        The videos, duplicates last.

    Raises:
        RequestError: the folder holds files, or there is nothing to write.
        MediaError: a file cannot be written, or a clip not be read.
    """
    if duplicates < 0:
        raise RequestError(f"duplicates={duplicates} was given. Give 0 or more.")
    _prepare(out, count, seed, size)
    stock = None if clips is None else Clips.open(clips)
    paths, made = [], []
    footages = [  # all of them first: what does not fit is then refused before anything is written
        sample(footage_seed, size=size, split=split, strengths=strengths, clips=stock)
        for footage_seed in range(seed, seed + count)
    ]
    for footage in footages:
        path = out / f"footage-{footage.seed:06d}.mp4"
        spans: list[tuple[int, int]] = []
        video = footage.video()
        watched = replace(video, read=lambda start, read=video.read, spans=spans: _watched(read(start), spans))
        watched.save(path)
        _write_truth(path, footage, spans)
        paths.append(path)
        made.append((footage, spans))
    for number in range(duplicates):
        chance = np.random.default_rng([20261128, seed, number])
        which = int(chance.integers(count))
        paths.append(_write_copy(chance, out / f"copy-{number:06d}", paths[which], *made[which]))
    return paths


def _watched(frames: Iterable[Frame], spans: list[tuple[int, int]]) -> Iterator[Frame]:
    """Note in `spans` the longest [start, end) whose frames are all exactly the frame before them."""
    last = None
    for index, frame in enumerate(frames):
        if last is not None and np.array_equal(frame, last):
            start = spans.pop()[0] if spans and spans[-1][1] == index else index
            spans.append((start, index + 1))
        yield frame
        last = frame


def _write_truth(path: Path, footage: Footage, spans: list[tuple[int, int]], **more: Any) -> None:
    truth = {"file": path.name} | more | footage.truth() | {"repeats": spans}
    _write_text(path.with_suffix(".json"), json.dumps(truth, ensure_ascii=False, indent=2) + "\n")


def _write_copy(
    chance: np.random.Generator, path: Path, original: Path, footage: Footage, spans: list[tuple[int, int]]
) -> Path:
    """Decode a file and encode it again: another size, another quality or format, perhaps without its ends."""
    scale = COPY_SCALES[int(chance.integers(len(COPY_SCALES)))]
    height, width = (max(2, 2 * round(side * scale / 2)) for side in (footage.height, footage.width))
    suffix, quality = COPY_FORMATS[int(chance.integers(len(COPY_FORMATS)))]
    first, last = footage.shots[0], footage.shots[-1]
    stops = [stop.start for stop in spoil.of(footage.defects, spoil.Freeze)]
    most = min(round(COPY_TRIM_S * footage.fps), min([first.end, *stops]) - 1)
    trim = int(chance.integers(0, most + 1)) if chance.random() < 0.5 else 0
    most = min(round(COPY_TRIM_S * footage.fps), last.end - last.start - 1)
    kept = footage.num_frames - trim - (int(chance.integers(0, most + 1)) if chance.random() < 0.5 else 0)
    copy = path.with_name(path.name + suffix)
    Video.open(original).take(trim, kept).resized(height, width, crop=True).save(copy, quality=quality)
    shifted = ((max(start - trim, 1), min(end - trim, kept)) for start, end in spans)
    repeats = [(start, end) for start, end in shifted if start < end]
    more = {"copy_of": original.name, "first_frame": trim, "quality": quality}
    _write_truth(copy, trimmed(footage, trim, kept, height, width), repeats, **more)
    return copy


def trimmed(footage: Footage, offset: int, num_frames: int, height: int, width: int) -> Footage:
    """Say what is known of a copy that lacks frames at its ends, none of them of a transition, and has another size.

    Of the first shot the seed no longer tells at what moment it begins.
    """

    def moved(frame: int) -> int:
        return min(max(frame - offset, 0), num_frames)

    shots = [
        replace(
            shot,
            **{name: moved(getattr(shot, name)) for name in ("start", "end", "seen_start", "seen_end")},
            clip_start=shot.clip_start + (0 if index or shot.is_still else offset),
        )
        for index, shot in enumerate(footage.shots)
    ]
    frames = ("start", "end", "black_start", "black_end")
    transitions = [
        replace(join, **{name: None if getattr(join, name) is None else moved(getattr(join, name)) for name in frames})
        for join in footage.transitions
    ]
    sizes = Fraction(height, footage.height), Fraction(width, footage.width)
    defects = [spoil.moved(defect, offset, num_frames, *sizes) for defect in footage.defects]
    ticks, fps = footage.ticks, footage.fps
    if ticks is not None:
        ticks = tuple(tick - ticks[offset] for tick in ticks[offset : offset + num_frames + 1])
        fps = _mean_rate(ticks)
    return replace(
        footage,
        height=height,
        width=width,
        fps=fps,
        shots=tuple(shots),
        transitions=tuple(transitions),
        defects=tuple(defect for defect in defects if defect is not None),
        ticks=ticks,
    )


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
