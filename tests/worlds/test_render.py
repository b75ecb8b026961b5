import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from mutoscope.worlds.render import COLOUR_RGB, LIGHT, TONE_RGB, distance, render, screen_path
from mutoscope.worlds.scene import BACKGROUNDS, CAMERAS, COLOURS, REACH, SHAPES, TEXTURES, TONES, Scene, Thing, sample

THING = Thing("star", "red", "medium", "solid", "still", None, 0.0, 0.0, 0.26, 0.0, 0.0, 0.0, 1)
SCENE = Scene((), "textured", "slate", "static", 0.0, (0.3, 0.6), math.pi / 4, 11)
EXTENT = {"pan": 0.5, "tilt": 0.5, "zoom": 1.45, "roll": math.radians(35), "static": 0.0}


def seen_by(scene: Scene, camera: str) -> Scene:
    return replace(scene, camera=camera, camera_extent=EXTENT[camera.split()[0]])


def grid(points: int = 801, reach: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    line = (np.arange(points) + 0.5) / points * 2 * reach - reach
    y, x = np.meshgrid(line, line, indexing="ij")
    return x, y


def coverage(scene: Scene, num_frames: int) -> np.ndarray:
    """How much of every pixel the red thing covers, over a plain background, with light and shade undone."""
    thing, times = scene.things[0], np.linspace(0, 1, num_frames)
    red, bare = COLOUR_RGB["red"][0], TONE_RGB[scene.tone][0][0]
    x, y, scale, _ = screen_path(thing, scene, times)
    rows, columns = (np.mgrid[:64, :64] + 0.5) / 32 - 1
    across, down = columns - x[:, None, None], rows - y[:, None, None]
    light = 1 - LIGHT * (across + down) / (thing.radius * scale)[:, None, None]
    return (render(scene, num_frames)[..., 0].astype(float) - bare) / (light * red - bare)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_covers_the_unit_disc_area_around_the_origin(shape: str) -> None:
    x, y = grid()
    inside = distance(shape, x, y) < 0
    assert inside.mean() * 16 == pytest.approx(math.pi, rel=0.005)
    assert x[inside].mean() == pytest.approx(0, abs=0.005)
    assert y[inside].mean() == pytest.approx(0, abs=0.005)


@pytest.mark.parametrize("shape", SHAPES)
def test_reach_is_the_smallest_circle_around_the_centroid(shape: str) -> None:
    x, y = grid(1601)
    farthest = np.hypot(x, y)[distance(shape, x, y) < 0].max()
    assert farthest == pytest.approx(REACH[shape], abs=0.006)


@pytest.mark.parametrize("shape", SHAPES)
def test_distance_never_changes_faster_than_one(shape: str) -> None:
    x, y = grid()
    slopes = np.hypot(*np.gradient(distance(shape, x, y), x[0, 1] - x[0, 0]))
    assert np.quantile(slopes, 0.999) <= 1.01


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="blob"):
        distance("blob", np.zeros(1), np.zeros(1))


@pytest.mark.parametrize("seed", range(6))
def test_same_scene_gives_the_same_pixels(seed: int) -> None:
    scene = sample(seed, split="any")
    assert np.array_equal(render(scene), render(sample(seed, split="any")))


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_a_static_background_is_constant(background: str) -> None:
    frames = render(replace(SCENE, background=background))
    assert (frames == frames[0]).all()


@pytest.mark.parametrize("camera", [camera for camera in CAMERAS if camera != "static"])
@pytest.mark.parametrize("background", ["checkered", "textured"])
def test_a_moving_camera_changes_a_pattern_at_every_frame(background: str, camera: str) -> None:
    frames = render(seen_by(replace(SCENE, background=background), camera)).astype(int)
    assert all(np.abs(one - next_one).mean() > 0.3 for one, next_one in itertools.pairwise(frames))


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_a_pan_is_a_shifted_world(background: str) -> None:
    # 0.5 units in 16 steps of one pixel each: what was at column k + 1 is then at column k.
    scene = seen_by(replace(SCENE, background=background, things=(replace(THING, x=0.1),)), "pan right")
    frames = render(scene, num_frames=17).astype(int)
    for before, after in itertools.pairwise(frames):
        assert np.abs(before[:, 1:] - after[:, :-1]).max() <= 1


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_a_tilt_is_a_shifted_world(background: str) -> None:
    frames = render(seen_by(replace(SCENE, background=background), "tilt up"), num_frames=17).astype(int)
    for before, after in itertools.pairwise(frames):
        assert np.abs(before[:-1] - after[1:]).max() <= 1


def test_opposite_cameras_show_the_same_in_reverse_time() -> None:
    scene = replace(SCENE, things=(THING,))
    for one, other in (("pan left", "pan right"), ("tilt up", "tilt down")):
        assert np.array_equal(render(seen_by(scene, one)), render(seen_by(scene, other))[::-1])


def test_a_quarter_roll_is_a_turned_picture() -> None:
    scene = replace(SCENE, background="checkered")
    frames = render(replace(scene, camera="roll clockwise", camera_extent=math.pi / 2), num_frames=2).astype(int)
    # The camera turns clockwise, so the picture turns counterclockwise.
    assert np.abs(np.rot90(frames[0]) - frames[1]).max() <= 1


def test_a_zoom_by_two_doubles_a_thing_and_keeps_the_middle() -> None:
    scene = replace(SCENE, background="plain", things=(replace(THING, x=0.2),), camera="zoom in", camera_extent=2.0)
    x, _, scale, _ = screen_path(scene.things[0], scene, np.array([0.0, 1.0]))
    assert x.tolist() == pytest.approx([0.2, 0.4])
    assert scale.tolist() == pytest.approx([1.0, 2.0])
    area = coverage(scene, 2).sum(axis=(1, 2))
    assert area[1] / area[0] == pytest.approx(4, rel=0.03)


@pytest.mark.parametrize("shape", SHAPES)
def test_anti_aliasing_keeps_area_and_centre_to_parts_of_a_pixel(shape: str) -> None:
    scene = replace(SCENE, background="plain", things=(replace(THING, shape=shape, x=0.1234, y=-0.0571),))
    cover = coverage(scene, 1)[0]
    rows, columns = np.mgrid[:64, :64] + 0.5
    assert cover.sum() == pytest.approx(math.pi * (0.26 * 32) ** 2, rel=0.03)
    assert (cover * columns).sum() / cover.sum() - 32 == pytest.approx(0.1234 * 32, abs=0.1)
    assert (cover * rows).sum() / cover.sum() - 32 == pytest.approx(-0.0571 * 32, abs=0.1)
    assert ((cover > 0.05) & (cover < 0.95)).any()


@pytest.mark.parametrize("seed", range(5))
def test_resolution_changes_sharpness_only(seed: int) -> None:
    scene = sample(seed, split="any")
    small = render(scene, 5, 64, 64).astype(float)
    large = render(scene, 5, 256, 256).astype(float).reshape(5, 64, 4, 64, 4, 3).mean(axis=(2, 4))
    assert np.abs(small - large).mean() < 1.0


def test_frame_count_changes_only_how_often_is_looked() -> None:
    scene = sample(3, split="any")
    assert np.array_equal(render(scene, 31)[::2], render(scene, 16))
    assert np.array_equal(render(scene, 1)[0], render(scene, 16)[0])


def test_a_wider_frame_shows_more_at_the_sides() -> None:
    scene = replace(SCENE, things=(THING,))
    assert np.array_equal(render(scene, 4, 64, 96)[:, :, 16:80], render(scene, 4, 64, 64))


@pytest.mark.parametrize("texture", TEXTURES)
@pytest.mark.parametrize("colour", COLOURS)
def test_things_are_vivid_and_backgrounds_muted(colour: str, texture: str) -> None:
    scene = replace(SCENE, background="plain", things=(replace(THING, colour=colour, texture=texture, radius=0.38),))
    frame = render(scene, num_frames=1)[0]
    x, y = (grid(64, 1 / 0.38)[axis] for axis in (0, 1))
    inside = distance("star", x, y) * 0.38 * 32 < -1
    spread = np.ptp(frame.astype(int), axis=-1)
    assert spread[inside].min() >= 75
    assert spread[distance("star", x, y) * 0.38 * 32 > 1].max() <= 48


def test_tones_are_muted_and_apart() -> None:
    assert set(TONE_RGB) == set(TONES)
    assert set(COLOUR_RGB) == set(COLOURS)
    assert all(max(rgb) - min(rgb) <= 48 for pair in TONE_RGB.values() for rgb in pair)
    firsts = [np.array(pair[0]) for pair in TONE_RGB.values()]
    assert all(np.linalg.norm(one - other) > 30 for one, other in itertools.combinations(firsts, 2))
