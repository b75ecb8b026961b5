import csv
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cv2", reason="needs the extra curate")
pytest.importorskip("pyarrow", reason="needs the extra curate")

import cv2
import pyarrow as pa

from mutoscope.core.errors import RequestError
from mutoscope.core.video import Video
from mutoscope.curate import signals
from mutoscope.curate.split import SplitSettings, Transition, spans, spans_between, transitions
from mutoscope.worlds import footage
from mutoscope.worlds.spoil import Strengths

HEIGHT, WIDTH, FPS = 90, 160, 24
FOLDER = Path(__file__).parents[3] / "shared" / "media" / "public"


def shot(seed: int, num_frames: int, step: float = 0.5) -> np.ndarray:
    """A coloured scene of soft blots over which the camera pans by `step` pixels a frame; float32, 0 to 255."""
    draw = np.random.default_rng(seed)
    wide = WIDTH + int(np.ceil(num_frames * abs(step))) + 2
    blots = cv2.GaussianBlur(draw.normal(size=(HEIGHT, wide, 3)).astype(np.float32), (0, 0), 7)
    grain = cv2.GaussianBlur(draw.normal(size=(HEIGHT, wide, 1)).astype(np.float32), (0, 0), 1)[..., None]
    scene = np.clip(draw.uniform(60, 190, 3).astype(np.float32) + 700 * blots + 60 * grain, 0, 255)
    moves = [np.array([[1, 0, -i * step], [0, 1, 0]], np.float32) for i in range(num_frames)]
    return np.stack([cv2.warpAffine(scene, move, (WIDTH, HEIGHT)) for move in moves])


def table_of(frames: np.ndarray, path: Path):
    Video.from_array(np.rint(frames).astype(np.uint8), FPS).save(path / "video.mp4")
    return signals.measure(path / "video.mp4")


def blended(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Join two shots over as many frames as there are weights ("n" or "n h w 1") of the second."""
    count = len(weights)
    weights = weights.reshape(count, *weights.shape[1:] or (1, 1, 1))
    middle = first[-count:] * (1 - weights) + second[:count] * weights
    return np.concatenate([first[:-count], middle, second[count:]])


def ramp(count: int) -> np.ndarray:
    return np.arange(1, count + 1, dtype=np.float32) / (count + 1)


def wiped(count: int, when: np.ndarray) -> np.ndarray:
    """Weights of a wipe whose front passes each pixel at the moment `when`, 0 to 1."""
    return np.stack([np.clip((later - when) / 0.05 + 0.5, 0, 1) for later in ramp(count)])[..., None]


def told(table, *args) -> list[tuple[str, int, int]]:
    return [(each.kind, each.start, each.end) for each in transitions(table, *args)]


def near(found: list[tuple[str, int, int]], wanted: list[tuple[str, int, int]], within: int = 2) -> bool:
    return [each[0] for each in found] == [each[0] for each in wanted] and all(
        abs(a[1] - b[1]) <= within and abs(a[2] - b[2]) <= within for a, b in zip(found, wanted, strict=True)
    )


def test_a_hard_cut_is_found_at_the_first_frame_of_the_new_shot(tmp_path):
    assert told(table_of(np.concatenate([shot(1, 40), shot(2, 31), shot(3, 40)]), tmp_path)) == [
        ("cut", 40, 40),
        ("cut", 71, 71),
    ]


@pytest.mark.parametrize("count", [8, 16, 36])
def test_a_dissolve_is_found_however_slow(tmp_path, count):
    found = told(table_of(blended(shot(1, 40 + count), shot(2, 40 + count), ramp(count)), tmp_path))
    assert near(found, [("dissolve", 40, 40 + count)], within=max(2, count // 12))  # both shots move meanwhile


def test_a_slow_dissolve_needs_the_low_rates_of_the_cascade(tmp_path):
    table = table_of(blended(shot(1, 100, 0), shot(2, 100, 0), ramp(48)), tmp_path)
    assert near(told(table), [("dissolve", 52, 100)])
    assert told(table, SplitSettings(rates=(12.0,))) == []


@pytest.mark.parametrize("blank", [0.0, 255.0])
def test_a_fade_through_black_or_white_is_one_transition(tmp_path, blank):
    first, second = shot(1, 50), shot(2, 50)
    down, up = 1 - ramp(12)[:, None, None, None], ramp(14)[:, None, None, None]
    first[-12:] = blank + (first[-12:] - blank) * down
    second[:14] = blank + (second[:14] - blank) * up
    frames = np.concatenate([first, np.full((6, HEIGHT, WIDTH, 3), blank, np.float32), second])
    assert near(told(table_of(frames, tmp_path)), [("fade", 38, 70)])


def test_a_fade_at_either_end_of_the_video_is_told(tmp_path):
    frames = shot(1, 90)
    frames[:14] *= ramp(14)[:, None, None, None]
    frames[-10:] *= 1 - ramp(10)[:, None, None, None]
    frames = np.concatenate([np.zeros_like(frames[:5]), frames, np.zeros_like(frames[:5])])
    assert near(told(table_of(frames, tmp_path)), [("fade", 0, 19), ("fade", 85, 100)])


@pytest.mark.parametrize("way", ["left", "down", "diagonal", "open"])
def test_a_wipe_is_told_from_a_dissolve(tmp_path, way):
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    x, y = x / WIDTH, y / HEIGHT
    when = {"left": 1 - x, "down": y, "diagonal": (x + y) / 2, "open": np.hypot(x - 0.5, y - 0.5) * 1.4}[way]
    found = told(table_of(blended(shot(4, 60), shot(5, 60), wiped(14, when)), tmp_path))
    assert near(found, [("wipe", 46, 60)], within=3)


@pytest.mark.parametrize("amounts", [(1.0,), (1.0, 0.45), (0.6, 1.0, 0.4)])
def test_a_flash_is_no_transition_and_hides_no_cut(tmp_path, amounts):
    frames = np.concatenate([shot(1, 60), shot(2, 50)])
    for at, amount in enumerate(amounts, start=25):
        frames[at] += amount * (255 - frames[at])
    assert told(table_of(frames, tmp_path)) == [("cut", 60, 60)]


def test_a_dropped_in_frame_of_another_picture_is_no_cut(tmp_path):
    frames = shot(1, 60)
    frames[30] = shot(2, 1)[0]
    assert told(table_of(frames, tmp_path)) == []


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("odd", ["white", "black", "grey", "inverted", "other"])
def test_a_cut_under_odd_frames_is_one_cut_that_covers_them(tmp_path, odd, count):
    first, second = shot(1, 40), shot(2, 40)
    level = {"white": 255.0, "black": 0.0, "grey": 128.0}
    between = 255 - second[:count] if odd == "inverted" else shot(3, count) * 0 + level.get(odd, 0)
    between = shot(3, count) if odd == "other" else between
    found = told(table_of(np.concatenate([first, between, second]), tmp_path))
    assert found == [("cut", 40, 40 + count)]


def test_a_cut_under_four_odd_frames_leaves_them_to_no_shot(tmp_path):
    table = table_of(np.concatenate([shot(1, 48), np.full((4, HEIGHT, WIDTH, 3), 255.0), shot(2, 48)]), tmp_path)
    kept = [span for span in spans(table) if not span.reason_for_drop]
    assert len(kept) == 2
    assert kept[0].end <= 48
    assert kept[1].start >= 52


@pytest.mark.parametrize("sigma", [12, 25, 45])
def test_a_cut_between_soft_pictures_is_found_though_they_have_no_edges(tmp_path, sigma):
    def soft(seed: int) -> np.ndarray:
        draw = np.random.default_rng(seed)
        blots = cv2.GaussianBlur(draw.normal(size=(HEIGHT, WIDTH + 40, 3)).astype(np.float32), (0, 0), sigma)
        scene = np.clip(120 + 25 * blots / blots.std(), 0, 255)
        return np.stack([scene[:, i : i + WIDTH] for i in range(30)])

    assert told(table_of(np.concatenate([soft(1), soft(2)]), tmp_path)) == [("cut", 30, 30)]


@pytest.mark.parametrize("gain", [0.4, 0.5, 0.7, 1.4, 2.0, 2.5])
def test_a_step_of_the_exposure_is_no_cut(tmp_path, gain):
    frames = shot(1, 48) * (0.5 if gain > 1 else 1.0)
    frames[24:] *= gain
    assert told(table_of(np.clip(frames, 0, 255), tmp_path)) == []


@pytest.mark.parametrize("gain", [0.5, 2.0])
def test_a_cut_to_a_darker_or_brighter_shot_is_one(tmp_path, gain):
    frames = np.clip(np.concatenate([shot(1, 40) * 0.6, shot(2, 40) * 0.6 * gain]), 0, 255)
    assert told(table_of(frames, tmp_path)) == [("cut", 40, 40)]


def test_motion_light_and_captions_are_no_transitions(tmp_path):
    frames = [shot(1, 60, 6), shot(2, 60, 0), shot(3, 60, 0)]
    frames[1] = frames[1] * np.linspace(1, 0.6, 60, dtype=np.float32)[:, None, None, None]  # a lamp is turned down
    frames[2][20:40, 60:85, 20:140] = 255  # comes and goes at once
    for each in frames:
        assert told(table_of(each, tmp_path)) == []


def test_a_video_without_shots_or_frames_enough_has_no_transitions(tmp_path):
    assert told(table_of(np.full((30, HEIGHT, WIDTH, 3), 90.0), tmp_path)) == []
    assert told(table_of(shot(1, 2), tmp_path)) == []


def test_kinds_and_ends_survive_another_frame_rate(tmp_path):
    frames = np.concatenate([shot(1, 50), blended(shot(2, 70), shot(3, 60), ramp(20))])
    Video.from_array(np.rint(frames).astype(np.uint8), 60).save(tmp_path / "fast.mp4")
    assert near(told(signals.measure(tmp_path / "fast.mp4")), [("cut", 50, 50), ("dissolve", 100, 120)])


# ---- spans -----------------------------------------------------------------------------------------------------------

SECONDS = np.arange(24 * 60) / 24
CUTS = [
    Transition("cut", 12, 12, 2.0),
    Transition("dissolve", 240, 264, 2.0),
    Transition("cut", 300, 300, 2.0),
]


def test_spans_keep_clear_of_transitions_by_the_trim():
    found = spans_between(CUTS[1:2], SECONDS, SplitSettings(trim_s=0.25, max_shot_s=100))
    assert [(each.start, each.end) for each in found] == [(0, 234), (270, 1440)]


def test_no_frame_is_in_two_spans_and_kept_ones_have_a_legal_length():
    settings = SplitSettings(min_shot_s=1.5, max_shot_s=7.0)
    found = spans_between(CUTS, SECONDS, settings)
    assert all(a.end <= b.start for a, b in pairwise(found))
    for each in found:
        length_s = (each.end - each.start) / 24
        if each.reason_for_drop:
            assert each.reason_for_drop.startswith("shorter than 1.5 s")
        else:
            assert 1.5 <= length_s <= 7.0 + 1 / 24
    assert [bool(each.reason_for_drop) for each in found[:2]] == [True, False]


def test_without_transitions_or_trim_all_frames_are_kept():
    found = spans_between([], SECONDS, SplitSettings(max_shot_s=7.0))
    assert found[0].start == 0 and found[-1].end == len(SECONDS)
    assert all(a.end == b.start for a, b in pairwise(found))
    assert len({each.end - each.start for each in found}) <= 2


def test_lengths_are_seconds_where_the_frame_rate_varies():
    time_s = np.concatenate([np.arange(100) / 50, 2 + np.arange(100) / 10])
    found = spans_between([], time_s, SplitSettings(max_shot_s=4.0))
    assert [round(float(time_s[each.start]), 1) for each in found] == [0, 4, 8]


def test_absurd_time_stamps_make_no_more_spans_than_frames():
    for time_s in (np.arange(600) * 86_400.0, np.append(np.arange(599) / 24, 1e9), np.arange(600) * 1e-6):
        found = spans_between([], time_s)
        kept = [each for each in found if not each.reason_for_drop]
        assert all(each.start < each.end for each in found) and len(found) <= 600
        assert all(a.end == b.start for a, b in pairwise(kept))


def test_the_memory_of_splitting_does_not_grow_with_the_frame_rate(tmp_path):
    frames = blended(shot(1, 60, 0), shot(2, 60, 0), ramp(24))
    table = table_of(frames, tmp_path)
    times = 20
    slow = table.take(np.repeat(np.arange(table.num_rows), times))
    content = slow["content"].to_numpy() * (np.arange(slow.num_rows) % times == 0)  # as if seen at 480 frames a second
    for name, values in (("content", content), ("time_s", np.arange(slow.num_rows) / (FPS * times))):
        place = slow.schema.get_field_index(name)
        slow = slow.set_column(place, slow.schema.field(place), pa.array(values, slow.schema.field(place).type))
    tracemalloc.start()
    found = told(slow)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert near(found, [("dissolve", 36 * times, 60 * times)], within=2 * times)
    assert peak < 60 * slow.num_rows * 96  # a few copies of the places


def test_a_photo_is_one_span(tmp_path):
    from PIL import Image

    Image.fromarray(shot(1, 1)[0].astype(np.uint8)).save(tmp_path / "photo.png")
    assert [(each.start, each.end) for each in spans(signals.measure(tmp_path / "photo.png"))] == [(0, 1)]


def test_a_minimum_above_the_maximum_is_refused():
    with pytest.raises(RequestError, match="leave no shot"):
        SplitSettings(min_shot_s=5, max_shot_s=4)


# ---- judged ----------------------------------------------------------------------------------------------------------


def test_footage_of_a_seed_never_tuned_on_is_split_as_it_was_made(tmp_path):
    raw = footage.sample(9001, size=(120, 160), strengths=Strengths(flash=1, share=1))
    raw.video().save(tmp_path / "raw.mp4")
    found = told(signals.measure(tmp_path / "raw.mp4"))
    wanted = [(each.kind, each.start, each.end) for each in raw.transitions]
    right = sum(any(near([a], [b]) for b in found) for a in wanted)
    assert [each for each in found if each[0] == "cut"] == [each for each in wanted if each[0] == "cut"]
    assert right >= 0.8 * len(wanted) and len(found) <= len(wanted) + 1


REAL = {
    "nasa_mirror_dissolve.mp4": [("dissolve", 150, 180), ("cut", 240, 240)],
    "bunny_titles_24fps.webm": [("fade", 0, 49), ("cut", 283, 283), ("cut", 376, 376), ("cut", 551, 551)],
    "derived_montage_23976.mp4": [("cut", 72, 72), ("cut", 144, 144), ("dissolve", 212, 228), ("fade", 284, 308)],
}


@pytest.mark.slow
def test_every_transition_of_the_real_clips_is_found_and_no_false_one(tmp_path):
    if not FOLDER.is_dir():
        pytest.skip("../shared/media/public is not there")
    with (FOLDER / "MANIFEST.csv").open(encoding="utf-8") as file:
        names = [row["file"] for row in csv.DictReader(file) if row["kind"] == "video"]
    for name in names:
        found = told(signals.measure(FOLDER / name))
        assert near(found, REAL.get(name, [])), (name, found)
