from collections.abc import Iterator

import pytest

from mutoscope.core.chat import Message
from mutoscope.core.errors import ChatError
from mutoscope.curate.ask import Asking, BadAnswer, check_text, count_words, find_json, insist
from tests.curate.chat_server import Reply, Server, serving
from tests.curate.clips import chat_with, grey

QUESTION = Message("Say a number.", grey("a").pictures(2))


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(lambda asked: "41") as server:
        yield server


def number(text: str) -> int:
    if not text.isdigit():
        raise BadAnswer("it is no number")
    return int(text)


def test_a_good_answer_is_asked_for_once(server: Server) -> None:
    assert insist(chat_with(server), QUESTION, number, Asking()) == 41
    assert len(server.asked) == 1


def test_a_wrong_answer_is_shown_to_the_model_with_what_is_wrong(server: Server) -> None:
    server.queue.append(Reply("many"))
    assert insist(chat_with(server), QUESTION, number, Asking()) == 41
    turns = server.asked[1].body["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert turns[1]["content"] == "many" and "it is no number" in turns[2]["content"]
    assert len(server.asked[1].pictures) == 2


@pytest.mark.parametrize("answer", [Reply(), Reply("  \n"), Reply("1 " * 40)])
def test_an_empty_answer_or_a_cut_one_is_not_shown_and_a_cut_one_gets_more_room(server: Server, answer: Reply) -> None:
    server.queue.append(answer)
    assert insist(chat_with(server), QUESTION, number, Asking(max_tokens=30)) == 41
    (turn,) = server.asked[1].body["messages"]
    assert turn["role"] == "user" and ("empty" in server.asked[1].last) == (not answer.text.strip())
    assert server.asked[1].body["max_tokens"] == (60 if answer.text.strip() else 30)


def test_attempts_end_and_the_last_problem_is_told(server: Server) -> None:
    server.queue.extend([Reply("many"), Reply("few")])
    with pytest.raises(BadAnswer, match="no usable answer in 2 attempts; the last: it is no number"):
        insist(chat_with(server), QUESTION, number, Asking(attempts=2))
    assert len(server.asked) == 2


def test_a_server_that_fails_is_no_bad_answer(server: Server) -> None:
    server.queue.extend([Reply("oh", 500)] * 2)
    with pytest.raises(ChatError):
        insist(chat_with(server), QUESTION, number, Asking())


@pytest.mark.parametrize(
    "text",
    [
        '{"a": {"b": 1}}',
        '```json\n{"a": {"b": 1}}\n```',
        'Here it is: {"a": {"b": 1}} as you asked.',
        '<think>perhaps {"a": 2}?</think>\n{"a": {"b": 1}}',
        'Set {braces} aside. {"a": {"b": 1}}',
    ],
)
def test_json_is_found_in_what_stands_around_it(text: str) -> None:
    assert find_json(text) == {"a": {"b": 1}}


@pytest.mark.parametrize(
    "text",
    [
        '{"a": {"b": "one\n two",},}',
        '{"a": {"b": "one\\n two" /}}',
        "{'a': {'b': 'one\n two'}}",
        "```json\n{a: {b: 'one\n two'}}\n```",
        '{"a": {"b": "an example"}}\nNow the answer: {"a": {"b": "one\n two"},}',
        '{"b": {"a": 1}} {"a": {"b": "one\n two"}} {"confidence": 1}',
        'Set {braces} and { aside. {"a": {"b": "one\n two"}} {done}',
    ],
)
def test_what_models_get_wrong_in_json_is_put_right(text: str) -> None:
    found = find_json(text, ("a",))
    assert {name: " ".join(value.split()) for name, value in found["a"].items()} == {"b": "one two"}


@pytest.mark.parametrize("end", ["}", "},", "\n}\n"])
def test_quotes_that_need_no_escape_may_have_one(end: str) -> None:
    assert find_json('{"a": "it\\\'s a \\"kite\\"", "b": ["x", "y",]' + end) == {"a": 'it\'s a "kite"', "b": ["x", "y"]}


@pytest.mark.parametrize(
    "text", ["", "no", '{"a": ', '{"a": {"b": "one"}', "[1, 2]", '{"a": "b" "c"}', '{"a": "b", "dense": "cut in the m']
)
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(BadAnswer, match="no complete JSON object"):
        find_json(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (3, "is not text"),
        (None, "is not text"),
        ("", "is empty"),
        ("N/A.", "is empty"),
        ("In the first frame a dog sits.", "speaks of 'first frame'"),
        ("Frame 3 shows a dog.", "speaks of 'Frame 3'"),
        ("A sequence of images of a dog.", "speaks of 'sequence of images'"),
        ("I'm sorry, but I cannot help.", 'says "I\'m sorry"'),
        ("A dog sits on the grass and looks. " + "the dog is on the grass and " * 5, "goes round in circles"),
    ],
)
def test_text_that_says_nothing_of_the_video_is_refused(text: object, problem: str) -> None:
    with pytest.raises(BadAnswer, match=problem):
        check_text("dense", text)


@pytest.mark.parametrize(
    "text",
    [
        "Several pictures hang on the wall in golden frames.",
        "A sign reads: I can't swim.",
        "A dog, a dog, a dog and a dog sit in a row.",
        "一只红色的风筝在海上飞翔。",
    ],
)
def test_text_about_the_video_passes_as_it_is(text: str) -> None:
    assert check_text("dense", text.replace(" ", " \n ")) == text


def test_chinese_signs_count_as_words() -> None:
    assert count_words("一只 red 风筝。") == 6
