import json
from fractions import Fraction
from itertools import islice

import numpy as np
import pytest

from mutoscope.core.errors import RequestError
from mutoscope.core.video import Video
from mutoscope.worlds import footage, scene
from mutoscope.worlds.render import render

SIZE = (48, 64)


@pytest.fixture(scope="module")
def drawn():
    raw = footage.sample(3, size=SIZE, fps=12)
    return raw, np.stack(list(raw.frames()))


def test_shots_and_transitions_tile_the_frames_without_gap_or_overlap():
    for seed in range(6):
        raw = footage.sample(seed)
        ends = [0]
        for index, shot in enumerate(raw.shots):
            assert shot.start == ends[-1] < shot.end
            ends.append(shot.end)
            if index < len(raw.transitions):
                assert raw.transitions[index].start == shot.end <= raw.transitions[index].end
                ends.append(raw.transitions[index].end)
        assert ends[-1] == raw.num_frames


def test_every_footage_holds_each_kind_of_transition_and_a_still_shot():
    for seed in range(6):
        raw = footage.sample(seed)
        assert {transition.kind for transition in raw.transitions} == set(footage.KINDS)
        assert any(shot.is_still for shot in raw.shots)


def test_a_shot_is_its_scene_drawn_over_all_frames_in_which_it_is_seen(drawn):
    raw, frames = drawn
    for shot in raw.shots:
        truth = render(scene.sample(shot.seed, split="train"), shot.seen_end - shot.seen_start, *SIZE)
        at = shot.start - shot.seen_start
        assert np.array_equal(frames[shot.start : shot.end], truth[at : at + shot.end - shot.start])


def test_a_still_shot_is_one_picture_and_no_other_is(drawn):
    raw, frames = drawn
    for shot in raw.shots:
        changes = np.diff(frames[shot.start : shot.end].astype(int), axis=0)
        assert shot.is_still == (not changes.any())


def test_a_dissolve_goes_steadily_from_one_shot_to_the_next(drawn):
    raw, frames = drawn
    index = next(i for i, transition in enumerate(raw.transitions) if transition.kind == "dissolve")
    before, after, blend = raw.shots[index], raw.shots[index + 1], raw.transitions[index]
    assert (before.seen_end, after.seen_start) == (blend.end, blend.start)
    from_frames, to_frames = (render(shot.scene, shot.seen_end - shot.seen_start, *SIZE) for shot in (before, after))
    for step, frame in enumerate(range(blend.start, blend.end), start=1):
        later = step / (blend.end - blend.start + 1)
        mixed = (1 - later) * from_frames[frame - before.seen_start] + later * to_frames[frame - after.seen_start]
        assert np.abs(mixed - frames[frame]).max() <= 0.51


def test_a_fade_darkens_to_black_and_brightens_again(drawn):
    raw, frames = drawn
    fade = next(transition for transition in raw.transitions if transition.kind == "fade")
    light = frames.mean(axis=(1, 2, 3))
    assert not frames[fade.black_start : fade.black_end].any()
    assert fade.start < fade.black_start < fade.black_end < fade.end
    assert (np.diff(light[fade.start - 1 : fade.black_start + 1]) < 0).all()
    assert (np.diff(light[fade.black_end - 1 : fade.end + 1]) > 0).all()


def test_every_cut_changes_the_picture_more_than_any_motion(drawn):
    raw, frames = drawn
    change = np.abs(np.diff(frames.astype(int), axis=0)).mean(axis=(1, 2, 3))
    cuts = [transition.start for transition in raw.transitions if transition.kind == "cut"]
    inside = np.concatenate([change[shot.start : shot.end - 1] for shot in raw.shots])
    assert min(change[cut - 1] for cut in cuts) > inside.max()


def test_the_same_seed_gives_the_same_frames_and_another_seed_others():
    one, same, other = (footage.sample(seed, size=SIZE, shots=2) for seed in (5, 5, 6))
    assert one == same and one != other
    assert all(np.array_equal(a, b) for a, b in islice(zip(one.frames(), same.frames(), strict=True), 40))


def test_duration_follows_the_rate_and_not_the_number_of_frames():
    film, video = footage.sample(1, fps=Fraction(24000, 1001)), footage.sample(1, fps=60)
    assert film.num_frames / film.fps == pytest.approx(float(video.num_frames / video.fps), rel=0.01)


def test_written_footage_has_as_many_frames_as_its_truth_says(tmp_path):
    (path,) = footage.write_footage(tmp_path / "new", 1, 2, (32, 32))
    truth = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    video = Video.open(path)
    assert (video.num_frames, video.height, video.width, str(video.fps)) == (truth["num_frames"], 32, 32, truth["fps"])
    assert truth["shots"][-1]["end"] == truth["num_frames"]
    assert truth["shots"][0]["captions"]["zh"]["dense"]


def test_written_clips_show_what_their_captions_say(tmp_path):
    paths = footage.write_clips(tmp_path, 3, 40, (64, 64), 8, "held_out")
    lines = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["file"] for line in lines] == [path.name for path in paths]
    for line, path in zip(lines, paths, strict=True):
        truth = scene.sample(line["seed"], split="held_out")
        assert line["attributes"]["things"][0]["motion"] == truth.things[0].motion
        frames = Video.open(path).array()
        assert np.abs(frames.astype(int) - render(truth, 8)).mean() < 4  # what H.264 leaves of it


def test_a_folder_with_files_is_refused_and_left_as_it_was(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for write in (footage.write_clips, footage.write_footage):
        with pytest.raises(RequestError, match="is not empty"):
            write(tmp_path, 1)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(("count", "seed", "size"), [(0, 0, (64, 64)), (1, -1, (64, 64)), (1, 0, (63, 64))])
def test_what_cannot_be_written_is_refused_before_anything_is(tmp_path, count, seed, size):
    for write in (footage.write_clips, footage.write_footage):
        with pytest.raises(RequestError):
            write(tmp_path / "out", count, seed, size)
    assert not (tmp_path / "out").exists()
