"""Measure the oracle: right answers on held-out renders, and refusals of wrong labels and of corrupted clips.

    python benchmarks/bench_oracle.py                                   # the published figures, about ten minutes
    python benchmarks/bench_oracle.py --renders 200 --pairs 100 --each 50

Prints one JSON line; shares are percentages.
"""

import json
import platform
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import tyro
from torch.nn import functional

from mutoscope.worlds.oracle import Reading, expected, measure, verdict, verdict_for
from mutoscope.worlds.render import render
from mutoscope.worlds.scene import (
    APPEAR_END,
    APPEAR_START,
    BACKGROUNDS,
    CAMERAS,
    COLOURS,
    MOTIONS,
    SHAPES,
    SIZES,
    TONES,
    WITH_SPEED,
    Scene,
    Thing,
    sample,
    unscored,
)

Corruption = Callable[[Scene, np.random.Generator], np.ndarray | None]  # None where it would leave the truth as it is
# Far from the seeds below 400,000 on which the limits were set.
FIRST_SEED = {"renders": 1_000_000, "mild": 1_100_000, "pairs": 1_200_000, "corrupted": 1_300_000}


def blurred(frames: np.ndarray, sigma: float) -> np.ndarray:
    """Blur every frame with a Gaussian of `sigma` pixels; returns floats."""
    reach = max(2, int(4 * sigma + 0.5))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).float()
    channels = torch.from_numpy(frames.astype(np.float32)).permute(0, 3, 1, 2).reshape(-1, 1, *frames.shape[1:3])
    channels = functional.pad(channels, (reach, reach, reach, reach), mode="reflect")
    channels = functional.conv2d(functional.conv2d(channels, kernel[None, None, None]), kernel[None, None, :, None])
    return channels.reshape(len(frames), 3, *frames.shape[1:3]).permute(0, 2, 3, 1).numpy()


def mild_damage(frames: np.ndarray, seed: int) -> np.ndarray:
    """Damage a clip as a good autoencoder does: blur of 0.5 px, noise and smooth colour errors of 2.5 levels each."""
    draw = np.random.default_rng(seed)
    soft = blurred(frames, 0.5)
    coarse = torch.from_numpy(draw.normal(0, 2.5, (1, 3, 3, 4, 4)))
    error = functional.interpolate(coarse, frames.shape[:3], mode="trilinear", align_corners=True)[0]
    return levels(soft + error.permute(1, 2, 3, 0).numpy() + draw.normal(0, 2.5, frames.shape))


def levels(frames: np.ndarray) -> np.ndarray:
    return (frames + 0.5).clip(0, 255).astype(np.uint8)


def _blur(scene: Scene, draw: np.random.Generator) -> np.ndarray:
    return levels(blurred(render(scene), float(draw.choice((2.0, 3.0, 4.0)))))


def _erase_picture(scene: Scene, draw: np.random.Generator) -> np.ndarray:
    """Fill the half that holds most of the things with black, grey, white or the mean colour."""
    frames = render(scene)
    bare = render(replace(scene, things=()))
    moved = np.abs(frames.astype(int) - bare).sum(axis=(0, 3))
    cuts = [(slice(0, 32), slice(None)), (slice(32, 64), slice(None)), (slice(None), slice(0, 32))]
    half = max([*cuts, (slice(None), slice(32, 64))], key=lambda cut: moved[cut].sum())
    fill = (np.zeros(3), np.full(3, 128), np.full(3, 255), bare.mean(axis=(0, 1, 2)))[draw.integers(4)]
    frames[:, half[0], half[1]] = fill.astype(np.uint8)
    return frames


def _erase_thing(scene: Scene, draw: np.random.Generator) -> np.ndarray:
    """Leave one thing out of half of the frames; of one that appears, out of the second half."""
    index = int(draw.integers(len(scene.things)))
    bare = render(replace(scene, things=(*scene.things[:index], *scene.things[index + 1 :])))
    frames, half = render(scene), len(bare) // 2
    which = slice(half, None) if scene.things[index].motion == "appear" or draw.random() < 0.5 else slice(0, half)
    frames[which] = bare[which]
    return frames


def _flicker(scene: Scene, draw: np.random.Generator) -> np.ndarray:
    """Jump in brightness or contrast from frame to frame, by up to 30 %."""
    frames = render(scene).astype(np.float32)
    gain = draw.uniform(0.7, 1.3, (len(frames), 1, 1, 1))
    return levels(frames * gain if draw.random() < 0.5 else (frames - 128) * gain + 128)


def _blink(scene: Scene, draw: np.random.Generator) -> np.ndarray:
    """Leave one thing out of two to five frames of the second half, or out of every other frame."""
    index = int(draw.integers(len(scene.things)))
    bare = render(replace(scene, things=(*scene.things[:index], *scene.things[index + 1 :])))
    frames = render(scene)
    which = np.arange(1, len(frames), 2)
    if draw.random() < 0.5:
        which = draw.choice(np.arange(9, 15), int(draw.integers(2, 6)), replace=False)
    frames[which] = bare[which]
    return frames


def _freeze_first(scene: Scene, draw: np.random.Generator) -> np.ndarray | None:
    names = unscored(scene)
    moving = "motion" not in names and any(thing.motion != "still" for thing in scene.things)
    if not moving and ("camera" in names or scene.camera == "static"):
        return None
    frames = render(scene)
    return np.repeat(frames[:1], len(frames), axis=0)


def _freeze_middle(scene: Scene, draw: np.random.Generator) -> np.ndarray | None:
    """Stop at the middle; a thing that appears has by then appeared, so it is no motion that stops."""
    names = unscored(scene)
    moving = "motion" not in names and any(thing.motion not in ("still", "appear") for thing in scene.things)
    if not moving and ("camera" in names or scene.camera == "static"):
        return None
    frames = render(scene)
    frames[len(frames) // 2 :] = frames[len(frames) // 2]
    return frames


def _change_midway(scene: Scene, index: int, thing: Thing) -> np.ndarray:
    """Show another thing from the middle of the time in which the first is seen."""
    frames = render(scene)
    other = render(replace(scene, things=(*scene.things[:index], thing, *scene.things[index + 1 :])))
    middle = (1 + (APPEAR_START + APPEAR_END) / 2) / 2 if thing.motion == "appear" else 0.5
    first = round(middle * (len(frames) - 1))
    frames[first:] = other[first:]
    return frames


def _recolour(scene: Scene, draw: np.random.Generator) -> np.ndarray:
    index = int(draw.integers(len(scene.things)))
    thing = scene.things[index]
    return _change_midway(scene, index, replace(thing, colour=_other(COLOURS, thing.colour, draw)))


def _morph(scene: Scene, draw: np.random.Generator) -> np.ndarray:
    index = int(draw.integers(len(scene.things)))
    thing = scene.things[index]
    return _change_midway(scene, index, replace(thing, shape=_other(SHAPES, thing.shape, draw)))


def _pure_noise(scene: Scene, draw: np.random.Generator) -> np.ndarray:
    return draw.integers(0, 256, (16, 64, 64, 3)).astype(np.uint8)


def _strong_noise(scene: Scene, draw: np.random.Generator) -> np.ndarray:
    frames = render(scene)
    return levels(frames + draw.normal(0, float(draw.choice((15, 25, 50))), frames.shape))


CORRUPTIONS: dict[str, Corruption] = {
    "blurred": _blur,
    "half the picture erased": _erase_picture,
    "thing erased in half the frames": _erase_thing,
    "flickering": _flicker,
    "blinking": _blink,
    "frozen at the first frame": _freeze_first,
    "frozen from the middle": _freeze_middle,
    "recoloured midway": _recolour,
    "shape morphing midway": _morph,
    "pure noise": _pure_noise,
    "strong noise": _strong_noise,
}


def _other(names: tuple[str, ...], name: str, draw: np.random.Generator) -> str:
    return str(draw.choice([other for other in names if other != name]))


def with_one_error(asked: Reading, draw: np.random.Generator) -> tuple[str, Reading]:
    """Change exactly one asked attribute; returns its name and the new labels."""
    index = int(draw.integers(len(asked.things)))
    thing = asked.things[index]
    names = ["colour", "shape", "size", "background", "tone", "count"]
    names += ["motion"] if thing.motion is not None else []
    names += ["speed"] if thing.speed is not None else []
    names += ["camera"] if asked.camera is not None else []
    name = str(draw.choice(names))
    if name == "count":
        things = asked.things[1:] if len(asked.things) > 1 and draw.random() < 0.5 else (*asked.things, thing)
        return name, replace(asked, things=things, count=len(things))
    if name in ("background", "tone", "camera"):
        values = {"background": BACKGROUNDS, "tone": TONES, "camera": CAMERAS}[name]
        return name, replace(asked, **{name: _other(values, getattr(asked, name), draw)})
    if name == "speed":
        thing = replace(thing, speed="fast" if thing.speed == "slow" else "slow")
    elif name == "motion":
        motion = _other(MOTIONS, thing.motion or "", draw)
        speed = (thing.speed or str(draw.choice(("slow", "fast")))) if motion in WITH_SPEED else None
        thing = replace(thing, motion=motion, speed=speed)
    else:
        values = {"colour": COLOURS, "shape": SHAPES, "size": SIZES}[name]
        thing = replace(thing, **{name: _other(values, getattr(thing, name), draw)})
    return name, replace(asked, things=(*asked.things[:index], thing, *asked.things[index + 1 :]))


def right_answers(number: int, first: int, damage: bool) -> tuple[dict[str, float], float]:
    """Return the share of right answers for each attribute on held-out renders, and milliseconds per clip."""
    right, asked, spent = Counter[str](), Counter[str](), 0.0
    for seed in range(first, first + number):
        scene = sample(seed, split="held_out")
        frames = mild_damage(render(scene), seed) if damage else render(scene)
        begin = time.process_time()
        reading = measure(frames)
        spent += time.process_time() - begin
        answers = verdict(reading, scene)
        asked.update(answers.keys())
        right.update(name for name, answer in answers.items() if answer)
    return {name: round(100 * right[name] / asked[name], 2) for name in asked}, 1000 * spent / number


def accepted_pairs(number: int, first: int) -> tuple[float, dict[str, int]]:
    """Return the share of accepted labels with one error, and which attributes they were wrong in."""
    accepted = Counter[str]()
    for seed in range(first, first + number):
        scene = sample(seed, split="held_out")
        name, labels = with_one_error(expected(scene), np.random.default_rng([1, seed]))
        if verdict_for(measure(render(scene)), labels)["all"]:
            accepted[name] += 1
    return round(100 * accepted.total() / number, 2), dict(accepted)


def accepted_corruptions(number: int, first: int) -> dict[str, float]:
    """Return the share of corrupted clips that still pass for the scene they were made from."""
    shares = {}
    for kind, corrupt in CORRUPTIONS.items():
        tried, accepted, seed = 0, 0, first
        while tried < number:
            scene = sample(seed, split="held_out")
            frames = corrupt(scene, np.random.default_rng([2, seed]))
            seed += 1
            if frames is None:
                continue
            tried += 1
            accepted += verdict(measure(frames), scene)["all"]
        shares[kind] = round(100 * accepted / number, 2)
    return shares


def share_scored(number: int = 10_000) -> dict[str, float]:
    """Return how many scenes are scored in full, and how often each attribute is left out."""
    left_out = Counter[str]()
    for seed in range(number):
        names = unscored(sample(seed, split="any"))
        left_out.update(names or {"fully scored"})
    return {name: round(100 * count / number, 2) for name, count in left_out.items()}


@dataclass(frozen=True)
class Options:
    """How many clips to measure."""

    renders: int = 2000
    pairs: int = 1000
    each: int = 500
    mild: int = 1000


def main(options: Options) -> None:
    torch.set_num_threads(1)
    clean, spent_ms = right_answers(options.renders, FIRST_SEED["renders"], damage=False)
    result: dict[str, object] = {
        "benchmark": "oracle",
        "clips": vars(options),
        "clean": clean,
        "ms_per_clip": round(spent_ms, 1),
    }
    result["mild"] = right_answers(options.mild, FIRST_SEED["mild"], damage=True)[0]
    result["one_error_accepted"], result["one_error_in"] = accepted_pairs(options.pairs, FIRST_SEED["pairs"])
    result["corrupted_accepted"] = accepted_corruptions(options.each, FIRST_SEED["corrupted"])
    result["scored"] = share_scored()
    result["machine"] = f"{platform.machine()}, one core, torch {torch.__version__}, numpy {np.__version__}"
    print(json.dumps(result))


if __name__ == "__main__":
    main(tyro.cli(Options))
