import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutoscope.worlds.render import screen_path
from mutoscope.worlds.scene import (
    BACKGROUNDS,
    CAMERAS,
    COLOURS,
    DRIFTS,
    MOTIONS,
    REACH,
    SHAPES,
    SIZES,
    TEXTURES,
    TONES,
    WITH_SPEED,
    Scene,
    angles,
    camera_path,
    is_held_out,
    offsets,
    opacities,
    sample,
    scales,
    unscored,
)

SEEDS = st.integers(0, 2**40)
TIMES = np.linspace(0, 1, 33)


@given(SEEDS)
def test_same_seed_gives_the_same_scene(seed: int) -> None:
    assert sample(seed) == sample(seed)


def test_seeds_and_splits_give_different_scenes() -> None:
    scenes = [sample(seed, split=split) for seed in range(40) for split in ("train", "held_out", "any")]
    assert len(set(scenes)) == len(scenes)


@given(SEEDS)
def test_train_never_holds_a_held_out_combination(seed: int) -> None:
    assert not any(is_held_out(thing.colour, thing.shape, thing.motion) for thing in sample(seed).things)


@given(SEEDS)
def test_held_out_holds_nothing_else(seed: int) -> None:
    things = sample(seed, split="held_out").things
    assert all(is_held_out(thing.colour, thing.shape, thing.motion) for thing in things)


def test_about_one_combination_in_eight_is_held_out_and_every_word_is_in_both() -> None:
    every = [(colour, shape, motion) for colour in COLOURS for shape in SHAPES for motion in MOTIONS]
    held = [combination for combination in every if is_held_out(*combination)]
    assert 0.09 < len(held) / len(every) < 0.16
    words = set(COLOURS) | set(SHAPES) | set(MOTIONS)
    assert {word for combination in held for word in combination} == words
    assert {word for combination in set(every) - set(held) for word in combination} == words


@given(SEEDS)
def test_every_thing_stays_in_the_frame(seed: int) -> None:
    scene = sample(seed, split="any")
    for thing in scene.things:
        x, y, scale, _ = screen_path(thing, scene, TIMES)
        reach = scale * thing.radius * REACH[thing.shape]
        # Places are checked at nine times; between them a path bulges out by less than the margin and half a clearance.
        assert (np.maximum(np.abs(x), np.abs(y)) + reach).max() <= 1.06


@given(SEEDS)
def test_things_are_clear_of_each_other_where_they_are_checked(seed: int) -> None:
    scene = sample(seed, split="any", count=3)
    times = TIMES[::4]
    for i, one in enumerate(scene.things):
        for other in scene.things[:i]:
            gap = offsets(one, times) - offsets(other, times) + np.array([[one.x - other.x], [one.y - other.y]])
            reach = sum(scales(thing, times) * thing.radius * REACH[thing.shape] for thing in (one, other))
            assert (np.hypot(*gap) > reach + 0.09).all()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_count_is_kept(count: int) -> None:
    assert all(len(sample(seed, count=count).things) == count for seed in range(20))


def test_every_word_is_drawn() -> None:
    scenes = [sample(seed, split="any") for seed in range(800)]
    seen = Counter(word for scene in scenes for word in (scene.background, scene.tone, scene.camera))
    for scene in scenes:
        for thing in scene.things:
            seen.update((thing.shape, thing.colour, thing.size, thing.texture, thing.motion))
    assert set(seen) == {*SHAPES, *COLOURS, *SIZES, *TEXTURES, *MOTIONS, *BACKGROUNDS, *TONES, *CAMERAS}


@given(SEEDS)
def test_speed_is_said_where_a_motion_has_one(seed: int) -> None:
    assert all((thing.speed is not None) == (thing.motion in WITH_SPEED) for thing in sample(seed, split="any").things)


def test_at_least_85_percent_is_scored() -> None:
    assert np.mean([not unscored(sample(seed, split="any")) for seed in range(600)]) >= 0.85


def scene_of(motion: str, **changes) -> Scene:
    seed = next(seed for seed in range(1000) if sample(seed, split="any", count=1).things[0].motion == motion)
    scene = sample(seed, split="any", count=1)
    return replace(scene, **{"camera": "static", "camera_extent": 0.0, **changes})


def test_a_moving_camera_over_a_background_without_pattern_cannot_be_scored() -> None:
    moving = {"camera": "tilt up", "camera_extent": 0.5}
    for background in BACKGROUNDS:
        scene = scene_of("left", background=background)
        assert unscored(scene) == frozenset()
        hidden = {"camera", "motion"} if background in ("plain", "gradient") else set()
        assert unscored(replace(scene, **moving)) == hidden


@pytest.mark.parametrize("shape", SHAPES)
def test_a_round_shape_that_spins_cannot_be_scored(shape: str) -> None:
    scene = scene_of("spin")
    thing = replace(scene.things[0], shape=shape)
    assert unscored(replace(scene, things=(thing,))) == ({"motion"} if shape in ("circle", "ring") else set())


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_motion_changes_what_it_says_and_nothing_else(motion: str) -> None:
    thing = scene_of(motion).things[0]
    changes = {
        "place": np.ptp(offsets(thing, TIMES)) > 0,
        "size": np.ptp(scales(thing, TIMES)) > 0,
        "angle": np.ptp(angles(thing, TIMES)) > 0,
        "opacity": np.ptp(opacities(thing, TIMES)) > 0,
    }
    what = {"still": None, "spin": "angle", "grow": "size", "shrink": "size", "appear": "opacity"}.get(motion, "place")
    assert [name for name, changed in changes.items() if changed] == ([what] if what else [])


@pytest.mark.parametrize("motion", list(DRIFTS))
def test_a_drift_covers_its_extent_in_its_direction(motion: str) -> None:
    thing = scene_of(motion).things[0]
    path = offsets(thing, TIMES)
    np.testing.assert_allclose(path[:, -1] - path[:, 0], np.array(DRIFTS[motion]) * thing.extent, atol=1e-12)


def test_an_orbit_keeps_its_radius_and_a_bounce_its_floor() -> None:
    assert np.ptp(np.hypot(*offsets(scene_of("orbit").things[0], TIMES))) < 1e-12
    bounce = offsets(scene_of("bounce").things[0], TIMES)
    assert bounce[0].tolist() == [0.0] * len(TIMES)
    assert bounce[1].max() <= 0
    assert bounce[1].min() < -0.5


@pytest.mark.parametrize("camera", CAMERAS)
def test_a_camera_begins_with_zoom_one_and_no_turn_and_moves_one_way(camera: str) -> None:
    extent = {"zoom": 1.45, "roll": math.radians(35)}.get(camera.split()[0], 0.55)
    position, zoom, turn = camera_path(camera, extent, TIMES)
    assert zoom[0] == 1
    assert turn[0] == 0
    moved = [np.diff(position[0]), np.diff(position[1]), np.diff(np.log(zoom)), np.diff(turn)]
    signs = {
        "pan left": (0, -1), "pan right": (0, 1), "tilt up": (1, -1), "tilt down": (1, 1), "zoom in": (2, 1),
        "zoom out": (2, -1), "roll counterclockwise": (3, 1), "roll clockwise": (3, -1),
    }  # fmt: skip
    for index, change in enumerate(moved):
        wanted = signs[camera][1] if camera in signs and signs[camera][0] == index else 0
        assert (np.sign(np.round(change, 12)) == wanted).all()
