import json

import pytest

from mutoscope.core.errors import MutoscopeError, RequestError
from mutoscope.evaluate import report, world
from mutoscope.evaluate.suite import compare, run_world
from mutoscope.pipeline import Request
from mutoscope.worlds.render import render
from tests.evaluate.painters import Painter, halted, recoloured, scene_of, seed_of


@pytest.fixture(autouse=True)
def _few_jump_scenes(monkeypatch):
    monkeypatch.setattr(world, "JUMP_SCENES", 40)


def test_a_model_that_paints_the_truth_scores_what_the_oracle_scores(tmp_path):
    result = run_world(Painter(), tmp_path, sets=("one", "two"), limit=4)
    for part in result.sets.values():
        assert part.model == part.truth
        assert part.model["all"].value >= 0.75 and part.model["all"].count == 4
        assert part.autoencoder["psnr"].value == world.SAME
        assert part.autoencoder["all"] == part.truth["all"]
    assert len(list((tmp_path / "clips").glob("*.mp4"))) == 8


def test_only_the_attribute_that_is_wrong_is_marked_wrong(tmp_path):
    (part,) = run_world(Painter(recoloured), tmp_path, sets=("one",), limit=4).sets.values()
    wrong = {name for name, figure in part.model.items() if figure != part.truth[name]}
    assert wrong == {"colour", "all"} and part.model["colour"].value == 0


def test_a_stopped_run_goes_on_and_ends_like_one_that_was_not(tmp_path):
    whole = run_world(Painter(), tmp_path / "whole", sets=("one",), limit=5, batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        run_world(Painter(stops_after=2), tmp_path / "cut", sets=("one",), limit=5, batch_size=2)
    samples = tmp_path / "cut" / "samples.jsonl"
    samples.write_text(samples.read_text(encoding="utf-8") + '{"by": "mod', encoding="utf-8")
    later, told = Painter(), []
    resumed = run_world(
        later, tmp_path / "cut", sets=("one",), limit=5, batch_size=2, on_progress=lambda *counts: told.append(counts)
    )
    assert len(later.requests) == 3
    assert told == [(9, 10), (10, 10)]  # five truths and two clips were there
    assert resumed == whole == report.load(tmp_path / "cut")


def test_a_finished_run_asks_the_model_for_nothing_and_a_larger_one_for_the_rest(tmp_path):
    run_world(Painter(), tmp_path, sets=("one",), limit=2)
    again, more = Painter(), Painter()
    run_world(again, tmp_path, sets=("one",), limit=2)
    result = run_world(more, tmp_path, sets=("one_zh",), limit=3)
    assert not again.requests and len(more.requests) == 3
    assert [part.model["all"].count for part in result.sets.values()] == [2, 3]
    assert result.languages["one"].count == 2


def test_a_folder_of_other_settings_is_refused_by_name_and_left_alone(tmp_path):
    run_world(Painter(), tmp_path, sets=("one",), limit=1)
    before = (tmp_path / "samples.jsonl").read_bytes()
    with pytest.raises(RequestError, match="steps 30, not 8"):
        run_world(Painter(), tmp_path, sets=("one",), limit=1, sampling=Request("", steps=8))
    with pytest.raises(RequestError, match="seed 0, not 1"):
        run_world(Painter(), tmp_path, sets=("one",), limit=1, sampling=Request("", seed=1))
    other = Painter()
    other.fingerprint = "e" * 64
    with pytest.raises(RequestError, match="other weights"):
        run_world(other, tmp_path, sets=("one",), limit=1)
    assert (tmp_path / "samples.jsonl").read_bytes() == before


def test_weights_that_come_from_no_file_can_be_measured_but_not_resumed(tmp_path):
    nameless = Painter()
    nameless.fingerprint = ""
    run_world(nameless, tmp_path, sets=("one",), limit=1)
    with pytest.raises(RequestError, match="come from no file"):
        run_world(nameless, tmp_path, sets=("one",), limit=2)


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RequestError, match="is not empty"):
        run_world(Painter(), tmp_path, sets=("one",), limit=1)


def test_a_damaged_record_stops_the_run(tmp_path):
    run_world(Painter(), tmp_path, sets=("one",), limit=1)
    (tmp_path / "samples.jsonl").write_text("not json\n", encoding="utf-8")
    with pytest.raises(MutoscopeError, match="is damaged"):
        run_world(Painter(), tmp_path, sets=("one",), limit=1)


def test_noise_follows_from_the_scene_and_not_from_the_batch_or_the_language(tmp_path):
    seeds = []
    for batch_size in (1, 3):
        painter = Painter()
        run_world(painter, tmp_path / str(batch_size), sets=("one", "one_zh"), limit=3, batch_size=batch_size)
        seeds.append([request.seed for request in painter.requests])
    assert seeds[0] == seeds[1]
    assert seeds[0][:3] == seeds[0][3:] == [seed_of(prompt, 0) for prompt in world.load(("one",), 3)]
    assert len(set(seeds[0][:3])) == 3


def test_given_frames_are_the_true_ones(tmp_path):
    painter = Painter(spoil=halted)
    sets = ("image", "first_last", "first_four", "every_second")
    result = run_world(painter, tmp_path, sets=sets, limit=1)
    given = [sorted(request.given) for request in painter.requests]
    assert given == [[0], [0, 15], [0, 1, 2, 3], [0, 2, 4, 6, 8, 10, 12, 14]]
    for request in painter.requests:
        assert (request.given[0] == render(scene_of(request))[0]).all()
    assert result.sets["image"].model["carried"].value == 1
    assert result.sets["image"].truth["no_jump"].value == 1
    assert result.sets["every_second"].truth["missing_psnr"].value == world.SAME
    # The limits were found once and kept.
    lines = (tmp_path / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert sum(json.loads(line)["by"] == "limits" for line in lines) == 1


@pytest.mark.parametrize(("sets", "limit", "batch_size"), [(("four",), 1, 1), (("one",), 0, 1), (("one",), 1, 0)])
def test_what_cannot_be_measured_is_refused_before_anything_is_made(tmp_path, sets, limit, batch_size):
    with pytest.raises(RequestError):
        run_world(Painter(), tmp_path / "out", sets=sets, limit=limit, batch_size=batch_size)
    assert not (tmp_path / "out").exists()


def test_runs_are_compared_clip_by_clip_on_what_they_share(tmp_path):
    run_world(Painter(), tmp_path / "good", sets=("one",), limit=3)
    run_world(Painter(recoloured), tmp_path / "bad", sets=("one",), limit=2)
    table = compare([tmp_path / "good", tmp_path / "bad"])
    assert [list(column.cells) for column in table.columns] == [
        ["one: all, %"],
        ["100.0 (34.2–100.0)"],  # Wilson, 2 of 2
        ["-100.0 (-100.0 to -100.0)"],
    ]
    with pytest.raises(RequestError, match="two or more"):
        compare([tmp_path / "good"])
    with pytest.raises(RequestError, match="no result"):
        compare([tmp_path / "good", tmp_path])
