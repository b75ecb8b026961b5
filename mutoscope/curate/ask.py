"""Ask language models, and take no answer before it is checked.

    Message ── insist(read) ──> what `read` makes of the answer, or BadAnswer

What is wrong with an answer (JSON that lacks a field, an answer that is empty, cut short, or going round in circles) is
named to the model, which tries again; when it has had its attempts, the clip is a drop with a reason.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import json_repair

from mutoscope.core.chat import Answer, Chat, Message, Schema
from mutoscope.core.errors import MutoscopeError

T = TypeVar("T")

RULES = (
    "Write as one who watched it, in the present tense. Say only what can be seen; where something cannot be made out, "
    "leave it out. Never speak of frames, images or a sequence, and do not guess names, brands or places. Read text "
    "out only where it can be read with certainty."
)

ROUND = 6, 4  # so many words that come so often mean that a model goes round in circles
NOTHING = ("n/a", "none", "unknown", "null", "string", "..", "")
ABOUT_FRAMES = re.compile(
    r"\b((first|second|third|fourth|last|final|next|initial|each|subsequent) (frames?|images?)"
    r"|(frames?|images?) ?#?\d+|(series|sequence|set|collage) of (frames|images|stills))\b",
    re.IGNORECASE,
)
EXCUSE = re.compile(r"^(as an ai|i'm sorry|i am sorry|sorry,|i cannot|i can't|i'm unable|i am unable)\b", re.IGNORECASE)
OBJECT = re.compile(r"\{\s*[\"']")
BRACE, UNICODE, ESCAPED = re.compile("[{}]"), re.compile(r"\\u([0-9a-fA-F]{4})"), re.compile(r"\\.")
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+")  # a Chinese sign counts as one


class BadAnswer(MutoscopeError):
    """An answer that cannot be used; it says what is wrong with it, so that it can be put right."""


@dataclass(frozen=True)
class Asking:
    """How a model is asked about clips.

    Args:
        num_frames: frames that the model is shown, evenly spread.
        attempts: how often it may try, at most.
        max_tokens: where its answer is cut off; twice as many after an answer that was.
        language: that it writes in.
    """

    num_frames: int = 8
    attempts: int = 3
    max_tokens: int = 1024
    language: str = "English"

    def means(self) -> dict[str, Any]:
        """Return what an answer depends on, ready for JSON; after how many attempts it came is not among it."""
        return {name: value for name, value in asdict(self).items() if name != "attempts"}


def insist(chat: Chat, message: Message, read: Callable[[str], T], settings: Asking, schema: Schema | None = None) -> T:
    """Ask, check the answer, and ask again with what was wrong with it.

    Args:
        chat: the model.
        message: what to ask.
        read: makes of the text what is wanted, or raises `BadAnswer`.
        settings: how often, and for how many tokens.
        schema: that the answer should obey, where the model can be held to it.

    Raises:
        BadAnswer: the last answer was no better.
        ChatError: there was no answer.
    """
    conversation, max_tokens, attempt = [message], settings.max_tokens, 0
    while True:
        attempt += 1
        answer = chat.ask(conversation, schema, max_tokens)
        try:
            _check_whole(answer, max_tokens)
            return read(answer.text)
        except BadAnswer as problem:
            if attempt >= settings.attempts:
                raise BadAnswer(f"no usable answer in {attempt} attempts; the last: {problem}") from None
            complaint = f"An answer could not be used: {problem}. Answer anew, in full, in the form that was asked for."
            if answer.is_whole and answer.text.strip():
                conversation = [message, Message(answer.text, role="assistant"), Message(complaint)]
            else:  # none, or one that goes on for ever, would lead astray
                conversation = [Message(f"{message.text}\n\n{complaint}", message.pictures)]
            max_tokens = max_tokens if answer.is_whole else 2 * settings.max_tokens


def _check_whole(answer: Answer, max_tokens: int) -> None:
    if not answer.text.strip():
        raise BadAnswer("the answer was empty")
    if not answer.is_whole:
        raise BadAnswer(f"the answer was cut off after {max_tokens} tokens, be briefer")


def find_json(text: str, fields: Iterable[str] = ()) -> Mapping[str, Any]:
    """Find the object in an answer, which may think aloud before it, show an example, or stand in a fence.

    What models get wrong in JSON (line feeds inside text, commas at the end, quotes of another kind) is put right, as
    long as no letter of the answer is lost by it.

    Args:
        text: the answer.
        fields: that the object should have; of several objects the one with most of them is taken, the last of equals.

    Raises:
        BadAnswer: there is none.
    """
    text, wanted = text.rpartition("</think>")[2], set(fields)
    best: tuple[tuple[int, bool], Mapping[str, Any]] | None = None
    for found, is_repaired in _objects(text):
        has = len(wanted & found.keys())
        merit = has, has > 0 or not is_repaired
        if best is None or merit >= best[0]:
            best = merit, found
    if best is None:
        raise BadAnswer("it holds no complete JSON object")
    return best[1]


def _objects(text: str) -> Iterator[tuple[dict[str, Any], bool]]:
    """Yield the objects of a text that lie in no other, and whether each had to be repaired."""
    decoder, start = json.JSONDecoder(strict=False), text.find("{")
    while start >= 0:
        end = start + 1
        try:
            found, end = decoder.raw_decode(text, start)
            yield found, False
        except (ValueError, RecursionError):
            whole = _balanced(text, start)
            if not whole and OBJECT.match(text, start):  # cut short: what lies in it is no answer
                return
            repaired = json_repair.loads(whole, skip_json_loads=True) if whole else None
            if isinstance(repaired, dict) and _letters(whole) == _letters(" ".join(_leaves(repaired))):
                yield repaired, True
                end = start + len(whole)
        start = text.find("{", end)


def _balanced(text: str, start: int) -> str:
    """Return the text from a brace to the one that closes it, "" where none does: the answer is cut short."""
    depth = 0
    for brace in BRACE.finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[start : brace.end()]
    return ""


def _letters(text: str) -> str:
    """Return the letters and digits of JSON or of what was read from it."""
    text = UNICODE.sub(lambda code: chr(int(code[1], 16)), text)
    return "".join(filter(str.isalnum, ESCAPED.sub(" ", text).casefold()))


def _leaves(value: object) -> Iterator[str]:
    """Yield the names and values of an object, in order."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield from (str(name), *_leaves(one))
    elif isinstance(value, list):
        for one in value:
            yield from _leaves(one)
    else:
        yield "null" if value is None else str(value)


def check_text(name: str, value: Any) -> str:
    """Return text with single spaces.

    Args:
        name: what it is, for the complaint.
        value: what the model gave.

    Raises:
        BadAnswer: it is no text, says nothing, speaks of frames or of the model itself, or goes round in circles.
    """
    if not isinstance(value, str):
        raise BadAnswer(f"{name} is not text")
    text = " ".join(value.split())
    if text.casefold().rstrip(".") in NOTHING:
        raise BadAnswer(f"{name} is empty")
    if about := ABOUT_FRAMES.search(text):
        raise BadAnswer(f"{name} speaks of {about[0]!r} and not of the video")
    if excuse := EXCUSE.match(text):
        raise BadAnswer(f"{name} says {excuse[0]!r} instead of what is seen")
    words, (length, often) = WORD.findall(text.casefold()), ROUND
    runs = Counter(tuple(words[at : at + length]) for at in range(len(words) - length + 1))
    if runs and max(runs.values()) >= often:
        raise BadAnswer(f"{name} goes round in circles")
    return text


def count_words(text: str) -> int:
    """Count words; each sign of Chinese as one."""
    return len(WORD.findall(text))
