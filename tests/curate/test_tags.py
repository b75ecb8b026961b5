"""Tags are the classes whose words captions say."""

from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="needs the extra curate")

import pyarrow as pa

from mutoscope.core import config
from mutoscope.core.errors import RecipeError
from mutoscope.curate.stage import CAPTIONS, SetStage, SetView
from mutoscope.curate.tags import Tag, Tags, tagged

CLASSES = (Tag("person", ("man", "woman", "people")), Tag("water", ("sea", "river", "swimming pool")), Tag("kite"))


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("A man flies a kite over the sea.", ["person", "water", "kite"]),
        ("Kites, and a SWIMMING  pool!", ["water", "kite"]),
        ("Three rivers meet.", ["water"]),
        ("A mandolin on a chessboard", []),  # words, not parts of words
        ("A pool for swimming", []),  # a phrase in its order
        ("", []),
    ],
)
def test_a_class_is_there_where_one_of_its_words_is_said(text: str, tags: list[str]) -> None:
    assert tagged([text], CLASSES) == tags


def view() -> SetView:
    return SetView(Path("never"), {}, {}, {}, lambda source: Path("never"))


def test_descriptions_count_before_captions_and_what_was_dropped_or_not_told_has_none() -> None:
    said = [
        [{"text": text, "language": "en", "length": "short"}] if text else None for text in ("kite", "sea", "", "sea")
    ]
    parts = [[{"language": "woman", "short": "a man", "background": "the sea"}], None, None, None]
    table = pa.table(
        {
            "dropped_by": ["", "", "", "light"],
            CAPTIONS.name: pa.array(said, CAPTIONS.type),
            "descriptions": pa.array(parts),
        }
    )
    assert Tags(CLASSES).run(table, view())["tags"].to_pylist() == [["person", "water"], ["water"], None, None]
    assert Tags(CLASSES, parts=("background",)).run(table, view())["tags"][0].as_py() == ["water"]
    assert Tags(CLASSES).run(table.drop("descriptions"), view())["tags"][0].as_py() == ["kite"]


def test_without_captions_or_classes_it_says_what_to_type() -> None:
    with pytest.raises(RecipeError, match=r"Put Captions\(\) there"):
        Tags(CLASSES).run(pa.table({"dropped_by": [""]}), view())
    with pytest.raises(RecipeError, match="Give some, each once"):
        Tags((Tag("one"), Tag("one")))
    stage = Tags(CLASSES, parts=("short",))
    assert config.from_json(Tags, config.to_json(stage)) == stage and isinstance(stage, SetStage)
