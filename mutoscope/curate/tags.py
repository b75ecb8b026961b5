"""Tags of content, counted from captions, so that it can be seen what a data set is made of.

    descriptions and captions of a clip ── which classes do their words name? ──> tags: ["person", "water"]

The card counts tags as it counts camera moves. Where there are no captions, `scorers.clip.Concepts` chooses among
classes by what is seen.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from mutoscope.core.errors import RecipeError
from mutoscope.curate.describe import DESCRIPTIONS
from mutoscope.curate.stage import CAPTIONS, SetView, replace_columns

TAGS = pa.field("tags", pa.list_(pa.string()))
WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Tag:
    """A class of content.

    Args:
        name: of the tag.
        words: that name it, or phrases; the name itself if none are given. Upper and lower case are the same, and a
            plural in s counts too.
    """

    name: str
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tags:
    """The stage over the set that adds the column ``tags``; to stand after the one that captions.

    Args:
        classes: tags that a clip can have, none of them, or several.
        parts: of descriptions that count, such as ``short`` or ``background``; all if none are named.
    """

    classes: tuple[Tag, ...]
    parts: tuple[str, ...] = ()
    name: str = "tags"
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        names = [one.name for one in self.classes]
        if not names or len(set(names)) < len(names):
            raise RecipeError(f"Stage {self.name} has the tags {', '.join(names) or 'none'}. Give some, each once.")

    def run(self, clips: pa.Table, view: SetView) -> pa.Table:
        """Tag the clips that have captions; others get null.

        Raises:
            RecipeError: no stage before this one captions.
        """
        columns = [name for name in (DESCRIPTIONS.name, CAPTIONS.name) if name in clips.column_names]
        if not columns:
            raise RecipeError(
                f"Stage {self.name} reads captions, which no stage before it makes. Put Captions() there."
            )
        rows = clips.select([*columns, "dropped_by"]).to_pylist()
        told = [None if row["dropped_by"] else tuple(_texts(row, self.parts)) for row in rows]
        found = [tagged(texts, self.classes) if texts else None for texts in told]
        return replace_columns(clips, {TAGS.name: pa.array(found, TAGS.type)})


def tagged(texts: Iterable[str], classes: Iterable[Tag]) -> list[str]:
    """Return the names of the classes that texts speak of, in the order of the classes."""
    said = [f" {' '.join(WORD.findall(text.lower()))} " for text in texts]
    return [
        one.name
        for one in classes
        if any(
            _phrase(word, ending) in text for word in one.words or (one.name,) for ending in ("", "s") for text in said
        )
    ]


def _phrase(word: str, ending: str) -> str:
    return f" {' '.join(WORD.findall(word.lower()))}{ending} "


def _texts(row: dict[str, Any], parts: tuple[str, ...]) -> Iterable[str]:
    """Yield what was said of a clip: the parts of its descriptions that count or, where it has none, its captions."""
    described = row.get(DESCRIPTIONS.name) or ()
    for description in described:
        yield from (
            text for part, text in description.items() if text and part != "language" and part in (parts or (part,))
        )
    if not described:
        yield from (caption["text"] for caption in row.get(CAPTIONS.name) or ())
