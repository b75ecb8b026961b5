"""The stage captions what is kept, once, however often it is stopped, and accounts for what it could not caption."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="needs the extra curate")
pytest.importorskip("cv2", reason="needs the extra curate")
import pyarrow as pa
import pyarrow.parquet as pq

from mutoscope.apps.curation import CurateJob, curate
from mutoscope.core import config
from mutoscope.core.chat import Endpoint, LocalModel
from mutoscope.core.errors import ChatError, MediaError, MutoscopeError, RecipeError, RequestError
from mutoscope.core.video import Video
from mutoscope.curate.ask import Asking
from mutoscope.curate.caption import MOVES
from mutoscope.curate.describe import Captions, Hallucination, in_shares
from mutoscope.curate.hallucination import QUESTIONS
from mutoscope.curate.ingest import Source
from mutoscope.curate.ledger import PATIENCE, read_ledger
from mutoscope.curate.stage import CLIPS, SetStage, SetView
from mutoscope.curate.telling import SHARES, Mixture
from mutoscope.data.schema import Caption
from mutoscope.data.tars import Tars
from tests.curate import damage
from tests.curate.chat_server import MODEL, Asked, Reply, Server, serving
from tests.curate.clips import GOOD, good

QUICK = Endpoint(model=MODEL, attempts=1, timeout_s=10, at_once=2)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(good) as server:
        yield server


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films of 8 frames: the first four as bright as the name says, the others 50 brighter."""
    folder = tmp_path_factory.mktemp("films")
    for level in (20, 80, 140):
        frames = np.repeat(np.array([level, level + 50], np.uint8), 4)[:, None, None, None]
        Video.from_array(np.broadcast_to(frames, (8, 32, 32, 3)), 8).save(folder / f"{level}.mp4")
    return folder


class Set:
    """A gathered set: two clips of each film, none yet dropped unless said so."""

    def __init__(
        self, films: Path, out: Path, dropped: tuple[str, ...] = (), captions: tuple[str, str] = ("", "")
    ) -> None:
        self.sources = {
            path.stem: Source(
                path.stem,
                str(path),
                num_frames=8,
                duration_s=1.0,
                captions=(Caption(captions[1]),) if path.stem == captions[0] else (),
            )
            for path in sorted(films.glob("*.mp4"))
        }
        self.places = {f"{id}-{start}": (id, start, start + 4) for id in self.sources for start in (0, 4)}
        self.folder = out / "work" / "captions"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.dropped, self.again = dropped, list[str]()
        self.fetch = lambda source: Path(source.path)

    @property
    def clips(self) -> pa.Table:
        rows: list[dict[str, Any]] = []
        for id, (source, start, end) in self.places.items():
            by = "light" if id in self.dropped else ""
            times = {"start_s": start / 8, "end_s": end / 8}
            rows.append(
                {"id": id, "source": source, "start": start, "end": end, "dropped_by": by, "reason": by, "notes": ""}
                | times
            )
        return pa.Table.from_pylist(rows, CLIPS).sort_by("id")

    def run(self, stage: Captions) -> dict[str, dict[str, Any]]:
        assert isinstance(stage, SetStage)
        made = stage.run(self.clips, SetView(self.folder, self.sources, self.places, {}, self.fetch, self.again))
        assert made.schema.names[: len(CLIPS)] == CLIPS.names and made["id"].equals(self.clips["id"])
        return {row["id"]: row for row in made.to_pylist()}


def stage_of(server: Server, **changes: Any) -> Captions:
    return replace(Captions(replace(QUICK, url=server.url)), **changes)


def test_kept_clips_get_captions_from_their_own_frames_and_others_are_left_alone(
    server: Server, films: Path, tmp_path: Path
) -> None:
    rows = Set(films, tmp_path, dropped=("80-0",)).run(stage_of(server, asking=Asking(num_frames=3)))
    assert rows["80-0"]["captions"] is rows["80-0"]["descriptions"] is None and rows["80-0"]["dropped_by"] == "light"
    assert len(server.asked) == 5 and all(len(asked.pictures) == 3 for asked in server.asked)
    assert "of a video of 0.5 seconds" in server.asked[0].last
    for id, level in (("20-0", 20), ("20-4", 70), ("140-4", 190)):
        row, (description,) = rows[id], rows[id]["descriptions"]
        assert not row["dropped_by"] and description["language"] == "en" and description["camera"] == "pan left"
        assert abs(int(description["background"].rpartition(" ")[2]) - level) <= 3
        short, dense, *composed = row["captions"]
        assert short == {"text": GOOD["short"], "language": "en", "length": "short"}
        assert dense == {"text": GOOD["dense"], "language": "en", "length": "dense"}
        assert 1 <= len(composed) <= 4


def test_a_second_run_asks_nothing_and_needs_no_server(films: Path, tmp_path: Path) -> None:
    clips = Set(films, tmp_path)
    with serving(good) as server:
        stage = stage_of(server)
        first = clips.run(stage)
    assert clips.run(stage) == first
    assert clips.run(replace(stage, kinds=("short",)))["20-0"]["captions"] == first["20-0"]["captions"][:1]
    with pytest.raises(ChatError, match="no reply"):
        clips.run(replace(stage, asking=Asking(num_frames=2)))


def test_a_model_that_is_not_named_is_asked_for_its_name(server: Server, films: Path, tmp_path: Path) -> None:
    clips = Set(films, tmp_path)
    first = clips.run(stage_of(server))
    assert clips.run(stage_of(server, vlm=replace(QUICK, url=server.url, model=""))) == first
    assert len(server.asked) == 6


def test_each_kind_and_language_is_in_the_record(server: Server, films: Path, tmp_path: Path) -> None:
    def script(asked: Asked) -> str:
        if "in Chinese" in asked.last:
            chinese = {"short": "一只红色的风筝飞过大海。", "dense": "一只红色的风筝在黎明时分飞过大海然后落在沙滩上"}
            return json.dumps(GOOD | chinese, ensure_ascii=False)
        return good(asked)

    server.script = script
    stage = stage_of(server, kinds=("dense", "composed"), languages=("en", "zh"), texts=40)
    row = Set(films, tmp_path).run(stage)["20-0"]
    assert [one["language"] for one in row["descriptions"]] == ["en", "zh"]
    assert {one["length"] for one in row["captions"]} == {"dense"}
    chinese = [one["text"] for one in row["captions"] if one["language"] == "zh"]
    assert chinese[0] == "一只红色的风筝在黎明时分飞过大海然后落在沙滩上。"
    english = [one["text"] for one in row["captions"] if one["language"] == "en"]
    assert any(MOVES["zh"]["pan left"] in text for text in chinese) and not any("镜头" in text for text in english)


def test_the_mixture_is_in_the_record_in_the_shares_of_the_paper(server: Server, films: Path, tmp_path: Path) -> None:
    server.script = lambda asked: f"It shows {len(asked.pictures)}." if asked.pictures else "Both together."
    row = Set(films, tmp_path).run(stage_of(server, kinds=("mixture",), asking=Asking(num_frames=4)))["20-0"]
    drawn = Counter(one["text"] for one in row["captions"])
    shares = {"It shows 1.": SHARES[0], "It shows 4.": SHARES[1], "Both together.": SHARES[2]}
    assert {text: count / drawn.total() for text, count in drawn.items()} == shares and "descriptions" not in row
    assert in_shares(Mixture("a", "a", "a")) == ("a",)


def test_what_the_source_says_is_spared_if_asked(server: Server, films: Path, tmp_path: Path) -> None:
    rows = Set(films, tmp_path, captions=("20", "A dark film.")).run(stage_of(server, spares_captioned=True))
    assert [id for id, row in rows.items() if row["captions"] is None] == ["20-0", "20-4"]
    assert len(server.asked) == 4 and not any(row["dropped_by"] for row in rows.values())


TROUBLE = (
    (Reply(json.dumps(GOOD | {"camera": "upside down"})), "no usable answer in 2 attempts; the last: camera is"),
    (Reply("the context is too long", 400), "answers 400: the context is too long"),
)


@pytest.mark.parametrize("failed", ["drop", "keep"])
def test_what_cannot_be_captioned_is_dropped_or_kept_with_the_reason(
    server: Server, films: Path, tmp_path: Path, failed: str
) -> None:
    asking = Asking(num_frames=1, attempts=2)
    for number, (reply, reason) in enumerate(TROUBLE):
        bad = dark(reply, 20)
        server.script = lambda asked, bad=bad: bad(asked) or good(asked)
        clips = Set(films, tmp_path / str(number))
        rows = clips.run(stage_of(server, asking=asking, failed=failed))
        row = rows.pop("20-0")
        assert row["captions"] is None and reason in (row["reason"] if failed == "drop" else row["notes"])
        assert row["dropped_by"] == ("captions" if failed == "drop" else "") and not clips.again
        assert all(one["captions"] and not one["dropped_by"] for one in rows.values())
        asked = len(server.asked)
        clips.run(stage_of(server, asking=asking, failed=failed))
        assert len(server.asked) == asked, "a clip that was given up is not asked about again"


def dark(reply: Reply, level: int) -> Any:
    """Reply to questions about clips of some brightness, and to none else."""

    def script(asked: Asked) -> Reply | None:
        return reply if asked.pictures and abs(np.asarray(asked.pictures[0]).mean() - level) < 5 else None

    return script


def test_more_attempts_ask_only_about_what_failed(server: Server, films: Path, tmp_path: Path) -> None:
    clips, bad = Set(films, tmp_path), dark(Reply(""), 20)
    server.script = lambda asked: bad(asked) or good(asked)
    assert clips.run(stage_of(server, asking=Asking(attempts=2)))["20-0"]["dropped_by"] == "captions"
    server.script, asked = good, len(server.asked)
    assert all(row["captions"] for row in clips.run(stage_of(server, asking=Asking(attempts=3))).values())
    assert len(server.asked) == asked + 1


@pytest.mark.parametrize(
    "reply", [Reply("busy", 503), Reply(how="broken"), Reply("a b", how="dropped"), Reply(status=502, how="html")]
)
def test_a_clip_that_the_server_fails_is_asked_about_by_the_next_run(
    server: Server, films: Path, tmp_path: Path, reply: Reply
) -> None:
    clips, bad = Set(films, tmp_path), dark(reply, 20)
    server.script = lambda asked: bad(asked) or good(asked)
    row = clips.run(stage_of(server))["20-0"]
    assert (row["dropped_by"], row["reason"]) == ("captions", "left unanswered; the same command asks again")
    assert clips.again == ["captions: 1 clips were left unanswered"]
    server.script, asked = good, len(server.asked)
    clips.again.clear()
    assert not any(row["dropped_by"] for row in clips.run(stage_of(server)).values())
    assert len(server.asked) == asked + 1 and not clips.again


def test_a_slow_server_is_waited_for_only_so_long(server: Server, films: Path, tmp_path: Path) -> None:
    bad = dark(Reply(how="silent"), 20)
    server.script = lambda asked: bad(asked) or good(asked)
    clips = Set(films, tmp_path)
    rows = clips.run(stage_of(server, vlm=replace(QUICK, url=server.url, timeout_s=0.3), failed="keep"))
    assert [id for id, row in rows.items() if row["captions"] is None] == ["20-0"] and "unanswered" in rows["20-0"][
        "notes"
    ]


def test_frames_that_cannot_be_read_are_a_drop_and_those_that_cannot_be_had_now_are_not(
    server: Server, films: Path, tmp_path: Path
) -> None:
    clips = Set(films, tmp_path)

    def fetch(source: Source) -> Path:
        if source.id == "20":
            raise MediaError("20.mp4 is damaged.")
        if source.id == "80":
            raise TimeoutError("the network is down")
        return Path(source.path)

    clips.fetch = fetch
    rows = clips.run(stage_of(server))
    assert {id: row["reason"] for id, row in rows.items() if row["reason"]} == {
        **dict.fromkeys(("20-0", "20-4"), "20.mp4 is damaged."),
        **dict.fromkeys(("80-0", "80-4"), "left unanswered; the same command asks again"),
    }
    clips.fetch = lambda source: Path(source.path)
    assert [id for id, row in clips.run(stage_of(server)).items() if row["dropped_by"]] == ["20-0", "20-4"]


def test_a_run_without_any_frames_to_be_had_ends_in_one_line(server: Server, films: Path, tmp_path: Path) -> None:
    def fetch(source: Source) -> Path:
        raise TimeoutError("the network is down")

    clips = Set(films, tmp_path)
    clips.fetch = fetch
    clips.places = {f"{n:02d}": ("20", n % 4, n % 4 + 1) for n in range(PATIENCE)}
    with pytest.raises(MutoscopeError, match=r"cannot be had now \(the network is down\)"):
        clips.run(stage_of(server))


# ---- hallucination ---------------------------------------------------------------------------------------------------


def seeing(asked: Asked) -> str:
    """Say that there is a kite and the sea; a judge sees the sea always, and a kite where it is bright."""
    if asked.last.startswith(QUESTIONS):
        claims = [("kite", [1]), ("sea", [1])]
        found = [{"object": what, "question": f"Is there a {what}?", "sentences": at} for what, at in claims]
        return json.dumps({"objects": found})
    if "Is there a" in asked.last:
        return "yes" if "sea" in asked.last or np.asarray(asked.pictures[0]).mean() > 60 else "no"
    return good(asked)


def test_hallucination_is_measured_limited_and_not_asked_about_twice(
    server: Server, films: Path, tmp_path: Path
) -> None:
    server.script = seeing
    judge = replace(QUICK, url=server.url)
    stage = stage_of(server, hallucination=Hallucination(judge, num_frames=2))
    clips = Set(films, tmp_path, dropped=("140-4",))
    rows = clips.run(stage)
    # of two objects and two sentences, a dark clip shows all but one object, which one sentence names
    told = {id: (row["dsg_object"], row["dsg_sentence"]) for id, row in rows.items()}
    assert told == dict.fromkeys(rows, (0.0, 0.0)) | {"20-0": (0.5, 0.5), "140-4": (None, None)}
    asked = len(server.asked)
    limited = replace(stage, hallucination=Hallucination(judge, num_frames=2, object_at_most=0.3))
    rows = clips.run(limited)
    assert {id: row["reason"] for id, row in rows.items() if row["dropped_by"] == "captions"} == {
        "20-0": "dsg_object 0.5 of objects is above 0.3"
    }
    assert len(server.asked) == asked and [limit.score for limit in limited.limits] == ["dsg_object", "dsg_sentence"]


def test_captions_that_cannot_be_checked_are_dropped_or_kept(server: Server, films: Path, tmp_path: Path) -> None:
    server.script = lambda asked: "Perhaps." if "Is there a kite" in asked.last else seeing(asked)
    judge = Hallucination(replace(QUICK, url=server.url), num_frames=1)
    kept = Set(films, tmp_path / "a").run(stage_of(server, hallucination=judge, failed="keep"))
    assert all(row["captions"] and not row["dropped_by"] and "nor with" in row["notes"] for row in kept.values())
    dropped = Set(films, tmp_path / "b").run(stage_of(server, hallucination=judge))
    assert {row["dropped_by"] for row in dropped.values()} == {"captions"}


# ---- stopped and gone on with ----------------------------------------------------------------------------------------

CHILD = """
import json, sys
from pathlib import Path
from mutoscope.core import config
from mutoscope.curate.describe import Captions
from tests.curate.test_describe import many
films, out, stage = sys.argv[1:]
many(Path(films), Path(out)).run(config.from_json(Captions, json.loads(stage)))
"""


def many(films: Path, out: Path) -> Set:
    """Sixteen clips, each of one frame, which tells its number by how bright it is."""
    path = films / "ramp" / "ramp.mp4"
    if not path.exists():
        path.parent.mkdir()
        levels = np.arange(8, 256, 16, dtype=np.uint8)[:, None, None, None]
        Video.from_array(np.broadcast_to(levels, (16, 32, 32, 3)), 8).save(path)
    clips = Set(path.parent, out)
    clips.places = {f"{n:02d}": ("ramp", n, n + 1) for n in range(16)}
    return clips


@pytest.mark.parametrize("kill_at", [5, 12])
def test_a_killed_run_goes_on_without_asking_twice_what_was_answered(
    server: Server, films: Path, tmp_path: Path, kill_at: int
) -> None:
    lock, child = threading.Lock(), None

    def script(asked: Asked) -> Reply | str:
        with lock:
            if len(server.asked) >= kill_at and child is not None:
                os.kill(child.pid, signal.SIGKILL)
        return good(asked)

    server.script = script
    stage, clips = stage_of(server), many(films, tmp_path)
    command = [sys.executable, "-c", CHILD, str(films), str(tmp_path), json.dumps(config.to_json(stage))]
    child = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])})
    assert child.wait() == -signal.SIGKILL
    child, kept = None, {row["clip"] for row in read_ledger(clips.folder / "ledger.jsonl") if "clip" in row}
    assert kill_at - len(kept) <= QUICK.at_once
    for _ in range(2):
        assert all(row["captions"] for row in clips.run(stage).values())
    often = Counter(f"{round((np.asarray(asked.pictures[0]).mean() - 8) / 16):02d}" for asked in server.asked)
    assert all(often[clip] == 1 for clip in kept) and sorted(often) == sorted(clips.places)
    assert often.total() - 16 <= QUICK.at_once, "only what was under way is asked again"


# ---- settings --------------------------------------------------------------------------------------------------------


def test_settings_are_saved_and_read_back_without_the_key(
    server: Server, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPTION_KEY", "sk-123")
    server.key = "sk-123"
    stage = stage_of(server, vlm=replace(QUICK, url=server.url, key_variable="CAPTION_KEY"))
    stage = replace(stage, llm=LocalModel("hub:owner/name"), hallucination=Hallucination(stage.vlm))
    assert config.from_json(Captions, config.to_json(stage)) == stage
    Set(films, tmp_path).run(replace(stage, hallucination=None))
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert written and not any("sk-123" in text for text in [*written, json.dumps(config.to_json(stage))])


def test_settings_can_be_given_on_the_command_line() -> None:
    stage = config.override(Captions(), ("vlm.url=http://gpu:8000/v1", "vlm.model=qwen", 'languages=["zh"]'))
    assert (stage.vlm, stage.languages) == (Endpoint("http://gpu:8000/v1", "qwen"), ("zh",))
    with pytest.raises(RequestError, match="key_variable=NAME"):
        config.override(Captions(), ("vlm.url=http://me:sk-1@gpu/v1",))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"kinds": ()}, "kinds"),
        ({"languages": ("en", "en")}, "each once"),
        ({"texts": 0}, "texts=0"),
        ({"asking": Asking(language="Chinese")}, "Give languages"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        Captions(**settings)


# ---- from the command line -------------------------------------------------------------------------------------------


def test_a_recipe_captions_what_it_keeps_and_training_reads_it(server: Server, tmp_path: Path) -> None:
    damage.write_video(tmp_path / "raw/a.mp4", 24, size=(64, 96))
    damage.write_photo(tmp_path / "raw/b.jpg")
    (tmp_path / "raw/b.txt").write_text("what the source says")
    endpoint = (f"together.1.vlm.url={server.url}", "together.1.vlm.attempts=1", "together.1.asking.num_frames=2")
    recipe = Path(__file__).parents[2] / "recipes/curate/captions.py"
    job = CurateJob((str(tmp_path / "raw"),), tmp_path / "set", recipe, endpoint, workers=0)
    assert curate(job)[0] == "2 of 2 clips from 2 of 2 files are kept"
    for _ in range(2):  # the second time nothing is asked
        read = Tars(tmp_path / "set")
        for sample in (read.sample(index) for index in range(2)):
            texts = {caption.length: caption.text for caption in sample.clip.captions[:2]}
            assert texts == {"short": GOOD["short"], "dense": GOOD["dense"]}
        assert len(server.asked) == 2
        curate(job)
    table = pq.read_table(tmp_path / "set/clips.parquet").to_pylist()
    assert all(row["descriptions"][0]["style"] == "home video" for row in table)
    assert "Captioned clips" in (tmp_path / "set/card.html").read_text()
