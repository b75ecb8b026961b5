import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mutoscope.core.errors import MediaError
from mutoscope.core.video import Video
from mutoscope.curate.ask import Asking, BadAnswer
from mutoscope.curate.caption import (
    CAMERAS,
    FIELDS,
    MOVES,
    SCHEMA,
    Composition,
    Description,
    caption_clips,
    captions,
    compose,
    describe,
    read_description,
    sentence,
)
from mutoscope.curate.ledger import Ledger, read_ledger, read_results
from mutoscope.curate.view import View
from mutoscope.worlds import scene
from mutoscope.worlds.language import structured
from tests.curate.chat_server import Reply, Server, serving
from tests.curate.clips import GOOD, chat_with, good, grey

KITE = read_description(json.dumps(GOOD))


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(good) as server:
        yield server


def test_a_clip_is_described_from_its_frames(server: Server) -> None:
    found = describe(chat_with(server), grey("a", 70), Asking(num_frames=5))
    assert asdict(found) == GOOD | {"background": "a wall of brightness 70"}
    (asked,) = server.asked
    assert len(asked.pictures) == 5 and "5 frames, evenly spread, of a video of 2.0 seconds" in asked.last
    assert asked.body["response_format"]["json_schema"]["schema"] == SCHEMA
    assert all(f'"{name}"' in asked.last for name in FIELDS)


def test_a_photo_is_described_as_one(server: Server) -> None:
    describe(chat_with(server), grey("a", duration_s=0))
    assert len(server.asked[0].pictures) == 1 and server.asked[0].last.startswith("This is one picture. ")


def test_fields_of_the_world_are_the_same_as_those_of_descriptions() -> None:
    assert list(structured(scene.sample(0), 0)) == list(FIELDS) == [*Description.__dataclass_fields__]
    assert len(CAMERAS) == 14 and all(list(moves) == list(CAMERAS) for moves in MOVES.values())


def broken(**fields: object) -> str:
    return json.dumps({name: value for name, value in (GOOD | fields).items() if value is not ...})


BAD = {
    "": "empty",
    "I would rather not.": "no complete JSON",
    json.dumps(GOOD)[:-30]: "no complete JSON",
    "[]": "no complete JSON",
    broken(style=..., shot=...): "fields style, shot are missing",
    broken(style=""): "style is empty",
    broken(lighting=["soft"]): "lighting is not text",
    broken(camera="upside down"): "camera is 'upside down' and not one of zoom in",
    broken(short=" ".join(f"w{n}" for n in range(51))): "short has 51 words",
    broken(dense="A kite flies."): "dense has 3 words",
    broken(dense=GOOD["dense"] + " In the last frame it is gone."): "dense speaks of 'last frame'",
}


@pytest.mark.parametrize(("answer", "problem"), BAD.items())
def test_a_bad_answer_is_put_right_by_asking_again(server: Server, answer: str, problem: str) -> None:
    server.queue.append(Reply(answer))
    assert describe(chat_with(server), grey("a", 9)).background == "a wall of brightness 9"
    assert len(server.asked) == 2 and problem in server.asked[1].last


def test_a_truncated_answer_is_put_right_with_more_room(server: Server) -> None:
    assert describe(chat_with(server), grey("a"), Asking(max_tokens=40)).short == GOOD["short"]
    assert [asked.body["max_tokens"] for asked in server.asked] == [40, 80]


@pytest.mark.parametrize("around", ["```json\n{}\n```", "Certainly!\n{}", "<think>{{a}}</think>{}"])
def test_an_answer_in_a_fence_needs_no_second_one(server: Server, around: str) -> None:
    server.queue.append(Reply(around.replace("{{a}}", "[a]").replace("{}", json.dumps(GOOD))))
    assert describe(chat_with(server), grey("a")) == KITE and len(server.asked) == 1


def test_fields_that_were_not_asked_for_are_left_out_and_camera_may_be_spelt_freely() -> None:
    assert read_description(broken(mood="happy", camera="Pan_Left.")) == KITE


def test_what_stays_bad_is_a_drop_with_a_reason_and_the_rest_goes_on(server: Server, tmp_path: Path) -> None:
    def gone(count: int) -> tuple[bytes, ...]:
        raise MediaError("gone.mp4 is damaged.")

    server.script = lambda asked: Reply(broken(short="")) if "3.0 seconds" in asked.texts[0] else Reply(good(asked))
    views = [grey("a"), grey("b", duration_s=3.0), View("c", 2.0, gone), grey("d")]
    with Ledger(tmp_path / "l.jsonl") as ledger:
        tally = caption_clips(views, chat_with(server), ledger)
    assert (tally.results, tally.drops) == (2, 2)
    reasons = {row["clip"]: row["reason"] for row in read_ledger(tmp_path / "l.jsonl") if row.get("reason")}
    assert reasons == {
        "b": "no usable answer in 3 attempts; the last: short is empty",
        "c": "gone.mp4 is damaged.",
    }
    assert {clip: Description(**result).short for clip, result in read_results(tmp_path / "l.jsonl")} == {
        "a": GOOD["short"],
        "d": GOOD["short"],
    }


def test_a_request_that_the_server_refuses_is_a_drop_and_one_it_fails_is_not(server: Server, tmp_path: Path) -> None:
    server.script = lambda asked: Reply("context too long", 400) if asked.body else ""
    with Ledger(tmp_path / "l.jsonl") as ledger:
        assert caption_clips([grey("a")], chat_with(server), ledger).drops == 1
        server.script = lambda asked: Reply("out of memory", 500)
        assert caption_clips([grey("b")], chat_with(server), ledger).unanswered == 1
        server.script = good
        tally = caption_clips([grey("a"), grey("b")], chat_with(server), ledger)
    assert (tally.earlier, tally.results) == (1, 1)


def test_captions_by_another_model_or_other_settings_are_others(server: Server, tmp_path: Path) -> None:
    server.models.append("big-vlm")
    keys = set()
    with Ledger(tmp_path / "l.jsonl") as ledger:
        for model, asking in (("tiny-vlm", Asking()), ("big-vlm", Asking()), ("tiny-vlm", Asking(num_frames=4))):
            tally = caption_clips([grey("a")], chat_with(server, model=model), ledger, asking)
            assert tally.results == 1
            keys.add(tally.settings)
    assert len(keys) == 3


def test_a_text_follows_from_clip_seed_and_draw_alone() -> None:
    texts = [[compose(KITE, clip, seed, draw) for draw in range(30)] for clip, seed in (("a", 0), ("b", 0), ("a", 1))]
    assert texts[0] == [compose(KITE, "a", 0, draw) for draw in range(30)]
    assert all(first != second for first, second in pairwise([*texts, texts[0]]))


def test_fields_are_kept_as_often_as_asked_and_in_every_order() -> None:
    texts = [compose(KITE, "clip", 7, draw, Composition(dense_share=0.25, keep=0.4)) for draw in range(1200)]
    parts = {name: sentence(value) for name, value in asdict(KITE).items()} | {"camera": "The camera pans left."}
    shares = {name: sum(part in text for text in texts) / len(texts) for name, part in parts.items()}
    for name, share in shares.items():
        expected = {"dense": 0.25, "short": 0.75}.get(name, 0.4)
        assert abs(share - expected) < 5 * (expected * (1 - expected) / 1200) ** 0.5, name
    both = [text for text in texts if parts["style"] in text and parts["camera"] in text]
    first = sum(text.index(parts["style"]) < text.index(parts["camera"]) for text in both) / len(both)
    assert abs(first - 0.5) < 5 * (0.25 / len(both)) ** 0.5


def test_all_parts_in_order_where_nothing_is_left_to_chance() -> None:
    text = compose(KITE, "a", 0, composition=Composition(dense_share=1, keep=1, shuffle=False))
    assert text == (
        f"{GOOD['dense']} The open sea. Home video. Wide shot. Soft light of the morning. Calm. The camera pans left."
    )
    assert compose(KITE, "a", 0, composition=Composition(dense_share=0, keep=0)) == GOOD["short"]


def test_a_record_holds_a_short_a_dense_and_composed_captions_each_once() -> None:
    found = captions(KITE, "a", 0, texts=6)
    assert [caption.length for caption in found[:2]] == ["short", "dense"]
    assert len({caption.text for caption in found}) == len(found) > 4


def test_a_bad_description_says_what_is_wrong() -> None:
    with pytest.raises(BadAnswer, match="the fields short, dense"):
        read_description("{}")


def test_the_example_of_the_documentation_works(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Path(__file__).parents[2] / "docs" / "life" / "captions.md"
    code = page.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    assert "http://localhost:8000/v1" in code
    (tmp_path / "clips").mkdir()
    Video.from_array(np.full((6, 32, 32, 3), 80, np.uint8), 6).save(tmp_path / "clips" / "one.mp4")
    monkeypatch.chdir(tmp_path)
    for results in (1, 0):  # the second run finds all done
        exec(code.replace("http://localhost:8000/v1", server.url), {})
        said = capsys.readouterr().out
        assert f"results={results}, drops=0, earlier={1 - results}" in said and "one short A red kite flies" in said
