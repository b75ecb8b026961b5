from dataclasses import replace

import numpy as np
import pytest

from mutoscope.worlds.render import COLOUR_RGB, TONE_RGB, render, screen_path
from mutoscope.worlds.scene import COLOURS, SHAPES, Scene, Thing, sample
from mutoscope.worlds.truth import CHANNELS, COUNT, NOWHERE, truth_maps

TIMES = np.linspace(0, 1, 16)
BALL = Thing("square", "red", "large", "solid", "left", "slow", 0.1, 0.0, 0.38, 0.0, 0.4, 0.0, 1)


def scene(*things: Thing, background: str = "plain", camera: str = "static", extent: float = 0.0) -> Scene:
    return Scene(things, background, "grey", camera, extent, (0.2, 0.6), 0.0, 0)


@pytest.mark.parametrize("seed", range(6))
def test_every_offset_points_at_the_centre_of_an_object(seed: int) -> None:
    drawn = sample(seed, count=1)
    maps = truth_maps(drawn).astype(np.float64)
    x, y, scale, _ = screen_path(drawn.things[0], drawn, TIMES)
    frames, rows, columns = np.nonzero(maps[:, CHANNELS["shape"].start] != NOWHERE)
    assert len(frames)
    dx, dy = maps[:, CHANNELS["offset"]].transpose(1, 0, 2, 3)[:, frames, rows, columns]
    np.testing.assert_allclose((columns + 0.5 - 4 + dx) / 4, x[frames], atol=2e-3)
    np.testing.assert_allclose((rows + 0.5 - 4 + dy) / 4, y[frames], atol=2e-3)
    radius = np.exp(maps[:, CHANNELS["log_radius"].start][frames, rows, columns]) / 4
    np.testing.assert_allclose(radius, drawn.things[0].radius * scale[frames], rtol=2e-3)


def test_the_cell_of_an_object_says_what_its_pixels_show() -> None:
    still = replace(BALL, motion="still", extent=0.0, x=0.125, y=0.125)  # the middle of a cell
    maps, frames = truth_maps(scene(still)), render(scene(still))
    assert maps[0, CHANNELS["colour"].start, 4, 4] == COLOURS.index("red")
    assert maps[0, CHANNELS["shape"].start, 4, 4] == SHAPES.index("square")
    shown = frames[0, 32:40, 32:40].reshape(-1, 3).mean(0)
    np.testing.assert_allclose(shown, COLOUR_RGB["red"], atol=8)  # the object fills the cell; light falls on it
    assert maps[0, CHANNELS["shape"].start, 0, 0] == NOWHERE


def test_a_cell_between_two_objects_belongs_to_the_nearer_one_in_their_radii() -> None:
    near = replace(BALL, x=-0.4, extent=0.0, motion="still", radius=0.2)
    far = replace(near, x=0.4, shape="ring", colour="blue")
    colours = truth_maps(scene(near, far))[0, CHANNELS["colour"].start]
    assert colours[3, 2] == COLOURS.index("red") and colours[3, 5] == COLOURS.index("blue")


def test_velocity_growth_and_spin_are_rates_over_the_whole_clip() -> None:
    moved = truth_maps(scene(BALL))
    there = moved[:, CHANNELS["shape"].start] != NOWHERE
    vx, vy = (moved[:, CHANNELS["velocity"]][:, axis][there] for axis in (0, 1))
    np.testing.assert_allclose(vx, -0.4 / 2, atol=1e-3)  # 0.4 units to the left, a frame is 2 high
    np.testing.assert_allclose(vy, 0, atol=1e-3)
    grown = truth_maps(scene(replace(BALL, motion="grow", extent=1.5)))
    there = grown[:, CHANNELS["shape"].start] != NOWHERE
    np.testing.assert_allclose(grown[:, CHANNELS["growth"].start][there], np.log(1.5), atol=2e-3)
    spun = truth_maps(scene(replace(BALL, motion="spin", extent=np.pi, turning=-1)))
    there = spun[:, CHANNELS["shape"].start] != NOWHERE
    np.testing.assert_allclose(spun[:, CHANNELS["spin"].start][there], -0.5, atol=2e-3)


def test_a_panning_camera_moves_a_still_object() -> None:
    still = replace(BALL, motion="still", extent=0.0)
    maps = truth_maps(scene(still, background="checkered", camera="pan right", extent=0.5))
    there = maps[:, CHANNELS["shape"].start] != NOWHERE
    np.testing.assert_allclose(maps[:, CHANNELS["velocity"].start][there], -0.25, atol=1e-3)


def test_an_object_that_has_not_appeared_is_nowhere() -> None:
    shapes = truth_maps(scene(replace(BALL, motion="appear", extent=0.0)))[:, CHANNELS["shape"].start]
    assert (shapes[0] == NOWHERE).all() and (shapes[-1] != NOWHERE).any()


@pytest.mark.parametrize("camera", ["static", "roll clockwise", "zoom in"])
def test_the_mix_is_that_of_the_pixels(camera: str) -> None:
    drawn = scene(background="gradient", camera=camera, extent=1.2)
    first, second = (np.array(rgb, float) for rgb in TONE_RGB["grey"])
    pixels = ((render(drawn) - first) / (second - first)).mean(-1)
    points = pixels.reshape(16, 8, 2, 4, 8, 2, 4).mean((3, 6)).transpose(0, 2, 4, 1, 3).reshape(16, 4, 8, 8)
    np.testing.assert_allclose(truth_maps(drawn)[:, CHANNELS["mix"]], points, atol=0.03)


def test_the_channels_cover_the_maps_once() -> None:
    places = sorted((place.start, place.stop) for place in CHANNELS.values())
    assert [start for start, _ in places] == [0, *(stop for _, stop in places[:-1])] and places[-1][1] == COUNT
    assert truth_maps(sample(0), 4, 128, 192).shape == (4, COUNT, 16, 24)
