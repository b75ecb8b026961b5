"""Captions in plain sentences, of pictures, of videos, or of other captions, and how two systems mix and make them.

    SVD:   middle frame ── tell_picture ──┐
           clip ───────── tell_video ─────┴─ merge ──> Mixture, of which training draws 0.5 / 0.25 / 0.25
    STIV:  clip ───────── tell_video ───────────────> "direct"
           each frame ─── tell_picture ─── join ─────> "by frames"; hallucination.py says which of them is truer

Sources: Stable Video Diffusion (Blattmann et al. 2023, section 3.1 and appendix C), with CoCa, V-BLIP and an LLM where
any models stand here; STIV (Lin et al. 2024), "VCap" and "FCapLLM". The words of the questions are our own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mutoscope.core.chat import Chat, Message
from mutoscope.curate.ask import RULES, Asking, BadAnswer, check_text, count_words, insist
from mutoscope.curate.caption import chance
from mutoscope.curate.ledger import Ledger, Tally, work_through
from mutoscope.curate.view import View, introduce

LONGEST = 200  # words
MERGE = (
    "Two captions of the same video follow: one of its middle picture, one of the whole. Merge them into one caption "
    "of one or two sentences that says what both say, without adding anything. Answer with the caption alone.\n"
)
JOIN = (
    "Captions of moments of one video follow, in order of time. Write from them one caption of the video in two to "
    "five sentences: who or what is seen, where, and what happens in what order. Name what stays the same once. Add "
    "nothing, and do not speak of frames or images. Answer with the caption alone.\n"
)


def read_telling(text: str) -> str:
    """Make plain text of an answer.

    Raises:
        BadAnswer: it is empty, marked up, too long, or speaks of frames instead of the video.
    """
    text = text.rpartition("</think>")[2].strip().strip('"').strip()
    if text[:1] in tuple("{[`#"):
        raise BadAnswer("plain sentences are wanted, without any marks")
    telling = check_text("the caption", text)
    if count_words(telling) > LONGEST:
        raise BadAnswer(f"it has {count_words(telling)} words, {LONGEST} are the most")
    return telling


def tell_picture(chat: Chat, view: View, picture: bytes, asking: Asking = Asking()) -> str:
    """Say in a sentence what one picture shows.

    Raises:
        BadAnswer: no answer could be used.
        ChatError: there was no answer.
    """
    one = replace(view, pictures=lambda _: (picture,))
    return _told(chat, one, f"Say in one sentence in {asking.language} what it shows.", asking)


def tell_video(chat: Chat, view: View, asking: Asking = Asking()) -> str:
    """Say in a few sentences what a clip shows and what happens; raises as `tell_picture` does, and MediaError."""
    wanted = f"Say in one to five sentences in {asking.language} what is seen and what happens, in order."
    return _told(chat, view, wanted, asking)


def merge(llm: Chat, image: str, video: str, asking: Asking = Asking()) -> str:
    """Merge the caption of a middle frame and that of the clip; raises as `tell_picture` does."""
    return insist(llm, Message(f"{MERGE}Of the picture: {image}\nOf the video: {video}"), read_telling, asking)


def join(llm: Chat, moments: Sequence[str], asking: Asking = Asking()) -> str:
    """Make one caption of those of several frames; raises as `tell_picture` does."""
    lines = "\n".join(f"{number}. {moment}" for number, moment in enumerate(moments, 1))
    return insist(llm, Message(JOIN + lines), read_telling, asking)


def tell_by_frames(vlm: Chat, llm: Chat, view: View, asking: Asking = Asking()) -> str:
    """Caption each frame alone, and have the captions summarised; raises as `tell_video` does."""
    return join(llm, [tell_picture(vlm, view, picture, asking) for picture in view.pictures(asking.num_frames)], asking)


def _told(chat: Chat, view: View, wanted: str, asking: Asking) -> str:
    opening, pictures = introduce(view, asking.num_frames)
    return insist(chat, Message(f"{opening} {wanted} {RULES}", pictures), read_telling, asking)


# ---- Stable Video Diffusion's mixture --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mixture:
    """Three captions of one clip."""

    image: str
    video: str
    merged: str


SHARES = (0.5, 0.25, 0.25)  # of image, video, merged; the order is that of the appendix's list


def mix(image_chat: Chat, video_chat: Chat, llm: Chat, view: View, asking: Asking = Asking()) -> Mixture:
    """Caption a clip three times: its middle frame, itself, and both merged. Of a photo all three are the same.

    Raises:
        BadAnswer: no answer could be used.
        ChatError: there was no answer.
        MediaError: the frames cannot be read.
    """
    image = tell_picture(image_chat, view, view.pictures(1)[0], asking)
    if view.duration_s == 0:
        return Mixture(image, image, image)
    video = tell_video(video_chat, view, asking)
    return Mixture(image, video, merge(llm, image, video, asking))


def mix_clips(
    views: Iterable[View], image_chat: Chat, video_chat: Chat, llm: Chat, ledger: Ledger, asking: Asking = Asking()
) -> Tally:
    """Caption many clips three times; see `work_through`."""
    chats = {"image": image_chat, "video": video_chat, "llm": llm}
    means = means_of_mixture(asking) | {name: chat.name for name, chat in chats.items()}
    at_once, tries = max(chat.at_once for chat in chats.values()), {"attempts": asking.attempts}
    return work_through(
        views, lambda view: asdict(mix(image_chat, video_chat, llm, view, asking)), ledger, means, at_once, tries
    )


def means_of_mixture(asking: Asking) -> dict[str, Any]:
    """Return what a mixture depends on besides the clip and the models, ready for JSON."""
    return {"what": "mixture", "rules": RULES, "merge": MERGE, **asking.means()}


def draw_caption(mixture: Mixture, clip: str, seed: int, draw: int = 0) -> str:
    """Draw the caption that a clip is trained with this time, from its id, the seed and the number of the draw."""
    at = chance(clip, seed, draw, "mixture")
    if at < SHARES[0]:
        return mixture.image
    return mixture.video if at < SHARES[0] + SHARES[1] else mixture.merged
