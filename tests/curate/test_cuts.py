"""What jumps and is no cut: light of all kinds, cameras thrown round; and cuts that hardly jump."""

import numpy as np
import pytest

pytest.importorskip("cv2", reason="needs the extra curate")
pytest.importorskip("pyarrow", reason="needs the extra curate")

from mutoscope.curate import cuts
from mutoscope.curate.track import Track
from tests.curate.test_split import HEIGHT, WIDTH, shot, table_of, told

ORANGE = np.array([255, 190, 90], np.float32)


def lit(frames: np.ndarray, amount: float, colour: np.ndarray = ORANGE) -> np.ndarray:
    return frames + amount * (colour - frames)


def test_shots_fired_for_two_seconds_are_no_cut_and_hide_none(tmp_path):
    frames = np.concatenate([shot(1, 60), shot(2, 50)])
    for at in (20, 21, 24, 25, 29, 33, 34, 38, 42, 43):
        frames[at] = lit(frames[at], 0.8)
    assert told(table_of(frames, tmp_path)) == [("cut", 60, 60)]


@pytest.mark.parametrize("length", [6, 10, 14])
def test_a_blast_whose_light_fades_is_no_transition(tmp_path, length):
    frames = shot(1, 70)
    for at, amount in enumerate(np.linspace(1, 0.1, length), start=25):
        frames[at] = lit(frames[at], float(amount))
    assert told(table_of(frames, tmp_path)) == []


@pytest.mark.parametrize("seed", [1, 3, 5])
@pytest.mark.parametrize("gain", [0.35, 0.7, 1.4, 2.0, 2.5])
def test_a_step_of_light_is_no_cut_even_with_a_flash(tmp_path, gain, seed):
    frames = shot(seed, 60)
    frames[30:] = np.minimum(frames[30:] * gain, 255)
    assert told(table_of(frames, tmp_path)) == []
    frames[29] = lit(frames[29], 0.9)
    assert told(table_of(frames, tmp_path)) == []


@pytest.mark.parametrize("count", [5, 7])
def test_a_camera_thrown_round_makes_no_cut(tmp_path, count):
    wide = np.concatenate([shot(seed, 1, 0)[0] for seed in (1, 2, 3)], axis=1)
    ease = (1 - np.cos(np.pi * np.arange(1, count + 1) / count)) / 2
    places = np.concatenate([np.zeros(30), ease, np.ones(30)]) * 1.6 * WIDTH
    frames, last = [], 0.0
    for at in places:
        ways = np.linspace(last, at, 8)[1:].astype(int)  # smeared over the way from the frame before
        frames.append(np.mean([wide[:, way : way + WIDTH] for way in ways], axis=0))
        last = at
    assert told(table_of(np.stack(frames).astype(np.float32), tmp_path)) == []


def test_a_cut_between_dark_shots_of_a_shaky_hand_is_found(tmp_path):
    draw = np.random.default_rng(0)
    frames = np.concatenate([shot(1, 40), shot(2, 40)]) * 0.15
    shaky = np.stack([np.roll(frame, draw.integers(-2, 3, 2), (0, 1)) for frame in frames])
    shaky += draw.normal(0, 1.5, (80, HEIGHT, WIDTH, 1)).astype(np.float32)
    assert told(table_of(np.clip(shaky, 0, 255), tmp_path)) == [("cut", 40, 40)]


def test_fast_cutting_is_found_shot_by_shot(tmp_path):
    lengths = [30, 7, 9, 8, 7, 12, 30]
    frames = np.concatenate([shot(seed, length) for seed, length in enumerate(lengths, start=1)])
    starts = np.cumsum(lengths)[:-1].tolist()
    assert told(table_of(frames, tmp_path)) == [("cut", start, start) for start in starts]


def test_candidates_are_apart_and_cover_each_jump_once(tmp_path):
    frames = np.concatenate([shot(1, 30), shot(2, 30)])
    frames[12] = 255.0
    track = Track.of(table_of(frames, tmp_path))
    flashes, odd, single = cuts.candidates(track, cut_change=0.03, flash_s=0.35)
    assert (flashes, odd, single) == ([(12, 13)], [], [(30, 30)])
    assert cuts.score(track, 30, 30) > 1 > cuts.score(track.without(flashes), 12, 13)
