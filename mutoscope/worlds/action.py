"""Footage that is hard to split: fast cutting, muzzle flashes, whip pans, dark scenes, exposure steps, jumping text.

    a world's scene or a clip ── crop ── whip ── light ── flashes ── grain ──> shot ── cut ── shot ── cut ── ...

Shots of 0.3 to 2 s follow each other by hard cuts alone, some of them under one to three blank or inverted frames, so
the whole truth is where the cuts are. One footage in five is moving text without any cut. Everything follows from the
seed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, repeat
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageDraw, ImageFont

from mutoscope.core.errors import RequestError
from mutoscope.core.video import Video
from mutoscope.worlds import scene as scenes
from mutoscope.worlds.render import render
from mutoscope.worlds.takes import Clips

Look = Literal["plain", "dark", "soft"]
Blank = Literal["white", "black", "inverted"]

FPS = 24
SHOTS = (8, 14)  # in one footage, both ends included
SHOT_S = (0.3, 2.0)
TEXT_S = 12.0
TEXT_EVERY = 5  # one footage in so many is text
HOLD_FRAMES = (3, 14)  # that a word stays where it is
WORDS = ("EVERY", "FRAME", "MOVES", "now", "louder", "BIG", "ideas", "2026", "jump", "and", "SALE", "listen", "GO!")
ROOM = 1.25  # of the drawn picture over the shown one, in which the handheld camera moves

Frame = UInt8[np.ndarray, "H W 3"]
Pixels = Float32[np.ndarray, "H W 3"]


@dataclass(frozen=True)
class Shot:
    """Frames [start, end) of one shot.

    `whip` names frames [first, last) in which the camera turns too fast to see; `flashes` the frames lit by a shot of
    a gun; `exposure` is the frame from which the light is `gain` times what it was, 0 where it never changes; `odd` is
    how many frames of `blank` stand in the place of its first ones.
    """

    start: int
    end: int
    seed: int
    look: Look
    whip: tuple[int, int]
    flashes: tuple[int, ...]
    exposure: int
    gain: float
    odd: int
    blank: Blank
    clip: str = ""
    clip_start: int = 0


@dataclass(frozen=True)
class Action:
    """Footage with the frames at which its shots begin, but for the first; `shots` is empty where it is text."""

    seed: int
    height: int
    width: int
    shots: tuple[Shot, ...]
    num_frames: int
    clips: Clips | None = None

    @property
    def cuts(self) -> tuple[int, ...]:
        """First frames of all shots but the first."""
        return tuple(shot.start for shot in self.shots[1:])

    def frames(self) -> Iterator[Frame]:
        """Draw the frames in order."""
        if not self.shots:
            yield from _text(self.seed, self.num_frames, self.height, self.width)
        for shot in self.shots:
            yield from self._drawn(shot)

    def video(self) -> Video:
        """Return the footage as a lazily drawn video."""
        return Video.from_frames(self.frames, self.height, self.width, Fraction(FPS), self.num_frames)

    def _drawn(self, shot: Shot) -> Iterator[Frame]:
        draw = np.random.default_rng([20261201, shot.seed])
        count = shot.end - shot.start
        high, wide = (2 * round(side * ROOM / 2) for side in (self.height, self.width))
        if shot.clip and self.clips is not None:
            frames = self.clips.frames(shot.clip, shot.clip_start, count, (high, wide))
        else:
            frames = iter(render(scenes.sample(shot.seed), count, high, wide))
        sway = np.cumsum(draw.normal(0, 0.04, (count, 2)), axis=0)
        level = {"plain": 1.0, "dark": draw.uniform(0.12, 0.3), "soft": draw.uniform(0.4, 0.8)}[shot.look]
        centre, radius = draw.uniform(0.2, 0.8, 2), draw.uniform(0.3, 0.9)
        for number, frame in enumerate(frames):
            at = shot.start + number
            picture = frame.astype(np.float32)
            if shot.look == "soft":
                picture = _soft(picture)
            if shot.whip[1] and at >= shot.whip[0]:
                picture = _whipped(picture, at - shot.whip[0], shot.whip[1] - shot.whip[0])
            top, left = ((np.clip(sway[number], -1, 1) + 1) / 2 * (high - self.height, wide - self.width)).astype(int)
            picture = picture[top : top + self.height, left : left + self.width]
            picture = picture * level * (shot.gain if shot.exposure and at >= shot.exposure else 1.0)
            if at in shot.flashes:
                picture = _flashed(picture, centre, radius)
            if number < shot.odd:
                picture = {"white": picture * 0 + 250, "black": picture * 0 + 2, "inverted": 255 - picture}[shot.blank]
            grain = draw.normal(0, 2.0, (self.height, self.width, 1)).astype(np.float32)
            yield np.rint(np.clip(picture + grain, 0, 255)).astype(np.uint8)


def sample(seed: int, *, size: tuple[int, int] = (180, 320), clips: Clips | None = None) -> Action:
    """Draw hard footage from a seed.

    Args:
        seed: at least 0; of every `TEXT_EVERY` seeds the last is moving text.
        size: height and width in pixels.
        clips: real clips, from which half of the shots are then taken.

    Raises:
        RequestError: a negative seed, or a size of nothing.
    """
    if seed < 0 or min(size) < 1:
        raise RequestError(f"seed={seed} and size {size[1]}x{size[0]} make no footage. Give a seed of 0 or more.")
    if seed % TEXT_EVERY == TEXT_EVERY - 1:
        return Action(seed, *size, (), round(TEXT_S * FPS))
    draw = np.random.default_rng([20261202, seed])
    shots: list[Shot] = []
    start = 0
    for _ in range(int(draw.integers(SHOTS[0], SHOTS[1] + 1))):
        count = round(float(draw.uniform(*SHOT_S)) * FPS)
        shots.append(_shot(draw, start, start + count, shots, clips))
        start += count
    return Action(seed, *size, tuple(shots), start, clips)


def _shot(draw: np.random.Generator, start: int, end: int, before: list[Shot], clips: Clips | None) -> Shot:
    count = end - start
    look: Look = ("plain", "plain", "dark", "soft")[int(draw.integers(4))]
    whip = (0, 0)
    if count >= 20 and draw.random() < 0.3:
        first = start + int(draw.integers(5, count - 12))
        whip = first, first + int(draw.integers(5, 9))
    flashes: list[int] = []
    if count >= 14 and draw.random() < 0.35:
        at = start + int(draw.integers(4, 7))
        while at < end - 5:
            flashes += [at, at + 1][: int(draw.integers(1, 3))]
            at += int(draw.integers(4, 8))
    exposure, gain = 0, 1.0
    if count >= 24 and draw.random() < 0.2:
        exposure, gain = start + int(draw.integers(8, count - 8)), float(draw.choice([0.5, 0.65, 1.5, 2.0]))
    odd = int(draw.integers(1, 4)) if before and count >= 12 and draw.random() < 0.12 else 0
    blank: Blank = ("white", "black", "inverted")[int(draw.integers(3))]
    seed, clip, clip_start = int(draw.integers(2**31)), "", 0
    if clips is not None and draw.random() < 0.5:
        used = {shot.clip for shot in before[-3:]}
        fitting = [t for t in clips.takes if not t.is_photo and t.end - t.start >= count and t.file not in used]
        if fitting:
            take = fitting[int(draw.integers(len(fitting)))]
            clip, clip_start = take.file, int(draw.integers(take.start, take.end - count + 1))
    if not clip:  # unlike the shot before it, so that no cut goes unseen
        tone = scenes.sample(before[-1].seed).tone if before and not before[-1].clip else None
        while scenes.sample(seed).tone == tone:
            seed = int(draw.integers(2**31))
    return Shot(start, end, seed, look, whip, tuple(flashes), exposure, gain, odd, blank, clip, clip_start)


def _soft(picture: Pixels) -> Pixels:
    """Blur by a tenth of the height, as a camera out of focus does."""
    image = Image.fromarray(picture.astype(np.uint8))
    small = image.resize((max(2, image.width // 20), max(2, image.height // 20)), Image.Resampling.BOX)
    return np.asarray(small.resize(image.size, Image.Resampling.BICUBIC), np.float32)


def _whipped(picture: Pixels, number: int, count: int) -> Pixels:
    """Turn the camera, and leave it turned: by up to a third of the width a frame, smeared over that way."""
    speed = np.sin(np.pi * (np.arange(count) + 0.5) / count) * picture.shape[1] / 3
    shift, smear = float(speed[:number].sum()), max(1, int(speed[number])) if number < count else 1
    turned = np.roll(np.concatenate([picture, picture[:, ::-1]], axis=1), -int(shift), axis=1)
    sums = np.cumsum(np.concatenate([turned, turned[:, :smear]], axis=1), axis=1)
    return ((sums[:, smear:] - sums[:, :-smear]) / smear)[:, : picture.shape[1]]


def _flashed(picture: Pixels, centre: np.ndarray, radius: float) -> Pixels:
    """Light the picture from one point, as a muzzle does."""
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]] / np.array(picture.shape[:2])[:, None, None]
    light = np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / radius**2).astype(np.float32)[..., None]
    return picture * (1 + light) + light * np.array([220, 190, 120], np.float32)


def _text(seed: int, num_frames: int, height: int, width: int) -> Iterator[Frame]:
    """Draw words that jump about, change size and colour, and now and then fill the picture."""
    draw = np.random.default_rng([20261203, seed])
    ground = tuple(int(level) for level in draw.integers(0, 256, 3))
    left = num_frames
    while left > 0:
        image = Image.new("RGB", (width, height), ground)
        paper = ImageDraw.Draw(image)
        for _ in range(int(draw.integers(1, 4))):
            word, font = str(draw.choice(WORDS)), ImageFont.load_default(float(height * draw.uniform(0.1, 0.45)))
            ink = tuple(int(level) for level in (np.array(ground) + draw.integers(90, 166, 3)) % 256)
            paper.text((int(draw.integers(width * 2 // 3)), int(draw.integers(height * 2 // 3))), word, ink, font)
        hold = min(left, int(draw.integers(HOLD_FRAMES[0], HOLD_FRAMES[1] + 1)))
        yield from islice(repeat(np.asarray(image)), hold)
        left -= hold
