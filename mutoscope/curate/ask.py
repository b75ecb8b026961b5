"""Ask language models, and take no answer before it is checked.

    Message ── insist(read) ──> what `read` makes of the answer, or BadAnswer

What is wrong with an answer (JSON that lacks a field, an answer that is empty, cut short, or going round in circles) is
named to the model, which tries again; when it has had its attempts, the clip is a drop with a reason.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

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


def find_json(text: str) -> Mapping[str, Any]:
    """Find the object in an answer, which may think aloud before it, or stand in a fence.

    Raises:
        BadAnswer: there is none.
    """
    text = text.rpartition("</think>")[2]
    decoder, start = json.JSONDecoder(), text.find("{")
    while start >= 0:
        try:
            found, _ = decoder.raw_decode(text, start)
        except ValueError:
            start = text.find("{", start + 1)
        else:
            return found
    raise BadAnswer("it holds no complete JSON object")


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
