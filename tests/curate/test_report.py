"""The card counts right, hides nothing, needs nothing from outside, and shows what files say as text."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="needs the extra curate")

from mutoscope.curate.filter import Threshold
from mutoscope.curate.report import Card, grouped, page
from mutoscope.data.tars import Row

SOURCE = {"kind": "video", "width": 64, "height": 48, "fps": "10", "caption": "", "signals": "", "stage": ""}


def source(name: str, duration_s: float = 60.0, **more: object) -> dict:
    return (
        SOURCE | {"id": name, "path": f"raw/{name}.mp4", "duration_s": duration_s, "licence": "", "problem": ""} | more
    )


def clip(name: str, start_s: float, end_s: float, dropped_by: str = "", reason: str = "", light: float = 0.5) -> dict:
    place = {"start": int(10 * start_s), "end": int(10 * end_s), "start_s": start_s, "end_s": end_s}
    return place | {
        "id": f"{name}-{start_s}",
        "source": name,
        "dropped_by": dropped_by,
        "reason": reason,
        "light": light,
    }


def card(**changes: object) -> Card:
    usual = {
        "folder": Path(),
        "name": "A set",
        "sources": [
            source("a", licence="CC0-1.0"),
            source("b", 30.0),
            source("c", 0.0, stage="ingest", problem="it is empty: 0 bytes"),
            source("d", 0.0, stage="ingest", problem="it announces 900 bytes and has 80"),
            source("e", 0.0, stage="ingest", problem="it announces 70 bytes and has 60"),
        ],
        "clips": [
            clip("a", 0, 20),
            clip("a", 20, 50, "light", "light 0.01 is below 0.1", 0.01),
            clip("b", 0, 15),
            clip("b", 15, 25, "light", "light 0.02 is below 0.1", 0.02),
        ],
        "rows": [Row(f"{i}", 0, ".mp4", 0, 1500, "", 0, 0, "", 200, 48, 64, "10", 20.0, "train") for i in range(2)],
        "scores": ["light"],
        "limits": {"light": Threshold("light", at_least=0.1, unit="of white")},
        "recipe": '{"type": "Curation"}',
    }
    return Card(**(usual | changes))  # pyright: ignore[reportArgumentType]


class Text(HTMLParser):
    """Keeps the text of each row of each table, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in ("meta", "img", "br", "rect", "line"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Nothing is opened."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th", "span") and "tr" in self.open:
            self.rows[-1][-1] += data


def test_clips_and_time_are_counted_by_stage_and_reason() -> None:
    text = page(card())
    rows = Text(text).rows
    assert ["kept", "2", "35.0 s", "38.9 %"] in rows
    assert ["dropped by light", "2", "40.0 s", "44.4 %"] in rows
    assert ["between clips: transitions, trimmed ends", "", "15.0 s", "16.7 %"] in rows
    assert ["light", "light is below 0.1", "2", "40.0 s"] in rows
    assert "5 files went in, 3 of them were not usable. 4 clips came of the others: 2 kept, 2 dropped" in text


def test_files_with_a_problem_are_grouped_and_named() -> None:
    rows = Text(page(card())).rows
    assert ["ingest", "it announces … bytes and has …", "2", "d.mp4, e.mp4"] in rows
    assert ["ingest", "it is empty: … bytes", "1", "c.mp4"] in rows


def test_licences_are_counted_by_file_clip_and_time() -> None:
    rows = Text(page(card())).rows
    assert ["CC0-1.0", "1", "1", "20.0 s"] in rows and ["not stated", "4", "1", "15.0 s"] in rows


def test_the_page_needs_nothing_from_outside_and_every_tag_is_closed() -> None:
    text = page(card())
    seen = Text(text)
    assert seen.open == [] and all(link.startswith("data:") for link in seen.links)
    assert not re.search(r"https?://|<script|@import|url\(", text)


def test_what_files_say_is_text_and_not_markup() -> None:
    evil = "<script>alert(1)</script>"
    text = page(card(name=evil, sources=[source("a", licence=evil, path=evil, caption=evil), source("b")], recipe=evil))
    assert "<script" not in text and "&lt;script&gt;" in text


def test_the_same_card_gives_the_same_page() -> None:
    assert page(card()) == page(card())


def test_an_empty_data_set_has_a_page_too() -> None:
    text = page(card(sources=[source("c", 0.0, stage="ingest", problem="it is empty: 0 bytes")], clips=[], rows=[]))
    assert "1 file went in, 1 of them was not usable. 0 clips" in text


def test_a_limit_is_a_line_in_the_chart_of_its_number() -> None:
    assert page(card()).count('stroke="var(--limit)"') == 1
    assert page(card(limits={})).count('stroke="var(--limit)"') == 0


@pytest.mark.parametrize(
    ("reason", "group"),
    [
        ("light_p05 0.0123 of white is below 0.06", "light_p05 is below 0.06 of white"),
        ("flow 1e-05 is above 3", "flow is above 3"),
        ("frame 17 has holes", "frame … has holes"),
        ("has the same bytes as raw/a.mp4", "has the same bytes as another file"),
        ("too short: 0.3 s", "too short: … s"),
        ("exact duplicate of 53af-0-9, which is sharper", "exact duplicate of a clip that is sharper"),
    ],
)
def test_reasons_that_differ_by_a_number_alone_are_one(reason: str, group: str) -> None:
    assert grouped(reason) == group


def test_duplicates_are_one_reason_and_stand_beside_the_clip_that_was_kept() -> None:
    clips = [clip("a", 0, 20)]
    clips += [clip("b", at, at + 5, "duplicates", "exact duplicate of a-0, which is larger") for at in (0, 10)]
    text = page(card(clips=clips, scores=[]))
    assert ["duplicates", "exact duplicate of a clip that is larger", "2", "10.0 s"] in Text(text).rows
    assert text.count('<div class="pair">') == 2
    assert "b.mp4, 10.0 to 15.0 s | a.mp4, 0.0 to 20.0 s<br>the second is larger" in text


def test_tags_are_counted_each() -> None:
    clips = [clip("a", at, at + 1) | {"tags": tags} for at, tags in ((0, ["sea", "kite"]), (1, ["sea"]), (2, None))]
    rows = Text(page(card(clips=clips, scores=["tags"]))).rows
    assert ["sea", "2", "0"] in rows and ["kite", "1", "0"] in rows
