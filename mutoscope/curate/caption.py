"""Describe clips in parts, with a model that is shown a few of their frames, and compose captions of the parts.

    View ── describe ──> Description: short, dense, background, style, shot, lighting, atmosphere, camera
    views ── caption_clips ──> Ledger
    Description ── compose ──> the text of a training sample, another one for each draw

Fields and composition are HunyuanVideo's (Kong et al. 2024, section 3.2); the words of the questions are our own.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from mutoscope.core.chat import Chat, Message, Schema
from mutoscope.curate.ask import RULES, Asking, BadAnswer, check_text, count_words, find_json, insist
from mutoscope.curate.ledger import Ledger, Tally, work_through
from mutoscope.curate.view import View, introduce
from mutoscope.data.schema import Caption

# HunyuanVideo's fourteen
Camera = Literal[
    "zoom in",
    "zoom out",
    "pan up",
    "pan down",
    "pan left",
    "pan right",
    "tilt up",
    "tilt down",
    "tilt left",
    "tilt right",
    "around left",
    "around right",
    "static",
    "handheld",
]
CAMERAS: tuple[Camera, ...] = get_args(Camera)

Language = Literal["en", "zh"]  # two letters, as in `Caption`
SPOKEN: Mapping[Language, str] = {"en": "English", "zh": "Chinese"}

ENGLISH: Mapping[Camera, str] = {
    "zoom in": "the camera zooms in",
    "zoom out": "the camera zooms out",
    "pan up": "the camera pans up",
    "pan down": "the camera pans down",
    "pan left": "the camera pans left",
    "pan right": "the camera pans right",
    "tilt up": "the camera tilts up",
    "tilt down": "the camera tilts down",
    "tilt left": "the camera tilts to the left",
    "tilt right": "the camera tilts to the right",
    "around left": "the camera moves around to the left",
    "around right": "the camera moves around to the right",
    "static": "the camera does not move",
    "handheld": "the camera is held in the hand",
}
CHINESE: Mapping[Camera, str] = {
    "zoom in": "镜头推近",
    "zoom out": "镜头拉远",
    "pan up": "镜头向上平移",
    "pan down": "镜头向下平移",
    "pan left": "镜头向左平移",
    "pan right": "镜头向右平移",
    "tilt up": "镜头上摇",
    "tilt down": "镜头下摇",
    "tilt left": "镜头左摇",
    "tilt right": "镜头右摇",
    "around left": "镜头向左环绕",
    "around right": "镜头向右环绕",
    "static": "镜头静止不动",
    "handheld": "手持拍摄",
}
MOVES: Mapping[Language, Mapping[Camera, str]] = {"en": ENGLISH, "zh": CHINESE}
OTHERS = ("background", "style", "shot", "lighting", "atmosphere", "camera")
LONGEST_SHORT = 50  # words
SHORTEST_DENSE = 12  # words; less describes no video


@dataclass(frozen=True)
class Description:
    """What is to be said of a clip, in parts; each but `camera` is free text."""

    short: str
    dense: str
    background: str
    style: str
    shot: str
    lighting: str
    atmosphere: str
    camera: Camera


FIELDS: Mapping[str, str] = {
    "short": f"one sentence: who or what is seen, and what it does; at most {LONGEST_SHORT - 15} words",
    "dense": "three to six sentences: all that is seen, where it is, how it looks, and what happens from beginning to "
    "end, in order, with the movements of things and of the camera",
    "background": "the place and what stands behind the main subject",
    "style": "the kind of video, such as documentary, home video, animation, screen recording",
    "shot": "size and angle of the shot, such as close-up, medium shot, aerial view, low angle",
    "lighting": "where the light comes from, how hard it is, and its colour",
    "atmosphere": "the mood, in a few words",
    "camera": f"how the camera moves for the most part, one of: {', '.join(CAMERAS)}",
}
SCHEMA: Schema = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in FIELDS} | {"camera": {"type": "string", "enum": list(CAMERAS)}},
    "required": list(FIELDS),
    "additionalProperties": False,
}


def read_description(text: str) -> Description:
    """Make a description of an answer, fields that were not asked for left out.

    Raises:
        BadAnswer: a field is missing, empty, no text, too long or too short, or speaks of frames instead of the video.
    """
    found = find_json(text, FIELDS)
    missing = [name for name in FIELDS if name not in found]
    if missing:
        raise BadAnswer(f"the fields {', '.join(missing)} are missing")
    values = {name: check_text(name, found[name]) for name in FIELDS}
    camera = re.sub(r"[\s_-]+", " ", values["camera"].casefold()).rstrip(".")
    if camera not in CAMERAS:
        raise BadAnswer(f"camera is {values['camera'][:40]!r} and not one of {', '.join(CAMERAS)}")
    short, dense = (count_words(values[name]) for name in ("short", "dense"))
    if short > LONGEST_SHORT:
        raise BadAnswer(f"short has {short} words, {LONGEST_SHORT} are the most")
    if dense < max(SHORTEST_DENSE, short):
        raise BadAnswer(f"dense has {dense} words, {max(SHORTEST_DENSE, short)} are the least")
    return Description(**{**values, "camera": camera})  # pyright: ignore[reportArgumentType]  # it is one of them


def describe(chat: Chat, view: View, settings: Asking = Asking()) -> Description:
    """Describe a clip in parts.

    Raises:
        BadAnswer: no answer could be used.
        ChatError: there was no answer.
        MediaError: the frames cannot be read.
    """
    opening, pictures = introduce(view, settings.num_frames)
    wanted = "\n".join(f'"{name}": {what}' for name, what in FIELDS.items())
    text = (
        f"{opening} Describe it in {settings.language}. {RULES}\n"
        f"Answer with one JSON object and nothing else, all values text:\n{wanted}"
    )
    return insist(chat, Message(text, pictures), read_description, settings, SCHEMA)


def caption_clips(views: Iterable[View], chat: Chat, ledger: Ledger, settings: Asking = Asking()) -> Tally:
    """Describe many clips in parts; see `work_through`."""
    means = {"model": chat.name, **means_of_description(settings)}
    tries = {"attempts": settings.attempts}
    return work_through(views, lambda view: asdict(describe(chat, view, settings)), ledger, means, chat.at_once, tries)


def means_of_description(settings: Asking) -> dict[str, Any]:
    """Return what a description depends on besides the clip and the model, ready for JSON."""
    return {"what": "description", "fields": FIELDS, "rules": RULES, **settings.means()}


# ---- the text of a training sample -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Composition:
    """How descriptions become text.

    Args:
        dense_share: how often the dense description is taken, and not the short one.
        keep: how likely each of the other fields is to be kept.
        shuffle: put the parts in any order; else as in `Description`.
    """

    dense_share: float = 0.7
    keep: float = 0.5
    shuffle: bool = True


def compose(
    description: Description,
    clip: str,
    seed: int,
    draw: int = 0,
    composition: Composition = Composition(),
    language: Language = "en",
) -> str:
    """Compose a text of some fields, as HunyuanVideo does, so that captions of many lengths are trained on.

    Args:
        description: of the clip.
        clip: its id; the text follows from it, `seed` and `draw`, and from nothing else.
        seed: of the data set.
        draw: which text of this clip.
        composition: how likely what is.
        language: of the description.
    """
    chances = {name: chance(clip, seed, draw, name) for name in ("dense", *OTHERS)}
    parts = {"dense": description.dense if chances["dense"] < composition.dense_share else description.short}
    parts |= {name: getattr(description, name) for name in OTHERS if chances[name] < composition.keep}
    if "camera" in parts:
        parts["camera"] = MOVES[language][description.camera]
    order = sorted(parts, key=lambda name: chance(clip, seed, draw, f"place of {name}"))
    gap = " " if language == "en" else ""
    return gap.join(sentence(parts[name], language) for name in (order if composition.shuffle else parts))


def chance(clip: str, seed: int, draw: int, what: str) -> float:
    """Draw a number from 0 to 1 that follows from these alone; without torch, which takes long to import."""
    digest = hashlib.sha256(repr((clip, seed, draw, what)).encode()).digest()
    return int.from_bytes(digest[:6], "little") / 2**48


def sentence(text: str, language: Language = "en") -> str:
    """Give text a capital at the beginning and a stop at the end."""
    text, stop = text.strip(), "." if language == "en" else "。"
    return text[:1].upper() + text[1:] + ("" if text[-1:] in ".!?…。！？" else stop)


def captions(
    description: Description,
    clip: str,
    seed: int,
    texts: int = 4,
    composition: Composition = Composition(),
    language: Language = "en",
) -> tuple[Caption, ...]:
    """Return the captions of a clip's record: the short one, the dense one, and some composed ones.

    Args:
        description: of the clip.
        clip: its id.
        seed: of the data set.
        texts: how many are composed; what comes out twice is kept once.
        composition: how.
        language: of the description.
    """
    composed = dict.fromkeys(compose(description, clip, seed, draw, composition, language) for draw in range(texts))
    short, dense = sentence(description.short, language), sentence(description.dense, language)
    return (
        Caption(short, language, "short"),
        Caption(dense, language, "dense"),
        *(Caption(text, language, "dense") for text in composed if text not in (short, dense)),
    )
