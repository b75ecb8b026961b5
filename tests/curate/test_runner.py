"""A run keeps or accounts for every clip, does nothing twice, and comes to the same bytes however it was stopped."""

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
import types
from dataclasses import replace
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="needs the extra curate")
pytest.importorskip("cv2", reason="needs the extra curate")
import numpy as np
import pyarrow.parquet as pq

from mutoscope.core import config
from mutoscope.core.errors import MissingExtra, RecipeError, RequestError
from mutoscope.core.video import Video
from mutoscope.curate import listing, pool, runner, write
from mutoscope.curate.filter import Threshold, Thresholds
from mutoscope.curate.ingest import Ingest
from mutoscope.curate.manifest import Pruned
from mutoscope.curate.pool import Lost
from mutoscope.curate.runner import Curation, Signals, Split, Summary, run_stages
from mutoscope.curate.write import Write
from mutoscope.data.tars import Tars
from tests.curate import damage
from tests.curate.stages import Levels, Pieces, Ranks

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
RECIPE = Curation("test", (), write=Write(shard_clips=3, quality="small"))
BRIGHT = Thresholds((Threshold("level", "mean", at_least=100.0, unit="levels"),), name="bright")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos of 10, 10 and 9 frames, a photo, a copy, and two files that are no good."""
    folder = tmp_path_factory.mktemp("raw")
    for name, frames in (("a", 10), ("b", 10), ("c", 9)):
        damage.write_video(folder / f"{name}.mp4", frames, seed=ord(name))
    damage.write_photo(folder / "p.jpg")
    (folder / "p.txt").write_text("a soft picture")
    (folder / "z.mp4").write_bytes((folder / "a.mp4").read_bytes())
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_bytes(b"nothing to see\n" * 40)
    return folder


def curate(
    raw: Path, out: Path, *more: Thresholds, workers: int = 0, together: tuple[Ranks, ...] = (), **changes
) -> Summary:
    stages = (Levels(str(out.parent / "log")), Pieces(), *more)
    return run_stages(replace(RECIPE, **changes), stages, [str(raw)], out, together=together, workers=workers)


def decoded(out: Path) -> list[str]:
    log = out.parent / "log"
    return sorted(log.read_text().split()) if log.exists() else []


def contents(out: Path) -> dict[str, bytes]:
    """Return all that a run leaves for others, by name."""
    files = [*out.glob("*.parquet"), *out.glob("*.html"), *(out / "shards").iterdir()]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def test_a_file_that_ends_its_process_is_tried_three_times_and_then_has_a_reason(tmp_path: Path) -> None:
    files, trouble = tmp_path / "files", tmp_path / "trouble"
    damage.write_video(files / "dies-x.mp4", 4)
    damage.write_video(files / "good.mp4", 4, seed=1)
    trouble.mkdir()
    (trouble / "dies").touch()

    def run() -> tuple[Summary, str]:
        stages = (Levels(str(tmp_path / "log"), str(trouble)), Pieces())
        summary = run_stages(RECIPE, stages, [str(files)], tmp_path / "set", workers=1)
        rows = pq.read_table(tmp_path / "set" / "sources.parquet").to_pylist()
        return summary, next(row["problem"] for row in rows if row["path"].endswith("dies-x.mp4"))

    for _ in range(2):
        summary, problem = run()
        assert problem == "failed here: the process that worked on it was killed by signal 9" and summary.again
    for _ in range(2):
        summary, problem = run()
        assert problem.startswith("it was given up after 3 tries: the process that worked on it was killed by signal 9")
        assert not summary.again and summary.unusable == 1 and summary.kept == 1
    assert (tmp_path / "log").read_text().split().count("dies-x.mp4") == 3
    (files / "dies-x.mp4").write_bytes((files / "dies-x.mp4").read_bytes() + b"mended")
    (trouble / "dies").unlink()
    assert run()[1] == ""


def test_what_a_reader_should_know_of_a_file_is_in_the_table_and_on_the_card(tmp_path: Path) -> None:
    times = tuple(Fraction(at, 8) for at in (0, 1, 2, 3, 24))
    video = Video.from_array(damage.moving(4), 8)
    (tmp_path / "files").mkdir()
    replace(video, times=times, variable_frame_rate=True).save(tmp_path / "files" / "held.mp4")
    curate(tmp_path / "files", tmp_path / "set")
    (row,) = pq.read_table(tmp_path / "set" / "sources.parquet").to_pylist()
    assert row["notices"] == "variable frame rate, 1.33 fps on average, a frame lasts up to 2.62 s"
    assert "a frame lasts up to" in (tmp_path / "set" / "card.html").read_text()


def test_every_frame_is_kept_or_accounted_for(tmp_path: Path, raw: Path) -> None:
    out = tmp_path / "set"
    summary = curate(raw, out)
    assert (summary.inputs, summary.unusable, summary.clips, summary.kept, summary.again) == (7, 3, 10, 7, ())
    sources = {Path(row["path"]).name: row for row in pq.read_table(out / "sources.parquet").to_pylist()}
    assert "same bytes as" in sources["z.mp4"]["problem"] and "0 bytes" in sources["empty.mp4"]["problem"]
    clips = pq.read_table(out / "clips.parquet").to_pylist()
    for name, frames in (("a", 10), ("b", 10), ("c", 9), ("p", 1)):
        mine = [clip for clip in clips if clip["source"] == sources[f"{name}.{'jpg' if name == 'p' else 'mp4'}"]["id"]]
        assert sum(clip["end"] - clip["start"] for clip in mine) == frames
    assert all(bool(clip["dropped_by"]) == bool(clip["reason"]) for clip in clips)
    kept = {clip["id"] for clip in clips if not clip["dropped_by"]}
    assert {row.id for row in Tars(out).rows} == kept and len(kept) == 7


def test_what_is_said_about_a_dropped_twin_is_kept(tmp_path: Path) -> None:
    damage.write_video(tmp_path / "raw/a.mp4")
    for name in ("b", "c"):
        (tmp_path / f"raw/{name}.mp4").write_bytes((tmp_path / "raw/a.mp4").read_bytes())
    (tmp_path / "raw/b.txt").write_text("it is b")
    (tmp_path / "raw/t.csv").write_text("file,caption,licence\nc.mp4,one,MIT\nc.mp4,two,MIT\n")
    curate(tmp_path / "raw", tmp_path / "set")
    rows = {Path(row["path"]).name: row for row in pq.read_table(tmp_path / "set/sources.parquet").to_pylist()}
    assert (rows["a.mp4"]["caption"], rows["a.mp4"]["licence"]) == ("it is b", "MIT")
    wanted = ["it is b", "one", "two"]
    assert [caption["text"] for caption in rows["a.mp4"]["captions"]] == wanted
    shards = Tars(tmp_path / "set")
    assert {tuple(c.text for c in shards.sample(i).clip.captions) for i in range(len(shards))} == {tuple(wanted)}


def test_clips_hold_the_frames_of_their_source(tmp_path: Path, raw: Path) -> None:
    from mutoscope.core.video import Video

    curate(raw, tmp_path / "set", write=Write(quality="best"))
    read = Tars(tmp_path / "set")
    for index, row in enumerate(read.rows):
        sample = read.sample(index)
        (tmp_path / f"clip{sample.suffix}").write_bytes(sample.payload)
        frames = Video.open(tmp_path / f"clip{sample.suffix}").array().astype(int)
        truth = Video.open(row.source).array()[sample.about["start"] : sample.about["end"]]
        assert frames.shape == truth.shape and abs(frames - truth).mean() < 2
    photo = next(read.sample(i) for i, row in enumerate(read.rows) if row.suffix == ".jpg")
    assert photo.payload == (raw / "p.jpg").read_bytes() and photo.clip.captions[0].text == "a soft picture"


def test_two_runs_and_any_number_of_processes_give_the_same_bytes(tmp_path: Path, raw: Path) -> None:
    curate(raw, tmp_path / "one/set", BRIGHT, together=(Ranks(),))
    curate(raw, tmp_path / "two/set", BRIGHT, workers=2, together=(Ranks(),))
    one, two = contents(tmp_path / "one/set"), contents(tmp_path / "two/set")
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []


def test_the_same_command_again_does_nothing(tmp_path: Path, raw: Path) -> None:
    out = tmp_path / "set"
    first = curate(raw, out)
    before, times = contents(out), {path: path.stat().st_mtime_ns for path in (out / "shards").iterdir()}
    assert curate(raw, out) == replace(first, decoded=0) and first.decoded == 4
    assert contents(out) == before and decoded(out) == ["a.mp4", "b.mp4", "c.mp4", "p.jpg"]
    assert {path: path.stat().st_mtime_ns for path in (out / "shards").iterdir()} == times


def test_adding_a_limit_decodes_nothing(tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "set"
    curate(raw, out)
    kept, before = {row.id: row for row in Tars(out).rows}, decoded(out)

    def cut(*_: object) -> None:
        raise AssertionError("a clip was cut again")

    monkeypatch.setattr(write._Cutter, "cut", cut)
    level = sorted(clip["level_mean"] for clip in scored(raw, tmp_path / "other"))[3]
    summary = curate(raw, out, Thresholds((Threshold("level", at_least=level + 1e-3),), name="bright"))
    assert decoded(out) == before and 0 < summary.kept < len(kept) and summary.decoded == 0
    for row in Tars(out).rows:
        assert row.sha256 == kept[row.id].sha256
    dropped = [row for row in pq.read_table(out / "clips.parquet").to_pylist() if row["dropped_by"] == "bright"]
    assert len(dropped) == len(kept) - summary.kept
    assert all(f"is below {level + 1e-3:g}" in row["reason"] for row in dropped)


def scored(raw: Path, out: Path) -> list[dict]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "_write", lambda recipe, outcomes, clips, *rest: (clips, 0))
        patch.setattr(runner.report, "write", lambda *_: None)
        out.mkdir(exist_ok=True)
        curate(raw, out / "set", Thresholds((Threshold("level"),)))
    return [row for row in pq.read_table(out / "set/clips.parquet").to_pylist() if row["level_mean"] is not None]


def test_a_changed_setting_does_again_what_it_touches_and_no_more(tmp_path: Path, raw: Path) -> None:
    out, log = tmp_path / "set", tmp_path / "log"
    stages = (Levels(str(log)), Pieces(4), BRIGHT)
    run_stages(RECIPE, stages, [str(raw)], out, workers=0)
    summary = run_stages(RECIPE, (stages[0], Pieces(5), BRIGHT), [str(raw)], out, workers=0)
    assert summary.decoded == 0 and len(log.read_text().split()) == 4
    assert {row.num_frames for row in Tars(out).rows if row.suffix == ".mp4"} <= {5}


def test_pruning_removes_what_this_run_did_not_use_and_nothing_that_it_did(tmp_path: Path, raw: Path) -> None:
    out, log = tmp_path / "set", tmp_path / "log"

    def go(length: int, prune: bool) -> Summary:
        stages = (Levels(str(log)), Pieces(length))
        return run_stages(RECIPE, stages, [str(raw)], out, together=(Ranks(),), workers=0, prune=prune)

    def objects() -> dict[Path, int]:
        return {path: path.stat().st_size for path in (out / "work/objects").rglob("*.parquet")}

    go(4, False)
    before, shards = objects(), sum(path.stat().st_size for path in (out / "shards").iterdir())
    summary, freed = go(5, True), sum(size for path, size in before.items() if not path.exists()) + shards
    assert not (out / "work/earlier-shards").exists()
    assert summary.pruned == Pruned(4, freed) and freed > 0, "the pieces of four videos and pictures"
    wanted = contents(out)
    again = go(5, True)
    assert again.decoded == 0 and again.pruned == Pruned(0, 0) and contents(out) == wanted
    assert list((out / "work/ranks").iterdir()), "what a stage over the set keeps is dear"
    go(4, False)
    assert len(log.read_text().split()) == 4, "tables of frames stay"


def test_going_back_to_the_settings_before_encodes_nothing(
    tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, stages = tmp_path / "set", (Levels(str(tmp_path / "log")), Pieces(4))
    good = replace(RECIPE, write=replace(RECIPE.write, quality="good"))

    def go(recipe: Curation, *more: Thresholds) -> dict[str, str]:
        run_stages(recipe, (*stages, *more), [str(raw)], out, workers=0)
        return {row.id: row.sha256 for row in Tars(out).rows}

    first, second = go(RECIPE), go(good)
    assert first.keys() == second.keys() and first != second

    def cut(*_: object) -> None:
        raise AssertionError("a clip was cut again")

    monkeypatch.setattr(write._Cutter, "cut", cut)
    assert [go(RECIPE), go(good), go(RECIPE)] == [first, second, first]
    some = go(good, Thresholds((Threshold("num_frames", at_least=4),), name="whole"))
    assert some.items() < second.items(), "they are in the shards before"


def test_a_lost_or_damaged_shard_is_made_again(tmp_path: Path, raw: Path) -> None:
    out = tmp_path / "set"
    curate(raw, out)
    before = contents(out)
    (out / "shards/00001.tar").unlink()
    curate(raw, out)
    assert contents(out) == before


def counted(raw: Path, out: Path, most: int, count: Path) -> None:
    """Run in this process, and kill it before a renaming, linking or flush beyond so many; write down how many."""
    calls = 0

    def dying(call):
        def wrapped(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls > most:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return wrapped

    for name in ("replace", "link", "fsync"):
        setattr(os, name, dying(getattr(os, name)))
    curate(raw, out, BRIGHT, together=(Ranks(),))
    count.write_text(str(calls))


def forked(*args) -> int | None:
    process = multiprocessing.get_context("fork").Process(target=counted, args=args)
    process.start()
    process.join()
    return process.exitcode


def test_a_run_killed_at_any_moment_comes_to_the_same_and_does_one_source_again_at_most(
    tmp_path: Path, raw: Path
) -> None:
    assert forked(raw, tmp_path / "whole/set", 10**9, tmp_path / "count") == 0
    total, wanted = int((tmp_path / "count").read_text()), contents(tmp_path / "whole/set")
    assert total > 60
    for most in range(0, total, max(1, total // 11)):
        out = tmp_path / f"{most}/set"
        assert forked(raw, out, most, tmp_path / "never") == -signal.SIGKILL, most
        curate(raw, out, BRIGHT, together=(Ranks(),))
        assert contents(out) == wanted, most
        assert len(decoded(out)) <= 4 + 1, most
        assert [path.name for path in out.glob(".*")] == [".lock"], most
        assert not list((out / "work").glob("tmp/*")), most


@pytest.mark.parametrize("kind", ["dies", "hangs", "damaged", "fails"])
def test_a_source_that_goes_wrong_has_a_reason_and_the_others_are_done(tmp_path: Path, raw: Path, kind: str) -> None:
    folder, out, trouble = tmp_path / "raw", tmp_path / "set", tmp_path / "trouble"
    for path in (folder, trouble):
        path.mkdir()
    (folder / f"{kind}-x.mp4").write_bytes((raw / "a.mp4").read_bytes())
    (folder / "b.mp4").write_bytes((raw / "b.mp4").read_bytes())
    (trouble / kind).touch()
    stages = (Levels(str(tmp_path / "log"), str(trouble)), Pieces())
    recipe = replace(RECIPE, ingest=Ingest(limit_s=3.0 if kind == "hangs" else 600.0))

    def go() -> tuple[Summary, dict[str, str]]:
        summary = run_stages(recipe, stages, [str(folder)], out, workers=1)
        rows = pq.read_table(out / "sources.parquet").to_pylist()
        return summary, {Path(row["path"]).name: row["problem"] for row in rows}

    summary, problems = go()
    says = {"dies": "signal 9", "hangs": "not done after 3", "damaged": "it has holes", "fails": "ValueError: a stage"}
    assert says[kind] in problems[f"{kind}-x.mp4"] and problems["b.mp4"] == "" and summary.kept == 2
    (trouble / kind).unlink()
    summary, problems = go()
    if kind == "damaged":
        assert problems[f"{kind}-x.mp4"] and summary.decoded == 0, "what is wrong with a file is remembered"
    else:
        assert not problems[f"{kind}-x.mp4"] and summary.kept == 4, "what went wrong here is tried again"


def test_a_picture_is_not_judged_by_its_motion_and_that_is_said(tmp_path: Path, raw: Path) -> None:
    limit = Threshold("level", "std", at_least=1e9, images=False, name="motion")
    curate(raw, tmp_path / "set", Thresholds((limit,), name="motion"))
    rows = pq.read_table(tmp_path / "set/clips.parquet").to_pylist()
    kept = [row for row in rows if not row["dropped_by"]]
    assert len(kept) == 1 and kept[0]["notes"] == "motion: not judged in a picture" and kept[0]["motion"] is None


def test_only_one_run_at_a_time_works_in_a_folder(tmp_path: Path, raw: Path) -> None:
    with runner._alone(tmp_path / "set"), pytest.raises(RequestError, match="Another run"):
        curate(raw, tmp_path / "set")


def test_the_saved_recipe_is_the_recipe(tmp_path: Path, raw: Path) -> None:
    curate(raw, tmp_path / "set")
    assert config.load_recipe(tmp_path / "set/recipe.json", Curation) == RECIPE


def test_stages_that_could_not_run_are_refused_before_any_work(tmp_path: Path, raw: Path) -> None:
    with pytest.raises(RecipeError, match="Put Signals"):
        Curation("x", (BRIGHT,))
    with pytest.raises(RecipeError, match="another name"):
        Curation("x", (Thresholds((Threshold("duration_s"),)), Thresholds((Threshold("fps"),))))
    with pytest.raises(RecipeError, match="no number 'loudness'"):
        curate(raw, tmp_path / "set", Thresholds((Threshold("loudness"),)))


def test_facts_need_no_signals(tmp_path: Path, raw: Path) -> None:
    limits = Thresholds((Threshold("num_frames", at_least=10, images=False),))
    recipe = Curation("whole", (limits,), write=RECIPE.write)
    summary = runner.run(recipe, [str(raw)], tmp_path / "set", workers=0)
    assert (summary.kept, summary.decoded) == (3, 0)


def test_ray_is_asked_for_by_name_when_it_is_missing(tmp_path: Path, raw: Path) -> None:
    if find_spec("ray") is not None:
        pytest.skip("Ray is installed")
    with pytest.raises(MissingExtra, match=r"curate-ray"):
        run_stages(RECIPE, (), [str(raw)], tmp_path / "set", engine="ray")
    assert not (tmp_path / "set").exists()


class Rows:
    """As much of a Ray data set as is used, in this process."""

    def __init__(self, rows: list[dict]) -> None:
        self._rows = rows

    def map_batches(self, function, *, batch_size: int, **options: object) -> "Rows":
        assert options == {"batch_format": "numpy", "zero_copy_batch": False, "num_cpus": 1, "concurrency": None}
        function = pickle.loads(pickle.dumps(function))  # as it travels to another machine
        made = []
        for at in range(0, len(self._rows), batch_size):
            few = self._rows[at : at + batch_size]
            batch = function({name: [row[name] for row in few] for name in few[0]})
            made += [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        return Rows(made[::-1])  # in whatever order

    def iter_rows(self) -> list[dict]:
        return self._rows


def test_ray_data_runs_the_same_stages_to_the_same_bytes(
    tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curate(raw, tmp_path / "one/set")
    ray, data = types.ModuleType("ray"), types.ModuleType("ray.data")
    data.from_items = lambda rows, override_num_blocks: Rows(rows)  # pyright: ignore[reportAttributeAccessIssue]
    ray.data = data  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", data)
    stages = (Levels(str(tmp_path / "two/log")), Pieces())
    (tmp_path / "two").mkdir()
    run_stages(RECIPE, stages, [str(raw)], tmp_path / "two/set", engine="ray")
    assert contents(tmp_path / "two/set") == contents(tmp_path / "one/set")


def test_the_manifest_says_of_each_result_what_it_came_from(tmp_path: Path, raw: Path) -> None:
    curate(raw, tmp_path / "set")
    for path in (tmp_path / "set" / "work" / "entries" / "levels").rglob("*.json"):
        entry = json.loads(path.read_text())
        assert entry["stage"] == "levels" and len(entry["source"]) == 64 and entry["version"] == 1
        assert entry["parameters"]["settings"]["type"] == "Levels"


@pytest.mark.slow
def test_a_thousand_damaged_files_have_clips_or_a_reason_and_none_takes_the_run_down(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    given = [listing.Input(str(damage.damaged_at_random(tmp_path / "raw", seed))) for seed in range(1000)]
    chain = runner.Chain((Signals(), Split()), Ingest(), tmp_path / "work")
    found = dict(pool.run(chain, given, lambda _: 120.0, workers=1))
    lost = {given[index].path: outcome.reason for index, outcome in found.items() if isinstance(outcome, Lost)}
    outcomes = [outcome for outcome in found.values() if not isinstance(outcome, Lost)]
    fine = [outcome for outcome in outcomes if not outcome.problem]
    odd = [outcome.problem for outcome in outcomes if outcome.problem.startswith(runner.HERE)]
    print(f"{len(fine)} of {len(found)} can be used, {len(lost)} lost {lost}, odd: {odd}")
    assert len(found) == 1000 and all(outcome.clips for outcome in fine)
    assert not odd and not any("not done" in reason for reason in lost.values())  # whoever dies, nobody hangs
    assert len(lost) < 10 and len(fine) < 500


KILLED = """
import sys
from pathlib import Path
from mutoscope.curate.runner import Curation, run_stages
from mutoscope.curate.write import Write
from tests.curate.stages import Levels, Pieces, Ranks

if __name__ == "__main__":
    raw, out, log = sys.argv[1:]
    recipe = Curation("test", (), write=Write(shard_clips=3, quality="small"))
    run_stages(recipe, (Levels(log), Pieces()), [raw], Path(out), together=(Ranks(),), workers=2)
"""


@pytest.mark.slow
def test_fifty_kills_lose_and_double_nothing(tmp_path: Path, raw: Path) -> None:
    draw = np.random.default_rng(5)
    (tmp_path / "script.py").write_text(KILLED)
    root = str(Path(__file__).parents[2])

    def start(out: Path) -> subprocess.Popen:
        command = [sys.executable, str(tmp_path / "script.py"), str(raw), str(out), str(out.parent / "log")]
        out.parent.mkdir(parents=True, exist_ok=True)
        return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": root}, stderr=subprocess.DEVNULL)

    began = time.monotonic()
    assert start(tmp_path / "whole/set").wait() == 0
    took_s, wanted = time.monotonic() - began, contents(tmp_path / "whole/set")
    kills = runs = since = 0
    while kills < 50:
        out = tmp_path / f"{runs}/set"
        process = start(out)
        try:
            process.wait(draw.uniform(0.2, 1.0) * took_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills, since = kills + 1, since + 1
            continue
        assert process.returncode == 0 and contents(out) == wanted
        assert 4 <= len(decoded(out)) <= 4 + 2 * since, "each of two workers does at most one source again"
        runs, since = runs + 1, 0
    assert start(out).wait() == 0 and contents(out) == wanted
    print(f"{kills} kills, {runs} runs that ended between them")
