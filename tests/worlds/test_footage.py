import json
from dataclasses import replace
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest

from mutoscope.core.errors import RequestError
from mutoscope.core.video import Video, probe
from mutoscope.worlds import footage, scene, spoil
from mutoscope.worlds.render import render
from mutoscope.worlds.spoil import Box, Strengths
from mutoscope.worlds.takes import Clips

SIZE = (48, 64)
SPOILED = (96, 128)
MEDIA = Path(__file__).resolve().parents[3] / "shared" / "media" / "public"


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


def test_a_wipe_uncovers_the_next_shot_steadily_until_all_of_it_is_seen():
    for direction in footage.DIRECTIONS:
        for softness in (0.0, 0.12):
            masks = [footage._wiped(direction, softness, later, *SIZE) for later in np.linspace(0, 1, 12)]
            assert all((after >= before).all() for before, after in pairwise(masks))
            assert masks[0].max() == 0 and masks[-1].min() == pytest.approx(1, abs=0.1)
            assert softness > 0 or set(np.unique(masks)) == {0, 1}


def test_a_hard_wipe_shows_each_pixel_of_one_shot_or_the_other_and_moves_in_its_direction():
    drawn = (footage.sample(seed, size=SIZE, fps=12, shots=2) for seed in range(40))
    raw = next(raw for raw in drawn if raw.transitions[0].kind == "wipe")
    wipe, (before, after) = replace(raw.transitions[0], direction="right", softness=0.0), raw.shots
    raw = replace(raw, transitions=(wipe,))
    old, new = (render(shot.scene, shot.seen_end - shot.seen_start, *SIZE) for shot in raw.shots)
    for index, frame in enumerate(islice(raw.frames(), wipe.end)):
        if index >= wipe.start:
            is_new = (frame == new[(index - after.seen_start) % len(new)]).all(axis=-1)
            assert (is_new | (frame == old[(index - before.seen_start) % len(old)]).all(axis=-1)).all()
            later = (index - wipe.start + 1) / (wipe.end - wipe.start + 1)
            assert is_new[:, : int(later * SIZE[1])].all()


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


@pytest.fixture
def short(monkeypatch):
    """Files of two shots: what is asked of them does not depend on their length."""
    monkeypatch.setattr(footage, "SHOTS", (2, 2))


def spoiled(seed: int, what: str, **more) -> footage.Footage:
    return footage.sample(seed, size=SPOILED, fps=12, shots=3, strengths=Strengths.parse(what, 1.0), **more)


def test_defects_change_their_frames_and_their_region_and_nothing_else():
    raw = spoiled(4, "caption,logo,border,flash")
    assert len({defect.kind for defect in raw.defects}) == 4
    clean = footage.sample(4, size=SPOILED, fps=12, shots=3)
    assert (raw.shots, raw.transitions) == (clean.shots, clean.transitions)
    for index, (frame, before) in enumerate(zip(raw.frames(), clean.frames(), strict=True)):
        may_change = np.zeros(SPOILED, bool)
        for defect in raw.defects:
            if defect.start <= index < defect.end:
                box = getattr(defect, "box", Box(0, 0, *SPOILED))
                inside = np.zeros(SPOILED, bool)
                inside[box.area] = True
                may_change |= ~inside if defect.kind == "border" else inside
        assert np.array_equal(frame[~may_change], before[~may_change])
        assert not may_change.any() or (frame != before).any()


def test_a_frozen_span_repeats_its_first_frame_and_no_action_is_lost():
    raw, clean = spoiled(0, "freeze"), footage.sample(0, size=SPOILED, fps=12, shots=3)
    frames = list(raw.frames())
    assert len(frames) == clean.num_frames and raw.defects
    for stop in spoil.of(raw.defects, spoil.Freeze):
        assert all(np.array_equal(frames[index], frames[stop.start]) for index in range(stop.start, stop.end))
        (shot,) = (shot for shot in raw.shots if shot.start <= stop.start < shot.end)
        shown = render(shot.scene, shot.seen_end - shot.seen_start - (stop.end - stop.start - 1), *SPOILED)
        at = stop.start - shot.seen_start
        assert np.array_equal(frames[stop.start], shown[at]) and np.array_equal(frames[stop.end], shown[at + 1])


def test_a_blurred_shot_has_lost_its_edges_and_the_other_shots_have_not():
    raw, clean = spoiled(1, "blur"), footage.sample(1, size=SPOILED, fps=12, shots=3)
    pairs = list(zip(raw.frames(), clean.frames(), strict=True))
    blurs = spoil.of(raw.defects, spoil.Blur)
    assert blurs
    for shot in raw.shots:
        is_blurred = any(blur.start == shot.start and blur.end == shot.end for blur in blurs)
        for frame, sharp in pairs[shot.start : shot.end]:
            assert is_blurred or np.array_equal(frame, sharp)
            edges = [np.abs(np.diff(picture.astype(int), axis=1)).max() for picture in (frame, sharp)]
            assert not is_blurred or edges[0] < 0.7 * edges[1]


def test_everything_together_still_tiles_and_has_its_cuts_where_the_truth_says():
    raw = spoiled(2, "all")
    assert sum(1 for _ in raw.frames()) == raw.num_frames == raw.shots[-1].end
    assert {defect.kind for defect in raw.defects} > {"caption", "logo", "border", "blur", "rate"}
    assert json.loads(json.dumps(raw.truth()))["defects"][0]["kind"]


def test_the_times_of_a_file_with_variable_rate_are_those_of_its_truth(tmp_path, short):
    strengths = Strengths.parse("rate", 1.0)
    (path,) = footage.write_footage(tmp_path, 1, 7, (32, 32), strengths=strengths)
    truth, found = json.loads(path.with_suffix(".json").read_text(encoding="utf-8")), probe(path)
    assert found.variable_frame_rate and str(found.fps) == truth["fps"]
    assert [time * truth["ticks_a_second"] for time in found.times] == truth["ticks"]


def test_the_same_seed_gives_the_same_bytes_copies_and_truths_included(tmp_path, short):
    small = replace(Strengths.parse("all", 1.0), caption=0.0, logo=0.0)
    for name in ("one", "two"):
        footage.write_footage(tmp_path / name, 1, 11, (32, 48), strengths=small, duplicates=1)
    names = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert len(names) == 4
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)


def test_written_repeats_are_exactly_the_frames_that_equal_the_one_before():
    frames = [np.full((2, 2, 3), value, np.uint8) for value in (1, 1, 2, 3, 3, 3, 4, 4)]
    spans: list[tuple[int, int]] = []
    assert list(footage._watched(frames, spans)) == frames
    assert spans == [(1, 2), (4, 6), (7, 8)]


def test_a_copy_shows_the_frames_of_its_original_that_its_truth_says(tmp_path, short):
    strengths = Strengths.parse("border,flash", 1.0)
    paths = footage.write_footage(tmp_path, 1, 3, (64, 96), strengths=strengths, duplicates=3)
    original = Video.open(paths[0]).array()
    for path in paths[1:]:
        truth = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        copy = Video.open(path)
        assert truth["copy_of"] == paths[0].name and copy.num_frames == truth["num_frames"]
        assert (copy.height, copy.width) == (truth["height"], truth["width"])
        assert truth["shots"][0]["start"] == 0 and truth["shots"][-1]["end"] == copy.num_frames
        pieces = sorted([*truth["shots"], *truth["transitions"]], key=lambda piece: (piece["start"], piece["end"]))
        assert all(before["end"] == after["start"] for before, after in pairwise(pieces))
        light = copy.array().mean(axis=(1, 2, 3))
        first = truth["first_frame"]
        assert np.abs(light - original.mean(axis=(1, 2, 3))[first : first + len(light)]).max() < 3


def test_with_clips_shots_are_stretches_of_them_frame_for_frame(tmp_path):
    grey = np.arange(120, dtype=np.uint8)[:, None, None, None] * 2
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        Video.from_array(np.broadcast_to(grey, (120, *SIZE, 3)).copy(), 30).save(tmp_path / name)
    clips = Clips.open(tmp_path)
    raws = [footage.sample(seed, size=SIZE, fps=12, clips=clips) for seed in range(8)]
    real = [shot for raw in raws for shot in raw.shots if shot.clip]
    assert {shot.clip for shot in real} == {"a.mp4", "b.mp4", "c.mp4"} and len(real) < sum(len(r.shots) for r in raws)
    for raw in raws:
        names = [shot.clip for shot in raw.shots if shot.clip]
        assert len(set(names)) == len(names)  # none twice in a file, so that each cut is one
    frames = list(raws[0].frames())
    for shot in raws[0].shots:
        for index in range(shot.start, shot.end) if shot.clip else ():
            shown = shot.clip_start + index - shot.seen_start
            assert frames[index].mean() == pytest.approx(2 * shown, abs=2)


@pytest.mark.skipif(not MEDIA.exists(), reason="the real clips are kept beside the repository, not in it")
def test_real_clips_become_footage_with_cuts_where_the_truth_says():
    raw = footage.sample(1, size=SPOILED, shots=3, clips=Clips.open(MEDIA))
    assert any(shot.clip for shot in raw.shots)
    frames = list(raw.frames())
    assert len(frames) == raw.num_frames
    for shot in raw.shots:
        if shot.clip:
            video = Video.open(MEDIA / shot.clip)
            number = 1 if shot.is_still else shot.seen_end - shot.seen_start
            original = video.take(shot.clip_start, number).resized(*SPOILED, crop=True).array()
            at = 0 if shot.is_still else shot.start - shot.seen_start
            assert np.array_equal(frames[shot.start], original[at])


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
