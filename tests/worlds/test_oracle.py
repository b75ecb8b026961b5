from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch.nn import functional

from mutoscope.core.errors import RequestError
from mutoscope.worlds.oracle import Reading, ThingReading, expected, measure, verdict, verdict_for
from mutoscope.worlds.render import SQUARE_HALF, render
from mutoscope.worlds.scene import Scene, Thing, sample, unscored

STAR = Thing("star", "red", "medium", "solid", "right", "slow", 0.0, 0.1, 0.26, 0.1, 0.38, 0.0, 1)
SCENE = Scene((STAR,), "checkered", "slate", "static", 0.0, (0.2, 0.7), 0.0, 5)


def still(shape: str = "star", colour: str = "red", x: float = 0.0, y: float = 0.0) -> Thing:
    return replace(STAR, shape=shape, colour=colour, motion="still", speed=None, extent=0.0, x=x, y=y)


@cache
def drawn(number: int) -> tuple[tuple[Scene, np.ndarray, Reading], ...]:
    scenes = [sample(seed, split="held_out") for seed in range(number)]
    clips = [render(scene) for scene in scenes]
    return tuple((scene, clip, measure(clip)) for scene, clip in zip(scenes, clips, strict=True))


def softened(frames: np.ndarray, sigma: float) -> np.ndarray:
    kernel = torch.exp(-0.5 * (torch.arange(-9, 10) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    pixels = torch.from_numpy(frames).float().permute(0, 3, 1, 2).reshape(-1, 1, *frames.shape[1:3])
    pixels = functional.pad(pixels, (9, 9, 9, 9), mode="replicate")
    pixels = functional.conv2d(functional.conv2d(pixels, kernel[None, None, None]), kernel[None, None, :, None])
    return pixels.reshape(len(frames), 3, *frames.shape[1:3]).permute(0, 2, 3, 1).numpy()


def levels(frames: np.ndarray) -> np.ndarray:
    return (frames + 0.5).clip(0, 255).astype(np.uint8)


def test_reads_what_was_drawn() -> None:
    wrong = Counter(
        name for scene, _, reading in drawn(60) for name, right in verdict(reading, scene).items() if not right
    )
    assert wrong["all"] <= 1, wrong


def test_same_pixels_give_the_same_reading() -> None:
    _, clip, reading = drawn(60)[3]
    assert measure(clip.copy()) == reading


@pytest.mark.parametrize("size", [(8, 64, 64), (24, 48, 64), (32, 96, 96)])
def test_any_size_and_frame_count_is_measured_alike(size: tuple[int, int, int]) -> None:
    scenes = [scene for scene, _, _ in drawn(60)][10:14]
    assert all(verdict(measure(render(scene, *size)), scene)["all"] for scene in scenes)


def test_mild_damage_of_an_autoencoder_changes_no_answer() -> None:
    draw = np.random.default_rng(0)
    right = 0
    for scene, clip, _ in drawn(60)[:15]:
        damaged = levels(softened(clip, 0.5) + draw.normal(0, 2.5, clip.shape))
        right += verdict(measure(damaged), scene)["all"]
    assert right >= 14


def test_an_irregular_path_within_a_pixel_is_still_its_motion() -> None:
    # Back and forth at every second frame: RMS 0.7 pixels in x.
    frames = render(SCENE)
    scenes = [replace(SCENE, things=(replace(STAR, x=STAR.x + shift / 32),)) for shift in (-0.7, 0.7)]
    ways = [render(scene) for scene in scenes]
    for index in range(len(frames)):
        frames[index] = ways[index // 2 % 2][index]
    assert verdict(measure(frames), SCENE)["all"]


def test_the_fastest_thing_is_followed() -> None:
    thing = replace(STAR, shape="circle", motion="bounce", speed="fast", extent=3.0, y=0.28)
    scene = replace(SCENE, things=(thing,), camera="zoom in", camera_extent=1.5)
    assert verdict(measure(render(scene)), scene)["all"]


def test_an_outline_that_falls_between_pixels_is_sharp() -> None:
    square = replace(still("square"), radius=7 / 32 / SQUARE_HALF, angle=0.0)  # 14 pixels a side
    scene = replace(SCENE, things=(square,))
    assert verdict(measure(render(scene)), scene)["all"]


@pytest.mark.parametrize(
    "field", ["colour", "shape", "size", "motion", "speed", "background", "tone", "camera", "count"]
)
def test_a_label_with_one_error_is_refused(field: str) -> None:
    other = {"colour": "orange", "shape": "cross", "size": "large", "motion": "left", "speed": "fast"}
    other |= {"background": "textured", "tone": "grey", "camera": "pan left"}
    reading = measure(render(SCENE))
    asked = expected(SCENE)
    if field == "count":
        asked = replace(asked, count=2, things=asked.things * 2)
    elif field in ("background", "tone", "camera"):
        asked = replace(asked, **{field: other[field]})
    else:
        asked = replace(asked, things=(replace(asked.things[0], **{field: other[field]}),))
    answers = verdict_for(reading, asked)
    attribute = {"speed": "motion", "tone": "background"}.get(field, field)
    assert not answers["all"]
    assert not answers[attribute]
    if field != "count":  # a second thing that is not there is also wrong in all that is asked of it
        assert [name for name, right in answers.items() if not right] == [attribute, "all"]


def blurred(frames: np.ndarray) -> np.ndarray:
    return levels(softened(frames, 2.0))


def frozen(frames: np.ndarray) -> np.ndarray:
    return np.repeat(frames[:1], len(frames), axis=0)


def frozen_midway(frames: np.ndarray) -> np.ndarray:
    return np.concatenate([frames[:8], np.repeat(frames[8:9], 8, axis=0)])


def half_erased(frames: np.ndarray) -> np.ndarray:
    frames = frames.copy()
    frames[:, :, 32:] = 0
    return frames


def half_empty(frames: np.ndarray) -> np.ndarray:
    return np.concatenate([frames[:8], render(replace(SCENE, things=()))[8:]])


def late(frames: np.ndarray) -> np.ndarray:
    return np.concatenate([render(replace(SCENE, things=()))[:8], frames[8:]])


def blinking(frames: np.ndarray) -> np.ndarray:
    frames = frames.copy()
    frames[[5, 9, 12]] = render(replace(SCENE, things=()))[[5, 9, 12]]
    return frames


def flickering(frames: np.ndarray) -> np.ndarray:
    return levels(frames * np.where(np.arange(16) % 3, 1.0, 0.8)[:, None, None, None])


def recoloured(frames: np.ndarray) -> np.ndarray:
    return np.concatenate([frames[:8], render(replace(SCENE, things=(replace(STAR, colour="orange"),)))[8:]])


def morphing(frames: np.ndarray) -> np.ndarray:
    return np.concatenate([frames[:8], render(replace(SCENE, things=(replace(STAR, shape="cross"),)))[8:]])


def noisy(frames: np.ndarray) -> np.ndarray:
    return levels(frames + np.random.default_rng(0).normal(0, 20, frames.shape))


def only_noise(frames: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, frames.shape).astype(np.uint8)


CORRUPTIONS = [blurred, frozen, frozen_midway, half_erased, half_empty, late, blinking, flickering, recoloured]
CORRUPTIONS += [morphing, noisy, only_noise]


@pytest.mark.parametrize("corrupt", CORRUPTIONS, ids=lambda function: function.__name__)
def test_a_corrupted_clip_is_refused_with_a_reason(corrupt) -> None:
    reading = measure(corrupt(render(SCENE)))
    assert not verdict(reading, SCENE)["all"]
    if corrupt is frozen:
        assert reading.things[0].motion == "still"  # a true reading of what is shown
    else:
        assert reading.notes


def test_a_frozen_clip_of_a_still_scene_is_right() -> None:
    scene = replace(SCENE, things=(still(),))
    assert verdict(measure(frozen(render(scene))), scene)["all"]


@pytest.mark.parametrize("fill", [0, 128, 255])
def test_an_empty_picture_shows_nothing(fill: int) -> None:
    reading = measure(np.full((16, 64, 64, 3), fill, np.uint8))
    assert reading.things == ()
    assert reading.count is None


def test_things_are_assigned_in_the_best_way() -> None:
    scene = replace(SCENE, things=(still("ring", "blue", -0.5), still("cross", "green", 0.5)))
    reading = measure(render(replace(scene, things=scene.things[::-1])))
    assert verdict(reading, scene)["all"]
    assert not verdict(reading, replace(scene, things=(still("ring", "green"), still("cross", "blue"))))["all"]


def test_what_is_not_asked_is_not_judged() -> None:
    reading = measure(render(SCENE))
    asked = Reading((ThingReading("red", None, None, "right", None),), None, None, "slate", None)
    assert verdict_for(reading, asked) == {"colour": True, "motion": True, "background": True, "all": True}


def test_what_pixels_cannot_tell_is_not_asked() -> None:
    panned = replace(SCENE, background="plain", camera="pan left", camera_extent=0.55)
    answers = verdict(measure(render(panned)), panned)
    assert unscored(panned) == {"camera", "motion"}
    assert set(answers) == {"colour", "shape", "size", "background", "count", "all"}
    assert answers["all"]


def test_a_missing_thing_makes_every_answer_about_it_wrong() -> None:
    two = replace(SCENE, things=(STAR, still("ring", "blue")))
    answers = verdict(measure(render(SCENE)), two)
    assert not any(answers[name] for name in ("colour", "shape", "size", "motion", "count", "all"))
    assert answers["background"]
    assert answers["camera"]


@pytest.mark.parametrize("shape", [(7, 64, 64, 3), (16, 31, 64, 3)])
def test_a_clip_too_short_or_small_is_refused_in_one_line(shape: tuple[int, ...]) -> None:
    with pytest.raises(RequestError, match="Give at least 8 frames of 32x32") as error:
        measure(np.zeros(shape, np.uint8))
    assert "\n" not in str(error.value)
