import json
import runpy
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from mutoscope.core.errors import RequestError
from mutoscope.evaluate import world
from mutoscope.worlds.render import render
from mutoscope.worlds.scene import is_held_out, sample, unscored
from tests.evaluate.painters import halted, leaping

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "make_world_prompts.py"))


@pytest.fixture(scope="module")
def prompts():
    return world.load()


def of(prompts, name):
    return [prompt for prompt in prompts if prompt.set == name]


@pytest.mark.parametrize("name", list(world.SETS))
def test_the_prompts_are_those_that_the_script_draws(prompts, name):
    for fixed, drawn in zip(of(prompts, name), islice(SCRIPT["prompts_of"](name), 4), strict=False):
        assert json.loads(json.dumps(asdict(drawn))) == asdict(fixed)


def test_every_scene_is_held_out_scored_in_all_and_drawn_as_told(prompts):
    for prompt in prompts[::9]:
        scene = prompt.scene
        assert len(scene.things) == prompt.depth and not unscored(scene)
        assert all(is_held_out(thing.colour, thing.shape, thing.motion) for thing in scene.things)
        for thing, told in zip(scene.things, prompt.told["things"], strict=True):
            assert told and all(getattr(thing, facet) == value for facet, value in told.items())
        assert all(getattr(scene, name) == value for name, value in prompt.told.items() if name != "things")


def test_every_set_has_its_number_of_prompts_and_no_scene_twice(prompts):
    assert len({prompt.id for prompt in prompts}) == len(prompts)
    for name, part in world.SETS.items():
        seeds = [prompt.scene_seed for prompt in of(prompts, name)]
        assert len(set(seeds)) == len(seeds) == (256 if part.headlines == ("all",) else 128)


def test_both_languages_ask_for_the_same_scenes(prompts):
    for name in ("one", "two", "three"):
        for english, chinese in zip(of(prompts, name), of(prompts, f"{name}_zh"), strict=True):
            assert (english.scene_seed, english.length, english.pair) == (
                chinese.scene_seed,
                chinese.length,
                chinese.pair,
            )
            assert english.text.isascii() and not any("a" <= letter <= "z" for letter in chinese.text)


def test_texts_beside_given_frames_tell_the_motion_and_leave_the_rest_to_the_pictures(prompts):
    for prompt in prompts:
        if prompt.given(16):
            (thing,) = prompt.told["things"]
            assert "motion" in thing and "camera" in prompt.told
            assert not {"colour", "size"} & set(thing) and not {"background", "tone"} & set(prompt.told)
            assert thing["motion"] != "appear" and (prompt.set, thing["motion"]) != ("first_last", "orbit")


@pytest.mark.parametrize(("sets", "limit"), [(("none",), None), (("one",), 0)])
def test_what_is_not_there_cannot_be_loaded(sets, limit):
    with pytest.raises(RequestError):
        world.load(sets, limit)


def test_a_centroid_is_where_the_thing_was_drawn():
    square = np.full((1, 40, 80, 3), 120, np.uint8)
    square[0, 10:14, 20:30] = (222, 38, 44)
    assert world.centroids(square)[0] == pytest.approx([25 / 80, 12 / 80])
    assert np.isnan(world.centroids(np.full((1, 40, 80, 3), 120, np.uint8))).all()


def test_the_path_error_of_a_shifted_clip_is_the_shift(prompts):
    truth = render(replace(prompts[0].scene, background="plain", camera="static"))
    assert world.path_error(truth, truth) == 0
    assert world.path_error(np.roll(truth, 5, axis=2), truth) == pytest.approx(5 / 64, abs=1e-3)
    assert world.path_error(truth * 0, truth) == 1  # nothing there is as far off as can be


def test_one_true_clip_in_a_hundred_jumps_more_than_the_limit(monkeypatch):
    monkeypatch.setattr(world, "JUMP_SCENES", 120)
    limits = world.jump_limits(16, 64, 64)
    jumps = {"static": [], "moving": []}
    for seed in range(world.JUMP_SEED, world.JUMP_SEED + 120):
        drawn = sample(seed, split="held_out", count=1)
        if not unscored(drawn) and world.is_seen_from_the_start(drawn):
            jumps["static" if drawn.camera == "static" else "moving"].append(world.jump(render(drawn)))
    assert 0 < limits["static"] < limits["moving"]
    for kind, values in jumps.items():
        assert sum(value > limits[kind] for value in values) == 1


def test_true_clips_pass_every_measure_and_spoiled_ones_fail_the_one_that_they_break(prompts):
    limits = {"static": 3.0, "moving": 12.0}
    for name in ("image", "first_last", "first_four", "every_second"):
        moving = (p for p in of(prompts, name) if p.told["things"][0]["motion"] in ("left", "right", "up", "down"))
        prompt = next(p for p in moving if p.told["things"][0]["speed"] == "fast" and p.told["camera"] == "static")
        truth = render(prompt.scene)
        judged = world.judge(prompt, truth, truth, limits)
        assert all(judged.right.values()) and judged.values["given_psnr"] == world.SAME
        still = world.judge(prompt, halted(truth), truth, limits)
        assert not still.right["motion"]
        if name == "image":
            assert still.right["carried"] and still.right["no_jump"]
            assert not world.judge(prompt, leaping(truth), truth, limits).right["no_jump"]
        if name == "first_last":
            assert not still.right["path"]
        if name == "every_second":
            off = truth.copy()
            off[1::2] ^= 1  # every level of the missing frames is off by one
            assert world.judge(prompt, off, truth, limits).values["missing_psnr"] == pytest.approx(48.1308, abs=1e-4)


def test_the_code_that_judges_is_part_of_what_a_figure_depends_on():
    prints = world.fingerprints()
    assert set(prints) == {"prompts", "judge"} and all(len(value) == 64 for value in prints.values())
