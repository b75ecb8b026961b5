"""Count what captions speak of and videos do not show: DSG-Video of STIV (Lin et al. 2024).

    caption ── an LLM ──> objects, each with a question and the sentences that name it
    question + one frame ── a VLM ──> yes or no, frame after frame until the first yes
    no frame shows it ──> the object is hallucinated

    DSG-Video_i = hallucinated objects / objects
    DSG-Video_s = sentences that name a hallucinated object / sentences

Our reading: a sentence is one of a caption's sentences, whether it names an object or not, as in CHAIR (Rohrbach et al.
2018), which both rates resemble. The paper's two values, 24.0 and 15.0 over 100 captions, would also fit whole captions
with at least one hallucinated object; that share is `Rates.caption_rate`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mutoscope.core.chat import Chat, Message, Schema
from mutoscope.curate.ask import Asking, BadAnswer, find_json, insist
from mutoscope.curate.ledger import Ledger, Tally, read_results, work_through
from mutoscope.curate.telling import tell_by_frames, tell_video
from mutoscope.curate.view import View

QUESTIONS = (
    "The numbered sentences below describe a video. List every person, animal and thing that they say can be seen, "
    "each once, in the words of the sentences; leave out what is only compared to or denied, and leave out qualities, "
    "actions, light and mood. For each, write a question about a picture that is answered with yes if it is there, and "
    "give the numbers of all sentences that speak of it.\n"
    'Answer with one JSON object such as {"objects": [{"object": "dog", "question": "Is there a dog?", '
    '"sentences": [1, 3]}]} and nothing else.\n'
)
PRESENCE = 'Look at the picture. {question} Answer with one word, "yes" or "no".'
OBJECT: Schema = {
    "type": "object",
    "properties": {
        "object": {"type": "string"},
        "question": {"type": "string"},
        "sentences": {"type": "array", "items": {"type": "integer"}, "minItems": 1},
    },
    "required": ["object", "question", "sentences"],
    "additionalProperties": False,
}
OBJECTS: Schema = {
    "type": "object",
    "properties": {"objects": {"type": "array", "items": OBJECT}},
    "required": ["objects"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Claim:
    """A thing that a caption says is there; `sentences` that name it are counted from 0."""

    object: str
    question: str
    sentences: tuple[int, ...]


@dataclass(frozen=True)
class Verdict:
    """Whether any frame shows a thing."""

    object: str
    sentences: tuple[int, ...]
    is_seen: bool


@dataclass(frozen=True)
class Checked:
    """A caption with the verdicts on all it claims."""

    caption: str
    num_sentences: int
    verdicts: tuple[Verdict, ...]

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> "Checked":
        """Read one back from a ledger."""
        verdicts = tuple(Verdict(v["object"], tuple(v["sentences"]), v["is_seen"]) for v in row["verdicts"])
        return cls(row["caption"], row["num_sentences"], verdicts)


@dataclass(frozen=True)
class Rates:
    """How much of many captions is hallucinated: counts, and shares of them, 0 where there is nothing to share."""

    captions: int
    objects: int
    sentences: int
    bad_captions: int
    bad_objects: int
    bad_sentences: int

    @property
    def object_rate(self) -> float:
        """DSG-Video_i, 0 to 1."""
        return self.bad_objects / max(1, self.objects)

    @property
    def sentence_rate(self) -> float:
        """DSG-Video_s, 0 to 1."""
        return self.bad_sentences / max(1, self.sentences)

    @property
    def caption_rate(self) -> float:
        """Share of captions that name at least one hallucinated object, 0 to 1."""
        return self.bad_captions / max(1, self.captions)


def rates(checked: Iterable[Checked]) -> Rates:
    """Count over many captions; an object in several sentences is one object, and makes each of them bad."""
    counts = [0] * 6
    for caption in checked:
        bad = [verdict for verdict in caption.verdicts if not verdict.is_seen]
        bad_sentences = {at for verdict in bad for at in verdict.sentences}
        here = (1, len(caption.verdicts), caption.num_sentences, bool(bad), len(bad), len(bad_sentences))
        counts = [total + one for total, one in zip(counts, here, strict=True)]
    return Rates(*counts)


def split_sentences(text: str) -> list[str]:
    """Split text where a sentence ends and another begins."""
    return [part.strip() for part in re.split(r"(?<=[.!?])\s+|(?<=[。！？])", text) if part.strip()]


def claims(llm: Chat, caption: str, asking: Asking = Asking()) -> tuple[Claim, ...]:
    """Have a language model list what a caption says is there.

    Raises:
        BadAnswer: no answer could be used.
        ChatError: there was no answer.
    """
    sentences = split_sentences(caption)
    numbered = "\n".join(f"{number}. {sentence}" for number, sentence in enumerate(sentences, 1))
    return insist(llm, Message(QUESTIONS + numbered), lambda text: read_claims(text, sentences), asking, OBJECTS)


def read_claims(text: str, sentences: Sequence[str]) -> tuple[Claim, ...]:
    """Make claims of an answer; an object that is listed twice is one.

    Raises:
        BadAnswer: it is not in form, or lists a thing or a sentence that the caption does not have.
    """
    found = find_json(text, ("objects",)).get("objects")
    if not isinstance(found, list):
        raise BadAnswer('"objects" is no list')
    merged: dict[str, Claim] = {}
    for entry in found:
        match entry:
            case {"object": str(name), "question": str(question), "sentences": [*numbers]} if name and numbers:
                pass
            case _:
                raise BadAnswer(f"{str(entry)[:60]} lacks an object, a question or sentences")
        if not all(type(number) is int and 1 <= number <= len(sentences) for number in numbers):
            raise BadAnswer(f"{name!r} is said to be in sentences {numbers}, and there are {len(sentences)}")
        if not question.rstrip().endswith(("?", "？")):
            raise BadAnswer(f"{question[:60]!r} is no question")
        if not _is_named(name, " ".join(sentences)):  # else the model that asks would hallucinate for the caption
            raise BadAnswer(f"{name!r} is not in the sentences")
        key = name.casefold().strip()
        places = {number - 1 for number in numbers}
        first = merged.get(key, Claim(name.strip(), question.strip(), ()))
        merged[key] = replace(first, sentences=tuple(sorted(places | set(first.sentences))))
    return tuple(merged.values())


def _is_named(name: str, text: str) -> bool:
    """Say whether a word of the name, but for its ending, is in the text."""
    words = [word for word in re.findall(r"\w+", name.casefold()) if len(word) > 2] or [name.casefold()]
    return any(word[: max(3, len(word) - 3)] in text.casefold() for word in words)


def is_seen(vlm: Chat, claim: Claim, pictures: Iterable[bytes], asking: Asking = Asking()) -> bool:
    """Ask of one picture after another whether a thing is in it, until one shows it.

    Raises:
        BadAnswer: an answer is neither yes nor no.
        ChatError: there was no answer.
    """
    text = PRESENCE.format(question=claim.question)
    return any(insist(vlm, Message(text, (picture,)), _yes_or_no, asking) for picture in pictures)


def _yes_or_no(text: str) -> bool:
    word = re.match(r"\W*(yes|no)\b", text.rpartition("</think>")[2], re.IGNORECASE)
    if word is None:
        raise BadAnswer('it begins neither with "yes" nor with "no"')
    return word[1].casefold() == "yes"


def check(llm: Chat, vlm: Chat, view: View, caption: str, asking: Asking = Asking()) -> Checked:
    """Check a caption of a clip against `asking.num_frames` of its frames.

    Raises:
        BadAnswer: an answer could not be used.
        ChatError: there was no answer.
        MediaError: the frames cannot be read.
    """
    found = claims(llm, caption, asking)
    pictures = view.pictures(asking.num_frames) if found else ()
    verdicts = (Verdict(claim.object, claim.sentences, is_seen(vlm, claim, pictures, asking)) for claim in found)
    return Checked(caption, len(split_sentences(caption)), tuple(verdicts))


def compare_clips(
    views: Iterable[View], captioner: Chat, llm: Chat, judge: Chat, ledger: Ledger, asking: Asking = Asking()
) -> Tally:
    """Caption many clips directly and by frames, and check both; see `work_through` and `read_comparison`.

    Args:
        views: clips.
        captioner: the model that captions.
        llm: summarises captions of frames, and lists what captions claim.
        judge: looks for it; better not the captioner, which would agree with itself.
        ledger: where results go.
        asking: how often, how many frames.
    """

    def work(view: View) -> dict[str, Any]:
        told = {
            "direct": tell_video(captioner, view, asking),
            "by_frames": tell_by_frames(captioner, llm, view, asking),
        }
        return {way: asdict(check(llm, judge, view, caption, asking)) for way, caption in told.items()}

    means = {"what": "comparison", "captioner": captioner.name, "llm": llm.name, "judge": judge.name}
    means |= means_of_check(asking)
    at_once, tries = max(chat.at_once for chat in (captioner, llm, judge)), {"attempts": asking.attempts}
    return work_through(views, work, ledger, means, at_once, tries)


def means_of_check(asking: Asking) -> dict[str, Any]:
    """Return what a check depends on besides the clip, the caption and the models, ready for JSON."""
    return {"questions": QUESTIONS, "presence": PRESENCE, **asking.means()}


def read_comparison(path: str | Path, settings: str | None = None) -> dict[str, Rates]:
    """Return the rates of direct captions and of those by frames, over the clips of a ledger."""
    rows = [row for _, row in read_results(path, settings)]
    return {way: rates(Checked.from_dict(row[way]) for row in rows) for way in ("direct", "by_frames")}
