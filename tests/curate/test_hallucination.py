import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mutoscope.core.chat import jpeg
from mutoscope.curate.ask import Asking, BadAnswer
from mutoscope.curate.hallucination import (
    QUESTIONS,
    Checked,
    Claim,
    Rates,
    Verdict,
    check,
    compare_clips,
    is_seen,
    rates,
    read_claims,
    read_comparison,
    split_sentences,
)
from mutoscope.curate.ledger import Ledger
from mutoscope.curate.telling import JOIN
from mutoscope.curate.view import View
from tests.curate.chat_server import Asked, Reply, Server, serving
from tests.curate.clips import chat_with

NOUNS = ("dog", "cat", "ball", "tree")
COLOURS = {"dog": (250, 0, 0), "cat": (0, 250, 0), "ball": (0, 0, 250), "tree": (250, 250, 0)}


def script(asked: Asked) -> str:
    """An LLM that knows four nouns, and a VLM that knows each by a colour."""
    if asked.last.startswith(QUESTIONS):
        lines = asked.last.splitlines()[-len(asked.last.split("nothing else.\n")[1].splitlines()) :]
        found = [(noun, [n for n, line in enumerate(lines, 1) if noun in line]) for noun in NOUNS]
        return json.dumps(
            {"objects": [{"object": a, "question": f"Is there a {a}?", "sentences": at} for a, at in found if at]}
        )
    noun = next(noun for noun in NOUNS if f"a {noun}?" in asked.last)
    pixel = np.asarray(asked.pictures[0]).astype(int)[0, 0]
    return "Yes." if np.abs(pixel - COLOURS[noun]).max() < 40 else "no"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(script) as server:
        yield server


def clip(id: str, *nouns: str) -> View:
    """A clip of one frame for each thing, which is all that the frame shows."""
    files = tuple(jpeg(np.full((16, 16, 3), COLOURS[noun], np.uint8)) for noun in nouns)
    return View(id, 1.0, lambda count: files)


def test_rates_of_a_known_case() -> None:
    checked = [
        Checked("", 4, (Verdict("dog", (0, 2), False), Verdict("cat", (2,), False), Verdict("tree", (3,), True))),
        Checked("", 3, (Verdict("dog", (0,), True), Verdict("ball", (1,), True))),
        Checked("", 1, ()),
    ]
    found = rates(checked)
    assert found == Rates(captions=3, objects=5, sentences=8, bad_captions=1, bad_objects=2, bad_sentences=2)
    assert (found.object_rate, found.sentence_rate, found.caption_rate) == (2 / 5, 2 / 8, 1 / 3)


def test_rates_of_nothing_are_zero() -> None:
    assert rates([]).object_rate == rates([]).sentence_rate == rates([Checked("", 0, ())]).caption_rate == 0


def test_what_no_frame_shows_is_hallucinated_and_what_one_shows_is_not(server: Server) -> None:
    chat = chat_with(server)
    caption = "A dog chases a ball. It is warm. A cat sits in a tree. The cat sleeps."
    found = check(chat, chat, clip("a", "dog", "tree", "ball"), caption)
    assert found == Checked(
        caption,
        4,
        (
            Verdict("dog", (0,), True),
            Verdict("cat", (2, 3), False),
            Verdict("ball", (0,), True),
            Verdict("tree", (2,), True),
        ),
    )
    assert Checked.from_dict(json.loads(json.dumps(vars(found), default=vars))) == found
    assert rates([found]) == Rates(1, 4, 4, 1, 1, 2)
    # dog is in the first frame, the cat in none of three, the ball in the third, the tree in the second
    assert len(server.asked) == 1 + 1 + 3 + 3 + 2


def test_a_caption_that_claims_nothing_costs_no_look(server: Server) -> None:
    chat = chat_with(server)
    assert check(chat, chat, clip("a", "dog"), "It is warm and bright.").verdicts == ()
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("dog", "no complete JSON"),
        ('{"things": []}', '"objects" is no list'),
        ('{"objects": ["dog"]}', "lacks an object"),
        ('{"objects": [{"object": "dog", "question": "Is it?", "sentences": []}]}', "lacks an object"),
        (
            '{"objects": [{"object": "dog", "question": "Is it?", "sentences": [3]}]}',
            "sentences \\[3\\], and there are 2",
        ),
        ('{"objects": [{"object": "dog", "question": "Is it?", "sentences": [true]}]}', "sentences \\[True\\]"),
        ('{"objects": [{"object": "dog", "question": "A dog.", "sentences": [1]}]}', "is no question"),
        ('{"objects": [{"object": "horse", "question": "Is it?", "sentences": [1]}]}', "'horse' is not in the sent"),
    ],
)
def test_claims_that_the_caption_does_not_make_are_refused(answer: str, problem: str) -> None:
    with pytest.raises(BadAnswer, match=problem):
        read_claims(answer, ["A dog runs.", "It barks."])


def test_an_object_listed_twice_is_one_in_both_sentences() -> None:
    entries = [
        {"object": name, "question": "Are there dogs?", "sentences": [at]} for name, at in (("dogs", 2), ("Dogs", 1))
    ]
    assert read_claims(json.dumps({"objects": entries}), ["A dog.", "Two dogs."]) == (
        Claim("dogs", "Are there dogs?", (0, 1)),
    )


@pytest.mark.parametrize(
    ("answer", "seen"), [("Yes", True), ("**No**, it is not.", False), ("<think>no</think>yes", True)]
)
def test_yes_and_no_are_read_and_anything_else_is_asked_again(server: Server, answer: str, seen: bool) -> None:
    server.queue.extend([Reply("perhaps"), Reply(answer)])
    claim = Claim("dog", "Is there a dog?", (0,))
    assert is_seen(chat_with(server), claim, clip("a", "cat").pictures(1)) == seen
    assert 'neither with "yes" nor' in server.asked[1].last


def test_a_judge_that_will_not_say_is_no_verdict(server: Server) -> None:
    server.queue.extend([Reply("perhaps")] * 2)
    with pytest.raises(BadAnswer, match="no usable answer in 2 attempts"):
        is_seen(
            chat_with(server), Claim("dog", "Is there a dog?", (0,)), clip("a", "cat").pictures(1), Asking(attempts=2)
        )


@pytest.mark.parametrize(
    ("text", "count"), [("One. Two! Three?", 3), ("It costs 3.50 today", 1), ("红色的风筝。它在飞！", 2), ("", 0)]
)
def test_sentences_are_counted(text: str, count: int) -> None:
    assert len(split_sentences(text)) == count


def test_direct_captions_and_those_by_frames_are_compared_by_what_they_make_up(server: Server, tmp_path: Path) -> None:
    def captioner(asked: Asked) -> str:
        if asked.last.startswith(JOIN):
            return "A dog plays. A cat looks on. A tree stands there."
        if not asked.pictures or asked.last.startswith("Look at"):
            return script(asked)
        return "A dog plays with a ball. A tree stands there." if len(asked.pictures) > 1 else "A dog."

    server.script = captioner
    chat = chat_with(server)
    with Ledger(tmp_path / "l.jsonl") as ledger:
        tally = compare_clips([clip("a", "dog", "ball"), clip("b", "dog", "tree")], chat, chat, chat, ledger)
    assert tally.results == 2
    found = read_comparison(tmp_path / "l.jsonl")
    assert found["direct"] == Rates(2, 6, 4, bad_captions=2, bad_objects=2, bad_sentences=2)  # a tree; a ball
    assert found["by_frames"] == Rates(2, 6, 6, bad_captions=2, bad_objects=3, bad_sentences=3)  # cats, and a tree
